"""`run`: watch and ingest until stopped; with `--once`, what is there now."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ingest import locks, log, parts, service
from ingest.commands.once import once
from ingest.commands.show import Run
from ingest.config import Settings
from ingest.ledger import Ledger

_log = log.get(__name__)


def run(settings: Settings, *, is_once: bool) -> int:
    """Run the service; returns the exit code."""
    parts.check_folders(settings)
    with (
        stopped_by_signals() as stop,
        locks.only_one(settings.state_dir, locks.RUN),
        locks.only_one_on([inbox.root for inbox in parts.inboxes_of(settings)]),
        parts.openrem_database(settings),
    ):
        ledger = Ledger(settings.ledger_path)
        if ledger.is_new:
            _log.info(
                "ledger.made",
                path=str(settings.ledger_path),
                detail="there was none: history begins now",
            )
        shown = Run()
        running = service.Service(
            settings,
            ledger,
            parts.inboxes_of(settings),
            stop=stop,
            excluded=parts.excluded_from(settings),
            on_end=shown.ended if is_once else lambda _ended: None,
        )
        try:
            if is_once:
                return once(running, ledger, shown)
            running.run()
        finally:
            ledger.close()
    return 0


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second SIGINT ends at once, as people expect."""
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        stop.set()

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
