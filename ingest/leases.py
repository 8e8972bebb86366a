"""Tells whether anybody writes to a file, and keeps writers off for a moment: by read leases.

The kernel grants a read lease (``fcntl(2)``, F_SETLEASE) only where nobody on this machine has the
file open for writing, and makes whoever opens it so wait until the lease is gone.
"""

import contextlib
import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

from ingest.dicom import open_regular
from ingest.errors import Changed, FileProblem


def has_writer(path: bytes | str | Path, *, local: bool) -> bool | None:
    """Whether anybody on this machine has a file open for writing (or mapped so).

    Asked by taking a read lease and dropping it at once, for which we must own the file, or
    have CAP_LEASE.

    Should somebody open the file for writing in that instant, he waits until the lease is gone,
    and the kernel sends us a signal: by default SIGIO, which kills a process that doesn't handle
    it. F_SETSIG makes it SIGURG, which does nothing unless it is handled. So there is no need
    to change a process-wide handler, which only the main thread could do.

    Args:
        path: the file.
        local: whether its file system is on this machine; elsewhere a lease may be granted
            although a remote machine is writing.

    Returns:
        None where it can't be told.

    Raises:
        FileProblem: see `open_regular`.
        FileNotFoundError: it is gone.
    """
    if not local:
        return None
    with _leased(path) as is_still:
        return None if is_still is None else not is_still


@contextlib.contextmanager
def kept_still(path: bytes, *, local: bool) -> Iterator[None]:
    """Nobody writes to a file meanwhile, nor opens it to do so, where a lease can be had.

    Whoever tries waits for us, so let it be short. See `has_writer`.

    Raises:
        Changed: somebody has it open for writing, or it is gone.
    """
    with contextlib.ExitStack() as held:
        is_still = None
        try:
            if local and stat.S_ISREG(os.lstat(path).st_mode):
                is_still = held.enter_context(_leased(path))
        except FileNotFoundError:
            raise Changed("it is gone") from None
        except FileProblem:  # it may not be read, so nor can this be told
            pass
        if is_still is False:
            raise Changed("somebody has it open for writing")
        yield


@contextlib.contextmanager
def _leased(path: bytes | str | Path) -> Iterator[bool | None]:
    """Hold a read lease. Gives False if somebody writes, None where it can't be told."""
    try:
        descriptor = open_regular(path)
    except BlockingIOError:  # a file server on this machine holds a write lease
        yield False
        return
    try:
        is_still = _lease(descriptor)
        yield is_still
        if is_still:
            with contextlib.suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def _lease(descriptor: int) -> bool | None:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return False
    except OSError:  # not ours (EACCES), or a file system without leases (EINVAL)
        return None
    return True
