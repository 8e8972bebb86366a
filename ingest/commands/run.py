"""`run`: watch and ingest until stopped; with `--once`, what is there now."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ingest import service
from ingest.commands.show import Run
from ingest.config import Settings
from ingest.ledger import Ledger


def run(settings: Settings, *, once: bool) -> int:
    """Run the service; returns the exit code."""
    service.check_folders(settings)
    with (
        service.only_one(settings.state_dir, "run"),
        service.openrem_database(settings),
        stopped_by_signals() as stop,
    ):
        ledger = Ledger(settings.ledger_path)
        try:
            return _once(settings, ledger, stop) if once else _until(settings, ledger, stop)
        finally:
            ledger.close()


def _until(settings: Settings, ledger: Ledger, stop: threading.Event) -> int:
    service.Service(
        settings,
        ledger,
        service.inboxes_of(settings),
        excluded=service.excluded_from(settings),
    ).run(stop)
    return 0


def _once(settings: Settings, ledger: Ledger, stop: threading.Event) -> int:
    shown = Run()
    inboxes = service.inboxes_of(settings)
    draining = service.Service(
        settings,
        ledger,
        inboxes,
        excluded=service.excluded_from(settings),
        on_end=shown.ended,
    )
    with shown.progress("importing"):
        draining.drain(stop)
    if stop.is_set():
        shown.interrupted()
    else:
        shown.left_behind(service.waiting(ledger, inboxes, limit=1000))
    return shown.finish()


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
