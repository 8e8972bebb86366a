"""The ledger: which files are on their journey, how far they are, and what became of them.

SQLite in WAL mode, one writer connection guarded by a lock. The folder is the queue: losing
the ledger loses history and nothing else. It therefore records intent before an effect and
success only after proof, and every transition is checked against the table in model.py.

Durability: ``synchronous=FULL`` where a claim or a proof is written, NORMAL elsewhere (a power
cut may then roll back the last looks at files, which are simply repeated).

Privacy: a sender's file name may hold a patient's name. A path is kept only while its file is
on its journey; afterwards a digest of it stays, enough to answer "what became of this file?".
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest.bell import Bell
from ingest.config import BY_HAND
from ingest.errors import HINDRANCES, IngestError, Reason
from ingest.ledger_file import digest, stored
from ingest.ledger_notes import Notes
from ingest.ledger_rows import COLUMNS, job_of, number, reason_of, text_of
from ingest.model import (
    GATHERED,
    IN_HAND,
    LIVE,
    Header,
    Importer,
    Job,
    Recordable,
    Snapshot,
    State,
    StudyPart,
    check_transition,
)

NEVER = 9e15  # seconds since the epoch
AT_ONCE = 5000  # rows read, or changed in one transaction, where there may be any number
GATHER = "~~"  # before the order of what waits for the rest of its study: behind all others


class Overtaken(IngestError):
    """Another thread moved this job on: whatever was meant to be done is no longer due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many files of a drop folder ended (or are) in a state, and for what reason."""

    drop: str
    state: State
    reason: Reason | None
    count: int


class Ledger(Notes):
    """The ledger, opened."""

    def __init__(
        self, path: Path, *, read_only: bool = False, leave_no_trace: bool = False
    ) -> None:
        """Open the ledger at ``path``: see `LedgerFile`."""
        super().__init__(path, read_only=read_only, leave_no_trace=leave_no_trace)
        self.ready_bell = Bell()  # rung whenever a file has become ready

    def find(self, path: bytes) -> Job | None:
        """The job of the file at ``path``, in whatever state."""
        rows = self.rows(
            f"SELECT {COLUMNS} FROM job WHERE digest = ?",  # noqa: S608 - our own columns
            (digest(path),),
        )
        return job_of(rows[0], path) if rows else None

    def get(self, job_id: int) -> Job:
        """The job with this id."""
        rows = self.rows(f"SELECT {COLUMNS} FROM job WHERE id = ?", (job_id,))  # noqa: S608
        return job_of(rows[0])

    def see(
        self, *, drop: str, path: bytes, snapshot: Snapshot, now: float, in_hand: bool = False
    ) -> Job:
        """Note a file as new work: its first sight, another version, or one that came back.

        Raises `Overtaken` where the path's earlier version is in somebody's hand, unless that
        is the caller (``in_hand``).
        """
        with self.writing() as connection:
            old = self.find(path)
            if old is not None:
                if old.state in IN_HAND and not in_hand:
                    raise Overtaken(f"job {old.id} is {old.state.name}")
                check_transition(old.state, State.SEEN)
            fresh = old is None or old.snapshot != snapshot or old.state not in LIVE
            connection.execute(
                """
                INSERT INTO job (digest, drop_name, path, device, inode, size, mtime_ns,
                                 ctime_ns, state, updated)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                ON CONFLICT (digest) DO UPDATE SET
                    drop_name = excluded.drop_name, path = excluded.path,
                    device = excluded.device, inode = excluded.inode, size = excluded.size,
                    mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns,
                    state = excluded.state, claim = '', updated = excluded.updated
                """,
                (
                    digest(path),
                    drop,
                    path,
                    stored(snapshot.device),
                    stored(snapshot.inode),
                    stored(snapshot.size),
                    stored(snapshot.mtime_ns),
                    stored(snapshot.ctime_ns),
                    State.SEEN.name,
                    now,
                ),
            )
            if fresh and old is not None:
                connection.execute(
                    """
                    UPDATE job SET attempts = 0, deaths = 0, not_before = 0, reason = NULL,
                        detail = '', header = NULL, study_uid = NULL, sop_uid = NULL,
                        importer = NULL, study_order = '' WHERE digest = ?
                    """,
                    (digest(path),),
                )
            job = self.find(path)
            assert job is not None  # noqa: S101 - it was written a line ago
            if old is None or old.state is not State.SEEN or fresh:
                _record(connection, job.id, now)
        return job

    def wait(
        self,
        job: Job,
        *,
        reason: Reason | None,
        detail: str,
        not_before: float,
        attempts: int | None = None,
    ) -> None:
        """Note why a file waits, and when to look again. No transition."""
        with self.writing() as connection:
            connection.execute(
                "UPDATE job SET reason = ?, detail = ?, not_before = ?, attempts = ? WHERE id = ?",
                (
                    reason.code if reason else None,
                    detail,
                    not_before,
                    job.attempts if attempts is None else attempts,
                    job.id,
                ),
            )

    def ready(
        self,
        job: Job,
        *,
        header: Header | None,
        importer: Importer,
        order: str,
        now: float,
        gather_s: float = 0.0,
    ) -> None:
        """Note that a file is complete and decided on; one that is no object has no header.

        One of a study that is imported as a whole waits for the rest of it, as long as is said.

        What kept it from being moved at an earlier attempt stays noted until that is over.
        """
        stuck = job.reason in HINDRANCES
        is_gathered = importer in GATHERED
        self._move(
            job,
            State.READY,
            now,
            header=text_of(header) if header else None,
            study_uid=header.study_uid if header else None,
            sop_uid=header.sop_instance_uid if header else None,
            study_order=GATHER + order if is_gathered else order,
            importer=importer.value,
            reason=job.reason.code if job.reason and stuck else None,
            detail=job.detail if stuck else "",
            not_before=now + gather_s if is_gathered else 0.0,
        )

    def describe(self, job: Job, header: Header) -> None:
        """Remember what a refused object is, for whoever asks about its UIDs."""
        with self.writing() as connection:
            connection.execute(
                "UPDATE job SET header = ?, study_uid = ?, sop_uid = ? WHERE id = ?",
                (text_of(header), header.study_uid, header.sop_instance_uid, job.id),
            )

    def next_ready(
        self, drops: Sequence[str], busy_studies: Sequence[str], now: float
    ) -> Job | None:
        """The next file to import: oldest study first, then by arrival.

        Objects of a study that is being imported wait for it; one that failed and waits for its
        next attempt holds up nothing. What is of no study, a table of sizes, waits until no
        study is being imported, which might be one of its own: NULL is not known to be NOT IN a
        list, unless that is empty.
        """
        # Folder by folder: so the index gives the order, and a backlog of a million isn't sorted.
        rows = [
            row
            for drop in drops
            for row in self.rows(
                f"""
                SELECT {COLUMNS}, study_order FROM job
                WHERE drop_name = ? AND state = 'READY' AND +not_before <= ?
                  AND study_order < '{GATHER}'
                  AND study_uid NOT IN (SELECT value FROM json_each(?))
                ORDER BY study_order, id LIMIT 1
                """,  # noqa: S608 - our own columns
                (drop, now, json.dumps(list(busy_studies))),
            )
        ]
        first = min(rows, key=lambda row: (str(row[-1]), number(row[0])), default=None)
        return job_of(first[:-1]) if first else None

    def recordable(self, drops: Sequence[str], limit: int) -> list[Recordable]:
        """The next so many objects to import in these drop folders."""
        rows: list[tuple[object, ...]] = []
        for drop in drops:
            rows += self.rows(
                """
                SELECT importer, study_uid, sop_uid, study_order, id FROM job
                WHERE drop_name = ? AND state = 'READY' AND study_order < ? AND sop_uid NOT NULL
                ORDER BY study_order, id LIMIT ?
                """,
                (drop, GATHER, limit),
            )
            # Each time: an import of a thousand folders must not ask for a thousand times as many.
            rows = sorted(rows, key=lambda row: (str(row[3]), number(row[4])))[:limit]
        return [
            Recordable(importer=Importer(importer), study_uid=str(study), sop_instance_uid=str(sop))
            for importer, study, sop, _, _ in rows
        ]

    def gathering(self, drops: Sequence[str]) -> list[StudyPart]:
        """What waits of studies that are imported as a whole, in these drop folders."""
        rows = self.rows(
            f"""
            SELECT study_uid, drop_name, min(study_order), sum(state <> 'READY'), max(not_before)
            FROM job
            WHERE drop_name IN (SELECT value FROM json_each(?))
              AND state IN (SELECT value FROM json_each(?)) AND study_order >= '{GATHER}'
              AND NOT (state = 'LEFT' AND not_before >= ?)
            GROUP BY 1, 2
            """,  # noqa: S608 - our own word
            (json.dumps(list(drops)), json.dumps([state.name for state in LIVE]), NEVER),
        )
        return [
            StudyPart(
                study_uid=str(uid),
                drop=str(drop),
                order=str(order),
                unsettled=number(unsettled),
                quiet_at=float(str(quiet_at)),
            )
            for uid, drop, order, unsettled, quiet_at in rows
        ]

    def images_of(self, study_uid: str, drops: Sequence[str]) -> list[Job]:
        """The files of such a study that wait, by arrival."""
        rows = self.rows(
            f"""
            SELECT {COLUMNS} FROM job
            WHERE drop_name IN (SELECT value FROM json_each(?)) AND state = 'READY'
              AND study_order >= '{GATHER}' AND study_uid = ? ORDER BY id
            """,  # noqa: S608 - our own columns
            (json.dumps(list(drops)), study_uid),
        )
        return [job_of(row) for row in rows]

    def due(self, drops: Sequence[str], now: float, limit: int) -> list[Job]:
        """Files not yet complete, or left with a passing hindrance, whose time has come."""
        # One by one, as in next_ready: so the index gives the order.
        jobs = [
            job_of(row)
            for drop in drops
            for state in (State.SEEN, State.LEFT)
            for row in self.rows(
                f"""
                SELECT {COLUMNS} FROM job WHERE drop_name = ? AND state = ? AND not_before <= ?
                ORDER BY not_before LIMIT ?
                """,  # noqa: S608 - our own columns
                (drop, state.name, now, limit),
            )
        ]
        return sorted(jobs, key=lambda job: job.not_before)[:limit]

    def is_due(self, drops: Sequence[str], state: State, by: float) -> bool:
        """Is there a file in this state whose time comes until then (seconds since the epoch)?

        Not one that waits for the rest of its study: see `gathering`.
        """
        return bool(
            self.rows(
                f"""
                SELECT 1 FROM job WHERE drop_name IN (SELECT value FROM json_each(?))
                  AND state = ? AND not_before <= ?
                  AND (state <> 'READY' OR study_order < '{GATHER}') LIMIT 1
                """,  # noqa: S608 - our own word
                (json.dumps(list(drops)), state.name, by),
            )
        )

    def in_hand_elsewhere(self, drops: Sequence[str]) -> list[Job]:
        """What is in hand for other drop folders than these, manual imports aside."""
        rows = self.rows(
            f"""
            SELECT {COLUMNS} FROM job
            WHERE state IN (SELECT value FROM json_each(?)) AND path IS NOT NULL
              AND drop_name NOT IN (SELECT value FROM json_each(?)) AND drop_name NOT GLOB ?
            """,  # noqa: S608 - our own columns
            (
                json.dumps([state.name for state in IN_HAND]),
                json.dumps(list(drops)),
                BY_HAND + " *",
            ),
        )
        return [job_of(row) for row in rows]

    def live(self, drops: Sequence[str], states: Sequence[State], limit: int) -> list[Job]:
        """Jobs in these states, oldest first."""
        rows = self.rows(
            f"""
            SELECT {COLUMNS} FROM job
            WHERE drop_name IN (SELECT value FROM json_each(?))
              AND state IN (SELECT value FROM json_each(?))
            ORDER BY id LIMIT ?
            """,  # noqa: S608 - our own columns
            (json.dumps(list(drops)), json.dumps([state.name for state in states]), limit),
        )
        return [job_of(row) for row in rows]

    def all_live(self, drops: Sequence[str], states: Sequence[State]) -> Iterator[Job]:
        """All of them, however many: some at a time, folder by folder."""
        for drop, state in ((drop, state.name) for drop in drops for state in states):
            place = (drop, state, "", 0)
            while rows := self.rows(
                f"""
                SELECT {COLUMNS}, study_order FROM job
                WHERE drop_name = ? AND state = ? AND (study_order, id) > (?, ?)
                ORDER BY study_order, id LIMIT {AT_ONCE}
                """,  # noqa: S608 - our own columns
                place,
            ):
                yield from (job_of(row[:-1]) for row in rows)
                place = (drop, state, str(rows[-1][-1]), number(rows[-1][0]))

    def claimed(self, job: Job, claim: str, now: float) -> None:
        """Note the intent to set a file aside under this claim id (before it is done)."""
        self._move(job, State.CLAIMED, now, durable=True, claim=claim)

    def claimed_together(self, jobs: Mapping[str, Job], now: float) -> None:
        """Note the same of all files of a study, by their claim ids: of all or of none."""
        with self.writing(durable=True) as connection:
            for claim, job in jobs.items():
                self._change(connection, job, State.CLAIMED, now, {"claim": claim})

    def back(
        self,
        job: Job,
        now: float,
        *,
        reason: Reason | None = None,
        detail: str = "",
        not_before: float = 0.0,
        attempts: int | None = None,
        deaths: int | None = None,
    ) -> None:
        """Note that a file waits for another turn, and why."""
        self._move(
            job,
            State.READY,
            now,
            claim="",
            reason=reason.code if reason else None,
            detail=detail,
            not_before=not_before,
            attempts=job.attempts if attempts is None else attempts,
            deaths=job.deaths if deaths is None else deaths,
        )

    def proven(self, job: Job, evidence: str, now: float) -> None:
        """Note the proof, and with it the intent to dispose of the file."""
        self._move(job, State.PROVEN, now, durable=True, reason=None, detail=evidence)

    def rejected(
        self, job: Job, reason: Reason, detail: str, now: float, *, claim: str = ""
    ) -> None:
        """Note the refusal, and with it the intent to quarantine the file under this claim."""
        self._move(
            job, State.REJECTED, now, durable=True, claim=claim, reason=reason.code, detail=detail
        )

    def ruled(self, job: Job, rule: str, now: float, *, claim: str = "") -> None:
        """Note which rule says so, and with it the intent to have the file leave."""
        self._move(job, State.RULED, now, durable=True, claim=claim, reason=None, detail=rule)

    def dismissed(self, job: Job, rule: str, now: float) -> None:
        """Note that a rule took the file out, and forget its path."""
        self._move(job, State.IGNORED, now, claim="", path=None, reason=None, detail=rule)

    def left(
        self, job: Job, reason: Reason, detail: str, now: float, not_before: float = NEVER
    ) -> None:
        """Note that a file stays where it is, why, and when to look at it again."""
        self._move(
            job,
            State.LEFT,
            now,
            claim="",
            reason=reason.code,
            detail=detail,
            not_before=not_before,
        )

    def end(self, job: Job, state: State, now: float) -> None:
        """Note the end of a file's journey, and forget its path."""
        self._move(job, state, now, claim="", path=None)

    def forget(self, drops: str, now: float) -> None:
        """End what a manual import left unfinished: its paths are not ours to keep.

        What it has done counts for one run only: the next asks OpenREM anew, which may have
        been set back meanwhile.

        Args:
            drops: how the names of its folders begin.
            now: seconds since the epoch.
        """
        names = self.rows(
            "SELECT DISTINCT drop_name FROM job WHERE drop_name GLOB ?", (drops + " *",)
        )
        for (name,) in names:
            for state in LIVE | {State.DONE, State.IGNORED}:
                while self._forget(str(name), state, now) == AT_ONCE:
                    pass

    def _forget(self, drop: str, state: State, now: float) -> int:
        """A few at a time: the service, which writes here too, waits for no more than that."""
        with self.writing() as connection:
            changed = connection.execute(
                """
                UPDATE job SET state = ?, path = NULL, claim = '', updated = ? WHERE id IN
                    (SELECT id FROM job WHERE drop_name = ? AND state = ? LIMIT ?)
                """,
                (State.GONE.name, now, drop, state.name, AT_ONCE),
            )
            return changed.rowcount

    def keep_only(self, roots: Mapping[str, bytes], *, spare: str, now: float) -> None:
        """End what is known of files that lie in none of these drop folders, or in another one.

        The configuration may have changed since: a folder that has another path or name now, or
        that is no longer there. A file is dealt with by the rules of the folder it lies in, so
        one that lies in another one than its job says is met again, there, as new work.

        Args:
            roots: the drop folders by name.
            spare: how the names of folders begin that are somebody else's.
            now: seconds since the epoch.
        """
        lies_where_it_should, values = "0", list[object]()
        for name, root in roots.items():
            below = os.path.join(root, b"")
            lies_where_it_should += " OR (drop_name = ? AND substr(path, 1, ?) = ?"
            values += [name, len(below), below]
            for other in roots.values():
                if other != root and other.startswith(below):  # a drop folder within this one
                    inner = os.path.join(other, b"")
                    lies_where_it_should += " AND substr(path, 1, ?) <> ?"
                    values += [len(inner), inner]
            lies_where_it_should += ")"
        states = json.dumps([state.name for state in LIVE])
        with self.writing() as connection:
            connection.execute(
                f"""
                UPDATE job SET state = ?, path = NULL, claim = '', updated = ?
                WHERE drop_name NOT GLOB ? AND state IN (SELECT value FROM json_each(?))
                  AND NOT ({lies_where_it_should})
                """,  # noqa: S608 - put together here, the values apart
                (State.GONE.name, now, spare + " *", states, *values),
            )

    def decide_anew(self, *, spare: str, now: float) -> None:
        """Have all that the rules decided on be looked at again; nobody may have it in hand.

        What they took out and is still there, because its folder keeps it, is new work, too.

        Args:
            spare: how the names of folders begin that are somebody else's.
            now: seconds since the epoch.
        """
        with self.writing() as connection:
            # As in `forget`: that a folder was asked about once more is no part of a journey.
            for old, new in ((State.READY, State.SEEN), (State.IGNORED, State.GONE)):
                connection.execute(
                    "UPDATE job SET state = ?, not_before = 0, updated = ? "
                    "WHERE state = ? AND drop_name NOT GLOB ?",
                    (new.name, now, old.name, spare + " *"),
                )

    def hurry(self, now: float) -> None:
        """Have all that waits for a later time be due now."""
        with self.writing() as connection:
            # What waits for the rest of its study waits anew.
            connection.execute(
                "UPDATE job SET not_before = ? + "
                "CASE WHEN state = 'READY' AND study_order >= ? "
                "THEN max(0, not_before - updated) ELSE 0 END "
                "WHERE state IN ('SEEN', 'READY', 'LEFT') AND not_before BETWEEN ? AND ?",
                (now, GATHER, now, NEVER / 2),
            )
        self.ready_bell.ring()

    def _move(
        self, job: Job, state: State, now: float, *, durable: bool = False, **columns: object
    ) -> None:
        """Change a job's state, checked against the table and against other writers."""
        with self.writing(durable=durable) as connection:
            self._change(connection, job, state, now, columns)
        if state is State.READY:
            self.ready_bell.ring()

    def _change(
        self,
        connection: sqlite3.Connection,
        job: Job,
        state: State,
        now: float,
        columns: dict[str, object],
    ) -> None:
        check_transition(job.state, state)
        columns |= {"state": state.name, "updated": now}
        assignments = ", ".join(f"{name} = ?" for name in columns)
        changed = connection.execute(
            f"UPDATE job SET {assignments} WHERE id = ? AND state = ? AND drop_name = ?",  # noqa: S608
            (*columns.values(), job.id, job.state.name, job.drop),
        )
        if changed.rowcount != 1:
            raise Overtaken(f"job {job.id} is no longer {job.state.name}")
        _record(connection, job.id, now)

    # -- what status shows --------------------------------------------------------------------

    def tallies(self) -> list[Tally]:
        """Counts of the jobs as they are now, by drop folder, state and reason."""
        rows = self.rows(
            "SELECT drop_name, state, reason, count(*) FROM job GROUP BY 1, 2, 3 ORDER BY 1, 2"
        )
        return [_tally(row) for row in rows]

    def ends_since(self, since: float) -> list[Tally]:
        """Counts of the journeys that ended since then, by drop folder, state and reason."""
        ends = json.dumps([state.name for state in State if state not in LIVE] + ["LEFT"])
        rows = self.rows(
            """
            SELECT drop_name, state, reason, count(*) FROM event
            WHERE at >= ? AND state IN (SELECT value FROM json_each(?)) GROUP BY 1, 2, 3
            """,
            (since, ends),
        )
        return [_tally(row) for row in rows]

    def ruled_since(self, since: float) -> dict[str, int]:
        """How many files each rule has taken out of drop folders since then, by its name."""
        rows = self.rows(
            "SELECT detail, count(*) FROM event WHERE at >= ? AND state = 'IGNORED' "
            "AND drop_name NOT GLOB ? GROUP BY 1 ORDER BY 1",
            (since, BY_HAND + " *"),
        )
        return {str(rule): number(count) for rule, count in rows}

    def stuck(self, drops: Sequence[str], limit: int) -> list[Job]:
        """Jobs that wait for a reason, the oldest first."""
        rows = self.rows(
            f"""
            SELECT {COLUMNS} FROM job
            WHERE drop_name IN (SELECT value FROM json_each(?)) AND path IS NOT NULL
              AND state IN (SELECT value FROM json_each(?)) AND reason IS NOT NULL
            ORDER BY id LIMIT ?
            """,  # noqa: S608 - our own columns
            (json.dumps(list(drops)), json.dumps([state.name for state in LIVE]), limit),
        )
        return [job_of(row) for row in rows]

    def history(self, job_id: int) -> list[tuple[float, State, Reason | None, str]]:
        """All transitions of a job, in order."""
        rows = self.rows(
            "SELECT at, state, reason, detail FROM event WHERE job = ? ORDER BY rowid", (job_id,)
        )
        return [
            (float(str(at)), State[str(state)], reason_of(reason), str(detail))
            for at, state, reason, detail in rows
        ]


def _tally(row: Sequence[object]) -> Tally:
    drop, state, reason, count = row
    return Tally(
        drop=str(drop), state=State[str(state)], reason=reason_of(reason), count=number(count)
    )


def _record(connection: sqlite3.Connection, job_id: int, now: float) -> None:
    """Note where a job is now."""
    connection.execute(
        """
        INSERT INTO event
        SELECT ?, id, drop_name, state, reason, detail, sop_uid, study_uid, importer
        FROM job WHERE id = ?
        """,
        (now, job_id),
    )
