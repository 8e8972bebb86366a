"""The only place that moves or removes files: each step checked, and durable where it must be.

What the order of steps protects (a crash or a power cut may fall between any two):

* A rename within one file system is atomic: the file is in one place or the other, and both
  are looked at after a restart. It never replaces: what lies at the target stays.
* Across file systems the copy is complete, on the disk and under its final name before the
  source goes.

Paths are bytes, because senders' names need not be text.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from typing import BinaryIO

from ingest.errors import Changed
from ingest.model import Snapshot

_RENAME_NOREPLACE = 1  # renameat2(2)
_AT_FDCWD = -100
_NAME_MAX = 255  # bytes, on every file system that we know of
_CHUNK = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def snapshot(path: bytes) -> Snapshot:
    """The identity of what lies at ``path``, links not followed. `FileNotFoundError` if nothing."""
    return Snapshot.of(os.lstat(path))


def check_identity(path: bytes, expected: Snapshot, *, exact: bool = False) -> Snapshot:
    """Raise `Changed` unless ``path`` still is the version of the file that we know.

    Args:
        path: the file.
        expected: what it was.
        exact: not even its ctime may have moved. Size and mtime can be made what they were, the
            ctime can't; but our own renames and links move it, too, and a file server may show
            that late.

    Returns:
        What it is, with its ctime of now.
    """
    try:
        found = snapshot(path)
    except FileNotFoundError:
        raise Changed("it is gone") from None
    if found != expected or (exact and found.ctime_ns != expected.ctime_ns):
        raise Changed
    return found


def move(source: bytes, target: bytes) -> None:
    """Rename within a file system, never replacing.

    Raises:
        FileExistsError: something lies at the target.
        OSError: as ``rename(2)``; ``EXDEV`` across file systems.
    """
    if _rename_noreplace(source, target):
        return
    # A file system without RENAME_NOREPLACE (some network ones). A link never replaces either;
    # where there are none: look, then rename. Targets are folders of our own, or a sender's
    # name that we took a moment ago.
    if not _link_over(source, target):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(source, target)  # noqa: TID251 - the one place


def _link_over(source: bytes, target: bytes) -> bool:
    """Give a file another name, then take away the first; False where it can't have two.

    Whoever crashed in between finds it under both, and it is one file all the same.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        if not os.path.samestat(os.lstat(source), os.lstat(target)):
            raise
    except OSError:
        return False
    os.unlink(source)  # noqa: TID251 - its second name is there
    return True


def _rename_noreplace(source: bytes, target: bytes) -> bool:
    try:
        renameat2 = _libc.renameat2
    except AttributeError:  # a C library older than glibc 2.28
        return False
    if renameat2(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code))


