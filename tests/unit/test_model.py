"""`ingest.model`: the table of states, and what makes two looks at a file the same."""

import os
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given

from ingest.model import (
    IN_HAND,
    LIVE,
    TRANSITIONS,
    IllegalTransition,
    Snapshot,
    State,
    check_transition,
)
from tests.strategies import a_snapshot, snapshots

LEFT_QUARANTINE = frozenset({State.RETURNED, State.DISCARDED})
ENDS = frozenset({State.DONE, State.IGNORED, State.QUARANTINED, State.GONE}) | LEFT_QUARANTINE


@pytest.mark.parametrize(("old", "new"), list(product(State, State)), ids=lambda state: state.name)
def test_a_pair_of_states_is_in_the_table_or_raises(old: State, new: State) -> None:
    if new in TRANSITIONS[old]:
        check_transition(old, new)
    else:
        with pytest.raises(IllegalTransition, match=rf"{old.name} can't become {new.name}"):
            check_transition(old, new)


def test_the_table_knows_every_state() -> None:
    assert TRANSITIONS.keys() == set(State)


def test_from_its_end_a_journey_can_only_begin_anew() -> None:
    assert set(State) - LIVE == ENDS
    for state in ENDS:
        by_hand = LEFT_QUARANTINE if state is State.QUARANTINED else frozenset()
        assert TRANSITIONS[state] == {State.SEEN} | by_hand


def test_whatever_happened_a_file_may_come_again() -> None:
    assert all(State.SEEN in followers for followers in TRANSITIONS.values())


def test_only_a_proof_leads_to_done_and_only_a_claim_to_a_proof() -> None:
    def leading_to(state: State) -> set[State]:
        return {old for old, followers in TRANSITIONS.items() if state in followers}

    assert leading_to(State.DONE) == {State.PROVEN}
    assert leading_to(State.PROVEN) == {State.CLAIMED}
    assert leading_to(State.CLAIMED) == {State.READY}
    assert leading_to(State.QUARANTINED) == {State.REJECTED}
    for state in LEFT_QUARANTINE:
        assert leading_to(state) == {State.QUARANTINED}


def test_what_is_in_hand_is_live() -> None:
    assert IN_HAND < LIVE


def test_every_state_says_something_else() -> None:
    assert len(State.__members__) == len({state.value for state in State})


@given(snapshot=snapshots)
def test_only_the_ctime_is_no_part_of_a_versions_identity(snapshot: Snapshot) -> None:
    """Our own renames and links move it."""
    same = a_snapshot(
        device=snapshot.device,
        inode=snapshot.inode,
        size=snapshot.size,
        mtime_ns=snapshot.mtime_ns,
        ctime_ns=snapshot.ctime_ns + 1,
    )
    assert same == snapshot


@pytest.mark.parametrize("field", ["device", "inode", "size", "mtime_ns"])
def test_another_inode_size_or_time_is_another_version(field: str) -> None:
    plain = a_snapshot()

    assert a_snapshot(**{field: getattr(plain, field) + 1}) != plain


def test_a_snapshot_is_what_the_file_system_says(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    status = os.lstat(tmp_path / "file")

    snapshot = Snapshot.of(status)

    assert (snapshot.device, snapshot.inode) == (status.st_dev, status.st_ino)
    assert snapshot.size == 5
    assert snapshot.changed_ns == max(status.st_mtime_ns, status.st_ctime_ns)
