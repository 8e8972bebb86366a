"""`ingest.policy`: what a failure leads to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import Kind, Reason
from ingest.policy import (
    FATAL_DEATHS,
    JITTER,
    UNKNOWN_ATTEMPTS,
    Again,
    GiveUp,
    RetryPolicy,
    StopIntake,
    after_failure,
    delay_s,
)

POLICY = RetryPolicy(attempts=8, initial_s=5.0, maximum_s=900.0)

policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 50),
    initial_s=st.floats(0.01, 1e4),
    maximum_s=st.floats(0.01, 1e6),
)
# Wait for a person, or for studies, so that no number of attempts is too large.
FOR_A_PERSON = (Reason.DUPLICATE_SCANNER, Reason.TOOLS_MISSING)
PATIENT = (*FOR_A_PERSON, Reason.UNMATCHED_ROWS)
countable = st.sampled_from([reason for reason in Reason if reason not in PATIENT])


def of_kind(*kinds: Kind) -> list[Reason]:
    return [reason for reason in Reason if reason.kind in kinds]


@given(reasons=st.lists(countable, min_size=60, max_size=60), policy=policies)
def test_no_file_is_tried_for_ever(reasons: list[Reason], policy: RetryPolicy) -> None:
    attempts = deaths = 0
    for reason in reasons:
        step = after_failure(reason, attempts=attempts, deaths=deaths, policy=policy)
        match step:
            case Again():
                assert step.attempts == attempts + 1 < policy.attempts
                assert step.deaths < FATAL_DEATHS
                attempts, deaths = step.attempts, step.deaths
            case GiveUp():
                assert step.attempts == attempts + 1 <= policy.attempts
                return
            case StopIntake():
                assert reason.kind is Kind.OUTAGE
    assert all(reason.kind is Kind.OUTAGE for reason in reasons[policy.attempts :])


@given(
    reason=st.sampled_from(of_kind(Kind.OUTAGE)),
    attempts=st.integers(0, 1000),
    deaths=st.integers(0, 1000),
    policy=policies,
)
def test_an_outage_is_never_a_files_fault(
    reason: Reason, attempts: int, deaths: int, policy: RetryPolicy
) -> None:
    step = after_failure(reason, attempts=attempts, deaths=deaths, policy=policy)

    assert step == StopIntake()


@pytest.mark.parametrize("reason", of_kind(Kind.PERMANENT), ids=lambda reason: reason.code)
def test_what_can_never_succeed_is_not_tried_again(reason: Reason) -> None:
    assert after_failure(reason, attempts=0, deaths=0, policy=POLICY) == GiveUp(attempts=1)


@pytest.mark.parametrize(
    ("reason", "limit"),
    [
        (Reason.BUSY, POLICY.attempts),
        (Reason.DATABASE_HICCUP, POLICY.attempts),
        (Reason.IMPORT_FAILED, UNKNOWN_ATTEMPTS),
        (Reason.NOT_HELD, UNKNOWN_ATTEMPTS),
    ],
)
def test_the_last_attempt_is_the_last(reason: Reason, limit: int) -> None:
    before = after_failure(reason, attempts=limit - 2, deaths=0, policy=POLICY)
    last = after_failure(reason, attempts=limit - 1, deaths=0, policy=POLICY)

    assert isinstance(before, Again)
    assert last == GiveUp(attempts=limit)


def test_the_user_may_want_fewer_attempts_than_we_would_give_to_the_unknown() -> None:
    one = RetryPolicy(attempts=1, initial_s=1, maximum_s=1)

    assert after_failure(Reason.IMPORT_FAILED, attempts=0, deaths=0, policy=one) == GiveUp(
        attempts=1
    )


@pytest.mark.parametrize("first", [Reason.WORKER_DIED, Reason.OUT_OF_MEMORY])
@pytest.mark.parametrize("second", [Reason.WORKER_DIED, Reason.OUT_OF_MEMORY])
def test_an_object_that_ends_its_worker_twice_is_never_given_a_third(
    first: Reason, second: Reason
) -> None:
    once = after_failure(first, attempts=0, deaths=0, policy=POLICY)
    assert isinstance(once, Again)
    assert once.deaths == 1

    again = after_failure(second, attempts=once.attempts, deaths=once.deaths, policy=POLICY)
    assert again == GiveUp(attempts=2)


def test_only_a_death_counts_as_one() -> None:
    step = after_failure(Reason.IMPORT_FAILED, attempts=0, deaths=1, policy=POLICY)

    assert isinstance(step, Again)
    assert step.deaths == 1


@pytest.mark.parametrize("reason", FOR_A_PERSON)
def test_what_needs_a_person_waits_for_one(reason: Reason) -> None:
    for attempts in (0, 7, 1000):
        assert after_failure(reason, attempts=attempts, deaths=1, policy=POLICY) == Again(
            delay_s=POLICY.maximum_s, attempts=attempts, deaths=1
        )


def test_rows_wait_for_their_studies_until_it_is_too_late() -> None:
    def after(reason: Reason, attempts: int, *, is_overdue: bool) -> object:
        return after_failure(
            reason, attempts=attempts, deaths=1, policy=POLICY, is_overdue=is_overdue
        )

    for attempts in (0, 7, 1000):
        waits = after(Reason.UNMATCHED_ROWS, attempts, is_overdue=False)
        assert waits == Again(delay_s=POLICY.maximum_s, attempts=attempts, deaths=1)
        ends = after(Reason.UNMATCHED_ROWS, attempts, is_overdue=True)
        assert ends == GiveUp(attempts=attempts)
    assert isinstance(after(Reason.BUSY, 0, is_overdue=True), Again)


@given(attempts=st.integers(1, 100_000), policy=policies)
def test_a_delay_has_a_floor_and_a_ceiling(attempts: int, policy: RetryPolicy) -> None:
    delay = delay_s(attempts, policy)

    assert delay >= min(policy.initial_s, policy.maximum_s)
    assert delay <= policy.maximum_s + policy.initial_s * JITTER


def test_a_delay_doubles() -> None:
    jitter_s = POLICY.initial_s * JITTER
    for attempts, least in [(1, 5), (2, 10), (3, 20), (4, 40), (9, 900)]:
        assert least <= delay_s(attempts, POLICY) <= least + jitter_s


def test_files_that_failed_together_do_not_come_back_together() -> None:
    assert len({delay_s(1, POLICY) for _ in range(20)}) > 1
