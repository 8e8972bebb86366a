"""Yardsticks for the intake: what hears of files and does nothing with them. Run as a program.

    python -m tests.bench.listeners watchdog|inotify FOLDER COUNT

It says "ready", listens until it has heard of so many files, or of no more, and says what it
came to.
"""

import ctypes
import json
import os
import select
import struct
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

SILENCE_S = 3.0  # then no more will come: the rest was lost

_HEAD = struct.Struct("iIII")  # struct inotify_event (inotify(7))
_CLOSED_OR_CREATED = 0x00000008 | 0x00000100
_CLOSED = 0x00000008


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a listener came to."""

    files: int
    cpu_s: float
    last: float  # when it heard of the last one (as time.monotonic tells)


class Listener(Protocol):
    """Counts the files that were closed."""

    heard: int
    last: float


class _Counting(FileSystemEventHandler):
    def __init__(self) -> None:
        self.heard = 0
        self.last = time.monotonic()

    def on_closed(self, event: FileSystemEvent) -> None:  # noqa: ARG002 - watchdog's name for it
        self.heard += 1
        self.last = time.monotonic()


def watchdog(folder: Path) -> Listener:
    """Listen by its observer, with the fewest events that miss nothing."""
    counting = _Counting()
    observer = Observer()
    wanted: list[type[FileSystemEvent]] = [
        *(FileClosedEvent, FileCreatedEvent, FileMovedEvent),
        *(DirCreatedEvent, DirMovedEvent, DirDeletedEvent),
    ]
    observer.schedule(counting, str(folder), recursive=True, event_filter=wanted)
    observer.start()
    return counting


class _Loop:
    def __init__(self, folder: Path) -> None:
        self.heard = 0
        self.last = time.monotonic()
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = int(libc.inotify_init1(os.O_NONBLOCK))
        if libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _CLOSED_OR_CREATED) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")

    def run(self) -> None:
        while True:
            select.select([self._descriptor], [], [])
            events, at = os.read(self._descriptor, 1 << 16), 0
            while at < len(events):
                _watch, mask, _cookie, length = _HEAD.unpack_from(events, at)
                at += _HEAD.size + length
                if mask & _CLOSED:
                    self.heard += 1
                    self.last = time.monotonic()


def inotify(folder: Path) -> Listener:
    """Listen by the kernel's own calls."""
    loop = _Loop(folder)
    threading.Thread(target=loop.run, daemon=True).start()
    return loop


def _main() -> None:
    kind, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    listener = {"watchdog": watchdog, "inotify": inotify}[kind](folder)
    before = time.process_time()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()  # all files are written
    pause = threading.Event()
    since = time.monotonic()
    while listener.heard < count and time.monotonic() < max(since, listener.last) + SILENCE_S:
        pause.wait(0.02)
    used = time.process_time() - before
    heard = Heard(files=listener.heard, cpu_s=used, last=listener.last)
    sys.stdout.write(json.dumps(asdict(heard)) + "\n")


if __name__ == "__main__":
    _main()
