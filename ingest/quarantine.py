"""The quarantine as it lies on the disk: lists the files with their reasons, and sends them away.

The folder is the truth, the ledger may be lost. A file lies at ``<quarantine>/<drop>/<place>``,
its reason beside it (see dispose.py). A reason without its file is no failure: a crash left it.
A file without a reason was put there by a person; it is shown, and touched only by its id.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from ingest import files
from ingest.dispose import WHY, free_names, place_in, why_of
from ingest.errors import Changed, Reason
from ingest.history import Departure, History
from ingest.ledger_file import digest
from ingest.model import Snapshot, State

_OURS = re.compile(rb"\.[0-9a-f]{16}\.part")  # half a copy, see files.py
_REASON_MAX = 1 << 16  # bytes
_ID_DIGITS = 12  # of a hundred thousand files, two share one with a chance of 1 in 50,000


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the ``.why.json`` beside a file says."""

    reason: str  # its code; a later version may know more of them
    why: str
    detail: str
    next: str
    drop: str
    folder: bytes  # the drop folder that the file came from
    job: int
    trace: bytes  # the digest of the path that it came from; empty if not said
    size: int | None
    mtime_ns: int | None
    sop_class_uid: str
    sop_uid: str
    study_uid: str
    modality: str
    station: str
    at: datetime | None  # with its zone; None if it can't be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A file in quarantine."""

    drop: str  # the drop folder's name, as it was
    root: bytes  # its folder in the quarantine
    place: bytes  # relative to that
    note: Note | None

    @property
    def path(self) -> bytes:
        """Where it lies."""
        return os.path.join(self.root, self.place)

    @property
    def id(self) -> str:
        """What a person types to name it; the same as long as it lies there."""
        return id_of(self.drop, self.place)

    @property
    def reason(self) -> Reason | None:
        """Why it is here, if that is written and known to this version."""
        try:
            return Reason.from_code(self.note.reason) if self.note else None
        except KeyError:
            return None

    def trace(self, home: bytes | None) -> bytes:
        """The digest of the path that it came from, for the ledger."""
        if self.note and self.note.trace:
            return self.note.trace
        return digest(os.path.join(home or self.root, self.place))

    def is_the_noted(self, found: Snapshot) -> bool:
        """Is this the very file that the note was written for?"""
        note = self.note
        return note is not None and (note.size, note.mtime_ns) == (found.size, found.mtime_ns)


