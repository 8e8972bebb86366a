"""`failures`, `retry` and `discard`: what lies in quarantine, and how it leaves."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import click
from rich.table import Table

from ingest import files, log, parts, quarantine
from ingest.commands.show import complain, now, out
from ingest.config import Settings
from ingest.context import Inbox
from ingest.errors import Changed, Reason
from ingest.history import History
from ingest.ledger import Ledger
from ingest.model import Snapshot, State
from ingest.presence import Presence
from ingest.quarantine import Held, Leaving

BATCH = 100  # files that leave by one sync of the ledger
PREVIEW = 20  # files shown before they are deleted
MIN_ID = 4  # digits
_NO_REASON = "no reason noted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which of the files in quarantine are meant; all if nothing is said."""

    ids: tuple[str, ...] = ()
    reasons: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    stations: frozenset[str] = frozenset()
    since: float | None = None  # seconds since the epoch
    until: float | None = None
    is_all: bool = False

    @property
    def is_filter(self) -> bool:
        """Does it say anything but ids?"""
        return bool(
            self.reasons
            or self.folders
            or self.stations
            or self.since is not None
            or self.until is not None
        )

    def takes(self, one: Held) -> bool:
        """Is this file meant? The ids aside."""
        note = one.note
        at = note.at.timestamp() if note and note.at else None
        return (
            (not self.reasons or (note is not None and note.reason in self.reasons))
            and (not self.folders or one.drop in self.folders)
            and (not self.stations or (note is not None and note.station in self.stations))
            and (self.since is None or (at is not None and at >= self.since))
            and (self.until is None or (at is not None and at <= self.until))
        )


@dataclass(slots=True)
class _Look:
    """A walk through the quarantine, and the folders that it could not enter."""

    settings: Settings
    troubles: int = field(default=0)

    def held(self) -> Iterator[Held]:
        """All that lies there."""
        root = self.settings.quarantine_path
        if root is None:
            return iter(())
        return quarantine.held(
            parts.real_path(root),
            [drop.name for drop in self.settings.drop],
            excluded=parts.excluded_from(self.settings),
            on_error=self._cannot,
        )

    def _cannot(self, folder: bytes, error: OSError) -> None:
        self.troubles += 1
        complain(f"{log.shown(folder)}: {error.strerror}. Next: correct its owner or rights")


# -- failures ----------------------------------------------------------------------------------


def failures(settings: Settings, choice: Choice, *, as_json: bool) -> int:
    """List what lies in quarantine; returns the exit code."""
    look = _Look(settings)
    counts: Counter[str] = Counter()
    for one in look.held():
        if choice.takes(one):
            if not as_json and not counts:
                click.echo(_line("ID", "When", "Folder", "Station", "Reason", "File"))
            counts[one.note.reason if one.note else _NO_REASON] += 1
            click.echo(_as_json(one) if as_json else _as_line(one))
    if not as_json:
        if counts:
            _sum_up(counts)
        else:
            click.echo(f"Nothing in quarantine{' matches' if choice.is_filter else ''}.")
    return 1 if look.troubles else 0


def _line(*columns: str) -> str:
    widths = (12, 16, 12, 16, 18)
    padded = [text.ljust(width) for text, width in zip(columns, widths, strict=False)]
    return "  ".join([*padded, columns[-1]])


def _as_line(one: Held) -> str:
    note = one.note
    when = f"{note.at.astimezone():%Y-%m-%d %H:%M}" if note and note.at else "-"
    return _line(
        one.id,
        when,
        log.printable(one.drop),
        log.printable(note.station if note else "") or "-",
        log.printable(note.reason) if note else _NO_REASON,
        log.shown(one.place),
    )


