"""`status`: how many files are where, what is stuck and why, and how OpenREM is."""

import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime

import click
from rich.console import Console
from rich.table import Table

from ingest import log, parts
from ingest.commands.show import now, out
from ingest.config import Drop, Settings
from ingest.errors import LedgerError, OpenRemUnreachable, Reason
from ingest.ledger import Ledger, Tally
from ingest.model import Job, State

SILENT_S = 60.0  # the service writes to its ledger every ten seconds
_WORDS = {True: "running", False: "stopped"}
EXAMPLES = 3  # paths shown for each reason
PENDING = (State.SEEN, State.READY, State.CLAIMED, State.PROVEN, State.REJECTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderStatus:
    """One drop folder."""

    drop: str
    path: str
    state: str  # watched | away
    waiting_to_be_complete: int
    waiting_for_import: int
    in_hand: int
    done_today: int  # imported, or already there
    quarantined_today: int
    left_in_place: int
    stuck: dict[str, int]  # reason code -> files that wait because of it
    examples: dict[str, list[str]]  # reason code -> where some of them are


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRemStatus:
    """OpenREM as seen now."""

    reachable: bool
    reason: str | None = None
    why: str = ""
    next: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All of it."""

    service: str  # running | stopped
    ledger: str  # what is wrong with it, and what to do; empty if nothing is
    openrem: OpenRemStatus
    quarantine: str
    drops: tuple[FolderStatus, ...]


def status(settings: Settings, *, as_json: bool) -> int:
    """Print the status; returns the exit code."""
    try:
        ledger_word = _unwritten(settings, now())
        service_word, openrem_word, tallies, today, stuck = _read_ledger(settings, now())
    except LedgerError as error:
        runs = parts.is_running(settings.state_dir)
        service_word, openrem_word, tallies, today, stuck = _WORDS[runs], None, [], [], []
        ledger_word = str(error)
    away = {drop.name for drop in settings.drop if not os.path.isdir(drop.path)}
    answer = Status(
        service=service_word,
        ledger=ledger_word,
        openrem=_openrem(settings, openrem_word),
        quarantine=str(settings.quarantine_path or ""),
        drops=tuple(
            _folder(drop, tallies, today, stuck, away=drop.name in away) for drop in settings.drop
        ),
    )
    if as_json:
        click.echo(json.dumps(asdict(answer)))
    else:
        _print(answer)
    if not answer.openrem.reachable:
        return 3
    return 2 if answer.ledger else 0


def _read_ledger(
    settings: Settings, at: float
) -> tuple[str, str | None, Sequence[Tally], Sequence[Tally], Sequence[Job]]:
    """The service's state, its word on OpenREM while it runs, the counts, and what is stuck."""
    if not os.path.exists(settings.ledger_path):
        return _WORDS[parts.is_running(settings.state_dir)], None, [], [], []
    ledger = Ledger(settings.ledger_path, read_only=True)
    try:
        runs = parts.is_running(settings.state_dir)
        openrem = ledger.said("openrem") if runs else None
        midnight = datetime.fromtimestamp(at).astimezone().replace(hour=0, minute=0, second=0)
        today = ledger.ends_since(midnight.timestamp())
        return (
            _WORDS[runs],
            openrem[0] if openrem else None,
            ledger.tallies(),
            today,
            ledger.stuck([drop.name for drop in settings.drop], limit=1000),
        )
    finally:
        ledger.close()


def _unwritten(settings: Settings, at: float) -> str:
    """What is to be said of a running service that has not written to its ledger for a while."""
    if not parts.is_running(settings.state_dir):
        return ""
    path = settings.ledger_path
    if not os.path.exists(path):
        return (
            f"the ledger {path} was moved away while it was in use. Next: start the service again"
        )
    with closing(Ledger(path, read_only=True)) as ledger:
        said = ledger.said("service")
    if said is None or at - said[1] < SILENT_S:
        return ""
    return (
        f"the running service has not written to the ledger {path} for {at - said[1]:.0f} "
        "seconds. Next: see its log, and check the owner and the free space of state_dir"
    )


def _openrem(settings: Settings, word: str | None) -> OpenRemStatus:
    """What the running service knows, or, without one, what OpenREM answers now."""
    if word == "ready":
        return OpenRemStatus(reachable=True)
    if word:
        code, _, detail = word.partition(" ")
        return _unreachable(Reason.from_code(code), detail)
    worker = parts.worker_of(settings)
    try:
        with parts.openrem_database(settings):
            worker.hello()
    except OpenRemUnreachable as trouble:
        return _unreachable(trouble.reason, trouble.detail)
    finally:
        worker.close()
    return OpenRemStatus(reachable=True)


def _unreachable(reason: Reason, detail: str) -> OpenRemStatus:
    why = f"{reason.why} ({detail})" if detail else reason.why
    return OpenRemStatus(reachable=False, reason=reason.code, why=why, next=reason.next_step)


def _folder(
    drop: Drop,
    tallies: Sequence[Tally],
    today: Sequence[Tally],
    stuck_jobs: Sequence[Job],
    *,
    away: bool,
) -> FolderStatus:
    name = drop.name

    def count(source: Sequence[Tally], *states: State) -> int:
        return sum(t.count for t in source if t.drop == name and t.state in states)

    stuck: dict[str, int] = {}
    for tally in tallies:
        waits = tally.state in PENDING or tally.state is State.LEFT
        if tally.drop == name and waits and tally.reason is not None:
            stuck[tally.reason.code] = stuck.get(tally.reason.code, 0) + tally.count
    examples: dict[str, list[str]] = {code: [] for code in stuck}
    for job in stuck_jobs:
        if job.drop == name and job.reason is not None:
            some = examples.setdefault(job.reason.code, [])
            if len(some) < EXAMPLES:
                some.append(log.shown(job.path))
    return FolderStatus(
        drop=name,
        path=str(drop.path),
        state="away" if away else "watched",
        waiting_to_be_complete=count(tallies, State.SEEN),
        waiting_for_import=count(tallies, State.READY),
        in_hand=count(tallies, State.CLAIMED, State.PROVEN, State.REJECTED),
        done_today=count(today, State.DONE),
        quarantined_today=count(today, State.QUARANTINED),
        left_in_place=count(tallies, State.LEFT),
        stuck=stuck,
        examples=examples,
    )


def _print(answer: Status) -> None:
    console = out()
    hint = "" if answer.service == "running" else "  (start it: openrem-ingest run)"
    console.print(f"Service: {answer.service}{hint}")
    if answer.ledger:
        console.print(f"Ledger: {answer.ledger}")
    if answer.openrem.reachable:
        console.print("OpenREM: ready")
    else:
        console.print(f"OpenREM: away, {answer.openrem.why}. Next: {answer.openrem.next}.")
    table = Table()
    for heading in ("Folder", "Incomplete", "To import", "In hand", "Done today"):
        table.add_column(heading, justify="left" if heading == "Folder" else "right")
    table.add_column("Quarantined today", justify="right")
    for drop in answer.drops:
        name = f"{drop.drop} (AWAY)" if drop.state == "away" else drop.drop
        counts = (
            drop.waiting_to_be_complete,
            drop.waiting_for_import,
            drop.in_hand,
            drop.done_today,
            drop.quarantined_today,
        )
        table.add_row(name, *map(str, counts))
    console.print(table)
    for drop in answer.drops:
        _print_troubles(console, drop)
    if any(drop.quarantined_today for drop in answer.drops):
        console.print(f"Quarantine, each file with its reason beside it: {answer.quarantine}")


def _print_troubles(console: Console, drop: FolderStatus) -> None:
    if drop.state == "away":
        console.print(f"{drop.drop}: {drop.path} is gone. Next: mount or make it again.")
    for code, number in sorted(drop.stuck.items()):
        reason = Reason.from_code(code)
        console.print(f"{drop.drop}: {number} waiting: {reason.why}. Next: {reason.next_step}.")
        for path in drop.examples[code]:
            console.print(f"    {path}")
