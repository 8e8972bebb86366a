"""What a long run says while it goes on, and of its failures at the end."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from ingest.commands import show
from ingest.commands.bulk import Chosen
from ingest.commands.listing import EXAMPLES, Listing
from ingest.commands.pace import WINDOW_S, Pace, words_for
from ingest.commands.show import Run
from ingest.context import Ended, Inbox
from ingest.errors import Reason
from ingest.ledger import Ledger
from ingest.model import State
from ingest.settle import Patience
from tests.unit.test_ledger import NOW, seen

INBOX = Inbox(
    name="by hand 1",
    root=b"/archive",
    after="keep",
    patience=Patience(quiet_s=0.5, incomplete_after_s=0.0),
)


class Shown:
    """A run whose clock and screen are ours."""

    def __init__(
        self, listing: Listing | None = None, *, sources: int = 1, is_terminal: bool = False
    ) -> None:
        """Nothing shown yet; of a run without sources, as of `run --once`, each end is final."""
        self.time = 1000.0
        self.screen = io.StringIO()
        console = Console(
            file=self.screen,
            force_terminal=is_terminal,
            color_system=None,
            width=60 if is_terminal else 200,
            soft_wrap=True,
            markup=False,
        )
        self.run = Run(
            listing,
            sources=sources,
            is_final_later=sources > 0,
            clock=lambda: self.time,
            console=console,
        )

    def each(self, seconds: float, *happens: Callable[[], None]) -> None:
        """Let these happen, one after so many seconds."""
        for one in happens:
            self.time += seconds
            one()

    def imported(self) -> None:
        """A file is."""
        self.run.ended(Ended(inbox=INBOX, path=b"/archive/1", state=State.DONE))

    def failed(self, reason: Reason = Reason.NOT_DICOM) -> None:
        """A file can't be imported."""
        number = self.run.tally.total
        path = b"/archive/%d" % number
        self.run.ended(Ended(inbox=INBOX, path=path, state=State.LEFT, reason=reason))

    def lines(self) -> list[str]:
        """What is on the screen."""
        return self.screen.getvalue().splitlines()


def test_a_log_gets_a_line_now_and_then_and_not_more() -> None:
    """How many are found so far; then how many are done, how fast, how long yet, how many not."""
    shown = Shown()
    shown.each(0.125, *[shown.run.found] * 239)
    assert shown.lines() == []
    shown.each(0.125, *[shown.run.found] * 361)
    assert shown.lines() == [
        "openrem-ingest: found 240 files so far, 8 a second",
        "openrem-ingest: found 480 files so far, 8 a second",
    ]
    shown.run.met()

    shown.each(0.5, *[shown.imported] * 60)
    assert shown.lines()[2:] == [
        "openrem-ingest: 30 of 600 files done (5%), 2.0 a second, about 5 min left",
    ]
    shown.failed()
    shown.each(0.5, *[shown.imported] * 59)
    (line,) = shown.lines()[4:]
    assert line.startswith("openrem-ingest: 91 of 600 files done (15%), 2.0 a second")
    assert line.endswith(", about 4 min left; 1 not imported")


def test_nothing_is_said_of_a_short_run() -> None:
    shown = Shown()
    shown.each(show.SAY_S / 4, shown.run.found, shown.run.met, shown.imported)

    assert shown.lines() == []


def test_a_terminal_has_a_bar_that_says_the_same() -> None:
    """All of it, also where it is narrow."""
    shown = Shown(is_terminal=True)
    with shown.run.progress():
        shown.each(1.0, *[shown.run.found] * 20)
        assert "found 20 files so far, 1 a second" in shown.run.how_far()
        shown.run.met()
        shown.each(1.0, *[shown.imported] * 10)

    screen = " ".join(shown.screen.getvalue().split())
    assert "10 of 20 files done (50%), 1.0 a second, less than a minute left" in screen
    assert "openrem-ingest:" not in screen


def test_without_trees_to_meet_it_says_what_is_done() -> None:
    """As `run --once` does, which does not know how many there will be."""
    shown = Shown(sources=0)
    shown.each(0.5, *[shown.imported] * 60)

    assert shown.lines() == ["openrem-ingest: 60 files done, 2.0 a second"]


