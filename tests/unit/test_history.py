"""`ingest.history`: what is asked is answered from what the ledger holds; what is old goes."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import Reason
from ingest.history import PAGE, Departure, History, Query
from ingest.ledger import Ledger
from ingest.ledger_file import _UPGRADES, digest
from ingest.ledger_notes import CONFIRMED_S
from ingest.model import LIVE, Importer, Job, Snapshot, State
from tests.strategies import a_header, a_snapshot, snapshots

NOW = 1_700_000_000.0
DAY_S = 86400.0


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger")) as opened:
        yield opened


@pytest.fixture
def history(ledger: Ledger) -> History:
    return History(ledger)


def seen(ledger: Ledger, path: bytes, *, now: float = NOW, drop: str = "sr") -> Job:
    return ledger.see(drop=drop, path=path, snapshot=a_snapshot(), now=now)


def imported(
    ledger: Ledger, path: bytes, sop: str, *, study: str = "1.2.3", now: float = NOW
) -> int:
    """A file that went all the way."""
    job = seen(ledger, path, now=now)
    header = a_header(sop_instance_uid=sop, study_uid=study)
    ledger.ready(job, header=header, importer=Importer.DX, order="", now=now)
    ledger.claimed(ledger.get(job.id), "claim", now)
    ledger.proven(ledger.get(job.id), "3 events stored", now)
    ledger.end(ledger.get(job.id), State.DONE, now)
    return job.id


def refused(ledger: Ledger, path: bytes, *, now: float = NOW) -> int:
    """A file that lies in quarantine."""
    job = seen(ledger, path, now=now)
    ledger.rejected(job, Reason.EMPTY, "0 bytes", now)
    ledger.end(ledger.get(job.id), State.QUARANTINED, now)
    return job.id


def states(history: History, **asked: object) -> list[State]:
    return [event.state for event in history.find(Query(**asked))]  # type: ignore[arg-type]


WHOLE_WAY = [State.SEEN, State.READY, State.CLAIMED, State.PROVEN, State.DONE]
REFUSED = [State.SEEN, State.REJECTED, State.QUARANTINED]


def departure(path: bytes = b"/drop/bad", state: State = State.DISCARDED) -> Departure:
    return Departure(
        trace=digest(path), drop="sr", state=state, by="by hand", snapshot=a_snapshot()
    )


# -- asking --------------------------------------------------------------------------------------


def test_an_objects_whole_way_is_told_and_no_others(ledger: Ledger, history: History) -> None:
    imported(ledger, b"/drop/a", "1.1")
    imported(ledger, b"/drop/b", "1.2")

    found = list(history.find(Query(sop_uid="1.1")))

    assert [event.state for event in found] == WHOLE_WAY
    assert {event.job for event in found} == {1}
    assert found[3].detail == "3 events stored"
    assert found[4].importer == "dx"


def test_what_came_later_under_the_same_name_is_another_object(
    ledger: Ledger, history: History
) -> None:
    for sop in ("1.1", "1.2", "1.1"):
        imported(ledger, b"/drop/image.dcm", sop)

    assert states(history, sop_uid="1.1") == WHOLE_WAY * 2
    assert states(history, sop_uid="1.2") == WHOLE_WAY
    assert states(history, traces=(digest(b"/drop/image.dcm"),)) == WHOLE_WAY * 3


def test_a_study_is_told_with_all_its_objects(ledger: Ledger, history: History) -> None:
    for number in range(3):
        imported(ledger, b"/drop/%d" % number, f"1.{number}")
    imported(ledger, b"/drop/other", "1.9", study="1.2.4")

    assert states(history, study_uid="1.2.3") == WHOLE_WAY * 3


def test_a_file_that_was_never_read_is_known_by_its_path(ledger: Ledger, history: History) -> None:
    refused(ledger, b"/drop/bad")

    found = list(history.find(Query(traces=(digest(b"/drop/bad"),))))

    assert [event.state for event in found] == REFUSED
    assert (found[1].reason, found[1].detail) == (Reason.EMPTY, "0 bytes")


def test_folder_and_time_narrow_the_answer(ledger: Ledger, history: History) -> None:
    for day in range(4):
        imported(ledger, b"/drop/%d" % day, f"1.{day}", now=NOW + day * DAY_S)
    seen(ledger, b"/other/a", drop="dx", now=NOW + DAY_S)

    assert len(states(history)) == 21
    assert states(history, since=NOW + 3 * DAY_S) == WHOLE_WAY
    assert states(history, until=NOW) == WHOLE_WAY
    assert states(history, since=NOW + DAY_S, until=NOW + DAY_S, drop="dx") == [State.SEEN]
    assert states(history, sop_uid="1.7") == []


def test_more_than_a_page_is_told_to_the_end(ledger: Ledger, history: History) -> None:
    for number in range(PAGE + 7):
        seen(ledger, b"/drop/%d" % number)

    assert len({event.job for event in history.find(Query())}) == PAGE + 7


def test_the_beginning_of_history_is_known(ledger: Ledger, history: History) -> None:
    assert history.begins() is None
    seen(ledger, b"/drop/a", now=NOW + 1)
    seen(ledger, b"/drop/b", now=NOW)

    assert history.begins() == NOW


@pytest.mark.parametrize("column", ["sop_uid", "study_uid", "job"])
def test_questions_are_answered_from_an_index(ledger: Ledger, column: str) -> None:
    plan = ledger.rows(
        f"EXPLAIN QUERY PLAN SELECT 1 FROM event WHERE {column} = ? AND rowid > 0", ("1",)
    )

    assert all("USING" in str(row[-1]) and "INDEX" in str(row[-1]) for row in plan)


# -- the quarantine ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.RETURNED, State.DISCARDED], ids=lambda state: state.name)
def test_a_departure_is_told_and_the_file_may_come_again(
    ledger: Ledger, history: History, state: State
) -> None:
    job = refused(ledger, b"/drop/bad")

    (intent,) = history.intend([departure(state=state)], NOW)

    assert (intent.job, intent.before) == (job, State.QUARANTINED)
    assert ledger.get(job).state is state
    found = list(history.find(Query(traces=(digest(b"/drop/bad"),))))
    assert [event.state for event in found] == [*REFUSED, state]
    assert found[-1].detail == "by hand"
    again = seen(ledger, b"/drop/bad")
    assert (again.id, again.attempts, again.reason) == (job, 0, None)


def test_a_departure_is_on_the_disk_when_it_returns(ledger: Ledger, history: History) -> None:
    asked: list[str] = []
    ledger._connection.set_trace_callback(asked.append)

    history.intend([departure()], NOW)

    assert "PRAGMA synchronous = FULL" in asked


def test_taken_back_nothing_is_left_of_it(ledger: Ledger, history: History) -> None:
    job = refused(ledger, b"/drop/bad")
    before = ledger.get(job)
    intents = history.intend([departure(), departure(b"/drop/unknown")], NOW)

    history.take_back(intents)

    assert ledger.get(job) == before
    assert states(history) == REFUSED


def test_a_newer_file_of_that_name_is_left_on_its_way(ledger: Ledger, history: History) -> None:
    refused(ledger, b"/drop/bad")
    newer = seen(ledger, b"/drop/bad")

    intents = history.intend([departure()], NOW)
    assert ledger.get(newer.id) == newer
    history.take_back(intents)

    assert ledger.get(newer.id) == newer


def test_one_that_came_back_meanwhile_is_left_on_its_way(ledger: Ledger, history: History) -> None:
    refused(ledger, b"/drop/bad")
    intents = history.intend([departure(state=State.RETURNED)], NOW)
    newer = seen(ledger, b"/drop/bad")

    history.take_back(intents)

    assert ledger.get(newer.id) == newer


@given(snapshot=snapshots)
def test_a_file_that_the_lost_ledger_knew_is_told_of_all_the_same(
    snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with closing(Ledger(tmp_path_factory.mktemp("ledger") / "l")) as ledger:
        history = History(ledger)
        one = Departure(
            trace=digest(b"/drop/bad"),
            drop="sr",
            state=State.DISCARDED,
            by="by hand",
            snapshot=snapshot,
            reason=Reason.EMPTY,
            sop_uid="1.1",
            study_uid="1.2.3",
        )
        history.intend([one, one], NOW)

        for asked in ({"sop_uid": "1.1"}, {"study_uid": "1.2.3"}, {"traces": (one.trace,)}):
            assert states(history, **asked) == [State.DISCARDED] * 2
        assert {tally.state for tally in ledger.tallies()} == {State.DISCARDED}
        assert seen(ledger, b"/drop/bad").state is State.SEEN


# -- how long it is kept -------------------------------------------------------------------------


def prune(history: History, before: float, limit: int = 3) -> None:
    while history.prune(before, limit):
        pass


def test_what_is_older_is_forgotten_in_small_steps(ledger: Ledger, history: History) -> None:
    for number in range(10):
        imported(ledger, b"/drop/%d" % number, f"1.{number}", now=NOW + number)

    assert history.prune(NOW + 5, 3)
    assert len(states(history)) > 25
    prune(history, NOW + 5)

    assert len(states(history)) == 25
    assert [ledger.find(b"/drop/%d" % number) is None for number in range(10)] == (
        [True] * 5 + [False] * 5
    )


@given(data=st.data())
def test_no_live_job_is_ever_forgotten_and_no_forgotten_one_leaves_events(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with closing(Ledger(tmp_path_factory.mktemp("ledger") / "l")) as ledger:
        history = History(ledger)
        ages = data.draw(st.lists(st.integers(0, 9), max_size=12))
        for number, age in enumerate(ages):
            way = data.draw(st.sampled_from([seen, refused, imported]))
            path, now = b"/drop/%d" % number, NOW + age
            if way is imported:
                imported(ledger, path, f"1.{number}", now=now)
            else:
                way(ledger, path, now=now)  # type: ignore[operator]
        before = {path: ledger.find(path) for path in _paths(ages)}
        cut = NOW + data.draw(st.integers(0, 10))

        prune(history, cut, data.draw(st.integers(1, 5)))

        for (path, job), age in zip(before.items(), ages, strict=True):
            assert job is not None
            kept = job.state in LIVE or NOW + age >= cut
            assert ledger.find(path) == (job if kept else None)
        jobs = {row[0] for row in ledger.rows("SELECT id FROM job")}
        assert {event.job for event in history.find(Query())} <= jobs
        assert all(event.at >= cut for event in history.find(Query()))


def _paths(ages: list[int]) -> list[bytes]:
    return [b"/drop/%d" % number for number in range(len(ages))]


def test_a_prepared_folder_is_remembered_while_it_is_confirmed(
    ledger: Ledger, history: History
) -> None:
    ledger.stands(b"/drop/a", NOW)
    ledger.stands(b"/drop/b", NOW)
    ledger.stands(b"/drop/b", NOW + CONFIRMED_S)

    prune(history, NOW + 1)

    assert not ledger.is_standing(b"/drop/a")
    assert ledger.is_standing(b"/drop/b")


def test_what_every_sweep_confirms_is_not_written_each_time(ledger: Ledger) -> None:
    ledger.stands(b"/drop/a", NOW)
    asked: list[str] = []
    ledger._connection.set_trace_callback(asked.append)

    ledger.stands(b"/drop/a", NOW + CONFIRMED_S - 1)

    assert not any("INSERT" in words for words in asked)


# -- an older ledger -----------------------------------------------------------------------------


@pytest.fixture
def first_version(tmp_path: Path) -> Path:
    """A ledger as version 1 wrote it, with a file that it quarantined."""
    file = tmp_path / "ledger"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_UPGRADES[0])
        connection.execute("PRAGMA user_version = 1")
        connection.execute(
            "INSERT INTO job (digest, drop_name, device, inode, size, mtime_ns, ctime_ns, state,"
            " reason, updated) VALUES (?, 'sr', 1, 2, 3, 4, 5, 'QUARANTINED', 'empty', ?)",
            (digest(b"/drop/bad"), NOW),
        )
        connection.execute(
            "INSERT INTO event VALUES (?, 1, 'sr', 'QUARANTINED', 'empty', '', '1.1', '1.2', NULL)",
            (NOW,),
        )
        connection.execute("INSERT INTO standing VALUES (?)", (digest(b"/drop/prepared"),))
        connection.commit()
    return file


def test_the_history_of_the_first_version_is_told_on(first_version: Path) -> None:
    with closing(Ledger(first_version)) as ledger:
        history = History(ledger)
        history.intend([departure()], NOW)

        for asked in ({"sop_uid": "1.1"}, {"study_uid": "1.2"}):
            assert states(history, **asked) == [State.QUARANTINED]
        assert states(history) == [State.QUARANTINED, State.DISCARDED]
        prune(history, NOW + 1)
        assert ledger.is_standing(b"/drop/prepared")  # confirmed when it was upgraded
        assert states(history) == []
    with closing(sqlite3.connect(first_version)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(_UPGRADES),)


def test_who_only_reads_can_read_the_first_version(first_version: Path) -> None:
    with closing(Ledger(first_version, read_only=True)) as ledger:
        assert states(History(ledger), study_uid="1.2") == [State.QUARANTINED]


def test_no_upgrade_that_was_published_is_ever_changed() -> None:
    """Whoever changes one makes two kinds of ledger of one version."""
    assert digest(_UPGRADES[0].encode()).hex() == FIRST_UPGRADE


FIRST_UPGRADE = "9d683a0d252337325af87227ddb1b5e0"
