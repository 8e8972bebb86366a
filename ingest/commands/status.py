"""`status`: how many files are where, what is stuck and why, and how OpenREM is."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TypedDict

import click
from rich.console import Console
from rich.table import Table

from ingest import disks, locks, log, parts
from ingest.commands.show import now, out
from ingest.config import Drop, Settings
from ingest.doctor.folders import SILENT_S
from ingest.errors import LedgerError, OpenRemUnreachable, Reason
from ingest.ledger import Ledger, Tally
from ingest.model import IN_HAND, Job, State
from ingest.presence import Absence, Presence
from ingest.service import MISSED

_WORDS = {True: "running", False: "stopped"}
EXAMPLES = 3  # paths shown for each reason
PENDING = (State.SEEN, State.READY, *IN_HAND)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderStatus:
    """One drop folder."""

    drop: str
    path: str
    state: str  # watched | offline
    why_offline: str
    next: str  # what to do about that
    waiting_to_be_complete: int
    waiting_for_import: int
    in_hand: int
    done_today: int  # imported, or already there
    quarantined_today: int
    left_in_place: int
    missed_by_events: int  # files that only a sweep found, since the service started
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
class VolumeStatus:
    """One disk."""

    path: str
    holds: tuple[str, ...]
    free_mib: int
    free_files: int | None
    low: bool
    room: str  # the same in words


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetStatus:
    """An archive, or the quarantine, that is not there."""

    what: str
    path: str
    why: str
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the ledger knows."""

    service: str  # running | stopped
    openrem: str | None = None  # the running service's word on OpenREM
    tallies: Sequence[Tally] = ()
    today: Sequence[Tally] = ()
    stuck: Sequence[Job] = ()
    missed: Mapping[str, int] = field(default_factory=dict)
    offline: Mapping[str, Absence] = field(default_factory=dict)
    targets: Sequence[TargetStatus] = ()
    disks: Sequence[VolumeStatus] = ()
    rules: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All of it."""

    service: str  # running | stopped
    ledger: str  # what is wrong with it, and what to do; empty if nothing is
    openrem: OpenRemStatus
    quarantine: str
    offline: tuple[TargetStatus, ...]  # archives, and the quarantine
    disks: tuple[VolumeStatus, ...]
    drops: tuple[FolderStatus, ...]
    rules: Mapping[str, int]  # files that each has taken out today, by its name


def status(settings: Settings, *, as_json: bool) -> int:
    """Print the status; returns the exit code."""
    try:
        ledger_word = _unwritten(settings, now())
        known = _read_ledger(settings, now())
    except LedgerError as error:
        known = _without_ledger(settings)
        ledger_word = str(error)
    answer = Status(
        service=known.service,
        ledger=ledger_word,
        openrem=_openrem(settings, known.openrem),
        quarantine=str(settings.quarantine_path or ""),
        offline=tuple(known.targets),
        disks=tuple(known.disks),
        drops=tuple(_folder(drop, known) for drop in settings.drop),
        rules={
            rule.name: known.rules.get(rule.name, 0)
            for rule in settings.rule
            if rule.then in ("ignore", "keep")
        },
    )
    if as_json:
        click.echo(json.dumps(asdict(answer)))
    else:
        _print(answer)
    if not answer.openrem.reachable:
        return 3
    return 2 if answer.ledger else 0


def _read_ledger(settings: Settings, at: float) -> Known:
    if not os.path.exists(settings.ledger_path):
        return _without_ledger(settings)
    runs = locks.is_running(settings.state_dir)
    midnight = datetime.fromtimestamp(at).astimezone().replace(hour=0, minute=0, second=0)
    names = [drop.name for drop in settings.drop]
    with closing(Ledger(settings.ledger_path, read_only=True)) as ledger:
        openrem = ledger.said("openrem") if runs else None
        missed = {name: ledger.said(MISSED + name) for name in names} if runs else {}
        return Known(
            service=_WORDS[runs],
            **_folders(settings, Presence(ledger, learns=False)),
            openrem=openrem[0] if openrem else None,
            tallies=ledger.tallies(),
            today=ledger.ends_since(midnight.timestamp()),
            stuck=ledger.stuck(names, limit=1000),
            rules=ledger.ruled_since(midnight.timestamp()),
            missed={name: int(said[0]) for name, said in missed.items() if said},
        )


def _without_ledger(settings: Settings) -> Known:
    runs = locks.is_running(settings.state_dir)
    return Known(service=_WORDS[runs], **_folders(settings, Presence(None)))


class _Folders(TypedDict):
    offline: Mapping[str, Absence]
    targets: Sequence[TargetStatus]
    disks: Sequence[VolumeStatus]


def _folders(settings: Settings, presence: Presence) -> _Folders:
    """How folders and disks are at this moment."""
    drops = {inbox.name: presence.absence(inbox.place) for inbox in parts.inboxes_of(settings)}
    targets = [
        TargetStatus(
            what=what, path=log.shown(place.folder), why=absence.why, next=absence.next_step
        )
        for what, place in parts.targets_of(settings).items()
        if (absence := presence.unmounted(place)) is not None
    ]
    return {
        "offline": {name: absence for name, absence in drops.items() if absence is not None},
        "targets": targets,
        "disks": _disks(settings, presence),
    }


def _disks(settings: Settings, presence: Presence) -> tuple[VolumeStatus, ...]:
    limits = parts.limits_of(settings)
    return tuple(
        VolumeStatus(
            path=volume.path,
            holds=volume.holds,
            free_mib=volume.free_mib,
            free_files=volume.free_files,
            low=volume.is_low(limits),
            room=volume.room,
        )
        for volume in disks.volumes(parts.volumes_of(settings), presence.unmounted)
    )


def _unwritten(settings: Settings, at: float) -> str:
    """What is to be said of a running service that has not written to its ledger for a while."""
    if not locks.is_running(settings.state_dir):
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


def _folder(drop: Drop, known: Known) -> FolderStatus:
    name = drop.name
    absence = known.offline.get(name)

    def count(source: Sequence[Tally], *states: State) -> int:
        return sum(t.count for t in source if t.drop == name and t.state in states)

    stuck: dict[str, int] = {}
    for tally in known.tallies:
        waits = tally.state in PENDING or tally.state is State.LEFT
        if tally.drop == name and waits and tally.reason is not None:
            stuck[tally.reason.code] = stuck.get(tally.reason.code, 0) + tally.count
    examples: dict[str, list[str]] = {code: [] for code in stuck}
    for job in known.stuck:
        if job.drop == name and job.reason is not None:
            some = examples.setdefault(job.reason.code, [])
            if len(some) < EXAMPLES:
                some.append(log.shown(job.path))
    return FolderStatus(
        drop=name,
        path=str(drop.path),
        state="offline" if absence else "watched",
        why_offline=absence.why if absence else "",
        next=absence.next_step if absence else "",
        waiting_to_be_complete=count(known.tallies, State.SEEN),
        waiting_for_import=count(known.tallies, State.READY),
        in_hand=count(known.tallies, *IN_HAND),
        done_today=count(known.today, State.DONE),
        quarantined_today=count(known.today, State.QUARANTINED),
        left_in_place=count(known.tallies, State.LEFT),
        missed_by_events=known.missed.get(name, 0),
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
        name = f"{drop.drop} (OFFLINE)" if drop.state == "offline" else drop.drop
        counts = (
            drop.waiting_to_be_complete,
            drop.waiting_for_import,
            drop.in_hand,
            drop.done_today,
            drop.quarantined_today,
        )
        table.add_row(name, *map(str, counts))
    console.print(table)
    for target in answer.offline:
        console.print(
            f"{target.what} (OFFLINE): {target.path}, {target.why}. Files for it wait. "
            f"Next: {target.next}."
        )
    _print_disks(console, answer.disks)
    for drop in answer.drops:
        _print_troubles(console, drop)
    _print_rules(console, answer.rules)
    if any(drop.quarantined_today for drop in answer.drops):
        console.print(f"Quarantine, each file with its reason beside it: {answer.quarantine}")


def _print_rules(console: Console, counts: Mapping[str, int]) -> None:
    for rule, count in counts.items():
        console.print(f'Rule "{rule}": {count} taken out today.')


def _print_disks(console: Console, found: Sequence[VolumeStatus]) -> None:
    for volume in found:
        if volume.low:
            console.print(
                f"Disk low: {volume.room} on {volume.path} ({', '.join(volume.holds)}); "
                f"{disks.WHY}. Next: free space on it ([disk] sets the limit)."
            )


def _print_troubles(console: Console, drop: FolderStatus) -> None:
    if drop.state == "offline":
        console.print(f"{drop.drop}: offline, {drop.why_offline}. Next: {drop.next}.")
    if drop.missed_by_events:
        console.print(
            f"{drop.drop}: the system told nothing of {drop.missed_by_events} new files; they "
            "were found all the same."
        )
    for code, number in sorted(drop.stuck.items()):
        reason = Reason.from_code(code)
        console.print(f"{drop.drop}: {number} waiting: {reason.why}. Next: {reason.next_step}.")
        for path in drop.examples[code]:
            console.print(f"    {path}")
