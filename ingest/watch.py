"""Finds paths worth a look: events shorten the latency, sweeps are the truth.

watchdog's events are hints only. It loses closes in new sub-folders, everything on an overflow,
its reading thread can die in silence, and watching trees can livelock it. So only the drop
folders themselves are watched, each alone, and their sub-folders are swept: quickly where a
folder's modification time moved, in full every few minutes and after any doubt.
"""

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
)

from ingest import claim, log
from ingest.mounts import folder_identity

_log = log.get(__name__)

RESTLESS_NS = 2_000_000_000
RETRY_S = 30.0
MAX_HINTS = 30_000  # 7 MB; beyond that the hints are dropped and the folder is swept

_PARTIAL = (b".part", b".partial", b".tmp", b".crdownload", b".filepart")
_CLUTTER = frozenset({b"thumbs.db", b".ds_store", b"desktop.ini", b".directory"})
_WHY = b".why.json"  # our own note beside a quarantined file, moved back along with it


def is_passed_over(name: bytes) -> bool:
    """Is this a download in progress, desktop clutter, or something of ours?"""
    lower = name.lower()
    return name == claim.FOLDER or lower in _CLUTTER or lower.endswith((*_PARTIAL, _WHY))


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder met by a sweep."""

    path: bytes
    is_readable: bool
    is_empty: bool
    mtime_ns: int


class Tree:
    """A drop folder and what lies below it, swept in full or only where it changed.

    Yields paths of files; our own, clutter, and ``excluded`` folders are left out, and links are
    not followed. Memory grows with the number of folders, not with that of files.
    """

    def __init__(
        self,
        root: bytes,
        *,
        excluded: Collection[bytes] = (),
        on_folder: Callable[[Folder], None] = lambda _folder: None,
    ) -> None:
        """Prepare to sweep ``root``; nothing is read yet."""
        self.root = root
        self._excluded = excluded
        self._on_folder = on_folder
        self._mtimes: dict[bytes, int] = {}

    def everything(self) -> Iterator[bytes]:
        """Every file."""
        self._mtimes = {}
        todo = [self.root]
        while todo:
            yield from self._scan(todo.pop(), todo)

    def changed(self, now_ns: int) -> Iterator[bytes]:
        """Every file in folders whose modification time moved, and in new folders.

        A folder modified in the last moments counts as moved: time stamps are coarse, so a
        file may have come after our look without moving them.
        """
        for folder, mtime_ns in list(self._mtimes.items()):
            try:
                found_ns = os.lstat(folder).st_mtime_ns
            except OSError:
                self._mtimes.pop(folder, None)
                continue
            if found_ns != mtime_ns or now_ns - found_ns < RESTLESS_NS:
                todo: list[bytes] = []
                yield from self._scan(folder, todo)
                todo = [below for below in todo if below not in self._mtimes]
                while todo:
                    yield from self._scan(todo.pop(), todo)
        if self.root not in self._mtimes:
            yield from self.everything()

    def _is_passed_over(self, folder: bytes, name: bytes) -> bool:
        """Claims of ours lie in the root; those of others, further down, are put back by nobody."""
        return is_passed_over(name) and not (name == claim.FOLDER and folder != self.root)

    def _scan(self, folder: bytes, below: list[bytes]) -> Iterator[bytes]:
        empty = True
        self._mtimes.pop(folder, None)
        try:
            status = os.lstat(folder)
            if not stat.S_ISDIR(status.st_mode):  # replaced since: links are never followed
                return
            self._mtimes[folder] = status.st_mtime_ns
            for entry in _entries(folder):
                empty = False
                if entry.path in self._excluded or self._is_passed_over(folder, entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                else:
                    yield entry.path
        except FileNotFoundError:
            self._mtimes.pop(folder, None)
        except OSError:  # no rights, or a network file system broke off: looked at again soon
            self._mtimes[folder] = 0
            self._on_folder(Folder(path=folder, is_readable=False, is_empty=False, mtime_ns=0))
        else:
            self._on_folder(
                Folder(path=folder, is_readable=True, is_empty=empty, mtime_ns=status.st_mtime_ns)
            )


def _entries(folder: bytes) -> Iterator[os.DirEntry[bytes]]:
    with os.scandir(folder) as entries:
        yield from entries


class Hints:
    """Paths that events told of: each once, bounded for each folder. Thread-safe."""

    def __init__(self) -> None:
        """No hints yet."""
        self._folders: OrderedDict[bytes, OrderedDict[bytes, None]] = OrderedDict()
        self._lock = threading.Lock()
        self._overflowed = False
        self.arrived = threading.Event()

    def overflow(self) -> None:
        """Note that events were lost, nobody knows which."""
        with self._lock:
            self._overflowed = True
        self.arrived.set()

    def add(self, path: bytes) -> None:
        """Note a path."""
        with self._lock:
            paths = self._folders.setdefault(os.path.dirname(path), OrderedDict())
            if len(paths) >= MAX_HINTS:
                self._overflowed = True
            else:
                paths[path] = None
        self.arrived.set()

    def take(self, most: int = MAX_HINTS) -> tuple[list[bytes], bool]:
        """The oldest hints, each folder's in turn, and whether some were lost or dropped."""
        taken: list[bytes] = []
        with self._lock:
            while self._folders and len(taken) < most:
                folder, paths = self._folders.popitem(last=False)
                taken.append(paths.popitem(last=False)[0])
                if paths:
                    self._folders[folder] = paths
            overflowed, self._overflowed = self._overflowed, False
            if not self._folders:
                self.arrived.clear()
        return taken, overflowed

    def holds(self, path: bytes) -> bool:
        """Does a hint at this path wait to be taken?"""
        with self._lock:
            return path in self._folders.get(os.path.dirname(path), ())


