"""The vocabulary of failure: what can go wrong, why, and what a person should do next.

The tree of errors::

    IngestError                 shown as one line, never as a traceback
    ├── ConfigError             a wrong key or value, a missing file (exit code 2)
    ├── LedgerError             the ledger can't be opened or used: carries its Trouble
    ├── BusyError               another openrem-ingest already works on this (exit code 2)
    ├── OpenRemUnreachable      OpenREM can't take work now; no file's fault (exit code 3)
    └── FileProblem             this one file can't go on: carries a Reason
        └── Changed             the file is not the one we looked at: new work

Every ``Reason`` has a stable code. Users meet it in the log, in ``status`` and in the
``.why.json`` beside a quarantined file; a code, once published, never changes its meaning.
"""

import errno
from dataclasses import dataclass
from enum import Enum


class IngestError(Exception):
    """Something a user can act on; its text is one line."""


class ConfigError(IngestError):
    """The configuration has a wrong key or value."""


class Trouble(Enum):
    """What ails the ledger."""

    MISSING = "missing"
    LOCKED = "locked"
    DAMAGED = "damaged"
    NEWER = "newer"
    CLOSED = "closed to us"
    FULL = "full"
    DISK = "disk"


class LedgerError(IngestError):
    """The ledger can't be opened or used."""

    def __init__(self, text: str, trouble: Trouble = Trouble.DISK) -> None:
        """Keep the one line, and the kind of trouble: equal kinds are one episode."""
        super().__init__(text)
        self.trouble = trouble


class BusyError(IngestError):
    """Another openrem-ingest already works on this ledger or folder."""


class OpenRemUnreachable(IngestError):
    """OpenREM can't take work now. Not the fault of any file."""

    def __init__(self, reason: "Reason", detail: str = "") -> None:
        """Keep the reason, and a detail free of patient data."""
        super().__init__(reason.sentence(detail))
        self.reason = reason
        self.detail = detail


class FileProblem(IngestError):
    """One file can't go on."""

    def __init__(self, reason: "Reason", detail: str = "") -> None:
        """Keep the reason, and a detail free of patient data."""
        super().__init__(reason.sentence(detail))
        self.reason = reason
        self.detail = detail


class Changed(FileProblem):
    """The file is not the version we looked at: it starts again as new work."""

    def __init__(self, detail: str = "") -> None:
        """The reason is always `changed`."""
        super().__init__(Reason.CHANGED, detail)


class Kind(Enum):
    """What a failure means for the file, and so what happens next."""

    TRANSIENT = "transient"  # may succeed later: retried
    PERMANENT = "permanent"  # will never succeed: quarantined at once
    UNKNOWN = "unknown"  # a few attempts, then quarantined
    OUTAGE = "outage"  # OpenREM's fault, not the file's: the intake stops, no attempt is spent


@dataclass(frozen=True, slots=True)
class _Words:
    kind: Kind
    why: str
    next: str


