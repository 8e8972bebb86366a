"""Keeps two openrem-ingest from working on the same ledger or the same drop folder."""

import contextlib
import errno
import fcntl
import hashlib
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import TextIO

from ingest import log, mounts
from ingest.errors import BusyError, ConfigError

RUN = "run"  # the lock of the service
IMPORT = "import"  # the lock of manual imports


@contextlib.contextmanager
def only_one(state_dir: Path, name: str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock on the state folder.

    Raises:
        BusyError: another process holds it, and does so for longer than ``wait_s``.
        ConfigError: the folder can't be written.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        file = (state_dir / f"{name}.lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"state_dir: {state_dir} can't be written ({error.strerror}). Next: make the folder "
            "for the user that openrem-ingest runs as, or name another one"
        ) from error
    with file:
        if not _locked(file, wait_s):
            raise BusyError(
                f"another openrem-ingest {name} already works with {state_dir}. "
                "Next: stop that one, or give this one a state_dir of its own"
            )
        yield


def _locked(file: TextIO, wait_s: float) -> bool:
    give_up_at = monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() >= give_up_at:
                return False
            threading.Event().wait(0.05)
        else:
            return True


@contextlib.contextmanager
def only_one_on(folders: Sequence[bytes]) -> Iterator[None]:
    """Hold a lock on each of these folders, by whatever path another process knows them.

    A lock file or an open folder would keep a share from being unmounted. So the lock is a name
    in the kernel's table of sockets, which it clears by itself, also after SIGKILL. It is seen
    on this machine only (and in containers that share its network).

    Raises:
        BusyError: another process holds one of them.
    """
    with contextlib.ExitStack() as held:
        for folder in folders:
            identity = mounts.folder_identity(folder)
            for name in (folder, b"%d %d" % identity if identity else b""):
                if name:
                    held.enter_context(_named(name, folder))
        yield


def _named(name: bytes, folder: bytes) -> socket.socket:
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(b"\0openrem-ingest " + hashlib.sha256(name).hexdigest()[:32].encode())
    except OSError as error:
        holder.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise BusyError(
            f"another openrem-ingest already works on {log.shown(folder)}, with a state_dir of "
            "its own. Next: stop that one, or take the folder out of one of the configurations"
        ) from error
    return holder


def is_running(state_dir: Path, name: str = RUN) -> bool:
    """Does a service (or whoever takes the lock of this name) work with this state folder now?"""
    try:
        with (state_dir / f"{name}.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # never started, or not for us to see
        return False
    return False
