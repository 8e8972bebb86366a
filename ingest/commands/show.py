"""How commands speak to people: tables on stdout, progress and complaints on stderr."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from ingest import log
from ingest.commands.listing import EXAMPLES, Failure, Listing, of_job
from ingest.commands.pace import Pace, words_for
from ingest.context import Ended
from ingest.errors import Reason
from ingest.model import Job, State
from ingest.presence import Absence

SAY_S = 30.0  # between two lines where stderr is no terminal
DRAW_S = 0.1
BAR_WIDTH = 10
WHERE_ALL_ARE = "openrem-ingest failures and openrem-ingest status show them"


def out() -> Console:
    """The console for results."""
    return Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(slots=True)
class Tally:
    """What a run came to, counted as it goes."""

    imported: int = 0
    already: int = 0
    deleted: int = 0
    ignored: int = 0
    refused: Counter[Reason] = field(default_factory=Counter)

    def add(self, ended: Ended) -> None:
        """Count one end."""
        if ended.state is State.DONE:
            self.imported += not ended.already
            self.already += ended.already
            self.deleted += ended.inbox.after == "delete"
        elif ended.state is State.IGNORED:
            self.ignored += 1
        elif ended.reason is not None:
            self.refused[ended.reason] += 1

    @property
    def total(self) -> int:
        """All ends."""
        return self.imported + self.already + self.ignored + self.refused.total()

    def table(self) -> Table:
        """The summary."""
        table = Table(title="Summary")
        table.add_column("Outcome")
        table.add_column("Files", justify="right")
        table.add_column("Next step")
        table.add_row("imported", str(self.imported), "")
        table.add_row("already there", str(self.already), "")
        table.add_row("ignored", str(self.ignored), "")
        if self.deleted:
            table.add_row("proven, and the file deleted", str(self.deleted), "")
        for reason, count in self.refused.most_common():
            table.add_row(f"not imported: {reason.code}", str(count), reason.next_step)
        return table


class Run:
    """Shows a run of many files: how far it is, the first failures of each reason, a summary."""

    def __init__(
        self,
        listing: Listing | None = None,
        *,
        sources: int = 0,
        is_final_later: bool = False,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        """Nothing shown yet.

        Args:
            listing: takes all failures.
            sources: how many trees are to be met before the first file is imported.
            is_final_later: a file that failed may yet be imported, in this run: only what the
                ledger says at the end is listed.
            clock: seconds, never set back.
            console: where progress and failures are shown.
        """
        self.tally = Tally()
        self.listing = listing or Listing()
        self.is_final_later = is_final_later
        self._is_whole = True
        self._lock = threading.Lock()
        self._found = 0
        self._told: Counter[Reason] = Counter()  # failures with a line of their own
        self._to_meet = sources
        self._clock = clock
        self._before = 0  # done before the first import
        self._pace = Pace(clock)
        self._said_at = self._drawn_at = clock()
        self._console = console or Console(
            stderr=True, highlight=False, soft_wrap=True, markup=False
        )
        self._draw: Callable[[], None] | None = None  # on a terminal

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show a bar meanwhile, if stderr is a terminal; else a line is written now and then."""
        if not self._console.is_terminal:
            yield
            return
        text = TextColumn(
            "{task.fields[how_far]}", markup=False, table_column=Column(no_wrap=False)
        )
        columns = (BarColumn(bar_width=BAR_WIDTH), TimeElapsedColumn(), text)
        bar = Progress(*columns, console=self._console)
        with bar:
            task = bar.add_task("", total=None, how_far="")
            self._draw = lambda: bar.update(
                task,
                completed=self._done if self._found else 0,
                total=None if self._to_meet else self._found or None,
                how_far=self.how_far(),
            )
            try:
                yield
            finally:
                self._draw()
                self._draw = None

    def ended(self, ended: Ended) -> None:
        """Take note of an end; called from the import threads."""
        with self._lock:
            self.tally.add(ended)
            if ended.state is State.DONE and self._to_meet:
                self._all_met()
            if ended.reason is not None:
                moved = f" It is now at {log.shown(ended.now_at)}" if ended.now_at else ""
                failure = Failure(path=ended.path, reason=ended.reason, detail=ended.detail)
                if not self.is_final_later:
                    self.listing.add(failure)
                self._tell(failure, moved)
            self._advance()

    def found(self) -> None:
        """Take note of a file that is to be imported."""
        with self._lock:
            self._found += 1
            self._advance()

    def met(self) -> None:
        """Take note that all of one tree has been met."""
        with self._lock:
            self._to_meet = max(0, self._to_meet - 1)
            if not self._to_meet:
                self._all_met()

    def _all_met(self) -> None:
        self._to_meet = 0
        self._before = self._done
        self._pace = Pace(self._clock)

    @property
    def _done(self) -> int:
        # One that failed, and then did not, was counted twice.
        return min(self.tally.total, self._found) if self._found else self.tally.total

    def how_far(self) -> str:
        """How far it is, in words."""
        failed = self.tally.refused.total()
        but = f"; {failed:,} not imported" if failed else ""
        if self._to_meet:
            rate = self._pace.rate(self._found)
            speed = f", {rate:,.0f} a second" if rate else ""
            return f"found {self._found:,} files so far{speed}{but}"
        done = self._done
        rate = self._pace.rate(done - self._before)
        speed = f", {rate:,.1f} a second" if rate else ""
        if not self._found:
            return f"{done:,} files done{speed}{but}"
        rest = self._found - done
        left = f", {words_for(rest / rate)} left" if rate and rest else ""
        share = 100 * done // self._found
        return f"{done:,} of {self._found:,} files done ({share}%){speed}{left}{but}"

    def _advance(self) -> None:
        """Show how far it is, if it is time to."""
        now = self._clock()
        if self._draw is not None:
            if now >= self._drawn_at + DRAW_S:
                self._drawn_at = now
                self._draw()
        elif now >= self._said_at + SAY_S and not self._console.is_terminal:
            self._said_at = now
            self.complain(f"openrem-ingest: {self.how_far()}")

    def _tell(self, failure: Failure, moved: str = "") -> None:
        """Show a failure, if it is one of the first of its reason."""
        if self._told[failure.reason] < EXAMPLES:
            self._told[failure.reason] += 1
            self.complain(failure.line + moved)

    def refused(self, path: bytes, reason: Reason) -> None:
        """Take note of something named that can't even be looked at."""
        with self._lock:
            failure = Failure(path=path, reason=reason)
            self.tally.refused[reason] += 1
            self.listing.add(failure)
            self._tell(failure)

    def complain(self, line: str) -> None:
        """Print one line to stderr, above the progress bar; if it can't be, go on."""
        with contextlib.suppress(OSError):
            self._console.print(line)

    def left_behind(self, jobs: Iterable[Job]) -> None:
        """Take note of what still waits, or stays where it is."""
        for job in jobs:
            self.listing.add(of_job(job))

    def elsewhere(self, paths: list[bytes]) -> None:
        """Say what another openrem-ingest has in hand."""
        for path in paths:
            self.refused(path, Reason.IN_OTHER_HANDS)

    def offline(self, folders: Mapping[str, Absence]) -> None:
        """Say which drop folders are not there, so that nothing of theirs was looked at."""
        for name, absence in folders.items():
            self._is_whole = False
            self.complain(
                f"openrem-ingest: drop folder {name} is offline: {absence.why}. "
                f"Next: {absence.next_step}"
            )

    def interrupted(self) -> None:
        """Say that a signal ended the run before its end."""
        self._is_whole = False
        self.complain(
            "openrem-ingest: stopped before the end; nothing is lost. "
            "Next: give the same command again to go on"
        )

    def finish(self) -> int:
        """Print the summary; returns the exit code."""
        self.listing.close()
        self.tally.refused = self.listing.counts
        if not self.tally.total and self._is_whole:
            self.complain("openrem-ingest: there was nothing to import")
        for reason, count in self.listing.counts.most_common():
            if count > self._told[reason]:
                self._show_some(reason, count)
        console = out()
        console.print(self.tally.table())
        if self.listing.path is not None and not self.listing.trouble:
            console.print(f"All that was not imported, file by file: {self.listing.path}")
        if self.listing.trouble:
            self.complain(
                f"openrem-ingest: the list of failures can't be written "
                f"({self.listing.trouble}). Next: see to that, and give the same command again"
            )
        return 1 if self.tally.refused or not self._is_whole else 0

    def _show_some(self, reason: Reason, count: int) -> None:
        """Not all of this reason had a line of their own."""
        examples = self.listing.examples[reason]
        if count <= len(examples):
            for one in examples:
                self.complain(one.line)
            return
        self.complain(f"not imported: {reason.code}, {count:,} files: {reason.sentence()}")
        for one in examples:
            detail = f" ({one.detail})" if one.detail else ""
            self.complain(f"  {log.shown(one.path)}{detail}")
        where = "" if self.is_final_later else f": {WHERE_ALL_ARE}"
        self.complain(f"  and {count - len(examples):,} more{where}")


def now() -> float:
    """The time (seconds since the epoch); a command is where the clock comes in."""
    return time.time()  # noqa: TID251 - see above


def complain(line: str) -> None:
    """Tell of something that can't be done, in one line."""
    click.echo(f"openrem-ingest: {line}", err=True)


def steps(words: str) -> None:
    """Tell of a long step."""
    click.echo(f"… {words}", err=True)
