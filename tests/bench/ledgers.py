"""Reads the ledger of a running service."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """When a file came to a state (seconds since the epoch)."""

    sop_uid: str
    state: str
    at: float


def in_state(state_dir: Path, state: str) -> int:
    """How many files are in this state."""
    (row,) = _ask(state_dir, "SELECT count(*) FROM job WHERE state = ?", state)
    return int(row[0])


def steps(state_dir: Path) -> list[Step]:
    """All that is recorded of objects, in order."""
    sql = "SELECT sop_uid, state, at FROM event WHERE sop_uid IS NOT NULL ORDER BY rowid"
    return [Step(sop_uid=uid, state=state, at=at) for uid, state, at in _ask(state_dir, sql)]


def _ask(state_dir: Path, sql: str, *values: str) -> list[tuple[str, str, float]]:
    with closing(sqlite3.connect(state_dir / "ledger.sqlite")) as connection:
        return connection.execute(sql, values).fetchall()
