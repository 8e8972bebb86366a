"""Decides whether a file is complete: a pure function of what was seen, and the time.

Neither signal is enough alone. Writers open and close a file several times, so a close is no
end; and a dose report that lost its tail still parses, so a still file is no whole one. A file
is complete when its object ends exactly at its end AND nobody has it open for writing (a read
lease could be had), or, where that can't be told, it has been still for the quiet time.
"""

from dataclasses import dataclass
from enum import Enum

from ingest.errors import Reason
from ingest.model import Snapshot, Structure


class Verdict(Enum):
    """What to do with a file now."""

    COMPLETE = "complete"
    WAIT = "wait"
    HOPELESS = "hopeless"  # more bytes can't cure it, or none have come for too long


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for what."""

    quiet_s: float
    incomplete_after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The verdict on one look."""

    verdict: Verdict
    reason: Reason | None = None
    detail: str = ""
    again_in_s: float = 0.0  # when to look again, for WAIT


def settle(
    snapshot: Snapshot,
    structure: Structure,
    *,
    has_writer: bool | None,
    now_ns: int,
    known_s: float,
    patience: Patience,
) -> Settled:
    """Judge one look at a file.

    Args:
        snapshot: what the file was when it was looked at.
        structure: what the walk over its lengths found.
        has_writer: whether somebody has it open for writing; None where that can't be told.
        now_ns: the time by our clock (ns since the epoch).
        known_s: for how long we have known the file as it is.
        patience: the waiting times.
    """
    still_s = _still_s(snapshot, now_ns, known_s)
    rest_s = max(0.0, patience.quiet_s - still_s)
    if has_writer:
        return _wait(structure, max(rest_s, patience.quiet_s / 2))
    if structure.is_complete:
        if has_writer is None and rest_s > 0:
            return _wait(structure, rest_s)
        return Settled(verdict=Verdict.COMPLETE)
    if rest_s > 0:
        return _wait(structure, rest_s)
    if structure.can_improve and still_s < patience.incomplete_after_s:
        return _wait(structure, min(max(still_s, 1.0), patience.incomplete_after_s - still_s))
    return Settled(
        verdict=Verdict.HOPELESS,
        reason=structure.problem or Reason.MALFORMED,
        detail=structure.detail,
    )


def _still_s(snapshot: Snapshot, now_ns: int, known_s: float) -> float:
    """For how long the file has been still.

    A modification time from the future was set by someone (a copy that keeps the time stamps
    of a machine whose clock is wrong): the kernel's own ctime tells when. Where both are from
    the future (a server's clock is ahead of ours), it is as long as we have known it so.
    """
    past = [ns for ns in (snapshot.mtime_ns, snapshot.ctime_ns) if ns <= now_ns]
    return (now_ns - max(past)) / 1e9 if past else max(0.0, known_s)


def _wait(structure: Structure, again_in_s: float) -> Settled:
    return Settled(
        verdict=Verdict.WAIT,
        reason=None if structure.is_complete else Reason.INCOMPLETE,
        detail=structure.detail,
        again_in_s=again_in_s,
    )
