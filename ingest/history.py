"""The history in the ledger: what became of a file, for as long as it is kept.

The ledger's own methods take one file through its journey; here it is asked what they wrote,
told what a person or a rule did to files in quarantine, and freed of what is too old.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ingest.errors import Reason
from ingest.ledger_file import Connection, LedgerFile, stored
from ingest.model import LIVE, Snapshot, State

PAGE = 500  # rows read at once: nothing here grows with the history
_EVENT = "rowid, at, job, drop_name, state, reason, detail, sop_uid, study_uid, importer"
_FIRST_OF_AN_OBJECT = frozenset({State.READY, State.REJECTED, State.LEFT, State.GONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One step of a file's journey."""

    number: int
    at: float  # seconds since the epoch
    job: int
    drop: str
    state: State
    reason: Reason | None
    detail: str
    sop_uid: str
    study_uid: str
    importer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is asked: each one given narrows the answer."""

    sop_uid: str = ""
    study_uid: str = ""
    traces: tuple[bytes, ...] = ()  # digests of paths; what lay at one of these
    drop: str = ""
    since: float | None = None  # seconds since the epoch
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A file that is about to leave the quarantine."""

    trace: bytes  # the digest of the path that it came from
    drop: str
    state: State  # RETURNED or DISCARDED
    by: str  # who or what wants it so
    snapshot: Snapshot
    reason: Reason | None = None  # why it was there
    sop_uid: str | None = None
    study_uid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A departure as written down, and what to restore if it doesn't come to it."""

    event: int
    job: int
    before: State


class History:
    """The history of an open ledger. Its methods raise `LedgerError`."""

    def __init__(self, ledger: LedgerFile) -> None:
        """Of this ledger."""
        self._ledger = ledger

    # -- asking ------------------------------------------------------------------------------

    def find(self, query: Query) -> Iterator[Event]:
        """The events that match, in the order in which they were written.

        An object's UIDs are known once it was read; the first sight of the file that turned
        out to be it comes along.
        """
        where, values = _condition(query)
        last = 0
        by_object = query.sop_uid or query.study_uid
        while True:
            rows = self._ledger.rows(
                f"SELECT {_EVENT} FROM event WHERE rowid > ? AND {where} ORDER BY rowid LIMIT ?",  # noqa: S608 - our own words
                (last, *values, PAGE),
            )
            for event in map(_event, rows):
                if by_object and event.state in _FIRST_OF_AN_OBJECT:
                    yield from self._first_sight(event)
                yield event
                last = event.number
            if len(rows) < PAGE:
                return

    def _first_sight(self, event: Event) -> Iterator[Event]:
        rows = self._ledger.rows(
            f"SELECT {_EVENT} FROM event WHERE job = ? AND rowid < ? ORDER BY rowid DESC LIMIT 1",  # noqa: S608 - our own columns
            (event.job, event.number),
        )
        for before in map(_event, rows):
            if before.state is State.SEEN and not before.sop_uid:
                yield before

    def begins(self) -> float | None:
        """The time of the oldest event there is (seconds since the epoch)."""
        (row,) = self._ledger.rows("SELECT min(at) FROM event")
        return None if row[0] is None else float(str(row[0]))

    # -- the quarantine ----------------------------------------------------------------------

    def intend(self, departures: Sequence[Departure], now: float) -> list[Intent]:
        """Write down that these files are about to leave the quarantine; on the disk at return.

        Before the effect: a deletion that was recorded and didn't happen is repeated, one that
        happened unrecorded could never be told of.
        """
        with self._ledger.writing(durable=True) as connection:
            return [_intend(connection, departure, now) for departure in departures]

    def take_back(self, intents: Sequence[Intent]) -> None:
        """It didn't come to it: the files are still there."""
        with self._ledger.writing() as connection:
            for intent in intents:
                connection.execute("DELETE FROM event WHERE rowid = ?", (intent.event,))
                connection.execute(
                    "UPDATE job SET state = ? WHERE id = ? AND state IN ('RETURNED', 'DISCARDED')",
                    (intent.before.name, intent.job),
                )

    # -- how long it is kept -----------------------------------------------------------------

    def prune(self, before: float, limit: int) -> bool:
        """Forget a little of what is older than that (seconds since the epoch). True: go on.

        Never a file on its journey. One that stays in its folder for good (``after = "keep"``)
        and is forgotten is asked about once more: OpenREM has it already.
        """
        ended = json.dumps([state.name for state in State if state not in LIVE])
        with self._ledger.writing() as connection:
            events = connection.execute(
                "DELETE FROM event WHERE rowid IN (SELECT rowid FROM event WHERE at < ? LIMIT ?)",
                (before, limit),
            ).rowcount
            jobs = connection.execute(
                """
                SELECT id FROM job WHERE path IS NULL AND updated < ?
                  AND state IN (SELECT value FROM json_each(?)) LIMIT ?
                """,
                (before, ended, limit),
            ).fetchall()
            for (job,) in jobs:  # its number may be given again: no event may be left of it
                connection.execute("DELETE FROM event WHERE job = ?", (job,))
                connection.execute("DELETE FROM job WHERE id = ?", (job,))
            standing = connection.execute(
                "DELETE FROM standing WHERE digest IN "
                "(SELECT digest FROM standing WHERE at < ? LIMIT ?)",
                (before, limit),
            ).rowcount
        return limit in (events, len(jobs), standing)