class _Teller:
    """Notes what events tell, in watchdog's reading thread: an exception would be the end of it.

    Watchdog's observers pass each event on through two queues without bounds. Told by its
    reading thread itself, we hold no more than the hints, and know of an overflow.
    """

    # Without IN_MOVED_FROM: what leaves is nobody's business, and our own claims do all the time.
    MASK = Mask(
        InotifyConstants.IN_CLOSE_WRITE
        | InotifyConstants.IN_MOVED_TO
        | InotifyConstants.IN_CREATE
        | InotifyConstants.IN_ONLYDIR
        | InotifyConstants.IN_DONT_FOLLOW
    )

    def __init__(self, root: bytes, hints: Hints) -> None:
        self._root = root
        self._hints = hints
        self.is_over = False  # the folder is gone, or its file system unmounted

    def on_event(self, event: InotifyEvent) -> None:
        if event.name:
            self._hints.add(os.path.join(self._root, event.name))

    def on_watch_deleted(self, _wd: int) -> None:
        self.is_over = True

    def on_queue_overflow(self) -> None:
        self._hints.overflow()


class Watch:
    """Native events of one drop folder, rebuilt when the folder is not the watched one any more."""

    def __init__(self, root: bytes, hints: Hints) -> None:
        """Prepare to watch ``root``; nothing is started yet."""
        self._root = root
        self._hints = hints
        self._reader: InotifyFD | None = None
        self._teller = _Teller(root, hints)
        self._identity: tuple[int, int] | None = None
        self._try_at = 0.0
        self._is_told = False
        self.began_ns = 0  # when it began to watch (ns since the epoch), 0 while it doesn't

    def check(self, now: float) -> bool:
        """Start, or start anew, if need be. True if the folder was not watched a moment ago.

        Args:
            now: the time (seconds since the epoch); what can't be watched is tried again later.
        """
        identity = folder_identity(self._root)
        if identity == self._identity and self._is_alive():
            return False
        self.stop()
        if identity is None or now < self._try_at:
            return False
        try:
            self._begin()
        except OSError as error:  # out of inotify instances, or gone again: the sweep serves
            self._cannot(error, now)
            return False
        self._identity, self._is_told = identity, False
        self.began_ns = int(now * 1e9)
        return True

    def _cannot(self, error: OSError, now: float) -> None:
        self._try_at = now + RETRY_S
        if not self._is_told:
            self._is_told = True
            _log.warning(
                "watch.unavailable",
                file=log.safe_name(self._root),
                detail=error.strerror,
                why="the system gives no events for this folder; it is swept instead, which "
                "takes a moment longer",
                next="correct the folder's rights"
                if error.errno == errno.EACCES
                else "raise fs.inotify.max_user_instances (sysctl) if many programs watch folders",
            )

    def _begin(self) -> None:
        self._teller = _Teller(self._root, self._hints)
        reader = InotifyFD()  # takes an inotify instance already
        reader.start()
        try:
            watch = reader.add_callback(self._root, _Teller.MASK, self._teller, CallbackId(0))
            if watch == -1:  # watchdog passes over this error
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError:
            _abandon(reader)
            raise
        self._reader = reader

    def stop(self) -> None:
        """End watching."""
        if self._reader is not None:
            _abandon(self._reader)
        self._reader = self._identity = None
        self.began_ns = 0

    def _is_alive(self) -> bool:
        return self._reader is not None and self._reader.is_alive() and not self._teller.is_over


def _abandon(reader: InotifyFD) -> None:
    reader.stop()
    reader.join(timeout=5)
