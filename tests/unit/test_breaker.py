"""`ingest.breaker`: when the intake stops, and what lets it go on."""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from ingest.breaker import PROBES, Breaker
from ingest.errors import OpenRemUnreachable, Reason
from ingest.ledger import Ledger
from ingest.model import Importer, Outcome, Recordable, SizesWanted, StudyOutcome
from ingest.openrem.importers import Hello

AWAY = Reason.DATABASE_UNREACHABLE
FULL = Reason.DATABASE_NOT_READY


class AnOpenRem:
    """Answers, or doesn't."""

    def __init__(self) -> None:
        self.trouble: Reason | None = None
        self.asked = 0

    def hello(self) -> Hello:
        """See `OpenRem`."""
        self.asked += 1
        if self.trouble is not None:
            raise OpenRemUnreachable(self.trouble)
        return Hello(openrem="1", database="openrem", server="15", duplicate_scanners=0)

    def import_object(self, path: bytes, importer: Importer) -> Outcome:
        """See `OpenRem`."""
        raise NotImplementedError

    def import_sizes(self, path: bytes, wanted: SizesWanted) -> Outcome:
        """See `OpenRem`."""
        raise NotImplementedError

    def import_study(self, folder: bytes, importer: Importer) -> StudyOutcome:
        """See `OpenRem`."""
        raise NotImplementedError

    def recorded(self, _objects: Sequence[Recordable]) -> Collection[Recordable]:
        """None."""
        return ()

    def prove(self, path: bytes, importer: Importer) -> Outcome:
        """See `OpenRem`."""
        raise NotImplementedError

    def close(self) -> None:
        """See `OpenRem`."""
        raise NotImplementedError


class Clock:
    """Stands still but when it is set on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as opened:
        yield opened


@pytest.fixture
def openrem() -> AnOpenRem:
    return AnOpenRem()


@pytest.fixture
def breaker(ledger: Ledger, clock: Clock, openrem: AnOpenRem) -> Breaker:
    """One that has let imports pass."""
    made = Breaker(ledger, clock, threading.Event())
    assert made.lets_pass(openrem)
    assert not made.is_open
    return made


def told(ledger: Ledger) -> str:
    said = ledger.said("openrem")
    assert said is not None
    return said[0]


def test_an_answer_ends_an_outage_that_an_answer_can_tell(
    breaker: Breaker, openrem: AnOpenRem, clock: Clock, ledger: Ledger
) -> None:
    breaker.open(AWAY, "", by_import=True)
    assert not breaker.lets_pass(openrem)
    assert told(ledger).startswith("database-unreachable")
    clock.now += 2 * PROBES.initial_s
    assert breaker.lets_pass(openrem)
    assert not breaker.is_open
    assert told(ledger) == "ready"


def test_a_full_database_answers_so_only_an_import_ends_its_outage(
    breaker: Breaker, openrem: AnOpenRem, clock: Clock, ledger: Ledger
) -> None:
    breaker.open(FULL, "", by_import=True)
    clock.now += 2 * PROBES.initial_s
    assert breaker.lets_pass(openrem)
    assert not breaker.lets_pass(openrem), "one trial at a time"
    assert told(ledger).startswith("database-not-ready")
    breaker.worked(clock.now)
    assert not breaker.is_open
    assert told(ledger) == "ready"


def test_an_import_that_began_before_the_outage_does_not_end_it(
    breaker: Breaker, openrem: AnOpenRem, clock: Clock
) -> None:
    began = clock.now
    clock.now += 1
    breaker.open(FULL, "", by_import=True)
    breaker.worked(began)
    assert breaker.is_open
    assert not breaker.lets_pass(openrem)


def test_trials_that_fail_become_rarer_and_are_no_news(
    breaker: Breaker, openrem: AnOpenRem, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = []
    for _ in range(8):
        breaker.open(FULL, "", by_import=True)
        opened_at = clock.now
        while not breaker.lets_pass(openrem):
            clock.now += 0.25
        waits.append(clock.now - opened_at)
    assert waits[0] < 2 < waits[2] < waits[4] <= waits[-1] <= PROBES.maximum_s + 1
    assert capsys.readouterr().err.count("openrem.away") <= 1


def test_without_anything_to_try_it_asks_again_soon(
    breaker: Breaker, openrem: AnOpenRem, clock: Clock
) -> None:
    for _ in range(6):
        breaker.open(FULL, "", by_import=True)
    clock.now += 2 * PROBES.maximum_s
    assert breaker.lets_pass(openrem)
    clock.now += PROBES.initial_s
    assert breaker.lets_pass(openrem)


def test_what_the_question_itself_finds_out_needs_no_trial(
    breaker: Breaker, openrem: AnOpenRem, clock: Clock
) -> None:
    breaker.open(FULL, "", by_import=True)
    openrem.trouble = FULL
    clock.now += 2 * PROBES.initial_s
    assert not breaker.lets_pass(openrem)
    openrem.trouble = None
    clock.now += 4 * PROBES.initial_s
    assert breaker.lets_pass(openrem)
    assert not breaker.is_open


def test_the_file_in_hand_lets_others_be_tried_first(breaker: Breaker) -> None:
    assert breaker.open(AWAY, "", by_import=True) > PROBES.initial_s
    assert breaker.open(FULL, "", by_import=True) == PROBES.maximum_s
