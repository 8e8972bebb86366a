"""Small file systems of a test's own, mounted for real and unmounted at its end."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mounted(
    folder: Path | bytes, *, size: str = "16m", bind: Path | bytes | None = None
) -> Iterator[None]:
    """Mount a fresh file system in memory at ``folder``, or ``bind`` there; unmount at the end.

    It may have been unmounted meanwhile.
    """
    mount(folder, size=size, bind=bind)
    try:
        yield
    finally:
        unmount(folder)


def mount(folder: Path | bytes, *, size: str = "16m", bind: Path | bytes | None = None) -> None:
    """Mount it; whoever does so ends with `unmount`."""
    how: list[str | bytes | Path] = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
    if bind is not None:
        how = ["--bind", bind]
    subprocess.run(["mount", *how, folder], check=True)


def unmount(folder: Path | bytes) -> None:
    """Unmount it, if it is: at once for all new users, even where somebody still has a hold."""
    if _is_mount(os.fsencode(folder)):
        subprocess.run(["umount", "-l", folder], check=True)


def _is_mount(folder: bytes) -> bool:
    points = [
        line.split(b" ")[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()
    ]
    return os.path.realpath(folder) in points