class Reason(Enum):
    """Why a file isn't imported: code, kind, sentence, next step."""

    # -- what the file is ----------------------------------------------------------------------
    NOT_A_FILE = _Words(
        Kind.PERMANENT,
        "it is a link, pipe, socket or device, not an ordinary file, and was never opened",
        "put the real file into the drop folder",
    )
    UNREADABLE = _Words(
        Kind.PERMANENT,
        "the user that openrem-ingest runs as may not read it",
        "correct the file's owner or rights (and the sender's umask), then move it back",
    )
    CANNOT_READ = _Words(
        Kind.TRANSIENT,
        "the file, or its folder, can't be read for now",
        "check the folder's rights, the disk and the share; it is looked at again by itself",
    )
    EMPTY = _Words(
        Kind.PERMANENT,
        "the file is empty and has stayed so",
        "have the sender send the object again",
    )
    INCOMPLETE = _Words(
        Kind.TRANSIENT,
        "the object does not yet end where its own lengths say it should",
        "nothing: it is looked at again, and quarantined as truncated if it never grows",
    )
    TRUNCATED = _Words(
        Kind.PERMANENT,
        "the object ends before its own lengths say it should: a part of it is missing",
        "send the object again; a cut file never becomes whole",
    )
    TRAILING_DATA = _Words(
        Kind.PERMANENT,
        "there are bytes behind the end of the object: two transfers may have been mixed",
        "send the object again",
    )
    NOT_DICOM = _Words(
        Kind.PERMANENT,
        "it is not a DICOM file (no DICM mark after the preamble)",
        "nothing, if it strayed in; else send the object in DICOM's file format (Part 10)",
    )
    MALFORMED = _Words(
        Kind.PERMANENT,
        "its structure breaks DICOM's rules so far that it can't be read",
        "send the object again, or show it to the manufacturer of the sending system",
    )
    TOO_COMPLEX = _Words(
        Kind.PERMANENT,
        "it has more elements or deeper nesting than any real object (or unpacks beyond bounds)",
        "check where it comes from; no known system makes such objects",
    )
    NO_UIDS = _Words(
        Kind.PERMANENT,
        "it lacks a SOP Class, SOP Instance or Study Instance UID, so nothing could be verified",
        "correct the sending system, then send the object again",
    )
    # -- what a table of heights and weights is --------------------------------------------------
    NOT_A_TABLE = _Words(
        Kind.PERMANENT,
        "it is neither a table of text (CSV) nor a DICOM file",
        "nothing, if it strayed in; else save the table as CSV in UTF-8 and drop that",
    )
    COLUMN_MISSING = _Words(
        Kind.PERMANENT,
        "its first line does not have each of the folder's columns once",
        "correct columns under its [[drop]], or the titles in the file, then move it back",
    )
    BAD_ROWS = _Words(
        Kind.PERMANENT,
        "some of its rows can't be right, so nothing of it was imported",
        "correct these rows (heights are in cm, weights in kg), then move it back",
    )
    TOO_MANY_ROWS = _Words(
        Kind.PERMANENT,
        "the table is larger than OpenREM should be kept busy with",
        "split it into several files, each with the line of titles",
    )
    NO_ROW_MATCHES = _Words(
        Kind.PERMANENT,
        "none of its rows is of a study that OpenREM has",
        "check which column holds the accession numbers (or study_uid under its [[drop]]), and "
        "whether OpenREM stores them hashed; then move it back",
    )
    UNMATCHED_ROWS = _Words(
        Kind.TRANSIENT,
        "OpenREM does not have the studies of some of its rows (all others are held)",
        "send these studies; it is tried again by itself, but once in quarantine (after wait_days) "
        "move it back",
    )
    # -- what OpenREM can use ------------------------------------------------------------------
    NOT_A_DOSE_REPORT = _Words(
        Kind.PERMANENT,
        "it is a structured report, but not a dose report",
        "nothing, if it strayed in; else have the system send its Radiation Dose SR",
    )
    TOMOSYNTHESIS = _Words(
        Kind.PERMANENT,
        "OpenREM can't read tomosynthesis images",
        "have the system send its Radiation Dose SR instead",
    )
    UNSUPPORTED_OBJECT = _Words(
        Kind.PERMANENT,
        "OpenREM has no importer for this kind of object",
        "send the dose report (Radiation Dose SR) of the examination instead",
    )
    UNSUPPORTED_SECONDARY_CAPTURE = _Words(
        Kind.PERMANENT,
        "of secondary captures OpenREM reads only Philips CT 'Dose Info' and original mammograms",
        "send the dose report (Radiation Dose SR) of the examination instead",
    )
    NO_STUDY_TIME = _Words(
        Kind.PERMANENT,
        "it has no readable Study Time, which OpenREM needs for such an image",
        "correct the sending system, then send the object again",
    )
    BY_RULE = _Words(
        Kind.PERMANENT,
        "a rule of yours has it set aside",
        "nothing, if that is right; else change the [[rule]], then move it back",
    )
    # -- what the import came to ---------------------------------------------------------------
    REFUSED = _Words(
        Kind.PERMANENT,
        "OpenREM's importer refused it",
        "look at OpenREM's own log (openrem_extractor.log) for the importer's words",
    )
    IMPORT_FAILED = _Words(
        Kind.UNKNOWN,
        "OpenREM's importer failed on it; everything it had begun was undone",
        "look at Tasks in OpenREM's web pages for the full error; report it to OpenREM's "
        "developers if the object is sound",
    )
    BAD_VALUE = _Words(
        Kind.PERMANENT,
        "it has a value that OpenREM's database can't hold (too long, or out of range)",
        "look at Tasks in OpenREM's web pages for the value; correct it at the sending system",
    )
    DUPLICATE_SCANNER = _Words(
        Kind.TRANSIENT,
        "OpenREM has two entries for this scanner and fails on everything that it sends",
        "merge the two rows of remapp_uniqueequipmentnames for this scanner; then all goes on "
        "by itself",
    )
    WORKER_DIED = _Words(
        Kind.UNKNOWN,
        "OpenREM's process died or gave no answer while importing it",
        "see the system's log for memory limits, and [openrem] timeout; raise them, "
        "then move it back",
    )
    OUT_OF_MEMORY = _Words(
        Kind.UNKNOWN,
        "OpenREM's process had not enough memory for it; everything it had begun was undone",
        "raise [openrem] memory if the object is sound, then move it back",
    )
    TOOLS_MISSING = _Words(
        Kind.TRANSIENT,
        "it is of a Toshiba CT, and what OpenREM reads its images with, Java and PixelMed, "
        "is missing or does not work",
        "install them where OpenREM runs (Debian: apt-get install default-jre-headless "
        "libpixelmed-java), or correct JAVA_EXE and PIXELMED_JAR in OpenREM's local_settings.py; "
        "then all goes on by itself",
    )
    NO_DOSE_SCREEN = _Words(
        Kind.PERMANENT,
        "among the images of its study is no dose screen that PixelMed can read, and OpenREM "
        "counts nothing without one",
        "have the scanner send its dose screens, too, and move all images of the study back; or "
        "send a dose report (Radiation Dose SR) instead",
    )
    SEVERAL_DOSE_SCREENS = _Words(
        Kind.PERMANENT,
        "its study has dose screens of several series, of which PixelMed reads only the first: "
        "the other doses would not be counted",
        "send a dose report (Radiation Dose SR) instead; or, if one series shows all doses, move "
        "the study's images back without the dose screens of the others",
    )
    BUSY = _Words(
        Kind.TRANSIENT,
        "OpenREM was busy with another import for too long",
        "nothing: it is tried again",
    )
    DATABASE_HICCUP = _Words(
        Kind.TRANSIENT,
        "OpenREM's database broke off in mid-import; everything begun was undone",
        "nothing: it is tried again",
    )
    # -- what the proof came to ----------------------------------------------------------------
    HELD_IN_PART = _Words(
        Kind.PERMANENT,
        "OpenREM has recorded this object but holds it only in part, "
        "left by an import that failed outside of openrem-ingest",
        "delete this study in OpenREM (all of it), then move all of its objects back",
    )
    NOT_HELD = _Words(
        Kind.UNKNOWN,
        "OpenREM took it without an error, but does not hold its content",
        "look at Tasks in OpenREM's web pages; report it to OpenREM's developers",
    )
    OTHER_SOURCE = _Words(
        Kind.PERMANENT,
        "OpenREM already has this study from another kind of object, and so ignores this one",
        "nothing, if that source is the better one; else delete the study in OpenREM, "
        "then move this file back",
    )
    LATE_IMAGE = _Words(
        Kind.PERMANENT,
        "it came after its study had been imported from the other images, and is not counted",
        "delete this study in OpenREM, then put all of its images back (raise [gather] quiet if "
        "it happens often)",
    )
    # -- what happened to the file -------------------------------------------------------------
    CHANGED = _Words(
        Kind.TRANSIENT,
        "it changed while it was being worked on",
        "nothing: it starts again as new work",
    )
    GATHERING = _Words(
        Kind.TRANSIENT,
        "it waits for the rest of its study, which is imported as a whole",
        "nothing: its turn comes once no further image has come for [gather] quiet seconds",
    )
    IN_OTHER_HANDS = _Words(
        Kind.TRANSIENT,
        "another openrem-ingest, the service or a manual import, has it in hand",
        "nothing, if that goes on; else give the command again",
    )
    CANNOT_MOVE = _Words(
        Kind.TRANSIENT,
        "openrem-ingest may not move it out of its folder",
        "give the user that openrem-ingest runs as write permission on the folder",
    )
    DISK_FULL = _Words(
        Kind.TRANSIENT,
        "the disk that it lies on, or that it is to be moved to, is full",
        "free space on it (or inodes, see df -i); nothing is lost, all goes on by itself then",
    )
    DISK_READ_ONLY = _Words(
        Kind.TRANSIENT,
        "the disk that it lies on, or that it is to be moved to, is read-only",
        "check that disk and have it writable again; nothing is lost, all goes on by itself then",
    )
    DISK_AWAY = _Words(
        Kind.TRANSIENT,
        "the disk or share that it lies on, or that it is to be moved to, is not there",
        "mount it again; nothing is lost, all goes on by itself then",
    )
    INTERNAL_ERROR = _Words(
        Kind.UNKNOWN,
        "openrem-ingest itself failed on it",
        "report this, with the line of the log that names this file's job",
    )
    # -- OpenREM itself ------------------------------------------------------------------------
    DATABASE_UNREACHABLE = _Words(
        Kind.OUTAGE,
        "OpenREM's database can't be reached",
        "start PostgreSQL, or check OpenREM's database settings; "
        "all goes on by itself once it answers",
    )
    DATABASE_NOT_READY = _Words(
        Kind.OUTAGE,
        "OpenREM's database is read-only, full, not migrated, or lacks a table or a right",
        "put it right (migrate, free space, grant); all goes on by itself",
    )
    DATABASE_UNSUPPORTED = _Words(
        Kind.OUTAGE,
        "OpenREM runs on a database other than PostgreSQL, on which imports can't be made safe",
        "move OpenREM to PostgreSQL",
    )
    SETTINGS_MISSING = _Words(
        Kind.OUTAGE,
        "OpenREM's patient ID settings do not exist yet (or are there twice)",
        "open OpenREM's web home page once: that makes them",
    )
    WORKER_WONT_START = _Words(
        Kind.OUTAGE,
        "OpenREM can't be started",
        "check [openrem] python, env and memory in the configuration, and that LOG_ROOT is "
        "writable",
    )

    @property
    def code(self) -> str:
        """The stable code, for example ``not-dicom``."""
        return self.name.lower().replace("_", "-")

    @property
    def kind(self) -> Kind:
        """What this failure means for the file."""
        return self.value.kind

    @property
    def why(self) -> str:
        """The cause, in words that follow the file's name."""
        return self.value.why

    @property
    def next_step(self) -> str:
        """What a person should do next."""
        return self.value.next

    def sentence(self, detail: str = "") -> str:
        """One line: why, the detail in brackets, and the next step."""
        extra = f" ({detail})" if detail else ""
        return f"{self.why}{extra}. Next: {self.next_step}."

    @classmethod
    def from_code(cls, code: str) -> "Reason":
        """The reason with this code; `KeyError` where there is none."""
        return cls[code.upper().replace("-", "_")]


# What keeps a file from being moved, for now.
HINDRANCES = frozenset(
    {Reason.CANNOT_MOVE, Reason.DISK_FULL, Reason.DISK_READ_ONLY, Reason.DISK_AWAY}
)
_OF_THE_DISK = {
    errno.ENOSPC: Reason.DISK_FULL,
    errno.EDQUOT: Reason.DISK_FULL,
    errno.EROFS: Reason.DISK_READ_ONLY,
    errno.ENODEV: Reason.DISK_AWAY,
    errno.ENOTCONN: Reason.DISK_AWAY,
    errno.ESTALE: Reason.DISK_AWAY,
}


def hindrance(error: OSError) -> Reason:
    """Why a file can't be moved."""
    return _OF_THE_DISK.get(error.errno or 0, Reason.CANNOT_MOVE)
