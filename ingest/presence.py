"""Knows which folders are there, and on the file system that they should lie on.

A share that isn't mounted leaves an empty folder in its place. That is no empty inbox: its files
are not gone, and what is moved into it now would be hidden later. So it is remembered with which
folder the file system of each began; once nothing begins there any more, the share is offline.
"""

import errno
import os
import threading
from dataclasses import dataclass

from ingest import log, mounts
from ingest.ledger import Ledger

_log = log.get(__name__)

AUTO = "auto"  # what `mount` may be, if not a path
NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder of the configuration, and what must be mounted for it."""

    folder: bytes  # its real path
    mount: str = NONE  # a path, `NONE`, or `AUTO`: what once was
    key: str = 'mount = "none" under its [[drop]]'  # what to write if it needs no mount any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """Why a folder is not there, and what to do."""

    why: str
    next_step: str


class Presence:
    """Asked after folders. Thread-safe; its methods raise `LedgerError`."""

    def __init__(self, ledger: Ledger | None, *, learns: bool = True) -> None:
        """Remember in this ledger; without ``learns`` (or a ledger) only what is known already."""
        self._ledger = ledger
        self._learns = learns and ledger is not None
        self._edges: dict[bytes, bytes | None] = {}  # what its file system begins with, as noted
        self._seen: dict[bytes, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def absence(self, place: Place) -> Absence | None:
        """Why a folder is not there now; None if it is."""
        absence = self.unmounted(place)
        if absence is not None:
            return absence
        if mounts.folder_identity(place.folder) is None:
            is_known = self.knows(place.folder)
            return Absence(
                why="the folder is gone (unmounted, renamed or removed)"
                if is_known
                else "the folder does not exist",
                next_step="mount or make it again"
                if is_known
                else "make it, or correct its path in the configuration",
            )
        return None

    def knows(self, folder: bytes) -> bool:
        """Has it been there before?"""
        return self._known(folder) is not None

    def check_target(self, place: Place) -> None:
        """Raise `OSError` (ENODEV) if a file moved there would lie on the wrong file system.

        It may not exist yet.
        """
        absence = self.unmounted(place)
        if absence is not None:
            raise OSError(errno.ENODEV, absence.why)

    def unmounted(self, place: Place) -> Absence | None:
        """Why it does not lie where it should; whether it exists does not matter."""
        if place.mount == NONE:
            return None
        if place.mount != AUTO:
            wanted = os.path.realpath(os.fsencode(place.mount))
            return None if mounts.is_mounted(wanted) else _nothing_at(wanted, place)
        edge = self._known(place.folder)
        if edge and not (mounts.is_edge(edge) and self._learn(place, edge)):
            return _nothing_at(edge, place)
        if not edge:
            self._learn(place, edge)
        return None

    def _known(self, folder: bytes) -> bytes | None:
        with self._lock:
            if folder not in self._edges:
                said = self._ledger.said(_key(folder)) if self._ledger else None
                self._edges[folder] = os.fsencode(said[0]) if said else None
            return self._edges[folder]

    def _learn(self, place: Place, known: bytes | None) -> bool:
        """Note where a folder's file system begins. False if that is further out than it was.

        The share has gone, then, in the moment since it was looked at.
        """
        identity = mounts.folder_identity(place.folder)
        if not self._learns or (identity and self._seen.get(place.folder) == identity):
            return True
        try:
            edge = mounts.edge(place.folder) or b""  # noted as well: it has been there
        except OSError:  # a folder above is closed to us: the next look tries again
            return True
        if known and edge != known and not edge.startswith(known + b"/"):
            return False
        if identity or edge:  # else it is not made yet, and will lie on no share
            self._note(place.folder, edge)
        if identity:
            self._seen[place.folder] = identity
        return True

    def _note(self, folder: bytes, edge: bytes) -> None:
        with self._lock:
            before = self._edges.get(folder)
            if before == edge or self._ledger is None:
                return
            self._ledger.say(_key(folder), os.fsdecode(edge), 0.0)
            self._edges[folder] = edge
        if edge:
            _log.info(
                "folder.on-mount",
                path=log.shown(folder),
                detail=log.shown(edge),
                why="it counts as offline from now on while nothing is mounted there",
            )


def _nothing_at(edge: bytes, place: Place) -> Absence:
    remedy = "mount it again, and all goes on by itself"
    if place.mount == AUTO:
        remedy += f" (or, if it needs no mount any more, write {place.key}, and start again)"
    if _has_files(place.folder):
        remedy += ". First move away what was written into the empty folder meanwhile: the "
        remedy += "mount would hide it"
    return Absence(why=f"nothing is mounted at {log.shown(edge)}", next_step=remedy)


def _key(folder: bytes) -> str:
    return "file system of " + os.fsdecode(folder)


def _has_files(folder: bytes) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entries)
    except OSError:
        return False
