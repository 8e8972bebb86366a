"""Packs each study that a rule keeps into one zip file, once no further object of it comes.

In a rule's folder, ``<study date>/<Study Instance UID>/…`` becomes ``<study date>/<Study Instance
UID>.zip``. An object is removed only when it was read back from a zip file byte for byte, so a
crash at any moment costs no more than doing it again. Whatever else lies there is not touched.
"""

import contextlib
import os
import re
import stat
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from ingest import files, log
from ingest.dispose import UNDATED, free_names
from ingest.errors import Changed, IngestError
from ingest.model import Snapshot

_log = log.get(__name__)

_DATED = re.compile(rb"\d{4}-\d\d-\d\d|" + UNDATED.encode())
_STUDY = re.compile(rb"[0-9][0-9.]{0,63}")
_OBJECT = re.compile(rb"[0-9][0-9.]{0,63}(~[0-9]+)?\.dcm")
_CHUNK = 1 << 20


class _Stopped(IngestError):
    """All is to end: a large study must not hold that up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """A folder into which a rule keeps objects."""

    rule: str
    folder: bytes
    quiet_s: float


class Bundler:
    """Goes through the shelves now and then."""

    def __init__(
        self, shelves: Sequence[Shelf], clock: Callable[[], float], stopping: threading.Event
    ) -> None:
        """Prepare to go; nothing is read yet."""
        self._shelves = shelves
        self._now = clock
        self._stopping = stopping
        self._told: set[bytes] = set()  # studies that can't be packed

    @property
    def period_s(self) -> float | None:
        """How often to go; None if there is nothing to do, ever."""
        quiet_s = min((shelf.quiet_s for shelf in self._shelves), default=None)
        return None if quiet_s is None else min(max(quiet_s / 2, 1.0), 300.0)

    def run(self) -> None:
        """Once through, or until told to stop."""
        for shelf in self._shelves:
            for study in _studies(shelf.folder):
                if self._stopping.is_set():
                    return
                self._pack(shelf, study)

    def _pack(self, shelf: Shelf, study: bytes) -> None:
        try:
            found = _objects(study)
            # Not by the mtime, which is the sender's. A ctime that is further ahead than the quiet
            # time is of a clock that was set back since.
            newest_ns = max(
                (one.ctime_ns for one in found.values()), default=os.lstat(study).st_ctime_ns
            )
            if abs(self._now() - newest_ns / 1e9) < shelf.quiet_s:
                return
            count = pack(study, found, self._go_on)
        except _Stopped:
            return
        except Exception as error:  # noqa: BLE001 - one study must never stop the others
            if study not in self._told:
                self._told.add(study)
                _log.error(
                    "study.cannot-be-zipped",
                    rule=shelf.rule,
                    study_uid=os.path.basename(study).decode("ascii"),
                    detail=getattr(error, "strerror", None) or type(error).__name__,
                    why="its objects stay as they are, none is lost",
                    next="check the disk and the rights of the rule's folder",
                )
            return
        self._told.discard(study)
        if count:
            study_uid = os.path.basename(study).decode("ascii")
            _log.info("study.zipped", rule=shelf.rule, study_uid=study_uid, count=count)

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise _Stopped


def _studies(folder: bytes) -> Iterator[bytes]:
    """The folders of studies, as `ingest.dispose.keep` makes them."""
    for day in _folders(folder, _DATED):
        yield from _folders(day, _STUDY)


def _folders(folder: bytes, name: re.Pattern[bytes]) -> list[bytes]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.path
                for entry in entries
                if name.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            )
    except OSError:  # not there yet, or a share that is away
        return []


def _objects(study: bytes) -> dict[bytes, Snapshot]:
    """The objects of a study by their paths: ordinary files with such names as we give."""
    found = {}
    with os.scandir(study) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and _OBJECT.fullmatch(entry.name):
                found[entry.path] = Snapshot.of(status)
    return found


def pack(study: bytes, objects: dict[bytes, Snapshot], go_on: Callable[[], None]) -> int:
    """Have these objects in a zip file beside their folder, and nowhere else.

    Args:
        study: their folder, which goes, too, once it is empty.
        objects: what they were when they were looked at.
        go_on: called often; it raises to end early.

    Returns:
        How many were removed.

    Raises:
        OSError: it can't be read or written. What was not read back from a zip file is still
            there.
    """
    removed = _remove_packed(study, objects, go_on)  # those of a run that broke off
    left = {path: one for path, one in objects.items() if path not in removed}
    if left:
        _zip(study, left, go_on)
        removed |= _remove_packed(study, left, go_on)
    files.remove_empty(study)
    return len(removed)


def _zip(study: bytes, objects: dict[bytes, Snapshot], go_on: Callable[[], None]) -> None:
    for target in free_names(study + b".zip"):
        if os.path.lexists(target):
            continue
        with (
            files.made_durably(target) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as packing,
        ):
            os.fchmod(file.fileno(), _mode(objects))
            for path in sorted(objects):
                _add(packing, path, go_on)
        return


def _mode(objects: Iterable[bytes]) -> int:
    """Whoever may not read one of the objects may not read them in the zip file either."""
    mode = 0o666
    for path in objects:
        mode &= os.lstat(path).st_mode
    return mode | stat.S_IRUSR | stat.S_IWUSR


def _add(packing: zipfile.ZipFile, path: bytes, go_on: Callable[[], None]) -> None:
    name = _name_in_zip(path)
    info = zipfile.ZipInfo.from_file(os.fsdecode(path), name, strict_timestamps=False)
    info.compress_type = packing.compression
    with files.open_regular(path) as reading, packing.open(info, "w") as writing:
        while chunk := reading.read(_CHUNK):
            go_on()
            writing.write(chunk)


def _name_in_zip(path: bytes) -> str:
    """With the study's folder, so that unpacking several studies keeps them apart."""
    folder, name = os.path.split(path)
    return os.fsdecode(os.path.join(os.path.basename(folder), name))