def _as_json(one: Held) -> str:
    note = one.note
    return json.dumps(
        {
            "id": one.id,
            "path": os.fsdecode(one.path),
            "drop": one.drop,
            "reason": note.reason if note else None,
            "why": note.why if note else None,
            "detail": note.detail if note else None,
            "next": note.next if note else None,
            "folder": os.fsdecode(note.folder) if note else None,
            "job": note.job if note else None,
            "sop_class_uid": note.sop_class_uid or None if note else None,
            "sop_instance_uid": note.sop_uid or None if note else None,
            "study_instance_uid": note.study_uid or None if note else None,
            "modality": note.modality or None if note else None,
            "station": note.station or None if note else None,
            "time": note.at.isoformat() if note and note.at else None,
        }
    )


def _sum_up(counts: Counter[str]) -> None:
    table = Table(title="In quarantine")
    table.add_column("Reason")
    table.add_column("Files", justify="right")
    table.add_column("Next step")
    for code, count in counts.most_common():
        table.add_row(code, str(count), _next_step(code))
    out().print(table)


def _next_step(code: str) -> str:
    try:
        return Reason.from_code(code).next_step
    except KeyError:
        return "a person put it there: move it away, or retry or discard it by its ID"


# -- retry and discard -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """The files that are meant: by their ids, with what each one was when it was chosen."""

    snapshots: dict[str, Snapshot]
    preview: Sequence[Held]
    troubles: int


def retry(settings: Settings, choice: Choice) -> int:
    """Move files back into their drop folders; returns the exit code."""
    chosen = _choose(settings, choice)
    tally = _Tally("moved back", troubles=chosen.troubles)
    inboxes = parts.inboxes_of(settings)

    def act(leaving: Leaving) -> bytes:
        assert leaving.home is not None  # noqa: S101 - _send_off leaves out those without
        return quarantine.bring_back(leaving.one, leaving.home)

    def home_of(one: Held, presence: Presence) -> bytes | None:
        home = _home(one, inboxes)
        if home is None:
            tally.failed(
                one,
                f"its drop folder {log.printable(one.drop)} is not configured any more. "
                "Next: move the file into another one by hand",
            )
            return None
        absence = presence.absence(home.place)
        if absence is not None:
            tally.failed(
                one,
                f"its drop folder {log.shown(home.root)} is offline: {absence.why}. "
                f"Next: {absence.next_step}",
            )
            return None
        return home.root

    _send_off(settings, chosen, act, home_of, tally, State.RETURNED)
    return tally.finish()


def discard(settings: Settings, choice: Choice, *, is_sure: bool) -> int:
    """Delete files for good, after asking; returns the exit code."""
    if not is_sure and not sys.stdin.isatty():
        raise click.UsageError(
            "discard deletes for good, and there is no terminal to ask at. Next: give --yes"
        )
    chosen = _choose(settings, choice)
    count = len(chosen.snapshots)
    if count and not is_sure:
        for one in chosen.preview:
            click.echo(_as_line(one), err=True)
        if count > len(chosen.preview):
            click.echo(f"... and {count - len(chosen.preview)} more", err=True)
        if not click.confirm(f"Delete {_files(count)} for good?", err=True):
            click.echo("Nothing was deleted.", err=True)
            return 0

    def act(leaving: Leaving) -> bytes:
        quarantine.discard(leaving.one, leaving.snapshot)
        return b""

    tally = _Tally("deleted", troubles=chosen.troubles)
    roots = {inbox.name: inbox.root for inbox in parts.inboxes_of(settings)}
    _send_off(
        settings,
        chosen,
        act,
        lambda one, _presence: roots.get(one.drop, one.root),
        tally,
        State.DISCARDED,
    )
    return tally.finish()


