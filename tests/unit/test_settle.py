"""`ingest.settle`: when a file counts as complete, waits, or is given up."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import Reason
from ingest.model import Snapshot, Structure
from ingest.settle import Patience, Settled, Verdict, settle
from tests.strategies import a_snapshot, snapshots, structures, times_ns

NOW_NS = 10**18
SECOND = 10**9
PATIENCE = Patience(quiet_s=2.0, incomplete_after_s=3600.0)
WHOLE = Structure(is_dicom=True, is_complete=True)
CUT = Structure(
    is_dicom=True, is_complete=False, problem=Reason.TRUNCATED, detail="cut", can_improve=True
)
STRAY = Structure(
    is_dicom=False, is_complete=False, problem=Reason.NOT_DICOM, detail="", can_improve=False
)

seconds = st.floats(min_value=1e-3, max_value=1e6)
patiences = st.builds(Patience, quiet_s=seconds, incomplete_after_s=seconds)


def settled(
    structure: Structure, *, still_s: float, has_writer: bool | None = None, ahead_s: float = 0
) -> Settled:
    """The verdict on a file that has been still for so long."""
    changed_ns = NOW_NS - round(still_s * SECOND)
    return settle(
        a_snapshot(mtime_ns=changed_ns + round(ahead_s * SECOND), ctime_ns=changed_ns),
        structure,
        has_writer=has_writer,
        now_ns=NOW_NS,
        known_s=0.0,
        patience=PATIENCE,
    )


@given(
    snapshot=snapshots,
    structure=structures,
    has_writer=st.none() | st.booleans(),
    now_ns=times_ns,
    known_s=st.floats(min_value=-1e6, max_value=1e6),
    patience=patiences,
)
def test_whatever_the_times_are(
    snapshot: Snapshot,
    structure: Structure,
    has_writer: bool | None,
    now_ns: int,
    known_s: float,
    patience: Patience,
) -> None:
    """Complete only what is whole and unwritten; a wait ends; nothing recent is given up."""
    result = settle(
        snapshot,
        structure,
        has_writer=has_writer,
        now_ns=now_ns,
        known_s=known_s,
        patience=patience,
    )

    match result.verdict:
        case Verdict.COMPLETE:
            assert structure.is_complete
            assert not has_writer
            assert result == Settled(verdict=Verdict.COMPLETE)
        case Verdict.WAIT:
            assert result.again_in_s > 0
            assert math.isfinite(result.again_in_s)
            assert (result.reason is None) == structure.is_complete
        case Verdict.HOPELESS:
            assert not structure.is_complete
            assert not has_writer
            assert result.reason is not None
            stamps = [ns for ns in (snapshot.mtime_ns, snapshot.ctime_ns) if ns <= now_ns]
            still_s = (now_ns - max(stamps)) / SECOND if stamps else known_s
            assert still_s >= patience.quiet_s


@given(snapshot=snapshots, structure=structures, now_ns=times_ns, patience=patiences)
def test_a_file_with_a_writer_always_waits(
    snapshot: Snapshot, structure: Structure, now_ns: int, patience: Patience
) -> None:
    result = settle(
        snapshot, structure, has_writer=True, now_ns=now_ns, known_s=1e9, patience=patience
    )

    assert result.verdict is Verdict.WAIT


def test_a_whole_file_without_a_writer_is_complete_at_once() -> None:
    assert settled(WHOLE, still_s=0, has_writer=False).verdict is Verdict.COMPLETE


@pytest.mark.parametrize(
    ("still_s", "verdict"),
    [(0, Verdict.WAIT), (1.9, Verdict.WAIT), (2.0, Verdict.COMPLETE), (9e5, Verdict.COMPLETE)],
)
def test_where_a_writer_cant_be_seen_the_quiet_time_decides(
    still_s: float, verdict: Verdict
) -> None:
    assert settled(WHOLE, still_s=still_s).verdict is verdict


def test_the_rest_of_the_quiet_time_is_waited() -> None:
    assert settled(WHOLE, still_s=0.5).again_in_s == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("still_s", "verdict"),
    [(0, Verdict.WAIT), (3599, Verdict.WAIT), (3600, Verdict.HOPELESS)],
)
def test_a_cut_file_is_given_up_when_it_has_not_grown_for_too_long(
    still_s: float, verdict: Verdict
) -> None:
    result = settled(CUT, still_s=still_s, has_writer=False)

    assert result.verdict is verdict
    assert result.reason is (Reason.INCOMPLETE if verdict is Verdict.WAIT else Reason.TRUNCATED)
    assert result.detail == "cut"


def test_a_cut_file_is_looked_at_ever_less_often_but_not_beyond_the_limit() -> None:
    waits = [settled(CUT, still_s=still_s).again_in_s for still_s in (3, 30, 300, 3000, 3599)]

    assert waits == pytest.approx([3, 30, 300, 600, 1])


@pytest.mark.parametrize(("still_s", "verdict"), [(1, Verdict.WAIT), (2, Verdict.HOPELESS)])
def test_what_more_bytes_cannot_cure_has_only_the_quiet_time(
    still_s: float, verdict: Verdict
) -> None:
    result = settled(STRAY, still_s=still_s, has_writer=False)

    assert result.verdict is verdict
    assert result.reason is (Reason.INCOMPLETE if verdict is Verdict.WAIT else Reason.NOT_DICOM)


def test_a_problem_without_a_name_is_called_malformed() -> None:
    nameless = replace(STRAY, problem=None)

    assert settled(nameless, still_s=9).reason is Reason.MALFORMED


def test_a_server_whose_clock_is_ahead_delays_its_files_and_no_more() -> None:
    """Both time stamps are the server's: the file counts as changed just now."""
    result = settled(WHOLE, still_s=-3600)

    assert result.verdict is Verdict.WAIT
    assert result.again_in_s == PATIENCE.quiet_s


def test_a_modification_time_from_the_future_holds_nothing_up() -> None:
    """A copy keeps the time stamps of a machine with a wrong clock; the ctime is ours."""
    tomorrow = 86_400

    assert settled(WHOLE, still_s=5, ahead_s=tomorrow).verdict is Verdict.COMPLETE
    assert settled(WHOLE, still_s=1, ahead_s=tomorrow).again_in_s == pytest.approx(1)
    assert settled(STRAY, still_s=5, ahead_s=tomorrow).verdict is Verdict.HOPELESS


def test_an_old_modification_time_does_not_shorten_the_quiet_time() -> None:
    """A copy that keeps time stamps (cp -p, a robot's rsync) may still be growing."""
    snapshot = a_snapshot(mtime_ns=1, ctime_ns=NOW_NS)

    result = settle(snapshot, WHOLE, has_writer=None, now_ns=NOW_NS, known_s=9e9, patience=PATIENCE)

    assert result.verdict is Verdict.WAIT


@pytest.mark.parametrize(
    ("known_s", "verdict"), [(0.0, Verdict.WAIT), (1.9, Verdict.WAIT), (2.0, Verdict.COMPLETE)]
)
def test_a_server_whose_clock_is_ahead_holds_nothing_up(known_s: float, verdict: Verdict) -> None:
    """Both times are from the future: it is still for as long as we have known it so."""
    snapshot = a_snapshot(mtime_ns=NOW_NS + 10**15, ctime_ns=NOW_NS + 10**15)

    result = settle(
        snapshot, WHOLE, has_writer=None, now_ns=NOW_NS, known_s=known_s, patience=PATIENCE
    )

    assert result.verdict is verdict
