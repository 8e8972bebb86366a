"""Runs the engine: builds the parts, owns the threads and their beginning and end.

One thread looks (events, sweeps, files whose waiting is over), some import, each with a worker
process of its own. Imports wait for each other inside OpenREM's database anyway, so that the
threads need agree on nothing but the ledger.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ingest import __version__, files, log, policy, watch
from ingest.config import BY_HAND, Drop, Settings
from ingest.context import Ended, Inbox
from ingest.engine import Engine
from ingest.errors import BusyError, ConfigError, LedgerError, OpenRemUnreachable
from ingest.ledger import Ledger
from ingest.model import Job, State
from ingest.openrem import site
from ingest.openrem.importers import Worker
from ingest.setback import place_of
from ingest.settle import Patience

_log = log.get(__name__)

STOP_S = 7.0  # for the import in hand to end by itself; then it is broken off and undone
BATCH = 200  # files looked at before hints and waiting files have their turn again
IDLE_S = 0.5
LEDGER_REST_S = 5.0
HEARTBEAT_S = 10.0
CHECK_S = 30.0  # between questions after OpenREM's health while nothing is imported
SCAN_SHARE = 20  # a quick sweep that took a second rests for 20
IMPORT = "import"  # the lock of manual imports
STANDING_S = 60.0  # a sub-folder that is empty for so long was prepared by someone


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


def check_folders(settings: Settings) -> None:
    """Raise `ConfigError` unless there are drop folders and they are folders.

    A folder that is away is waited for, but one that was never there is likelier a typo.
    """
    if not settings.drop:
        raise ConfigError("drop: there is none. Next: add a [[drop]] with the path of a folder")
    for number, drop in enumerate(settings.drop, start=1):
        if not drop.path.exists():
            raise ConfigError(
                f"drop[{number}].path: {drop.path} does not exist. "
                "Next: make the folder (or mount its share), or correct the path"
            )
        if not drop.path.is_dir():
            raise ConfigError(f"drop[{number}].path: {drop.path} is not a folder")
    if len({real_path(drop.path) for drop in settings.drop}) < len(settings.drop):
        raise ConfigError(
            "drop: two drop folders are one and the same (one of them leads to the other by a "
            "link). Next: remove one of the two"
        )


@contextlib.contextmanager
def only_one(state_dir: Path, name: str) -> Iterator[None]:
    """Hold a lock on the state folder. Raises `BusyError` if another process holds it."""
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"another openrem-ingest {name} already works with {state_dir}. "
                "Next: stop that one, or give this one a state_dir of its own"
            ) from None
        yield


def _forget_killed_import(settings: Settings, ledger: Ledger, now: float) -> None:
    """Take back what a manual import that was killed has in hand: it may lie in a drop folder."""
    with contextlib.suppress(BusyError), only_one(settings.state_dir, IMPORT):
        ledger.forget(BY_HAND, now)


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
    )


class Source(Protocol):
    """Where paths come from."""

    def everything(self) -> Iterator[bytes]:
        """Every file."""

    def changed(self, now_ns: int) -> Iterator[bytes]:
        """Every file in folders that changed."""


class Service:
    """The engine with its threads."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        inboxes: Sequence[Inbox],
        *,
        work: str = "run",
        excluded: frozenset[bytes] = frozenset(),
        sources: Mapping[str, Source] | None = None,
        on_end: Callable[[Ended], None] = lambda _ended: None,
    ) -> None:
        """Build the parts; nothing is started yet.

        Args:
            settings: the configuration.
            ledger: where every transition goes.
            inboxes: the folders to serve.
            work: name of a folder in the state folder for aliases; a manual import runs beside
                the service, and each clears up after a crash of its own kind only.
            excluded: folders that no sweep enters.
            sources: what to sweep for each inbox (by name), if not all that lies below it.
            on_end: told of each file whose journey ended.
        """
        aliases = settings.state_dir / "work" / work
        aliases.mkdir(parents=True, exist_ok=True)
        for left_over in aliases.iterdir():
            files.unlink_alias(bytes(left_over))  # left by a crash of ours
        self._clock: Callable[[], float] = time.time  # noqa: TID251 - here the clock comes in
        self._settings = settings
        self._ledger = ledger
        self._excluded = excluded
        self._on_end = on_end
        self.engine = Engine(
            ledger=ledger,
            inboxes=inboxes,
            retry=policy.RetryPolicy(
                attempts=settings.retry.attempts,
                initial_s=settings.retry.initial,
                maximum_s=settings.retry.maximum,
            ),
            work=os.fsencode(aliases),
            clock=self._clock,
            on_end=self._ended,
        )
        self._workers = [worker_of(settings) for _ in range(settings.openrem.workers)]
        self._hints = watch.Hints()
        self._trees: Mapping[str, Source] = sources or {
            inbox.name: watch.Tree(
                inbox.root, excluded=excluded - {inbox.root}, on_folder=self._folder
            )
            for inbox in inboxes
        }
        self._watches: dict[str, watch.Watch] = {}
        self._sweep: Iterator[tuple[Inbox, bytes]] = iter(())
        self._is_sweeping = False
        self._full_at = 0.0
        self._quick_at = 0.0
        self._heartbeat_at = 0.0
        self._tidied_at = 0.0
        self._progress_at = 0.0
        self._away: set[str] = set()
        self._unreadable: set[bytes] = set()
        self._threads: list[threading.Thread] = []

    # -- from start to stop ------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Watch and ingest until ``stop`` is set, then end within ten seconds."""
        _log.info("service.started", version=__version__, pid=os.getpid())
        for inbox in self.engine.inboxes.values():
            if inbox.is_local:
                self._watches[inbox.name] = watch.Watch(inbox.root, self._hints)
        self._start_importing()
        intake = threading.Thread(target=self._intake_loop, name="intake")
        self._threads.append(intake)
        intake.start()
        stop.wait()
        self.stop()
        _log.info("service.stopped")

    def drain(self, stop: threading.Event) -> None:
        """Ingest what is there now, then end.

        Raises:
            OpenRemUnreachable: OpenREM can't take work; the files stay.
        """
        self._progress_at = self._clock()
        self._check_openrem()
        self._start_importing()
        try:
            while not stop.is_set() and not self._is_drained():
                if not self._intake_turn():
                    stop.wait(IDLE_S / 5)
        finally:
            self.stop()
        breaker = self.engine.breaker
        if breaker.is_open and breaker.reason is not None:
            raise OpenRemUnreachable(breaker.reason, breaker.detail)

    def stop(self) -> None:
        """End: the import in hand may finish, else it is broken off and undone."""
        self.engine.stopping.set()
        self._hints.arrived.set()
        for watching in self._watches.values():
            watching.stop()
        deadline = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for worker in self._workers:
            worker.close()
        for thread in self._threads:
            thread.join()
        with contextlib.suppress(LedgerError):
            self._ledger.say("service", "stopped", self._clock())

    def _check_openrem(self) -> None:
        self._workers[0].hello()

    def _start_importing(self) -> None:
        for number, worker in enumerate(self._workers, start=1):
            thread = threading.Thread(
                target=self._import_loop, args=(worker,), name=f"import-{number}"
            )
            self._threads.append(thread)
            thread.start()

    def _import_loop(self, worker: Worker) -> None:
        checked_at = self._clock()
        while not self.engine.stopping.is_set():
            try:
                worked = self.engine.import_next(worker)
            except Exception as error:  # noqa: BLE001 - see _rest
                self._rest(error)
                continue
            if worked:
                checked_at = self._clock()
                continue
            if worker is self._workers[0] and self._clock() > checked_at + CHECK_S:
                checked_at = self._clock()
                self.engine.breaker.check(worker)
            self.engine.stopping.wait(IDLE_S)

    def _intake_loop(self) -> None:
        while not self.engine.stopping.is_set():
            try:
                worked = self._intake_turn()
            except Exception as error:  # noqa: BLE001 - see _rest
                self._rest(error)
                continue
            if not worked:
                self._hints.arrived.wait(IDLE_S)

    def _rest(self, error: Exception) -> None:
        """A full disk or a defect of ours must never end a thread: nothing would go on."""
        if isinstance(error, LedgerError):
            _log.error("ledger.failed", error=str(error))
        else:
            _log.error("service.internal-error", error=type(error).__name__, detail=place_of(error))
        self._is_sweeping = False  # an iterator that raised is at its end
        self._full_at = 0.0  # claims left behind are put back by the next full sweep
        self.engine.stopping.wait(LEDGER_REST_S)

    # -- the intake ----------------------------------------------------------------------------

    def _intake_turn(self) -> bool:
        """One turn of looking. True if there may be more to do at once."""
        now = self._clock()
        self._check_watches()
        paths, overflowed = self._hints.take()
        for path in paths:
            if self.engine.stopping.is_set():
                return False
            self._follow(path)
        if overflowed:
            self._full_at = 0.0
        looked = self.engine.intake.look_at_due(BATCH)
        self._begin_sweep(now)
        swept = self._go_on_sweeping()
        self._keep_house(now)
        return bool(paths) or looked == BATCH or swept

    def _check_watches(self) -> None:
        for inbox in self.engine.inboxes.values():
            here = watch.folder_identity(inbox.root) is not None
            if here == (inbox.name in self._away):
                self._came_or_went(inbox, here=here)
            watching = self._watches.get(inbox.name)
            if watching is not None and watching.check():
                self._full_at = 0.0  # what came before the watch began

    def _came_or_went(self, inbox: Inbox, *, here: bool) -> None:
        if here:
            self._away.discard(inbox.name)
            self._full_at = 0.0
            _log.info("drop.back", drop=inbox.name)
        else:
            self._away.add(inbox.name)
            _log.error(
                "drop.away",
                drop=inbox.name,
                why="the drop folder is gone (unmounted, renamed or removed); senders that "
                "write there now may lose objects without knowing",
                next="mount or make it again; it is watched again by itself",
            )
        self._ledger.say(f"away:{inbox.name}", "" if here else "away", self._clock())

    def _follow(self, path: bytes) -> None:
        inbox = self._inbox_of(path)
        if inbox is None:
            return
        if os.path.isdir(path) and not os.path.islink(path):
            self._quick_at = 0.0  # the quick sweep finds the new folder
        else:
            self.engine.intake.look(inbox, path)

    def _inbox_of(self, path: bytes) -> Inbox | None:
        folder = os.path.dirname(path)
        for inbox in self.engine.inboxes.values():
            if folder == inbox.root:
                return inbox
        return None

    def _begin_sweep(self, now: float) -> None:
        if self._is_sweeping:
            return
        if now >= self._full_at:
            self._full_at = now + self._settings.sweep.full
            self._sweep = self._everything()
        elif now >= self._quick_at:
            self._sweep = self._changed(now)
        else:
            return
        self._is_sweeping = True

    def _everything(self) -> Iterator[tuple[Inbox, bytes]]:
        _forget_killed_import(self._settings, self._ledger, self._clock())
        for inbox in self.engine.inboxes.values():
            if inbox.is_drop:
                self.engine.house.recover(inbox)
            for path in self._trees[inbox.name].everything():
                yield inbox, path

    def _changed(self, now: float) -> Iterator[tuple[Inbox, bytes]]:
        began = time.monotonic()
        for inbox in self.engine.inboxes.values():
            for path in self._trees[inbox.name].changed(int(now * 1e9)):
                yield inbox, path
        took = time.monotonic() - began
        self._quick_at = now + max(self._settings.sweep.quick, took * SCAN_SHARE)

    def _go_on_sweeping(self) -> bool:
        for _ in range(BATCH):
            if not self._is_sweeping or self.engine.stopping.is_set():
                return False
            try:
                inbox, path = next(self._sweep)
            except StopIteration:
                self._is_sweeping = False
                return False
            self.engine.intake.look(inbox, path)
        return True

    def _folder(self, folder: watch.Folder) -> None:
        if not folder.is_readable:
            if folder.path not in self._unreadable:
                self._unreadable.add(folder.path)
                _log.error(
                    "folder.unreadable",
                    file=log.safe_name(folder.path),
                    why="the user that openrem-ingest runs as may not read this folder",
                    next="correct the folder's owner or rights",
                )
            return
        self._unreadable.discard(folder.path)
        stood_s = self._clock() - folder.mtime_ns / 1e9
        if folder.is_empty and stood_s > max(STANDING_S, self._settings.settle.tidy_after * 2):
            self._ledger.stands(folder.path)

    def _keep_house(self, now: float) -> None:
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_S
            self._ledger.say("service", f"running {os.getpid()} {__version__}", now)
            self._ledger.clear_traces()
        if now >= self._tidied_at + 1.0:
            self._tidied_at = now
            self.engine.house.tidy(self._settings.settle.tidy_after, self._excluded)

    # -- draining --------------------------------------------------------------------------------

    def _ended(self, ended: Ended) -> None:
        self._progress_at = self._clock()
        self._on_end(ended)

    def _is_drained(self) -> bool:
        """Is nothing left that could go on within a moment?"""
        if self.engine.breaker.is_open and self.engine.breaker.reason is not None:
            return True
        if self._is_sweeping or self.engine.is_busy() or self._full_at == 0.0:
            return False
        next_time = self._ledger.next_time(list(self.engine.inboxes))
        if next_time is None:
            return True
        now = self._clock()
        patience_s = max(5.0, 2 * max(i.patience.quiet_s for i in self.engine.inboxes.values()))
        return next_time > now + patience_s or now > self._progress_at + 2 * patience_s


def waiting(ledger: Ledger, inboxes: Sequence[Inbox], limit: int) -> list[Job]:
    """Files that a drained run leaves behind: incomplete ones, and those to be tried again."""
    return ledger.live([inbox.name for inbox in inboxes], (State.SEEN, State.READY), limit)
