"""A crash at every step that reaches the disk: the part under test is real, its end is not."""

import contextlib
import errno
import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from ctypes import set_errno
from typing import IO, Any

import pytest

from ingest import files

STEPS = ("unlink", "replace", "rmdir", "mkdir", "fsync", "symlink", "link", "chmod", "utime")


class Crash(BaseException):
    """The process was killed here: no handler of the product catches it."""


class Steps:
    """Counts the steps, and dies before or after the one with this number."""

    def __init__(
        self, die_at: int | None = None, *, after: bool = False, full: bool = False
    ) -> None:
        """Die at the step ``die_at`` (the first is 0), or never.

        With ``full`` nobody dies: the disk is full at that step, and the next one works again.
        """
        self.taken: list[str] = []
        self._die_at = die_at
        self._after = after
        self._full = full

    def wrap(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step, counted."""

        def counted(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as the step's
            number = len(self.taken)
            self.taken.append(name)
            if number == self._die_at and self._full:
                raise _full_disk(name)
            if number == self._die_at and not self._after:
                raise Crash
            try:
                return step(*arguments, **options)
            finally:
                if number == self._die_at:
                    raise Crash

        return counted

    @contextlib.contextmanager
    def counted(self, *, apart: bytes | None = None) -> Iterator[None]:
        """Count the steps of `ingest.files` and below meanwhile.

        Args:
            apart: a folder that counts as another file system.
        """
        with pytest.MonkeyPatch.context() as patch:
            for name in STEPS:
                patch.setattr(os, name, self.wrap(name, getattr(os, name)))
            patch.setattr(shutil, "copyfileobj", self.wrap("copy", copy_in_two_halves))
            patch.setattr(files, "_libc", _Libc(self, apart))
            yield


def _full_disk(step: str) -> Exception:
    """What a full disk looks like at this step."""
    if step == "commit":
        return sqlite3.OperationalError("database or disk is full")
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def copy_in_two_halves(reading: IO[bytes], writing: IO[bytes], _chunk: int = 0) -> None:
    """Copy, with a step in the middle."""
    content = reading.read()
    writing.write(content[: len(content) // 2])
    writing.flush()
    os.fsync(writing.fileno())
    writing.write(content[len(content) // 2 :])


class _Libc:
    """The C library, but for a rename between two file systems that are one."""

    def __init__(self, steps: Steps, apart: bytes | None) -> None:
        self._apart = apart
        self._real = files._libc.renameat2
        self.renameat2 = steps.wrap("rename", self._rename)

    def _rename(self, from_: int, source: bytes, to: int, target: bytes, flags: int) -> int:
        if self._apart is not None and source.startswith(self._apart) != target.startswith(
            self._apart
        ):
            set_errno(errno.EXDEV)
            return -1
        result: int = self._real(from_, source, to, target, flags)
        return result


def crash_points() -> Iterator[tuple[int, bool]]:
    """All of them; whoever walks through them breaks off when none was met any more."""
    for number in itertools.count():
        yield number, False
        yield number, True
