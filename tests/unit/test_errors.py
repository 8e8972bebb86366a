"""`ingest.errors`: every reason speaks, and each error knows its reason."""

import re

import pytest

from ingest import errors
from ingest.errors import (
    Changed,
    FileProblem,
    IngestError,
    Kind,
    OpenRemUnreachable,
    Reason,
)


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.code)
def test_a_reason_says_why_and_what_to_do_next(reason: Reason) -> None:
    """They follow the file's name and the word Next, so they begin small and have no full stop."""
    for words in (reason.why, reason.next_step):
        assert words == words.strip()
        assert "\n" not in words
        assert not words.endswith(".")
        assert words[0].islower() or words.startswith(("OpenREM", "DICOM"))
    assert reason.sentence() == f"{reason.why}. Next: {reason.next_step}."
    assert reason.sentence("odd") == f"{reason.why} (odd). Next: {reason.next_step}."


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.code)
def test_a_code_is_stable_and_leads_back_to_its_reason(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", reason.code)
    assert Reason.from_code(reason.code) is reason


def test_no_two_reasons_are_one() -> None:
    """Python makes members with equal values aliases of each other, silently."""
    assert len(Reason.__members__) == len(list(Reason))
    assert len({reason.why for reason in Reason}) == len(list(Reason))


def test_an_unknown_code_has_no_reason() -> None:
    with pytest.raises(KeyError):
        Reason.from_code("no-such-reason")


def test_every_kind_of_failure_occurs() -> None:
    assert {reason.kind for reason in Reason} == set(Kind)


@pytest.mark.parametrize("error", [FileProblem, OpenRemUnreachable])
def test_an_error_carries_its_reason_and_is_one_line(
    error: type[FileProblem | OpenRemUnreachable],
) -> None:
    raised = error(Reason.BUSY, "for an hour")

    assert (raised.reason, raised.detail) == (Reason.BUSY, "for an hour")
    assert str(raised) == Reason.BUSY.sentence("for an hour")
    assert isinstance(raised, IngestError)


def test_a_changed_file_is_a_problem_of_that_file() -> None:
    assert Changed("it is gone").reason is Reason.CHANGED
    assert isinstance(Changed(), FileProblem)


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    drawn = re.findall(r"[─]+ (\w+)", errors.__doc__ or "")

    defined = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, IngestError) and value is not IngestError
    ]
    assert sorted(drawn) == sorted(defined)
