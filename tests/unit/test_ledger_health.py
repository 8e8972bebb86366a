"""`ingest.service.LedgerHealth`: each episode of trouble is told once, whoever meets it."""

import pytest
from structlog.testing import capture_logs

from ingest.errors import LedgerError, Trouble
from ingest.service import CALM_S, LedgerHealth

FULL = LedgerError("its disk is full", Trouble.FULL)
LOCKED = LedgerError("it is locked", Trouble.LOCKED)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        """The time."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("ingest.service.time", made)
    return made


def test_the_same_trouble_is_told_once_and_its_end_once(clock: Clock) -> None:
    health = LedgerHealth()
    with capture_logs() as logged:
        health.works()
        for _ in range(5):
            health.failed(FULL)
            clock.now_s += 5
        clock.now_s += CALM_S
        health.works()
        health.works()

    assert [line["event"] for line in logged] == ["ledger.failed", "ledger.recovered"]
    assert logged[0]["error"] == "its disk is full"


def test_another_trouble_is_news_and_so_is_the_next_episode(clock: Clock) -> None:
    health = LedgerHealth()
    with capture_logs() as logged:
        health.failed(FULL)
        health.failed(LOCKED)
        clock.now_s += CALM_S
        health.works()
        health.failed(LOCKED)

    assert [line.get("error") for line in logged] == [str(FULL), str(LOCKED), None, str(LOCKED)]


def test_a_line_that_fits_on_a_full_disk_is_no_recovery(clock: Clock) -> None:
    health = LedgerHealth()
    with capture_logs() as logged:
        for _ in range(10):
            health.failed(FULL)
            clock.now_s += CALM_S / 2
            health.works()

    assert [line["event"] for line in logged] == ["ledger.failed"]


def test_written_to_a_file_that_is_no_longer_there_it_does_not_work(clock: Clock) -> None:
    health = LedgerHealth()
    gone = LedgerError("it was moved away", Trouble.MISSING)
    with capture_logs() as logged:
        for _ in range(3):
            clock.now_s += 2 * CALM_S
            health.works(gone)

    assert [line["event"] for line in logged] == ["ledger.failed"]