def id_of(drop: str, place: bytes) -> str:
    """The id of a file in quarantine: digits made from its place there."""
    where = os.path.join(os.fsencode(drop), place)
    return hashlib.blake2b(where, digest_size=_ID_DIGITS // 2).hexdigest()


# -- what lies there ------------------------------------------------------------------------------


def held(
    quarantine: bytes,
    drops: Collection[str],
    *,
    excluded: Collection[bytes] = (),
    on_error: Callable[[bytes, OSError], None],
) -> Iterator[Held]:
    """The files in quarantine, folder by folder, in the order of their names.

    Args:
        quarantine: its folder, links resolved.
        drops: the names of the drop folders. In the folders of others a file counts only if
            its reason lies beside it: the quarantine's own folder may be shared.
        excluded: folders that are not entered.
        on_error: told of folders that can't be looked into.
    """
    names = {os.fsencode(drop) for drop in drops}
    for name in _names(quarantine, on_error):
        root = os.path.realpath(os.path.join(quarantine, name))
        if root in excluded or not os.path.isdir(root):
            continue
        if name not in names and os.path.islink(os.path.join(quarantine, name)):
            continue
        for place in _places(root, b"", excluded, on_error):
            note = read_note(why_of(os.path.join(root, place)))
            if note is not None or name in names:
                yield Held(drop=os.fsdecode(name), root=root, place=place, note=note)


def _names(folder: bytes, on_error: Callable[[bytes, OSError], None]) -> list[bytes]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        on_error(folder, error)
        return []


def _places(
    root: bytes,
    below: bytes,
    excluded: Collection[bytes],
    on_error: Callable[[bytes, OSError], None],
) -> Iterator[bytes]:
    for name in _names(os.path.join(root, below), on_error):
        place = os.path.join(below, name)
        path = os.path.join(root, place)
        if os.path.isdir(path) and not os.path.islink(path):
            if path not in excluded:
                yield from _places(root, place, excluded, on_error)
        elif not name.lower().endswith(WHY) and not _OURS.fullmatch(name):
            yield place


def read_note(path: bytes) -> Note | None:
    """What a ``.why.json`` of ours says; None if there is none, or it is not ours."""
    try:
        said = json.loads(files.read_small(path, _REASON_MAX))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not {"reason", "time", "version"} <= said.keys():
        return None
    return Note(
        reason=_text(said, "reason"),
        why=_text(said, "why"),
        detail=_text(said, "detail"),
        next=_text(said, "next"),
        drop=_text(said, "drop"),
        folder=_path(said, "folder"),
        job=_number(said, "job") or 0,
        trace=_hex(said, "trace"),
        size=_number(said, "size"),
        mtime_ns=_number(said, "mtime_ns"),
        sop_class_uid=_text(said, "sop_class_uid"),
        sop_uid=_text(said, "sop_instance_uid"),
        study_uid=_text(said, "study_instance_uid"),
        modality=_text(said, "modality"),
        station=_text(said, "station"),
        at=_time(said, "time"),
    )


def _text(said: dict[str, object], key: str) -> str:
    value = said.get(key)
    return value if isinstance(value, str) else ""


def _path(said: dict[str, object], key: str) -> bytes:
    try:
        return os.fsencode(_text(said, key))
    except UnicodeEncodeError:
        return b""


def _number(said: dict[str, object], key: str) -> int | None:
    value = said.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _hex(said: dict[str, object], key: str) -> bytes:
    try:
        return bytes.fromhex(_text(said, key))
    except ValueError:
        return b""


def _time(said: dict[str, object], key: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(_text(said, key))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


# -- how a file leaves ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """A file that is to leave."""

    one: Held
    home: bytes | None  # the drop folder that it came from, if there still is one
    snapshot: Snapshot  # of the file that was chosen


def send_off(
    history: History,
    batch: Sequence[Leaving],
    act: Callable[[Leaving], bytes],
    tell: Callable[[Leaving, bytes | Changed | OSError], None],
    *,
    state: State,
    by: str,
    now: float,
) -> None:
    """Have a few files leave: first it is in the ledger, durably, then it happens.

    Args:
        history: where it is written.
        batch: the files; one sync of the disk is for all of them.
        act: moves or deletes one, and returns where it is then.
        tell: told of each what came of it.
        state: RETURNED or DISCARDED.
        by: who or what wants it so.
        now: seconds since the epoch.

    Raises:
        LedgerError: it can't be written; what was not written did not happen.
    """
    intents = history.intend([_departure(one, state, by) for one in batch], now)
    undone = dict(zip(range(len(batch)), intents, strict=True))
    try:
        for number, leaving in enumerate(batch):
            try:
                outcome: bytes | Changed | OSError = act(leaving)
                del undone[number]
            except (Changed, OSError) as error:
                outcome = error
            tell(leaving, outcome)
    finally:
        history.take_back(list(undone.values()))


def _departure(leaving: Leaving, state: State, by: str) -> Departure:
    one = leaving.one
    return Departure(
        trace=one.trace(leaving.home),
        drop=one.drop,
        state=state,
        by=by,
        snapshot=leaving.snapshot,
        reason=one.reason,
        sop_uid=(one.note.sop_uid if one.note else "") or None,
        study_uid=(one.note.study_uid if one.note else "") or None,
    )


def bring_back(one: Held, home: bytes) -> bytes:
    """Move a file to its place in its drop folder, as new work. Returns where it is now.

    Never replaces anything: it gets a free name if its own is taken. A crash leaves it in one
    place or the other; across file systems there is a moment in which it leaves it in both, and
    then the next call finds its twin and is content with that.

    Raises:
        FileNotFoundError: it is no longer here.
        Changed: somebody writes to it.
        OSError: it can't be moved; it stays.
    """
    expected = files.snapshot(one.path)
    note = _note_of(one)
    for target in free_names(_place_at_home(one, home)):
        if os.path.lexists(target):
            if files.is_twin(one.path, target):
                files.remove(one.path, expected)
                break
            continue
        try:
            files.move_durably(one.path, target, expected)
        except FileExistsError:
            continue
        break
    else:
        raise AssertionError("the names never end")
    _clear(one, note)
    return target


def _place_at_home(one: Held, home: bytes) -> bytes:
    """Its place there; without its sub-folders where a link among them leads elsewhere."""
    folder = os.path.join(home, os.path.dirname(one.place))
    if os.path.realpath(folder) != os.path.normpath(folder):
        return os.path.join(home, os.path.basename(one.place))
    return place_in(home, one.place)


def discard(one: Held, expected: Snapshot) -> None:
    """Delete a file and its reason, whatever kind of file it is; it is not opened.

    Raises:
        FileNotFoundError: it is no longer here.
        Changed: it is not the one that was chosen; it stays.
        OSError: it can't be deleted; it stays.
    """
    note = _note_of(one)
    files.remove(one.path, expected)
    _clear(one, note)


def _note_of(one: Held) -> Snapshot | None:
    with contextlib.suppress(OSError):
        return files.snapshot(why_of(one.path))
    return None


def _clear(one: Held, note: Snapshot | None) -> None:
    """Remove the reason of a file that has left, and folders that are empty now.

    Not a reason that was written meanwhile: the service may have refused it once more.
    """
    if note is not None:
        with contextlib.suppress(Changed, OSError):  # left behind it does no harm
            files.remove(why_of(one.path), note)
    folder = os.path.dirname(one.path)
    while folder != one.root and files.remove_empty(folder):
        folder = os.path.dirname(folder)


def is_aged(one: Held, now: float, keep_s: float) -> bool:
    """Has it been here for longer than the user wants it to be?

    Only a file of which we know when it came: with a reason of ours, written for this very file.
    """
    if one.note is None or one.note.at is None or now - one.note.at.timestamp() < keep_s:
        return False
    try:
        found = os.lstat(one.path)
    except OSError:
        return False
    return one.is_the_noted(Snapshot.of(found)) or (
        not stat.S_ISREG(found.st_mode) and one.note.size == found.st_size  # a link's time is lost
    )
