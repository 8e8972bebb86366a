"""Tells on which file system a folder lies, and whether that is still there."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

# Magic numbers of statfs(2) are not in Python; the names in /proc/mounts are.
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "ncpfs"}
    | {"beegfs", "gfs2", "gpfs", "ocfs2", "orangefs"}  # a cluster's
    | {"virtiofs", "vboxsf", "vmhgfs", "prl_fs"}  # folders that a virtual machine's host shares
)


def is_network(path: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Does the folder lie on a file system where events and leases tell nothing?

    FUSE counts as network: what happens at its other side is not seen here.
    """
    kind = kind_of(path, mounts)
    return kind in _NETWORK or kind.startswith("fuse")


def kind_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of the file system that a folder (a real path) lies on, as the kernel calls it."""
    best, kind = "", ""
    text = str(path)
    for point, name in _mounts(mounts):
        inside = text == point or text.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def is_mounted(folder: bytes, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Is something mounted at this very folder (a real path)?"""
    return any(point == os.fsdecode(folder) for point, _kind in _mounts(mounts))


def _mounts(mounts: Path) -> Iterator[tuple[str, str]]:
    """The mount points with the kinds of their file systems."""
    # Of control characters the kernel escapes but tab and newline: str.splitlines knows more.
    for line in mounts.read_bytes().decode("utf-8", "surrogateescape").split("\n"):
        _device, point, name, *_rest = (*line.split(" "), "", "", "")
        yield point.encode("latin-1", "backslashreplace").decode("unicode_escape"), name


def folder_identity(path: bytes) -> tuple[int, int] | None:
    """Device and inode of a folder, None if there is none at this path."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def edge(path: bytes) -> bytes | None:
    """The folder with which the file system of ``path`` begins; None for that of the root.

    Found by devices and not by mount points: a service manager's sandbox mounts folders onto
    themselves, which says nothing about where they lie.

    Args:
        path: a real path. What does not exist yet will lie where its nearest folder lies.

    Raises:
        OSError: a folder on the way can't be looked at.
    """
    while path != b"/" and not os.path.lexists(path):
        path = os.path.dirname(path)
    while path != b"/":
        above = os.path.dirname(path)
        if os.lstat(above).st_dev != os.lstat(path).st_dev:
            return path
        path = above
    return None


def is_edge(folder: bytes) -> bool:
    """Does another file system begin with this folder? That is, is something mounted there?"""
    try:
        return os.lstat(folder).st_dev != os.lstat(os.path.dirname(folder)).st_dev
    except PermissionError:  # it can't be told, and is no reason to say that nothing is there
        return True
    except OSError:
        return False