def _intend(connection: Connection, departure: Departure, now: float) -> Intent:
    job, before = _job_of(connection, departure, now)
    if before is State.QUARANTINED:  # else a newer file came to its name, or an older one went
        connection.execute(
            "UPDATE job SET state = ?, updated = ? WHERE id = ?", (departure.state.name, now, job)
        )
    event = connection.execute(
        "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
        (
            now,
            job,
            departure.drop,
            departure.state.name,
            departure.reason.code if departure.reason else None,
            departure.by,
            departure.sop_uid,
            departure.study_uid,
        ),
    ).lastrowid
    return Intent(event=event or 0, job=job, before=before)


def _job_of(connection: Connection, departure: Departure, now: float) -> tuple[int, State]:
    """The job of the file, made where the ledger knows of none: it may have been lost."""
    statement = "SELECT id, state FROM job WHERE digest = ?"
    found = connection.execute(statement, (departure.trace,)).fetchone()
    if found is None:
        snapshot = departure.snapshot
        connection.execute(
            """
            INSERT INTO job (digest, drop_name, device, inode, size, mtime_ns, ctime_ns, state,
                             sop_uid, study_uid, reason, updated)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (
                departure.trace,
                departure.drop,
                stored(snapshot.device),
                stored(snapshot.inode),
                stored(snapshot.size),
                stored(snapshot.mtime_ns),
                stored(snapshot.ctime_ns),
                State.QUARANTINED.name,
                departure.sop_uid,
                departure.study_uid,
                departure.reason.code if departure.reason else None,
                now,
            ),
        )
        found = connection.execute(statement, (departure.trace,)).fetchone()
    return int(found[0]), State[found[1]]


def _condition(query: Query) -> tuple[str, list[object]]:
    """The words and values of a WHERE."""
    words, values = ["1"], list[object]()
    if query.sop_uid:
        words.append("sop_uid = ?")
        values.append(query.sop_uid)
    if query.study_uid:
        words.append("study_uid = ?")
        values.append(query.study_uid)
    if query.traces:
        marks = ", ".join("?" * len(query.traces))
        words.append(f"job IN (SELECT id FROM job WHERE digest IN ({marks}))")  # noqa: S608 - marks
        values += query.traces
    if query.drop:
        words.append("drop_name = ?")
        values.append(query.drop)
    if query.since is not None:
        words.append("at >= ?")
        values.append(query.since)
    if query.until is not None:
        words.append("at <= ?")
        values.append(query.until)
    return " AND ".join(words), values


def _event(row: Sequence[object]) -> Event:
    number, at, job, drop, state, reason, detail, sop_uid, study_uid, importer = row
    return Event(
        number=int(str(number)),
        at=float(str(at)),
        job=int(str(job)),
        drop=str(drop),
        state=State[str(state)],
        reason=Reason.from_code(str(reason)) if reason else None,
        detail=str(detail),
        sop_uid=str(sop_uid or ""),
        study_uid=str(study_uid or ""),
        importer=str(importer or ""),
    )
