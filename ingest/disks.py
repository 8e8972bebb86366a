"""Warns early of volumes that fill up, because Conquest loses objects in silence on a full disk.

It only looks: nothing is ever deleted to make room.
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ingest import log
from ingest.presence import Place

_log = log.get(__name__)

WHY = "senders such as Conquest lose objects in silence on a full disk"
PERIOD_S = 30.0
ENOUGH = 1.1  # times the limit, then it is over: at the very limit it would come and go
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Below what to warn."""

    free_mib: int
    free_files: int  # inodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A file system that we or the senders write to, as it is now."""

    path: str  # the first folder of ours on it
    holds: tuple[str, ...]  # what lies on it, for people
    device: int
    free_mib: int  # for users other than root
    free_files: int | None  # None: it doesn't count them

    def is_low(self, limits: Limits, times: float = 1.0) -> bool:
        """Is there less than (so many times) the limit?"""
        few = self.free_files is not None and self.free_files < limits.free_files * times
        return self.free_mib < limits.free_mib * times or few

    @property
    def room(self) -> str:
        """What is left, in words."""
        if self.free_files is None:
            return f"{self.free_mib} MiB free"
        return f"{self.free_mib} MiB and room for {self.free_files} more files free"


def volumes(
    folders: Mapping[str, Place], absence: Callable[[Place], object | None]
) -> list[Volume]:
    """The volumes on which these folders lie, each once.

    Args:
        folders: by what they are. One that does not exist yet counts where it will be made.
        absence: tells which of them are away: they lie on none.
    """
    found: dict[int, Volume] = {}
    for what, place in folders.items():
        if absence(place) is not None:
            continue
        folder = place.folder
        while not os.path.isdir(folder) and folder != b"/":
            folder = os.path.dirname(folder)
        try:
            device, room = os.stat(folder).st_dev, os.statvfs(folder)
        except OSError:
            continue
        known = found.get(device)
        found[device] = Volume(
            path=known.path if known else log.shown(folder),
            holds=(*(known.holds if known else ()), what),
            device=device,
            free_mib=room.f_bavail * room.f_frsize // _MIB,
            free_files=room.f_favail if room.f_files else None,
        )
    return list(found.values())


class DiskGuard:
    """Looks after the volumes, and tells of each episode once. For one thread."""

    def __init__(
        self,
        folders: Mapping[str, Place],
        limits: Limits,
        absence: Callable[[Place], object | None],
    ) -> None:
        """Look after these folders; ``absence`` tells which of them are away."""
        self._folders = folders
        self._limits = limits
        self._absence = absence
        self._low: dict[int, Volume] = {}

    def look(self) -> None:
        """One look at all of them."""
        found = volumes(self._folders, self._absence)
        now = {volume.device: volume for volume in found}
        here = {what for volume in found for what in volume.holds}
        for device, volume in now.items():
            if device not in self._low and volume.is_low(self._limits):
                self._low[device] = volume
                _log.error(
                    "disk.low",
                    path=volume.path,
                    folders=list(volume.holds),
                    detail=volume.room,
                    why=WHY,
                    next="free space on it ([disk] sets the limit); nothing is deleted by itself",
                )
        for device in list(self._low):
            volume = now.get(device, self._low[device])
            if device not in now:
                if here & set(volume.holds):  # they lie on another one now
                    del self._low[device]
            elif not volume.is_low(self._limits, ENOUGH):
                del self._low[device]
                _log.info(
                    "disk.recovered",
                    path=volume.path,
                    folders=list(volume.holds),
                    detail=volume.room,
                )

    def watch(self, stopping: threading.Event) -> None:
        """Look every half minute, until told to stop."""
        while not stopping.is_set():
            self.look()
            stopping.wait(PERIOD_S)