def move_durably(source: bytes, target: bytes, expected: Snapshot, *, exact: bool = False) -> None:
    """Move a file, also across file systems, so that no power cut can lose it.

    Args:
        source: the file.
        target: where it is to lie.
        expected: what it was.
        exact: see `check_identity`.

    Raises:
        FileExistsError: something lies at the target.
        Changed: the source is no longer what was expected; it stays.
    """
    check_identity(source, expected, exact=exact)
    try:
        move(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_over(source, target, expected, exact=exact)
    sync_folder(os.path.dirname(target))
    sync_folder(os.path.dirname(source))


def _copy_over(source: bytes, target: bytes, expected: Snapshot, *, exact: bool) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    mode = os.lstat(source).st_mode
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(mode):
        _copy_contents(source, target)
    else:  # a pipe or device: opening it could block, or do something
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    try:
        check_identity(source, expected, exact=exact)
    except Changed:
        os.unlink(target)  # noqa: TID251 - our own copy, of what is no longer there
        raise
    # The copy's name must be on the disk first: two file systems keep no common order, and a
    # power cut could else forget the new name and remember that the old one went.
    sync_folder(os.path.dirname(target))
    try:
        os.unlink(source)  # noqa: TID251 - its copy is complete, synced and in place
    except FileNotFoundError:
        pass
    except OSError:
        with contextlib.suppress(OSError):  # it must not stay in both places
            os.lstat(source)  # a file server may have done what it says it could not
            os.unlink(target)  # noqa: TID251 - our own copy
        raise


def _copy_contents(source: bytes, target: bytes) -> None:
    """Copy under a passing name, compare what the disk gives back, then give it its name."""
    passing = _passing(target)
    status = os.lstat(source)
    with open_regular(source) as reading, _held(passing) as writing:
        try:
            shutil.copyfileobj(reading, writing, _CHUNK)
            writing.flush()
            os.fsync(writing.fileno())
            _compare(passing, source)
            _give(passing, status)
            os.chmod(passing, status.st_mode & 0o777)
            os.utime(passing, ns=(status.st_atime_ns, status.st_mtime_ns))
            move(passing, target)
        except OSError:
            with contextlib.suppress(OSError):  # half a copy must not keep a full disk full
                os.unlink(passing)  # noqa: TID251 - our own copy
            raise


def _passing(path: bytes) -> bytes:
    """The name that a file of ours has until it is complete; sweeps pass it over."""
    folder, name = os.path.split(path)
    return os.path.join(folder, b"." + hashlib.sha256(name).hexdigest()[:16].encode() + b".part")


@contextlib.contextmanager
def _held(passing: bytes) -> Iterator[BinaryIO]:
    """The passing file, empty, for us alone; one that a crash of ours left is taken over.

    Two drop folders may share an archive, and names: without this, two threads at one target
    would write into each other's copies, and the first rename would name the wrong one.

    Raises:
        FileExistsError: somebody else copies to the same target.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(passing, flags, 0o666), "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise  # else a file system without locks
        try:
            if not os.path.samestat(os.fstat(file.fileno()), os.lstat(passing)):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        except FileNotFoundError:  # it got its own name just now
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        file.truncate(0)
        yield file


def _compare(copy: bytes, source: bytes) -> None:
    if _digest(copy) != _digest(source):
        raise OSError(errno.EIO, "the copy differs from the file")


def open_regular(path: bytes) -> BinaryIO:
    """A reader of an ordinary file; links are not followed, pipes never waited for."""
    return os.fdopen(
        os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
    )


def _digest(path: bytes) -> bytes:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()


def is_twin(path: bytes, other: bytes) -> bool:
    """Are these two ordinary files of one time and content, such as a copy and its source?"""
    left, right = os.lstat(path), os.lstat(other)
    return (
        stat.S_ISREG(left.st_mode)
        and stat.S_ISREG(right.st_mode)
        and (left.st_size, left.st_mtime_ns) == (right.st_size, right.st_mtime_ns)
        and _digest(path) == _digest(other)
    )


def read_small(path: bytes, most: int) -> bytes:
    """The content of a small ordinary file of our own.

    Raises:
        OSError: it can't be read, or is no such file, or larger than ``most`` bytes.
    """
    with open_regular(path) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


def remove(path: bytes, expected: Snapshot, *, exact: bool = False) -> None:
    """Remove one file if it still is what was expected, durably. Raises `Changed` if not."""
    check_identity(path, expected, exact=exact)
    os.unlink(path)  # noqa: TID251 - the one place
    sync_folder(os.path.dirname(path))


def link_aside(path: bytes, alias: bytes) -> None:
    """Give a file a second, passing name that its user may delete without harm.

    A hard link where it may be had; the kernel refuses one on a file of another owner that we
    may not write (``fs.protected_hardlinks``), and then a symbolic link does the same service.
    On a file system that knows neither: a copy.
    """
    for make in (os.link, os.symlink, shutil.copyfile):
        unlink_alias(alias)
        try:
            make(path, alias)
        except OSError:
            if make is shutil.copyfile:
                raise
        else:
            return


def unlink_alias(alias: bytes) -> None:
    """Remove a passing name made by `link_aside`, if it is still there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(alias)  # noqa: TID251 - a second name, never the file


def clear_folder(folder: bytes) -> None:
    """Remove a folder of our own, with passing names in it and what was written beside them."""
    for base, folders, names in os.walk(folder, topdown=False):
        for name in (*names, *folders):
            path = os.path.join(base, name)
            if name in names or os.path.islink(path):
                unlink_alias(path)
            else:
                os.rmdir(path)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(folder)


def write_durably(path: bytes, text: str) -> None:
    """Write a small file of our own: complete under its name, or not there at all."""
    passing = _passing(path)
    try:
        with open(passing, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(passing, path)  # noqa: TID251 - our own file
    except OSError:
        with contextlib.suppress(OSError):  # on a full disk it would be taken for a refused file
            os.unlink(passing)  # noqa: TID251 - our own file
        raise
    sync_folder(os.path.dirname(path))


@contextlib.contextmanager
def made_durably(target: bytes) -> Iterator[BinaryIO]:
    """A file of our own to be written: complete under its name, or not there at all.

    Raises:
        FileExistsError: something lies at the target, or somebody else writes to it.
    """
    passing = _passing(target)
    with _held(passing) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _give(passing, os.stat(os.path.dirname(target)))
            move(passing, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(passing)  # noqa: TID251 - our own file
            raise
    sync_folder(os.path.dirname(target))


def sync_folder(path: bytes) -> None:
    """Have the folder's entries on the disk. Best effort: some network file systems refuse."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: bytes) -> None:
    """Make a folder and those above it, each entry on the disk; no harm if it is there.

    Raises:
        FileExistsError: there is something else in its place, or in that of one above it.
    """
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_folder(parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):  # else another thread was faster
            raise
    else:
        _give(path, os.stat(parent))
    sync_folder(parent)


def _give(path: bytes, owner: os.stat_result) -> None:
    """What root makes by a command must still belong to the service's user."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a network share that maps root to nobody
            os.chown(path, owner.st_uid, owner.st_gid)


def remove_empty(folder: bytes) -> bool:
    """Remove a folder if it is empty; the kernel refuses any other. True if it is gone."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def name_that_fits(name: bytes, suffix: bytes) -> bytes:
    """``name`` + ``suffix``, the name shortened where both together are too long.

    A shortened name ends in a digest of the whole one, so that no two names become one.
    """
    if len(name) + len(suffix) <= _NAME_MAX:
        return name + suffix
    suffix = b"~" + hashlib.sha256(name).hexdigest()[:8].encode() + suffix
    return name[: _NAME_MAX - len(suffix)] + suffix
