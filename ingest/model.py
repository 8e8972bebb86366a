"""The types that flow from stage to stage, and the table of states a job can be in."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from ingest.errors import IngestError, Reason


class Importer(Enum):
    """OpenREM's import functions (OpenREM ``remapp.extractors``)."""

    RDSR = "rdsr"
    MG = "mg"
    DX = "dx"
    NM = "nm"
    CTPHILIPS = "ctphilips"
    PTSIZECSV = "ptsizecsv"  # of tables of heights and weights, in folders of that kind only
    CTTOSHIBA = "cttoshiba"


OF_OBJECTS = tuple(one for one in Importer if one is not Importer.PTSIZECSV)  # of DICOM's

# What these import is no single object but all images of a study, once it is quiet.
GATHERED = frozenset({Importer.CTTOSHIBA})
ONE_BY_ONE = tuple(one for one in OF_OBJECTS if one not in GATHERED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One look at a file: equal identities mean the same version of the same file.

    ``ctime_ns`` tells when anything about the inode last changed; it is no part of the
    identity, because our own renames and links move it.
    """

    device: int
    inode: int
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int = field(compare=False)

    @classmethod
    def of(cls, status: os.stat_result) -> "Snapshot":
        """The snapshot that an ``os.stat`` result stands for."""
        return cls(
            device=status.st_dev,
            inode=status.st_ino,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
        )

    @property
    def changed_ns(self) -> int:
        """When the file last changed in any way (ns since the epoch, the file system's clock)."""
        return max(self.mtime_ns, self.ctime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What we read of an object. UIDs are validated; nothing here is about the patient."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str = ""
    modality: str = ""
    manufacturer: str = ""
    model: str = ""
    station: str = ""
    series_description: str = ""
    image_type: tuple[str, ...] = ()
    title_code: str = ""  # ConceptNameCodeSequence (0040,A043) of an SR: Code Value
    title_scheme: str = ""  # and its Coding Scheme Designator
    study_date: str = ""  # DA, as sent
    study_time: str = ""  # TM, as sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What the walk over an object's lengths found."""

    is_dicom: bool
    is_complete: bool  # ends exactly at the end of the file, with the content its class demands
    problem: Reason | None = None  # the reason to give if it never gets better
    detail: str = ""
    can_improve: bool = True  # more bytes may still make it whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """Decision: OpenREM's importer gets it."""

    importer: Importer
    because: str
    rule: str = ""  # the user's that says so, if it isn't the built-in routing


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignore:
    """Decision: a rule of the user's says that it isn't wanted."""

    rule: str
    into: bytes | None  # the archive to move it to; else it is deleted
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Decision: a rule of the user's says to keep it elsewhere."""

    rule: str
    into: bytes
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Decision: OpenREM can't use it, or a rule of the user's says to set it aside."""

    reason: Reason
    because: str
    rule: str = ""


Decision = Import | Ignore | Keep | Reject


Doses = tuple[float | None, float | None]  # CTDIvol (mGy) and DLP (mGy.cm), as far as told


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyHeld:
    """What OpenREM's database holds of one study row (``remapp_generalstudymoduleattr``)."""

    has_sop: bool  # the SOP Instance UID is recorded with this study
    objects: int  # how many SOP Instance UIDs are
    number_of_events: int | None
    event_rows: int  # CT and projection irradiation events stored
    event_uids: tuple[str | None, ...]  # also radiopharmaceutical administrations
    has_event_at_same_time: bool  # an event whose start equals the image's
    has_other_exposure: bool  # the event under the image's UID contradicts the image
    patient_rows: int
    has_ct_dose: bool
    is_from_dose_screen: bool  # and not from the scanner's own dose report
    ct_doses: tuple[Doses, ...]  # one for each CT irradiation event
    has_radiopharmaceutical_dose: bool
    has_pet_series: bool  # the file's series, for PET
    has_other_administration: bool  # each that is stored contradicts the image's


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """What OpenREM's own reader finds in the file, as far as the proof needs it."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    event_uids: tuple[str | None, ...]  # one for each event container of an SR, or of its report
    exposures: tuple[Doses, ...]  # Philips: of the exposure items with an acquisition type


@dataclass(frozen=True, slots=True, kw_only=True)
class Recordable:
    """By what OpenREM records an object that it dealt with; of Philips images only the study."""

    importer: Importer
    study_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Evidence about one object: the file's content, and what OpenREM holds of it."""

    content: FileContent
    studies: tuple[StudyHeld, ...]
    already: bool = False  # OpenREM had recorded it before this import
    refused: bool = False  # the importer said that this is not its kind of object
    warnings: tuple[str, ...] = ()  # for example: a skin dose map could not be queued


@dataclass(frozen=True, slots=True, kw_only=True)
class SizesWanted:
    """What a drop folder's tables of heights and weights are like, and what is to become of them.

    A column is told by its title. Heights are in cm, weights in kg, as OpenREM's importer has them.
    """

    id_title: str
    height_title: str
    weight_title: str
    by_study_uid: bool = False  # the ids are Study Instance UIDs, else accession numbers
    overwrite: bool = False  # sizes that OpenREM already has
    wait_s: float | None = None  # how long to wait for missing studies; None: not at all

    @property
    def titles(self) -> tuple[str, str, str]:
        """Of the columns: the study's id, the height, the weight."""
        return (self.id_title, self.height_title, self.weight_title)


Sizes = tuple[float | None, float | None]  # a patient's height (cm) and weight (kg)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizesOfOne:
    """What the rows with one and the same id say, and what OpenREM holds of its studies.

    Which id that is nobody needs to know: it is a patient's.
    """

    rows: int
    heights: tuple[float, ...]  # cm, as the rows give them, in their order
    weights: tuple[float, ...]  # kg
    found: int  # studies with this id at the import
    studies: tuple[tuple[Sizes, Sizes], ...]  # the same afterwards: sizes before, and now


@dataclass(frozen=True, slots=True, kw_only=True)
class SizesFacts:
    """Evidence about a table of heights and weights."""

    of: tuple[SizesOfOne, ...]
    already: bool = False  # nothing was left to be written
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Outcome: OpenREM answered; only the facts tell what it holds."""

    facts: Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class SizesDone:
    """Outcome: the same for a table of heights and weights."""

    facts: SizesFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyDone:
    """Outcome of a study: OpenREM answered; only the facts tell what it holds of each image."""

    facts: Mapping[str, Facts]  # by the image's name in the folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Outcome: the import failed and was undone."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vanished:
    """Outcome: no answer; anything may have happened."""

    detail: str


Outcome = Done | SizesDone | Failed | Vanished
StudyOutcome = StudyDone | Failed | Vanished


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """Verdict: OpenREM does not provably hold the object."""

    reason: Reason
    detail: str = ""


class State(Enum):
    """Where a file is on its journey. The value is what ``status`` shows."""

    SEEN = "waiting to be complete"
    READY = "complete, waiting for its turn"
    CLAIMED = "set aside, being imported"
    PROVEN = "proven, about to be disposed of"
    DONE = "imported and proven"
    RULED = "taken out by a rule, about to leave"
    IGNORED = "taken out by a rule"
    REJECTED = "refused, about to be quarantined"
    QUARANTINED = "in quarantine"
    RETURNED = "moved back from quarantine"
    DISCARDED = "deleted from quarantine"
    LEFT = "refused, left where it is"
    GONE = "taken away by someone else"


# What may follow what. A state that is not listed as a follower raises and changes nothing.
# GONE may turn into SEEN again: the same name and version can come back.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.SEEN: frozenset(
        {State.SEEN, State.READY, State.RULED, State.IGNORED, State.REJECTED, State.LEFT}
        | {State.GONE}
    ),
    State.READY: frozenset(
        {State.READY, State.SEEN, State.CLAIMED, State.REJECTED, State.LEFT, State.GONE}
    ),
    State.CLAIMED: frozenset(
        {State.READY, State.SEEN, State.PROVEN, State.REJECTED, State.LEFT, State.GONE}
    ),
    State.PROVEN: frozenset({State.DONE, State.SEEN, State.GONE}),
    State.RULED: frozenset({State.IGNORED, State.LEFT, State.SEEN, State.GONE}),
    State.REJECTED: frozenset({State.QUARANTINED, State.LEFT, State.SEEN, State.GONE}),
    State.LEFT: frozenset({State.SEEN, State.LEFT, State.GONE}),
    State.GONE: frozenset({State.SEEN}),
    State.DONE: frozenset({State.SEEN}),
    State.IGNORED: frozenset({State.SEEN}),
    State.QUARANTINED: frozenset({State.SEEN, State.RETURNED, State.DISCARDED}),
    State.RETURNED: frozenset({State.SEEN}),
    State.DISCARDED: frozenset({State.SEEN}),
}

# Somebody works on it.
IN_HAND = frozenset({State.CLAIMED, State.PROVEN, State.RULED, State.REJECTED})

LIVE = IN_HAND | {State.SEEN, State.READY, State.LEFT}


class IllegalTransition(IngestError):
    """A job was asked to go where the table of states has no way."""


def check_transition(old: State, new: State) -> None:
    """Raise `IllegalTransition` unless the table allows ``old`` → ``new``."""
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(f"a job that is {old.name} can't become {new.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPart:
    """What waits of a study that is imported as a whole, in one drop folder."""

    study_uid: str
    drop: str
    order: str  # oldest study first
    unsettled: int  # of its images: not complete, in a hand, or kept from being moved
    quiet_at: float  # when no further one has come for long enough (seconds since the epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One file in the ledger."""

    id: int
    drop: str  # name of its drop folder
    path: bytes  # where it lies (or lay, relative claims aside)
    snapshot: Snapshot
    state: State
    header: Header | None = None
    importer: Importer | None = None
    claim: str = ""  # id of the claim that holds it, while one does
    attempts: int = 0
    deaths: int = 0  # how often OpenREM's process died on it
    not_before: float = 0.0  # seconds since the epoch
    since: float = 0.0  # in this state, and this version of it; seconds since the epoch
    reason: Reason | None = None
    detail: str = ""
