"""`ingest.gather`, and what the ledger tells it: a study's turn comes when all of it is here."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import Reason
from ingest.gather import next_study
from ingest.ledger import NEVER, Ledger
from ingest.model import Importer, Job, State, StudyPart
from tests.strategies import a_header, a_snapshot

NOW = 1000.0
QUIET_S = 600.0
PART = StudyPart(study_uid="1.1", drop="ct", order="20240101", unsettled=0, quiet_at=NOW)

parts = st.builds(
    StudyPart,
    study_uid=st.sampled_from(("1.1", "1.2", "1.3")),
    drop=st.sampled_from(("ct", "other")),
    order=st.sampled_from(("20240101", "20240102")),
    unsettled=st.integers(0, 2),
    quiet_at=st.sampled_from((NOW - 1, NOW, NOW + 1)),
)


@given(found=st.lists(parts, max_size=6), served=st.sets(st.sampled_from(("ct", "other"))))
def test_the_oldest_study_of_which_nothing_is_missing_has_its_turn(
    found: list[StudyPart], served: set[str]
) -> None:
    def is_ready(uid: str) -> bool:
        return all(
            not part.unsettled and part.quiet_at <= NOW and part.drop in served
            for part in found
            if part.study_uid == uid
        )

    ready = {part.study_uid for part in found if is_ready(part.study_uid)}
    orders = {uid: min(one.order for one in found if one.study_uid == uid) for uid in ready}

    chosen = next_study(found, served, NOW)

    assert (chosen is None) == (not ready)
    if chosen is not None:
        assert orders[chosen] == min(orders.values())


@pytest.mark.parametrize(
    "more",
    [
        replace(PART, drop="other", unsettled=1),
        replace(PART, drop="other", quiet_at=NOW + 1),
        replace(PART, drop="away"),
    ],
    ids=["one is not complete", "one has just come", "one is in a folder that is away"],
)
def test_a_study_waits_for_its_images_in_other_folders(more: StudyPart) -> None:
    assert next_study([PART], {"ct", "other"}, NOW) == "1.1"
    assert next_study([PART, more], {"ct", "other"}, NOW) is None


# -- what the ledger knows -------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as opened:
        yield opened


def seen(ledger: Ledger, number: int, drop: str = "ct") -> Job:
    """A file that was just met."""
    path = os.fsencode(f"/{drop}/{number}.dcm")
    return ledger.see(drop=drop, path=path, snapshot=a_snapshot(inode=number), now=NOW)


def ready(
    ledger: Ledger, number: int, study: str = "1.1", drop: str = "ct", now: float = NOW
) -> Job:
    """A complete image of a study."""
    job = seen(ledger, number, drop)
    ledger.ready(
        job,
        header=a_header(study_uid=study, sop_instance_uid=f"1.2.{number}", modality="CT"),
        importer=Importer.CTTOSHIBA,
        order="20240101",
        now=now,
        gather_s=QUIET_S,
    )
    return ledger.get(job.id)


def turn(ledger: Ledger, by: float, *drops: str) -> str | None:
    """Whose turn it is then."""
    served = drops or ("ct", "other")
    return next_study(ledger.gathering(["ct", "other"]), served, by)


def test_an_image_has_no_turn_of_its_own(ledger: Ledger) -> None:
    """However long it waits; and files that come alone pass it."""
    ready(ledger, 1)
    alone = seen(ledger, 2)
    header = a_header(study_uid="1.9", study_date="20250101")
    ledger.ready(alone, header=header, importer=Importer.DX, order="2025", now=NOW)

    first = ledger.next_ready(["ct"], (), NOW + 10 * QUIET_S)

    assert first is not None
    assert first.id == alone.id
    assert ledger.next_ready(["ct"], ["1.9"], NOW + 10 * QUIET_S) is None
    ledger.claimed(ledger.get(alone.id), "c", NOW)
    assert not ledger.is_due(["ct"], State.READY, NOW + 10 * QUIET_S)


def test_a_study_is_quiet_when_its_last_image_has_waited(ledger: Ledger) -> None:
    ready(ledger, 1)
    ready(ledger, 2, drop="other", now=NOW + 100)

    assert turn(ledger, NOW + QUIET_S) is None
    assert turn(ledger, NOW + QUIET_S + 100) == "1.1"
    assert turn(ledger, NOW + QUIET_S + 100, "ct") is None
    assert [job.drop for job in ledger.images_of("1.1", ["ct", "other"])] == ["ct", "other"]


def test_a_study_waits_for_an_image_that_is_looked_at_again(ledger: Ledger) -> None:
    """A crash, or a change of the rules, has it looked at again: its study is known."""
    ready(ledger, 1)
    again = ready(ledger, 2)
    ledger.see(drop="ct", path=again.path, snapshot=again.snapshot, now=NOW)

    assert turn(ledger, NOW + 10 * QUIET_S) is None


def test_a_study_waits_for_an_image_that_is_in_a_hand(ledger: Ledger) -> None:
    ready(ledger, 1)
    other = ready(ledger, 2)
    ledger.claimed(other, "c", NOW)
    assert turn(ledger, NOW + 10 * QUIET_S) is None
    ledger.proven(ledger.get(other.id), "", NOW)
    assert turn(ledger, NOW + 10 * QUIET_S) is None
    ledger.end(ledger.get(other.id), State.DONE, NOW)
    assert turn(ledger, NOW + 10 * QUIET_S) == "1.1"


def test_a_study_waits_for_an_image_that_can_not_be_moved_for_now(ledger: Ledger) -> None:
    """But not for one that was refused and stays where it is."""
    ready(ledger, 1)
    other = ready(ledger, 2)
    ledger.left(other, Reason.CANNOT_MOVE, "", NOW, not_before=NOW + 60)
    assert turn(ledger, NOW + 10 * QUIET_S) is None
    ledger.left(ledger.get(other.id), Reason.LATE_IMAGE, "", NOW, not_before=NEVER)
    assert turn(ledger, NOW + 10 * QUIET_S) == "1.1"


def test_of_a_study_all_are_claimed_or_none(ledger: Ledger) -> None:
    one, other = ready(ledger, 1), ready(ledger, 2)
    ledger.see(drop="ct", path=other.path, snapshot=other.snapshot, now=NOW)

    with pytest.raises(Exception, match="no longer READY"):
        ledger.claimed_together({"a": one, "b": other}, NOW)
    assert ledger.get(one.id).state is State.READY

    ledger.claimed_together({"a": one}, NOW)
    assert (ledger.get(one.id).state, ledger.get(one.id).claim) == (State.CLAIMED, "a")


def test_a_clock_that_was_ahead_makes_no_study_quiet(ledger: Ledger) -> None:
    """Nor has it wait for ever."""
    ready(ledger, 1, now=NOW + 1e6)

    ledger.hurry(NOW)

    assert turn(ledger, NOW + QUIET_S - 1) is None
    assert turn(ledger, NOW + QUIET_S) == "1.1"
