"""`history`: what became of a file, an object or a study, in plain words with times."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypedDict

import click

from ingest import log, parts, quarantine
from ingest.commands.show import complain, now
from ingest.config import Settings
from ingest.dispose import why_of
from ingest.history import Event, History, Query
from ingest.ledger import Ledger
from ingest.ledger_file import digest
from ingest.model import State
from ingest.quarantine import Held

DAY_S = 86400.0

_WORDS = {
    State.SEEN: "seen in the drop folder",
    State.READY: "complete, waiting for its import",
    State.CLAIMED: "set aside for its import",
    State.PROVEN: "OpenREM provably holds it",
    State.DONE: "imported and proven; deleted, archived or kept, as its folder is configured",
    State.RULED: "a rule says that it is not to be imported",
    State.IGNORED: "taken out by a rule: deleted or moved; or left alone where files stay",
    State.REJECTED: "refused",
    State.QUARANTINED: "moved to quarantine",
    State.RETURNED: "moved back from quarantine for another try",
    State.DISCARDED: "deleted from quarantine",
    State.LEFT: "refused, left where it is",
    State.GONE: "taken away by someone else",
}


class Asked(TypedDict):
    """What is asked on the command line; the times in seconds since the epoch."""

    sop_uid: str
    study_uid: str
    drop: str
    since: float | None
    until: float | None


def history(
    settings: Settings,
    paths: Sequence[Path],
    asked: Asked,
    *,
    as_json: bool,
) -> int:
    """Print what is known; returns the exit code."""
    since = asked["since"]
    if not paths and not any(asked.values()):
        since = now() - DAY_S
        click.echo("What happened in the last 24 hours:", err=True)
    query = Query(
        sop_uid=asked["sop_uid"].strip(),
        study_uid=asked["study_uid"].strip(),
        traces=tuple(_traces(settings, paths)),
        drop=asked["drop"],
        since=since,
        until=asked["until"],
    )
    with closing(Ledger(settings.ledger_path, read_only=True)) as ledger:
        past = History(ledger)
        last: dict[int, State] = {}
        shown = _Shown(as_json=as_json)
        for event in past.find(query):
            shown.show(event)
            if event.state in (State.QUARANTINED, State.SEEN):
                last[event.job] = event.state
        if not shown.count:
            complain(_unknown(past.begins(), settings.history.keep_days))
            return 1
    jobs = {job for job, state in last.items() if state is State.QUARANTINED}
    if jobs and not as_json:
        _tell_where(settings, jobs, query)
    return 0


def _unknown(begins: float | None, keep_days: int) -> str:
    known = f"which begins {_time(begins)}" if begins is not None else "which is empty"
    return (
        f"nothing is known of it in the history, {known} and is kept for {keep_days} days: it "
        "never came into a drop folder in that time, or by another name or UID. Next: ask "
        "OpenREM's web pages whether it has the study"
    )


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"


@dataclass(slots=True)
class _Shown:
    """What was shown so far: an object's UIDs are told once, not in every line."""

    as_json: bool
    count: int = 0
    about: tuple[int, str] = (0, "")

    def show(self, event: Event) -> None:
        """Print one event."""
        self.count += 1
        if self.as_json:
            click.echo(_as_json(event))
            return
        if event.sop_uid and (event.job, event.sop_uid) != self.about:
            self.about = (event.job, event.sop_uid)
            click.echo(f"Object {event.sop_uid} of study {event.study_uid} (job {event.job}):")
        click.echo(f"{_time(event.at)}  {event.drop}  job {event.job}  {words(event)}")


def words(event: Event) -> str:
    """What happened, in one plain line."""
    said = _WORDS[event.state]
    if event.state is State.READY and event.importer:
        said += f" by OpenREM's importer {event.importer}"
    if event.reason is not None and event.state not in (State.RETURNED, State.DISCARDED):
        said += f": {event.reason.why}"
    if event.detail:
        said += f" ({event.detail})"
    if event.reason is not None and event.state in (State.QUARANTINED, State.LEFT):
        said += f". Next: {event.reason.next_step}"
    return said


def _as_json(event: Event) -> str:
    return json.dumps(
        {
            "time": datetime.fromtimestamp(event.at).astimezone().isoformat(timespec="seconds"),
            "drop": event.drop,
            "job": event.job,
            "state": event.state.name.lower(),
            "words": words(event),
            "reason": event.reason.code if event.reason else None,
            "detail": event.detail,
            "importer": event.importer or None,
            "sop_instance_uid": event.sop_uid or None,
            "study_instance_uid": event.study_uid or None,
        }
    )


def _traces(settings: Settings, paths: Sequence[Path]) -> Iterator[bytes]:
    """The digests by which the ledger may know these files.

    A path in a drop folder, or one in quarantine: then by where the file came from.
    """
    inboxes = parts.inboxes_of(settings)
    for given in paths:
        folder, name = os.path.split(os.path.abspath(os.fsencode(given)))
        path = os.path.join(os.path.realpath(folder), name)
        yield digest(path)
        note = quarantine.read_note(why_of(path))
        if note is not None and note.trace:
            yield note.trace
        for inbox in inboxes:
            below = os.path.join(inbox.quarantine, b"") if inbox.quarantine else None
            if below is not None and path.startswith(below):
                yield digest(os.path.join(inbox.root, path.removeprefix(below)))


def _tell_where(settings: Settings, jobs: set[int], query: Query) -> None:
    """Say where the files are that lie in quarantine now."""
    root = settings.quarantine_path
    if root is None:
        return
    for one in quarantine.held(
        parts.real_path(root),
        [drop.name for drop in settings.drop],
        excluded=parts.excluded_from(settings),
        on_error=lambda _folder, _error: None,
    ):
        if _is_meant(one, jobs, query):
            click.echo(f"Now in quarantine: {log.shown(one.path)} (ID {one.id})")


def _is_meant(one: Held, jobs: set[int], query: Query) -> bool:
    note = one.note
    if note is None:
        return False
    return (
        note.job in jobs
        and (not query.sop_uid or note.sop_uid == query.sop_uid)
        and (not query.study_uid or note.study_uid == query.study_uid)
        and (not query.traces or one.trace(None) in query.traces)
    )
