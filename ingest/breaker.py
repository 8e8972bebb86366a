"""Stops the intake of new imports while OpenREM can't take work, and finds out when it is back."""

import threading
from collections.abc import Callable

from ingest import log, policy
from ingest.context import words
from ingest.errors import OpenRemUnreachable, Reason
from ingest.ledger import Ledger
from ingest.openrem.importers import Hello, OpenRem

_log = log.get(__name__)

PROBES = policy.RetryPolicy(attempts=1, initial_s=1.0, maximum_s=30.0)


class Breaker:
    """Whether OpenREM can take work. Thread-safe.

    It is open, so nothing is begun, until OpenREM has answered once, and from every sign of an
    outage to the next answer. No file pays for that: none spends an attempt.

    A database that is full, or lacks a table, answers all the same: where an import found that
    out, an answer lets only a trial pass, and it is an import that closes the breaker.
    """

    def __init__(
        self, ledger: Ledger, clock: Callable[[], float], stopping: threading.Event
    ) -> None:
        """Start open.

        Args:
            ledger: where `status` finds the word on OpenREM.
            clock: the time (seconds since the epoch).
            stopping: set when we end, and whatever fails then is our own doing.
        """
        self.is_open = True
        self.reason: Reason | None = None  # why it is open, once OpenREM has been asked
        self.detail = ""
        self._ledger = ledger
        self._now = clock
        self._stopping = stopping
        self._failures = 0
        self._opened_at = 0.0
        self._probe_at = 0.0
        self._hello: Hello | None = None  # OpenREM's last answer
        self._needs_trial = False
        self._lock = threading.Lock()

    def lets_pass(self, openrem: OpenRem) -> bool:
        """Can OpenREM take work? Asks it, if it was away and it is time to ask again."""
        return not self.is_open or self._probe(openrem)

    def open(self, reason: Reason, detail: str, *, by_import: bool = False) -> float:
        """Begin nothing new, for this reason.

        Args:
            reason: why.
            detail: what is known beside it.
            by_import: an import found it out.

        Returns:
            How long (seconds) the file of that import should let others go first: should it be
            its doing after all, they must not wait for it for ever.
        """
        with self._lock:
            is_news = self.reason is not reason
            self.is_open = True
            self.reason, self.detail = reason, detail
            self._failures += 1
            self._needs_trial = by_import and reason is Reason.DATABASE_NOT_READY
            delay_s = policy.delay_s(self._failures, PROBES)
            self._opened_at = self._now()
            self._probe_at = self._opened_at + delay_s
            stand_back_s = PROBES.maximum_s if self._needs_trial else 2 * delay_s
        if is_news:
            _log.error("openrem.away", **words(reason, detail))
            self._ledger.say("openrem", f"{reason.code} {detail}", self._now())
        return stand_back_s

    def worked(self, began: float) -> None:
        """An import that began then came to its end: if that was a trial, OpenREM is back."""
        with self._lock:
            hello = self._hello
            if began >= self._opened_at:
                self._failures = 0  # an answer is no proof that it works
            if not self.is_open or hello is None or began < self._opened_at:
                return
            self._close()
        self._say_ready(hello)

    def hurry(self) -> None:
        """Ask at the next turn: the clock by which the time for it was set has been set back."""
        with self._lock:
            self._probe_at = self._opened_at = 0.0

    def check(self, openrem: OpenRem) -> None:
        """Ask after OpenREM's health while there is nothing to import, so that status knows."""
        if self.is_open:
            return
        try:
            openrem.hello()
        except OpenRemUnreachable as trouble:
            if not self._stopping.is_set():
                self.open(trouble.reason, trouble.detail)

    def _probe(self, openrem: OpenRem) -> bool:
        """Ask whether OpenREM is back, if it is time to. True if it is."""
        with self._lock:
            if not self.is_open:
                return True
            if self._probe_at > self._now():
                return False
            self._probe_at = self._now() + PROBES.maximum_s  # one prober at a time
        try:
            hello = openrem.hello()
        except OpenRemUnreachable as trouble:
            if not self._stopping.is_set():
                self.open(trouble.reason, trouble.detail)
            return False
        with self._lock:
            self._hello = hello
            if self._needs_trial:
                # Should there be nothing to try, ask again soon.
                self._probe_at = self._now() + PROBES.initial_s
                return True
            self._close()
        self._say_ready(hello)
        return True

    def _close(self) -> None:
        self.is_open, self.reason = False, None
        self._needs_trial = False

    def _say_ready(self, hello: Hello) -> None:
        _log.info(
            "openrem.ready", openrem=hello.openrem, database=hello.database, server=hello.server
        )
        if hello.duplicate_scanners:
            _log.error(
                "openrem.duplicate-scanners",
                count=hello.duplicate_scanners,
                **words(Reason.DUPLICATE_SCANNER, ""),
            )
        self._ledger.say("openrem", "ready", self._now())