def _remove_packed(
    study: bytes, objects: dict[bytes, Snapshot], go_on: Callable[[], None]
) -> set[bytes]:
    """Remove those that a zip file of the study holds byte for byte."""
    removed: set[bytes] = set()
    for target in free_names(study + b".zip"):
        if not os.path.lexists(target):
            return removed
        if not os.path.isfile(target) or os.path.islink(target):  # a pipe would be waited for
            continue
        with _passed_over(), files.open_regular(target) as file, zipfile.ZipFile(file) as packed:
            for path in objects.keys() - removed:
                with contextlib.suppress(Changed):  # somebody wrote to it: the next time
                    if _is_packed(packed, path, go_on):
                        files.remove(path, objects[path])
                        removed.add(path)
    raise AssertionError("the names never end")


@contextlib.contextmanager
def _passed_over() -> Iterator[None]:
    """Pass over what is no zip file, or one that somebody has encrypted or damaged.

    zipfile raises ten kinds of exception on these. Only an OSError with a number is the disk's.
    """
    try:
        yield
    except _Stopped:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise


def _is_packed(packed: zipfile.ZipFile, path: bytes, go_on: Callable[[], None]) -> bool:
    name = _name_in_zip(path)
    return name in packed.NameToInfo and _is_same(packed, name, path, go_on)


def _is_same(packed: zipfile.ZipFile, name: str, path: bytes, go_on: Callable[[], None]) -> bool:
    with packed.open(name) as one, files.open_regular(path) as other:
        return all(left == right for left, right in _chunks(one, other, go_on))


def _chunks(
    one: IO[bytes], other: IO[bytes], go_on: Callable[[], None]
) -> Iterator[tuple[bytes, bytes]]:
    """Both in equal steps, to the end of both."""
    while True:
        go_on()
        pair = one.read(_CHUNK), other.read(_CHUNK)
        yield pair
        if not pair[0] and not pair[1]:
            return
