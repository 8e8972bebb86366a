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

AUTO = "auto"  # what `mount` may be, if not a path
NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """Why a folder is not there, and what to do."""

    why: str
    next_step: str


class Presence:
    """Asked after folders. Thread-safe; its methods raise `LedgerError`."""

    def __init__(self, ledger: Ledger, *, learns: bool = True) -> None:
        """Remember in this ledger; without ``learns`` only what it knows already."""
        self._ledger = ledger
        self._learns = learns
        self._edges: dict[bytes, bytes | None] = {}  # what its file system begins with, as noted
        self._seen: dict[bytes, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def absence(self, folder: bytes, mount: str = AUTO) -> Absence | None:
        """Why a folder is not there now; None if it is.

        Args:
            folder: its real path.
            mount: what must be mounted for it: a path, `NONE`, or `AUTO`: what once was.
        """
        absence = self._unmounted(folder, mount)
        if absence is not None:
            return absence
        identity = mounts.folder_identity(folder)
        if identity is None:
            return Absence(
                why="the folder is gone (unmounted, renamed or removed); senders that write there "
                "now may lose objects without knowing",
                next_step="mount or make it again; it is watched again by itself",
            )
        self._learn(folder, mount, identity)
        return None

    def knows(self, folder: bytes) -> bool:
        """Has it been there before?"""
        return self._ledger.said(_key(folder)) is not None

    def check_target(self, folder: bytes) -> None:
        """Raise `OSError` (ENODEV) if a file moved there would lie on the wrong file system.

        It may not exist yet.
        """
        absence = self._unmounted(folder, AUTO)
        if absence is not None:
            raise OSError(errno.ENODEV, absence.why)
        identity = mounts.folder_identity(folder)
        if identity is not None:
            self._learn(folder, AUTO, identity)

    def _unmounted(self, folder: bytes, mount: str) -> Absence | None:
        edge = self._edge_of(folder, mount)
        if edge is None or mounts.is_edge(edge):
            return None
        remedy = "mount it again; all goes on by itself"
        if mount == AUTO:
            remedy += ' (or write mount = "none" under its [[drop]] if it needs no mount any more)'
        if _has_files(folder):
            remedy += ". First move away what was written into the empty folder meanwhile: the "
            remedy += "mount would hide it"
        return Absence(why=f"nothing is mounted at {log.shown(edge)}", next_step=remedy)

    def _edge_of(self, folder: bytes, mount: str) -> bytes | None:
        if mount == NONE:
            return None
        if mount != AUTO:
            return os.path.realpath(os.fsencode(mount))
        with self._lock:
            if folder not in self._edges:
                said = self._ledger.said(_key(folder))
                self._edges[folder] = os.fsencode(said[0]) if said else None
            return self._edges[folder] or None

    def _learn(self, folder: bytes, mount: str, identity: tuple[int, int]) -> None:
        if mount != AUTO or not self._learns or self._seen.get(folder) == identity:
            return
        try:
            edge = mounts.edge(folder) or b""  # noted as well: it has been there
        except OSError:  # a folder above is closed to us: the next look tries again
            return
        with self._lock:
            if self._edges.get(folder) != edge:
                self._ledger.say(_key(folder), os.fsdecode(edge), 0.0)
                self._edges[folder] = edge
            self._seen[folder] = identity


def _key(folder: bytes) -> str:
    return "file system of " + os.fsdecode(folder)


def _has_files(folder: bytes) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entries)
    except OSError:
        return False
