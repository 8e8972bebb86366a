"""Small file systems of a test's own, mounted for real; whoever mounts one unmounts it."""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_READ_ONLY, _REMOUNT, _BIND = 1, 32, 4096  # flags of the kernel's mount
_DETACH = 2  # and of its umount2

_libc = ctypes.CDLL(None, use_errno=True)


def mount(at: Path | bytes, options: str = "size=16m") -> None:
    """Mount a fresh file system in memory."""
    assert _call("mount", "tmpfs", at, "tmpfs", 0, options)


def bind(source: Path | bytes, at: Path | bytes) -> None:
    """Mount a folder over another one."""
    assert _call("mount", source, at, "", _BIND, "")


def remount(at: Path | bytes, *, read_only: bool) -> bool:
    """Make it read-only, as the kernel does after an error of the disk, or writable again.

    False if somebody writes to it.
    """
    return _call("mount", "", at, "", _REMOUNT | (_READ_ONLY if read_only else 0), "")


def unmount(at: Path | bytes, *, lazily: bool = False) -> bool:
    """Take it away; ``lazily``: although somebody uses it, else False if somebody does."""
    return _call("umount2", at, _DETACH if lazily else 0)


@contextmanager
def mounted(
    at: Path | bytes, options: str = "size=16m", *, over: Path | bytes | None = None
) -> Iterator[None]:
    """Have a fresh file system there (or the folder ``over``) meanwhile.

    The test may unmount and mount it itself.
    """
    if over is None:
        mount(at, options)
    else:
        bind(over, at)
    try:
        yield
    finally:
        if _is_mount(os.fsencode(at)):
            unmount(at, lazily=True)


def _is_mount(folder: bytes) -> bool:
    """Also where a folder is mounted over itself, which os.path.ismount can't tell."""
    mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return os.path.realpath(folder) in [line.split(b" ")[4] for line in mounts]


def _call(name: str, *arguments: str | bytes | Path | int) -> bool:
    """Call the kernel; False if somebody uses the file system."""
    made = [one if isinstance(one, int) else os.fsencode(one) for one in arguments]
    if getattr(_libc, name)(*made) == 0:
        return True
    code = ctypes.get_errno()
    if code != errno.EBUSY:
        raise OSError(code, os.strerror(code))
    return False
