"""Forgets, about once an hour, what the user's rules call too old: quarantine and history.

A little at a time, between which others have the ledger, so that it never stalls the intake.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from ingest import files, log, quarantine
from ingest.errors import Changed
from ingest.history import History
from ingest.ledger_file import LedgerFile
from ingest.model import State
from ingest.quarantine import Held, Leaving

_log = log.get(__name__)

PERIOD_S = 3600.0
BATCH = 100  # files, or lines of history, at once
PAUSE_S = 0.05  # between two batches
DAY_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the user wants kept, and for how long (seconds)."""

    history_s: float
    quarantine_s: float | None  # None: for ever
    quarantine: bytes | None  # its folder
    drops: frozenset[str]
    excluded: frozenset[bytes]


class Upkeep:
    """The hourly work."""

    def __init__(
        self,
        ledger: LedgerFile,
        rules: Rules,
        clock: Callable[[], float],
        stopping: threading.Event,
    ) -> None:
        """Prepare it; nothing is done yet."""
        self._history = History(ledger)
        self._rules = rules
        self._now = clock
        self._stopping = stopping

    def run(self) -> None:
        """Once through, or until told to stop.

        Raises:
            LedgerError: the ledger can't be used; what was not written down did not happen.
        """
        self._age_quarantine()
        before = self._now() - self._rules.history_s
        while not self._stopping.is_set() and self._history.prune(before, BATCH):
            self._stopping.wait(PAUSE_S)

    def _age_quarantine(self) -> None:
        rules = self._rules
        if rules.quarantine is None or rules.quarantine_s is None:
            return
        held = quarantine.held(
            rules.quarantine, rules.drops, excluded=rules.excluded, on_error=_cannot_look
        )
        aged = (one for one in held if quarantine.is_aged(one, self._now(), rules.quarantine_s))
        while not self._stopping.is_set() and (batch := list(islice(aged, BATCH))):
            self._discard(batch, rules.quarantine_s)
            self._stopping.wait(PAUSE_S)

    def _discard(self, batch: list[Held], keep_s: float) -> None:
        leaving = []
        for one in batch:
            try:
                leaving.append(Leaving(one=one, home=None, snapshot=files.snapshot(one.path)))
            except OSError as error:
                _cannot_look(one.path, error)
        quarantine.send_off(
            self._history,
            leaving,
            _delete,
            _tell,
            state=State.DISCARDED,
            by=f"[quarantine] keep_days = {keep_s / DAY_S:g}",
            now=self._now(),
        )


def _delete(leaving: Leaving) -> bytes:
    quarantine.discard(leaving.one, leaving.snapshot)
    return b""


def _tell(leaving: Leaving, outcome: bytes | Changed | OSError) -> None:
    one = leaving.one
    if isinstance(outcome, OSError):
        _cannot_look(one.path, outcome)
    elif isinstance(outcome, bytes):
        note = one.note
        _log.info(
            "file.aged-out",
            drop=one.drop,
            file=log.safe_name(one.path),
            quarantine_id=one.id,
            reason=note.reason if note else None,
            sop_instance_uid=note.sop_uid if note else None,
            study_uid=note.study_uid if note else None,
        )


def _cannot_look(path: bytes, error: OSError) -> None:
    _log.error(
        "quarantine.cannot-age",
        file=log.safe_name(path),
        detail=error.strerror or type(error).__name__,
        next="correct the owner or rights of the quarantine folder",
    )
