"""Decides what a failure leads to: another attempt and when, quarantine, or a stop of the intake.

A pure function of the failure and of what the job has behind it.
"""

from dataclasses import dataclass
from typing import assert_never

from tenacity import RetryCallState, wait_exponential, wait_random

from ingest.errors import Kind, Reason

UNKNOWN_ATTEMPTS = 3  # what we don't understand is not worth more
FATAL_DEATHS = 2  # an object that killed its worker twice is never given a third
_DEATHS = frozenset({Reason.WORKER_DIED, Reason.OUT_OF_MEMORY})  # a worker's end, each of them
# For a person to merge the two rows or to install a program, for studies to come; no number of
# attempts helps.
_WAITING = frozenset({Reason.DUPLICATE_SCANNER, Reason.TOOLS_MISSING, Reason.UNMATCHED_ROWS})
JITTER = 0.25  # of the first delay, so that files that failed together don't come back together


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The user's `[retry]`."""

    attempts: int
    initial_s: float
    maximum_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Another attempt after a delay."""

    delay_s: float
    attempts: int
    deaths: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Quarantine."""

    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopIntake:
    """OpenREM's fault, not the file's: it goes back, no attempt spent, and the intake stops."""


Step = Again | GiveUp | StopIntake


def after_failure(
    reason: Reason, *, attempts: int, deaths: int, policy: RetryPolicy, is_overdue: bool = False
) -> Step:
    """What comes next for a file whose import failed.

    Args:
        reason: why it failed.
        attempts: failed attempts before this one.
        deaths: deaths of OpenREM's process on this file, before this attempt.
        policy: the user's settings.
        is_overdue: it has waited for studies for as long as the user wants it to.
    """
    if reason is Reason.UNMATCHED_ROWS and is_overdue:
        return GiveUp(attempts=attempts)
    if reason in _WAITING:
        return Again(delay_s=policy.maximum_s, attempts=attempts, deaths=deaths)
    attempts += 1
    deaths += reason in _DEATHS
    match reason.kind:
        case Kind.OUTAGE:
            return StopIntake()
        case Kind.PERMANENT:
            return GiveUp(attempts=attempts)
        case Kind.TRANSIENT:
            limit = policy.attempts
        case Kind.UNKNOWN:
            limit = min(policy.attempts, UNKNOWN_ATTEMPTS)
        case kind:
            assert_never(kind)
    if attempts >= limit or deaths >= FATAL_DEATHS:
        return GiveUp(attempts=attempts)
    return Again(delay_s=delay_s(attempts, policy), attempts=attempts, deaths=deaths)


def delay_s(attempts: int, policy: RetryPolicy) -> float:
    """How long to wait after the n-th failed attempt: exponential, with jitter and a ceiling."""
    wait = wait_exponential(multiplier=policy.initial_s, max=policy.maximum_s) + wait_random(
        0, policy.initial_s * JITTER
    )
    call = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    call.attempt_number = attempts
    return wait(call)
