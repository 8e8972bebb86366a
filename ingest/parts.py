"""Builds from the settings what the service and the commands work with."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import TextIO

from ingest import watch
from ingest.config import Drop, Settings
from ingest.context import Inbox
from ingest.errors import BusyError, ConfigError
from ingest.openrem import site
from ingest.openrem.importers import Worker
from ingest.settle import Patience
from ingest.upkeep import DAY_S, Rules

RUN = "run"  # the lock of the service
IMPORT = "import"  # the lock of manual imports


def real_path(path: Path) -> bytes:
    """The path with all links resolved: watchdog never reports on a linked root."""
    return os.path.realpath(os.fsencode(path))


def inboxes_of(settings: Settings) -> tuple[Inbox, ...]:
    """The configured drop folders, as the engine needs them."""
    return tuple(_inbox(settings, drop) for drop in settings.drop)


def _inbox(settings: Settings, drop: Drop) -> Inbox:
    local = not _is_remote(drop)
    quiet_s = settings.settle.quiet
    if not local:
        quiet_s = max(quiet_s, settings.settle.network_quiet)
    quarantine = settings.quarantine_path
    return Inbox(
        name=drop.name,
        root=real_path(drop.path),
        after=drop.after,
        patience=Patience(quiet_s=quiet_s, incomplete_after_s=settings.settle.incomplete_after),
        archive=real_path(drop.archive) if drop.archive else None,
        quarantine=real_path(quarantine / drop.name) if quarantine else None,
        is_local=local,
        expect=drop.expect,
    )


def _is_remote(drop: Drop) -> bool:
    if drop.watch != "auto":
        return drop.watch == "poll"
    return watch.is_network(drop.path)


def excluded_from(settings: Settings) -> frozenset[bytes]:
    """Folders that no sweep enters: they may lie inside of a drop folder."""
    paths = [drop.path for drop in settings.drop]
    paths += [drop.archive for drop in settings.drop if drop.archive is not None]
    paths += [settings.state_dir]
    if settings.quarantine_path is not None:
        paths.append(settings.quarantine_path)
    return frozenset(real_path(path) for path in paths)


def upkeep_rules(settings: Settings) -> Rules:
    """What the user wants kept, and for how long."""
    aged_days = settings.quarantine.keep_days
    root = settings.quarantine_path
    quarantine = real_path(root) if root is not None else None
    return Rules(
        history_s=settings.history.keep_days * DAY_S,
        quarantine_s=aged_days * DAY_S if aged_days is not None else None,
        quarantine=quarantine,
        drops=frozenset(drop.name for drop in settings.drop),
        excluded=excluded_from(settings),
    )


def check_folders(settings: Settings) -> None:
    """Raise `ConfigError` unless there are drop folders and they are folders.

    A folder that is away is waited for, but one that was never there is likelier a typo.
    """
    if not settings.drop:
        raise ConfigError("drop: there is none. Next: add a [[drop]] with the path of a folder")
    for number, drop in enumerate(settings.drop, start=1):
        path = os.fsencode(drop.path)  # pathlib's questions raise where a folder above is closed
        if not os.path.exists(path):
            raise ConfigError(
                f"drop[{number}].path: {drop.path} does not exist, or may not be reached. Next: "
                "make the folder (or mount its share), correct the path, or the rights above it"
            )
        if not os.path.isdir(path):
            raise ConfigError(f"drop[{number}].path: {drop.path} is not a folder")
    if len({real_path(drop.path) for drop in settings.drop}) < len(settings.drop):
        raise ConfigError(
            "drop: two drop folders are one and the same (one of them leads to the other by a "
            "link). Next: remove one of the two"
        )


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
def openrem_database(settings: Settings) -> Iterator[None]:
    """Have the database of a private OpenREM run meanwhile; a real site's runs by itself."""
    if settings.openrem.demo_site is None:
        yield
        return
    try:
        with site.running(site.open_site(settings.openrem.demo_site)):
            yield
    except site.SiteError as error:
        raise ConfigError(str(error)) from error


def worker_of(settings: Settings) -> Worker:
    """A worker process for this configuration, not yet started."""
    return Worker(
        [str(settings.openrem.python)],
        settings.openrem.env,
        timeout_s=settings.openrem.timeout,
        memory_mib=settings.openrem.memory,
    )


def is_running(state_dir: Path) -> bool:
    """Does a service work with this state folder now?"""
    try:
        with (state_dir / f"{RUN}.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # never started, or not for us to see
        return False
    return False