def test_without_a_list_it_says_where_all_failures_are_seen() -> None:
    shown = Shown(sources=0)
    for _ in range(EXAMPLES + 1):
        shown.failed()
    shown.run.finish()

    assert "openrem-ingest failures" in shown.lines()[-1]


def test_a_tree_that_is_swept_again_is_not_counted_again(tmp_path: Path) -> None:
    """After an error of the ledger, for example, an import looks through its tree again."""
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.dcm").touch()
    shown = Shown()
    chosen = Chosen([os.fsencode(tmp_path)], shown.run)

    assert len(list(chosen.everything())) == 5
    assert "of 5 files" in shown.run.how_far()
    (tmp_path / "in" / "new.dcm").touch()
    assert len(list(chosen.everything())) == 6
    assert "of 6 files" in shown.run.how_far()


def test_a_folder_that_can_not_be_read_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_rights(_folder: bytes) -> Iterator[bytes]:
        raise PermissionError

    monkeypatch.setattr("ingest.watch._entries", no_rights)
    shown = Shown()
    chosen = Chosen([os.fsencode(tmp_path)], shown.run)

    for _ in range(3):
        assert list(chosen.everything()) == []

    assert shown.run.finish() == 1
    (line,) = shown.lines()
    assert line.startswith(f"{tmp_path}: ")
    assert shown.run.listing.counts == {Reason.UNREADABLE: 1}


def test_of_each_reason_a_few_are_told_at_once() -> None:
    shown = Shown()
    for _ in range(50):
        shown.failed()
        shown.failed(Reason.EMPTY)

    assert len(shown.lines()) == 2 * EXAMPLES
    assert shown.run.tally.refused.total() == 100


def test_at_the_end_all_failures_are_summed_up_by_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many, a few examples, and where all are. What failed, and then did not, is none."""
    shown = Shown(Listing(tmp_path))
    shown.failed(Reason.DATABASE_HICCUP)
    shown.failed(Reason.EMPTY)
    said = len(shown.lines())
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        for number in range(1200):
            job = seen(ledger, b"/archive/%d" % number)
            ledger.left(job, Reason.NOT_DICOM if number else Reason.EMPTY, "detail", NOW)
        shown.run.left_behind(ledger.all_live(["sr"], [State.LEFT]))

    assert shown.run.finish() == 1
    head, *examples, more = shown.lines()[said:]
    assert head.startswith("not imported: not-dicom, 1,199 files: ")
    assert "Next: " in head
    assert examples == [f"  /archive/{number} (detail)" for number in range(1, 1 + EXAMPLES)]
    assert more == f"  and {1199 - EXAMPLES:,} more"
    summary = capsys.readouterr().out
    assert "not imported: empty" in summary
    assert "1199" in summary
    assert "database-hiccup" not in summary
    assert str(shown.run.listing.path) in summary
    assert shown.run.listing.path is not None
    assert len(shown.run.listing.path.read_text(encoding="utf-8").splitlines()) == 1201


def test_a_list_that_can_not_be_written_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "imports").touch()
    shown = Shown(Listing(tmp_path))
    shown.run.elsewhere([b"/archive/%d" % number for number in range(EXAMPLES + 1)])

    assert shown.run.finish() == 1
    assert "openrem-ingest: the list of failures can't be written (" in shown.lines()[-1]


def test_times_are_said_as_one_would() -> None:
    said = [words_for(seconds) for seconds in (0, 29, 31, 3540, 3600, 12_000, 86_400, 200_000)]

    assert said == [
        "less than a minute",
        "less than a minute",
        "about 1 min",
        "about 59 min",
        "about 1 h 0 min",
        "about 3 h 20 min",
        "about 1 days 0 h",
        "about 2 days 8 h",
    ]


def test_the_pace_is_that_of_late() -> None:
    """What OpenREM has already goes fast, and what is new after it does not."""
    time, count = 0.0, 0
    pace = Pace(lambda: time)
    assert pace.rate(0) is None
    for _ in range(1000):
        time, count = time + 1, count + 100
        pace.rate(count)
    assert pace.rate(count) == pytest.approx(100)
    for _ in range(int(WINDOW_S) + 10):
        time, count = time + 1, count + 1
        pace.rate(count)
    assert pace.rate(count) == pytest.approx(1, abs=0.1)
