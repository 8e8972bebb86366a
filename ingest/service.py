"""Runs the engine: owns the threads, and their beginning and end.

One thread looks (see lookout.py), some import, each with a worker process of its own. Imports
wait for each other inside OpenREM's database anyway, so that the threads need agree on nothing
but the ledger.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ingest import __version__, files, locks, log, parts, policy
from ingest.bundle import Bundler
from ingest.config import BY_HAND, Settings
from ingest.context import Ended, Inbox
from ingest.disks import DiskGuard
from ingest.engine import Engine
from ingest.errors import (
    BusyError,
    ConfigError,
    IngestError,
    LedgerError,
    OpenRemUnreachable,
    Trouble,
)
from ingest.ledger import Ledger
from ingest.ledger_file import digest
from ingest.lookout import Lookout, Rhythm, Source
from ingest.model import State
from ingest.openrem.importers import Worker
from ingest.setback import place_of
from ingest.upkeep import PERIOD_S as UPKEEP_PERIOD_S
from ingest.upkeep import Upkeep

_log = log.get(__name__)

STOP_S = 7.0  # for the import in hand to end by itself; then it is broken off and undone
IDLE_S = 0.5  # between looks for what is due by the time; of new work the threads are told
IDLE_SHARE = 20  # a look for work that found none and took a second of CPU rests for 20
REST_S = 5.0  # after an error that was nobody's file's
HEARTBEAT_S = 10.0
CLOCK_BACK_S = 2.0  # what the system clock may be set back by without notice
CALM_S = 2 * REST_S  # without a failure, then the ledger has recovered
MISSED = "missed by events in "  # and the name of the drop folder: what status asks the ledger for
RULES = "rules"  # where the ledger says by which rules all was decided
CHECK_S = 30.0  # between questions after OpenREM's health while nothing is imported


class Service:
    """The engine with its threads."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        inboxes: Sequence[Inbox],
        *,
        stop: threading.Event,
        work: str = locks.RUN,
        excluded: frozenset[bytes] = frozenset(),
        sources: Mapping[str, Source] | None = None,
        on_end: Callable[[Ended], None] = lambda _ended: None,
    ) -> None:
        """Build the parts; nothing is started yet.

        Args:
            settings: the configuration.
            ledger: where every transition goes.
            inboxes: the folders to serve.
            stop: whoever sets it has all end within ten seconds.
            work: name of a folder in the state folder for aliases; a manual import runs beside
                the service, and each clears up after a crash of its own kind only.
            excluded: folders that no sweep enters.
            sources: what to sweep for each inbox (by name), if not all that lies below it.
            on_end: told of each file whose journey ended.
        """
        aliases = settings.state_dir / "work" / work
        _make_ready(aliases)
        self._clock: Callable[[], float] = time.time  # noqa: TID251 - here the clock comes in
        self._settings = settings
        self._ledger = ledger
        self._stop = stop
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
            stopping=stop,
            on_end=self._ended,
            rulebook=parts.rulebook_of(settings),
        )
        self._lookout = Lookout(
            self.engine.context,
            self.engine.intake,
            self.engine.house,
            rhythm=Rhythm(
                quick_s=settings.sweep.quick,
                full_s=settings.sweep.full,
                tidy_after_s=settings.settle.tidy_after,
            ),
            excluded=excluded,
            sources=sources,
            may_recover=self._may_recover,
            renew=lambda inbox: parts.renewed(settings, inbox),
        )
        # A manual import tidies up nothing but its own.
        is_service = any(inbox.is_drop for inbox in inboxes)
        rules = parts.upkeep_rules(settings)
        self._upkeep = Upkeep(ledger, rules, self._clock, stop) if is_service else None
        self._bundler = Bundler(parts.shelves_of(settings) if is_service else (), self._clock, stop)
        self._disks = DiskGuard(
            parts.volumes_of(settings),
            parts.limits_of(settings),
            self.engine.context.presence.unmounted,
        )
        self._ledger_health = LedgerHealth()
        self._workers = [parts.worker_of(settings) for _ in range(settings.openrem.workers)]
        self._heartbeat_at = 0.0
        self._said_missed: dict[str, int] = {}
        self._looked_at: float | None = None
        self._progress_at = 0.0
        self._threads: list[threading.Thread] = []

    # -- from start to stop ------------------------------------------------------------------

    def run(self) -> None:
        """Watch and ingest until told to stop.

        Raises:
            IngestError: one of the threads ended by itself, which is a defect of ours.
        """
        threading.excepthook = _thread_died
        _log.info("service.started", version=__version__, pid=os.getpid())
        self._ledger.say("openrem", "", self._clock())  # what an earlier run knew is old
        self._keep_to_the_configuration()
        self._lookout.start_watching()
        self._start_importing()
        self._start(self._intake_loop, "intake")
        self._start(self._upkeep_loop, "upkeep")
        if self._bundler.period_s is not None:
            self._start(self._bundle_loop, "bundles")
        # Apart: to ask after a share whose server is gone may take for ever.
        disks = threading.Thread(
            target=self._disks.watch, args=(self._stop,), name="disks", daemon=True
        )
        disks.start()
        try:
            while not self._stop.wait(REST_S):
                if not all(thread.is_alive() for thread in self._threads):
                    raise IngestError(
                        "a part of openrem-ingest ended by itself; all files are safe. "
                        "Next: start it again, and report this with the last lines of its log"
                    )
        finally:
            self._end()
        _log.info("service.stopped")

    def drain(self) -> bool:
        """Ingest what is there now, then end. False if it was told to stop before.

        Files whose next attempt is due later are left to the next run.

        Raises:
            OpenRemUnreachable: OpenREM can't take work; the files stay.
        """
        self._progress_at = self._clock()
        try:
            self._workers[0].hello()
            self._keep_to_the_configuration()
            if self._upkeep is not None:
                self._disks.look()
            # Oldest study first, wherever it lies: so all are met before the first is imported.
            while not self._stop.is_set() and self._lookout.is_sweeping:
                if not self._intake_turn():
                    self._stop.wait(IDLE_S / 5)
            self._progress_at = self._clock()
            self._start_importing()
            while not self._stop.is_set() and not self._is_drained():
                if not self._intake_turn():
                    self._stop.wait(IDLE_S / 5)
            is_whole = not self._stop.is_set()
            if self._upkeep is not None:
                self._upkeep.run()
                self._bundler.run()
        finally:
            self._end()
        breaker = self.engine.breaker
        if breaker.is_open and breaker.reason is not None:
            raise OpenRemUnreachable(breaker.reason, breaker.detail)
        return is_whole

    def _keep_to_the_configuration(self) -> None:
        """Forget files that it has in another folder now, or in none; decide by its rules."""
        roots = {inbox.name: inbox.root for inbox in self.engine.inboxes.values() if inbox.is_drop}
        if not roots:  # a manual import
            return
        self.engine.house.adopt()
        self._ledger.keep_only(roots, spare=BY_HAND, now=self._clock())
        rules = digest(repr(self.engine.context.rulebook.rules).encode()).hex()
        before = self._ledger.said(RULES)
        if before is None or before[0] != rules:
            self._ledger.decide_anew(spare=BY_HAND, now=self._clock())
            self._ledger.say(RULES, rules, self._clock())

    def _end(self) -> None:
        """End: the import in hand may finish, else it is broken off and undone."""
        deadline = time.monotonic() + STOP_S
        self._stop.set()
        self._lookout.hints.arrived.set()
        self._ledger.ready_bell.ring()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for worker in self._workers:
            worker.close()
        for thread in self._threads:
            thread.join()
        with contextlib.suppress(LedgerError):
            self._ledger.say("service", "stopped", self._clock())

    # -- the threads -----------------------------------------------------------------------------

    def _start_importing(self) -> None:
        for number, worker in enumerate(self._workers, start=1):
            self._start(lambda worker=worker: self._import_loop(worker), f"import-{number}")  # type: ignore[misc]

    def _start(self, loop: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=loop, name=name)
        self._threads.append(thread)
        thread.start()

    def _import_loop(self, worker: Worker) -> None:
        checked_at = time.monotonic()
        while not self._stop.is_set():
            heard = self._ledger.ready_bell.rings  # first: what becomes ready from now on rings
            began_s = time.thread_time()
            try:
                worked = self.engine.import_next(worker)
                if worked:
                    checked_at = time.monotonic()
                elif worker is self._workers[0] and time.monotonic() > checked_at + CHECK_S:
                    checked_at = time.monotonic()
                    self.engine.breaker.check(worker)
            except Exception as error:  # noqa: BLE001 - see _rest
                self._rest(error)
                continue
            if not worked and self.engine.breaker.is_open:
                self._stop.wait(IDLE_S)  # it knows when to ask again, whatever else comes
            elif not worked:
                # A flood of one study, of which one at a time is imported, rings all the time.
                rest_s = (time.thread_time() - began_s) * IDLE_SHARE
                if not self._stop.wait(min(rest_s, IDLE_S)):  # whoever sets it rings afterwards
                    self._ledger.ready_bell.wait(heard, IDLE_S)

    def _intake_loop(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    worked = self._intake_turn()
                except Exception as error:  # noqa: BLE001 - see _rest
                    self._rest(error)
                    continue
                if not worked:
                    self._lookout.hints.arrived.wait(IDLE_S)
        finally:
            self._lookout.stop_watching()

    def _upkeep_loop(self) -> None:
        assert self._upkeep is not None  # noqa: S101 - `run` is for drop folders
        while not self._stop.is_set():
            try:
                self._upkeep.run()
            except Exception as error:  # noqa: BLE001 - see _rest
                self._rest(error)
            self._stop.wait(UPKEEP_PERIOD_S)

    def _bundle_loop(self) -> None:
        while not self._stop.is_set():
            self._bundler.run()
            self._stop.wait(self._bundler.period_s)

    def _intake_turn(self) -> bool:
        now = self._clock()
        self._check_clock(now)
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_S
            self._ledger.say("service", f"running {os.getpid()} {__version__}", now)
            self._say_missed(now)
            self._ledger_health.works(self._ledger.check_place())
            self._ledger.clear_traces()
        return self._lookout.turn()

    def _say_missed(self, now: float) -> None:
        """Leave word for status of how many files only the sweeps found."""
        for name, count in self._lookout.missed().items():
            if self._said_missed.get(name) != count:
                self._ledger.say(MISSED + name, str(count), now)
                self._said_missed[name] = count

    def _check_clock(self, now: float) -> None:
        """Wait for no time that was set by a clock which was ahead."""
        if self._looked_at is None:
            said = self._ledger.said("service")
            self._looked_at = said[1] if said is not None else now
        back_s = self._looked_at - now
        self._looked_at = now
        if back_s < CLOCK_BACK_S:
            return
        _log.warning("clock.went-back", seconds=round(back_s))
        self._heartbeat_at = 0.0
        self._progress_at = now
        self._ledger.hurry(now)
        self._lookout.hurry()
        self.engine.breaker.hurry()

    def _rest(self, error: Exception) -> None:
        """A full disk or a defect of ours must never end a thread: nothing would go on."""
        if isinstance(error, LedgerError):
            self._ledger_health.failed(error)
            self._heartbeat_at = 0.0  # whether it works again is seen by writing to it
        else:
            _log.error("service.internal-error", error=type(error).__name__, detail=place_of(error))
        self._lookout.start_over()  # claims left behind are put back by the next full sweep
        self._stop.wait(REST_S)

    def _may_recover(self) -> bool:
        """May claims be put back? Not while a manual import may have them in hand.

        One that was killed hands over what it had.
        """
        try:
            with locks.only_one(self._settings.state_dir, locks.IMPORT):
                self._ledger.forget(BY_HAND, self._clock())
        except BusyError:
            return False
        return True

    # -- draining --------------------------------------------------------------------------------

    def _ended(self, ended: Ended) -> None:
        self._progress_at = self._clock()
        self._on_end(ended)

    def _is_drained(self) -> bool:
        """Is nothing left that can be imported now, or will be complete in a moment?"""
        if self.engine.breaker.is_open and self.engine.breaker.reason is not None:
            return True
        if self._lookout.is_sweeping or self.engine.is_busy():
            return False
        now = self._clock()
        drops = self.engine.context.served()
        if self._ledger.is_due(drops, State.READY, now):
            return False
        patience_s = max(5.0, 2 * max(i.patience.quiet_s for i in self.engine.inboxes.values()))
        if now > self._progress_at + 2 * patience_s:  # somebody writes on and on
            return True
        return not (
            self.engine.intake.elsewhere
            or self._ledger.is_due(drops, State.SEEN, now + patience_s)
            or self.engine.next_study(now + patience_s)
        )


def _make_ready(aliases: Path) -> None:
    """Have an empty folder for aliases.

    Raises:
        ConfigError: it can't be made.
    """
    try:
        aliases.mkdir(parents=True, exist_ok=True)
        for left_over in aliases.iterdir():
            if left_over.is_dir() and not left_over.is_symlink():
                files.clear_folder(bytes(left_over))  # left by a crash of ours, and so is this
            else:
                files.unlink_alias(bytes(left_over))
    except OSError as error:
        raise ConfigError(
            f"state_dir: {aliases} can't be made or emptied ({error.strerror}). Next: free space "
            "on its disk, or check its owner and rights; nothing is lost"
        ) from error


def _thread_died(died: threading.ExceptHookArgs) -> None:
    """One of watchdog's threads, most likely: the lookout notices, and builds it anew."""
    _log.error(
        "thread.died",
        error=died.exc_type.__name__,
        detail=place_of(died.exc_value) if died.exc_value is not None else "",
        next="nothing, if events of folders are concerned: they are asked for anew",
    )


class LedgerHealth:
    """Tells of the ledger's troubles once for each episode, whichever threads meet them."""

    def __init__(self) -> None:
        """It is well."""
        self._lock = threading.Lock()
        self._trouble: Trouble | None = None
        self._failed_at = 0.0

    def failed(self, error: LedgerError) -> None:
        """Something could not be read or written."""
        with self._lock:
            is_news = error.trouble is not self._trouble
            self._trouble, self._failed_at = error.trouble, time.monotonic()
        if is_news:
            _log.error("ledger.failed", error=str(error))

    def works(self, but: LedgerError | None = None) -> None:
        """It was written, and it is where it should be (else: what is wrong)."""
        if but is not None:
            self.failed(but)
            return
        with self._lock:
            # A full disk takes a line now and then: once nobody has complained for a while.
            if self._trouble is None or time.monotonic() < self._failed_at + CALM_S:
                return
            self._trouble = None
        _log.info("ledger.recovered")