def _choose(settings: Settings, choice: Choice) -> _Chosen:
    """Find out what is meant, before anything is touched.

    Raises:
        click.UsageError: nothing is said, an id is not there, or two files have it.
    """
    _check(choice)
    look = _Look(settings)
    chosen: dict[str, Snapshot] = {}
    preview: list[Held] = []
    named: dict[str, str] = {}
    for one in look.held():
        prefix = next((wanted for wanted in choice.ids if one.id.startswith(wanted)), None)
        # What a person put there has no reason of ours, and goes only if it is named.
        if prefix is None if choice.ids else (one.note is None or not choice.takes(one)):
            continue
        if prefix is not None and named.setdefault(prefix, one.id) != one.id:
            raise click.UsageError(
                f"{prefix} is the beginning of more than one ID. Next: write more of its digits"
            )
        try:
            chosen[one.id] = files.snapshot(one.path)
        except OSError:  # somebody else was faster
            continue
        if len(preview) < PREVIEW:
            preview.append(one)
    for wanted in choice.ids:
        if wanted not in named:
            raise click.UsageError(
                f"{wanted} is not in quarantine. Next: openrem-ingest failures lists what is"
            )
    return _Chosen(snapshots=chosen, preview=preview, troubles=look.troubles)


def _check(choice: Choice) -> None:
    if choice.ids and (choice.is_filter or choice.is_all):
        raise click.UsageError("give either IDs, or --all or other filters, not both")
    if not (choice.ids or choice.is_filter or choice.is_all):
        raise click.UsageError(
            "say which: IDs (openrem-ingest failures lists them), filters such as --reason, "
            "or --all"
        )
    for wanted in choice.ids:
        if len(wanted) < MIN_ID or not set(wanted) <= set("0123456789abcdef"):
            raise click.UsageError(
                f"{wanted!r} is no ID. Next: write at least {MIN_ID} of the digits that "
                "openrem-ingest failures shows"
            )


def _home(one: Held, inboxes: Collection[Inbox]) -> Inbox | None:
    """The drop folder that it came from; failing that, the one that has its name now."""
    by_path = [inbox for inbox in inboxes if one.note and inbox.root == one.note.folder]
    by_name = [inbox for inbox in inboxes if inbox.name == one.drop]
    return next(iter(by_path + by_name), None)


def _send_off(
    settings: Settings,
    chosen: _Chosen,
    act: Callable[[Leaving], bytes],
    home_of: Callable[[Held, Presence], bytes | None],
    tally: "_Tally",
    state: State,
) -> None:
    if not chosen.snapshots:
        return
    ledger = Ledger(settings.ledger_path)
    presence = Presence(ledger, learns=False)
    try:
        waiting = (one for one in _Look(settings).held() if one.id in chosen.snapshots)
        while batch := list(islice(waiting, BATCH)):
            leaving = [
                Leaving(one=one, home=home, snapshot=chosen.snapshots[one.id])
                for one in batch
                if (home := home_of(one, presence)) is not None
            ]
            quarantine.send_off(
                History(ledger), leaving, act, tally.add, state=state, by="by hand", now=now()
            )
    finally:
        ledger.close()


class _Tally:
    """What it came to."""

    def __init__(self, done: str, troubles: int) -> None:
        self._words = done
        self._done = 0
        self._failed = troubles

    def add(self, leaving: Leaving, outcome: bytes | Changed | OSError) -> None:
        """Count one."""
        match outcome:
            case bytes():
                self._done += 1
            case FileNotFoundError() if not os.path.lexists(leaving.one.path):
                pass  # somebody else was faster
            case Changed():
                self.failed(
                    leaving.one, "it has changed since it was chosen. Next: look at it again"
                )
            case OSError():
                self.failed(
                    leaving.one,
                    f"{outcome.strerror or type(outcome).__name__}; it stays. Next: run this as "
                    "the user that the service runs as, and check the rights of both folders "
                    "and the free space",
                )

    def failed(self, one: Held, words: str) -> None:
        """Tell of one that stays."""
        self._failed += 1
        complain(f"{log.shown(one.path)}: {words}")

    def finish(self) -> int:
        """Sum up; returns the exit code."""
        if not self._done and not self._failed:
            click.echo("Nothing in quarantine matches.")
        else:
            click.echo(f"{_files(self._done)} {self._words}.")
        return 1 if self._failed else 0


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
