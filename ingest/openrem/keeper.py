"""Keeps a private PostgreSQL up exactly as long as somebody uses it.

Who uses it is told by locks (flock), which the kernel takes from a process however it dies:

    users.lock   shared: one for each user, from entering to leaving; exclusive: nobody uses it
    start.lock   exclusive: one process at a time starts, stops or leaves
    keeper.lock  exclusive: held by the keeper as long as it lives

A leaving user that gets users.lock exclusively was the last one, and stops the server. A user
that was killed can't do that: hence the keeper, a process in a session of its own that waits for
users.lock exclusively, stops the server, and ends. Who enters meanwhile waits for its shared lock
and then starts anew. Nobody who holds users.lock exclusively waits for another lock, so no two
of them wait for each other.

This file is also the keeper's program. It is run by its path, so it imports nothing of ours.
"""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

StopMode = Literal["fast", "immediate"]

_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}  # postgres(1)
_ERROR = re.compile(r"(error|fatal|panic)\b:", re.IGNORECASE)
_STOP_S = 60
_POLL_S = 0.05


class SiteError(Exception):
    """The private OpenREM can't be built or started: what, why, and what next, in one line."""

    @classmethod
    def because(cls, what: str, output: str) -> "SiteError":
        """Tell what failed, with the most telling line of a program's output."""
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        errors = [line for line in lines if _ERROR.search(line)]
        return cls(f"{what}: {(errors or lines or ['it said nothing'])[-1]}")


@contextmanager
def lock(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[int]:
    """Hold a file's flock (`fcntl.LOCK_SH` or `LOCK_EX`) and give its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        # Closing isn't enough: a forked child may hold a copy of the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


@contextmanager
def used(folder: Path, start: Callable[[], None]) -> Iterator[None]:
    """Be a user of the server in `folder`, which `start` starts unless it is up."""
    with lock(folder / "users.lock", fcntl.LOCK_SH) as users:
        try:
            with lock(folder / "start.lock"):
                _ensure_keeper(folder)
                start()
            yield
        finally:
            _leave(folder, users)


def _leave(folder: Path, users: int) -> None:
    with lock(folder / "start.lock"):
        fcntl.flock(users, fcntl.LOCK_UN)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Others use it, or the keeper is stopping it: then wait until it has.
            fcntl.flock(users, fcntl.LOCK_SH)
        else:
            stop(folder / "data", "fast")


def postmaster(data: Path) -> int | None:
    """The process id of the server of a data directory, or None while it is down."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None
    return pid if _is_postmaster(pid, data) else None


def _is_postmaster(pid: int, data: Path) -> bool:
    # After a crash or in a restarted container the number belongs to somebody else; a
    # postmaster lives in its data directory, and a zombie lives nowhere.
    with suppress(OSError):
        return Path(f"/proc/{pid}/cwd").samefile(data)
    return False


def stop(data: Path, mode: StopMode) -> None:
    """Stop the server of a data directory and wait until it is gone; none running is fine."""
    pid = postmaster(data)
    if pid is None:
        return
    # An immediate stop loses nothing that was committed: it follows when a fast one hangs.
    modes: tuple[StopMode, ...] = (mode, "immediate")
    for how in modes:
        with suppress(ProcessLookupError):
            os.kill(pid, _SIGNALS[how])
        deadline = time.monotonic() + _STOP_S
        while time.monotonic() < deadline:
            if not _is_postmaster(pid, data):
                return
            threading.Event().wait(_POLL_S)
    raise SiteError(f"PostgreSQL in {data} doesn't stop: end its process {pid}")


def _ensure_keeper(folder: Path) -> None:
    # The descriptor, and with it the lock, goes to the keeper: there is no moment between.
    keeper = os.open(folder / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(keeper, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # -I: beside this file is a site.py, which must not be taken for Python's own.
        subprocess.run(  # noqa: S603 - this file, by our own interpreter
            [sys.executable, "-I", "-S", __file__, str(folder), str(keeper)],
            pass_fds=(keeper,),
            cwd="/",
            start_new_session=True,  # a Ctrl-C in the user's terminal isn't for the keeper
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    except BlockingIOError:
        pass  # one lives
    finally:
        os.close(keeper)  # not unlocked: that would take it from the keeper as well


def _keep(folder: Path, keeper: int) -> None:
    if os.fork():
        return  # the child belongs to init, so that no user has to reap it
    with lock(folder / "users.lock"):
        stop(folder / "data", "fast")
        os.close(keeper)  # before users.lock: who enters next needs a keeper of its own


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), int(sys.argv[2]))
