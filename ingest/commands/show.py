"""How commands speak to people: tables on stdout, progress and complaints on stderr."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ingest import log
from ingest.context import Ended
from ingest.errors import Reason
from ingest.model import GATHERED, Job, State
from ingest.presence import Absence


def out() -> Console:
    """The console for results."""
    return Console(highlight=False, soft_wrap=True, markup=False)


def complaint(path: bytes, reason: Reason, detail: str) -> str:
    """The one line for a file that isn't imported: which, why, and what next."""
    return f"{log.shown(path)}: {reason.sentence(detail)}"


@dataclass(slots=True)
class Tally:
    """What a run came to, counted as it goes; memory grows with the failures only."""

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
    """Shows a run of many files: a progress bar on a terminal, a line for each failure."""

    def __init__(self) -> None:
        """Nothing shown yet."""
        self.tally = Tally()
        self._is_whole = True
        self._lock = threading.Lock()
        self._found = 0
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        self._advance: Callable[[int], None] = lambda _total: None

    @contextmanager
    def progress(self, words: str) -> Iterator[None]:
        """Show a bar meanwhile, if stderr is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        bar = Progress(
            TextColumn(words),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=self._console,
        )
        with bar:
            task = bar.add_task(words, total=None)
            self._advance = lambda done: bar.update(task, completed=done, total=self._found or None)
            yield

    def ended(self, ended: Ended) -> None:
        """Take note of an end; called from the import threads."""
        with self._lock:
            self.tally.add(ended)
            self._advance(self.tally.total)
            if ended.reason is not None:
                line = complaint(ended.path, ended.reason, ended.detail)
                moved = f" It is now at {log.shown(ended.now_at)}" if ended.now_at else ""
                self.complain(line + moved)

    def found(self) -> None:
        """Take note of a file that is to be imported."""
        with self._lock:
            self._found += 1

    def refused(self, path: bytes, reason: Reason) -> None:
        """Take note of something named that can't even be looked at."""
        with self._lock:
            self.tally.refused[reason] += 1
            self.complain(complaint(path, reason, ""))

    def complain(self, line: str) -> None:
        """Print one line to stderr, above the progress bar; if it can't be, go on."""
        with contextlib.suppress(OSError):
            self._console.print(line)

    def left_behind(self, jobs: list[Job]) -> None:
        """Say what still waits."""
        for job in jobs:
            reason = job.reason or _why_it_waits(job)
            self.tally.refused[reason] += 1
            self.complain(complaint(job.path, reason, job.detail))

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
        if not self.tally.total and self._is_whole:
            self.complain("openrem-ingest: there was nothing to import")
        out().print(self.tally.table())
        return 1 if self.tally.refused or not self._is_whole else 0


def _why_it_waits(job: Job) -> Reason:
    if job.state is State.SEEN:
        return Reason.INCOMPLETE
    return Reason.GATHERING if job.importer in GATHERED else Reason.BUSY


def now() -> float:
    """The time (seconds since the epoch); a command is where the clock comes in."""
    return time.time()  # noqa: TID251 - see above


def complain(line: str) -> None:
    """Tell of something that can't be done, in one line."""
    click.echo(f"openrem-ingest: {line}", err=True)


def steps(words: str) -> None:
    """Tell of a long step."""
    click.echo(f"… {words}", err=True)
