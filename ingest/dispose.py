"""Disposes of a claimed file: delete or archive it with a proof, or quarantine it with a reason.

Nothing leaves a drop folder by any other way. ``delete`` and ``archive`` demand a ``Proof`` that
OpenREM holds the very version of the file that lies in the claim, or a ``Ruling`` on it by a rule
of the user's, which is what ``keep`` demands. Where its file system is ``local``, and so can
tell, nobody who kept a way to it may write to it in the moment before it goes. ``quarantine``
writes the reason beside the file before the file arrives there, so that no crash leaves one
without the other.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime

from ingest import __version__, claim, files, leases
from ingest.claim import Claim
from ingest.errors import Changed, Reason
from ingest.ledger_file import digest
from ingest.model import Header, Snapshot
from ingest.rules import Ruling
from ingest.verify import Proof

Warrant = Proof | Ruling  # what gives the right to have a file leave

WHY = b".why.json"
UNDATED = "undated"  # for objects without a Study Date
_SUFFIX_MAX = 16  # bytes


def delete(claimed: Claim, warrant: Warrant, *, local: bool = False) -> None:
    """Delete the file. Raises `Changed` if it isn't what was proven or ruled on; then it stays."""
    with leases.kept_still(claimed.path, local=local):
        files.remove(claimed.path, warrant.snapshot, exact=local)
    claim.finish(claimed)


def archive(
    claimed: Claim, warrant: Warrant, into: bytes, today: date, *, local: bool = False
) -> bytes:
    """Move the file to ``into/YYYY-MM-DD/<its place>``. Returns where it is now.

    Raises `Changed` if it isn't what was proven or ruled on; then it stays.
    """
    folder = os.path.join(into, today.isoformat().encode())
    with leases.kept_still(claimed.path, local=local):
        return _move_to_free_name(
            claimed, place_in(folder, claimed.place), warrant.snapshot, exact=local
        )


def keep(
    claimed: Claim, ruling: Ruling, into: bytes, header: Header, *, local: bool = False
) -> bytes:
    """Move the file to ``into/<study date>/<Study UID>/<SOP UID>.dcm``. Returns where it is now.

    These names are ours, and the file's own may hold a patient's name.

    Raises `Changed` if it isn't what was ruled on; then it stays.
    """
    day = header.study_date.replace(".", "")
    dated = f"{day[:4]}-{day[4:6]}-{day[6:]}" if day else UNDATED
    place = os.path.join(dated, header.study_uid, header.sop_instance_uid + ".dcm")
    with leases.kept_still(claimed.path, local=local):
        target = place_in(into, place.encode())
        return _move_to_free_name(claimed, target, ruling.snapshot, exact=local)


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """What is written beside a quarantined file. No patient data."""

    reason: Reason
    detail: str
    drop: str
    job: int  # as the log calls it
    header: Header | None
    at: datetime
    root: bytes = b""  # the drop folder: a retry finds it, whatever it is called by then
    path: bytes = b""  # where the file lay: only a digest of it is written
    snapshot: Snapshot | None = None  # of the file: its reason is that of no other

    def to_json(self) -> str:
        """The text of ``<name>.why.json``."""
        return (
            json.dumps(
                {
                    "reason": self.reason.code,
                    "why": self.reason.why,
                    "detail": self.detail,
                    "next": self.reason.next_step,
                    "drop": self.drop,
                    "folder": os.fsdecode(self.root),
                    "job": self.job,
                    "trace": digest(self.path).hex(),
                    "size": self.snapshot.size if self.snapshot else None,
                    "mtime_ns": self.snapshot.mtime_ns if self.snapshot else None,
                    "sop_class_uid": self.header.sop_class_uid if self.header else None,
                    "sop_instance_uid": self.header.sop_instance_uid if self.header else None,
                    "study_instance_uid": self.header.study_uid if self.header else None,
                    "modality": self.header.modality if self.header else None,
                    "station": self.header.station if self.header else None,
                    "time": self.at.isoformat(timespec="seconds"),
                    "version": __version__,
                },
                indent=2,
            )
            + "\n"
        )


def quarantine(
    claimed: Claim, expected: Snapshot, into: bytes, why: Why, *, local: bool = False
) -> bytes:
    """Move the file to ``into/<its place>`` with its reason beside it. Returns where it is now.

    Raises `Changed` if it isn't the version that was refused; then it stays.
    """
    with leases.kept_still(claimed.path, local=local):
        return _move_to_free_name(claimed, place_in(into, claimed.place), expected, why)


def _move_to_free_name(
    claimed: Claim,
    place: bytes,
    expected: Snapshot,
    why: Why | None = None,
    *,
    exact: bool = False,
) -> bytes:
    for target in free_names(place):
        if os.path.lexists(target):
            if why is None and files.is_twin(claimed.path, target):
                # A copy to another file system that a crash broke off before the file went; or
                # the sender's own second copy, of the same time, which nobody needs twice.
                files.sync_folder(os.path.dirname(target))
                files.remove(claimed.path, expected, exact=exact)
                claim.finish(claimed)
                return target
            continue
        if why is not None:
            files.write_durably(why_of(target), why.to_json())
        try:
            files.move_durably(claimed.path, target, expected, exact=exact)
        except FileExistsError:
            continue
        except (Changed, OSError):
            if why is not None and not os.path.lexists(target):
                with contextlib.suppress(OSError):
                    files.unlink_alias(why_of(target))  # a reason without its file
            raise
        claim.finish(claimed)
        return target
    raise AssertionError("the names never end")


def place_in(folder: bytes, place: bytes) -> bytes:
    """The file's place below ``folder``, with the folders on the way made."""
    target = os.path.join(folder, place)
    try:
        files.make_folder(os.path.dirname(target))
    except (FileExistsError, NotADirectoryError):
        # A file that came before has the name of one of its sub-folders: do without them.
        files.make_folder(folder)
        return os.path.join(folder, os.path.basename(place))
    return target


def why_of(path: bytes) -> bytes:
    """Where the reason of a quarantined file is."""
    folder, name = os.path.split(path)
    return os.path.join(folder, files.name_that_fits(name, WHY))


def free_names(path: bytes) -> Iterator[bytes]:
    """The file's own name, then ``name~2.dcm``, ``name~3.dcm`` … for those that came before."""
    yield path
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    if len(suffix) > _SUFFIX_MAX:  # a dot in a sentence, not before an ending
        stem, suffix = name, b""
    number = 2
    while True:
        yield os.path.join(folder, files.name_that_fits(stem, b"~%d" % number + suffix))
        number += 1
