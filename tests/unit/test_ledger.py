"""`ingest.ledger`: what was written stays, each journey follows the table, and turns are fair."""

import multiprocessing
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import LedgerError, Reason, Trouble
from ingest.ledger import NEVER, Ledger, Overtaken, Tally
from ingest.ledger_file import trouble_with
from ingest.model import (
    IN_HAND,
    LIVE,
    TRANSITIONS,
    Header,
    IllegalTransition,
    Importer,
    Job,
    Snapshot,
    State,
)
from tests.strategies import a_header, a_snapshot, headers, names, snapshots

PATH = b"/drop/\xff'\"\n.dcm"
NOW = 1_700_000_000.0
ENDS = [state for state in State if state not in LIVE]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def ledger(file: Path) -> Iterator[Ledger]:
    with closing(Ledger(file)) as opened:
        yield opened


def seen(ledger: Ledger, path: bytes = PATH, *, drop: str = "sr", now: float = NOW) -> Job:
    return ledger.see(drop=drop, path=path, snapshot=a_snapshot(), now=now)


def ready(
    ledger: Ledger,
    path: bytes = PATH,
    *,
    drop: str = "sr",
    order: str = "",
    study: str = "1.2.3",
) -> Job:
    job = seen(ledger, path, drop=drop)
    header = a_header(study_uid=study)
    ledger.ready(job, header=header, importer=Importer.DX, order=order, now=NOW)
    return ledger.get(job.id)


def brought_to(  # noqa: C901 - one way to each state
    ledger: Ledger, state: State, path: bytes = PATH, drop: str = "sr"
) -> Job:
    """A job in this state, by the shortest way."""
    job = seen(ledger, path, drop=drop)
    match state:
        case State.SEEN:
            return job
        case State.READY:
            return ready(ledger, path, drop=drop)
        case State.CLAIMED:
            ledger.claimed(brought_to(ledger, State.READY, path, drop), "claim", NOW)
        case State.PROVEN:
            ledger.proven(brought_to(ledger, State.CLAIMED, path, drop), "evidence", NOW)
        case State.DONE:
            ledger.end(brought_to(ledger, State.PROVEN, path, drop), state, NOW)
        case State.REJECTED:
            ledger.rejected(job, Reason.EMPTY, "", NOW)
        case State.QUARANTINED:
            ledger.end(brought_to(ledger, State.REJECTED, path, drop), state, NOW)
        case State.LEFT:
            ledger.left(job, Reason.EMPTY, "", NOW)
        case State.GONE:
            ledger.end(job, state, NOW)
        case State.RETURNED | State.DISCARDED:
            ledger.end(brought_to(ledger, State.QUARANTINED, path, drop), state, NOW)
        case State.IGNORED:
            ledger.dismissed(brought_to(ledger, State.RULED, path, drop), "a rule", NOW)
        case State.RULED:
            ledger.ruled(job, "a rule", NOW)
    return ledger.get(job.id)


states = pytest.mark.parametrize("state", State, ids=lambda state: state.name)


# -- seeing --------------------------------------------------------------------------------------


def test_a_file_that_is_seen_is_known(ledger: Ledger) -> None:
    assert ledger.find(PATH) is None

    job = seen(ledger)

    assert ledger.find(PATH) == ledger.get(job.id) == job
    assert (job.path, job.drop, job.state) == (PATH, "sr", State.SEEN)
    assert job.snapshot == a_snapshot()


@given(name=names, snapshot=snapshots, header=headers)
def test_any_name_snapshot_and_header_is_kept_as_it_is(
    name: bytes, snapshot: Snapshot, header: Header, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Inodes above 2**63 and times after the year 2262 included."""
    path = b"/drop/" + name
    with closing(Ledger(tmp_path_factory.mktemp("ledger") / "l")) as ledger:
        job = ledger.see(drop="sr", path=path, snapshot=snapshot, now=NOW)
        ledger.ready(job, header=header, importer=Importer.NM, order="x", now=NOW)
        found = ledger.find(path)

    assert found is not None
    assert found.path == path
    assert found.snapshot == snapshot
    assert found.snapshot.ctime_ns == snapshot.ctime_ns
    assert found.header == header


def test_the_same_version_keeps_its_attempts(ledger: Ledger) -> None:
    job = brought_to(ledger, State.CLAIMED)
    ledger.back(job, NOW, reason=Reason.BUSY, not_before=NOW + 9, attempts=3, deaths=1)

    again = seen(ledger)

    assert (again.attempts, again.deaths, again.not_before) == (3, 1, NOW + 9)
    assert again.reason is Reason.BUSY
    assert again.claim == ""


@pytest.mark.parametrize("field", ["inode", "size", "mtime_ns", "device"])
def test_another_version_begins_anew(ledger: Ledger, field: str) -> None:
    job = brought_to(ledger, State.CLAIMED)
    ledger.back(job, NOW, reason=Reason.BUSY, not_before=NOW + 9, attempts=3, deaths=1)
    other = a_snapshot(**{field: 77})

    again = ledger.see(drop="sr", path=PATH, snapshot=other, now=NOW)

    assert again.id == job.id
    assert again.snapshot == other
    assert (again.attempts, again.deaths, again.not_before) == (0, 0, 0)
    assert (again.header, again.importer, again.reason) == (None, None, None)


@states
def test_a_file_that_is_in_somebodys_hand_is_overtaken(ledger: Ledger, state: State) -> None:
    """Unless it is the one who has it in hand that says so."""
    job = brought_to(ledger, state)
    if state in IN_HAND:
        with pytest.raises(Overtaken):
            seen(ledger)
        assert ledger.get(job.id) == job
    again = ledger.see(drop="dx", path=PATH, snapshot=job.snapshot, now=NOW, in_hand=True)

    assert (again.state, again.drop, again.claim) == (State.SEEN, "dx", "")


@pytest.mark.parametrize("state", ENDS)
def test_what_comes_again_after_its_end_begins_anew(ledger: Ledger, state: State) -> None:
    job = brought_to(ledger, state)

    again = seen(ledger)

    assert again.id == job.id
    assert again.path == PATH
    assert (again.header, again.importer, again.reason) == (None, None, None)


def test_looking_at_the_same_version_again_is_no_event(ledger: Ledger) -> None:
    """A file that waits for its end is looked at very often."""
    job = seen(ledger)
    seen(ledger)
    ledger.wait(job, reason=Reason.INCOMPLETE, detail="", not_before=NOW + 1)
    seen(ledger)

    assert [state for _at, state, _reason, _detail in ledger.history(job.id)] == [State.SEEN]


# -- transitions ---------------------------------------------------------------------------------


def test_every_step_of_a_journey_is_recorded(ledger: Ledger) -> None:
    job = brought_to(ledger, State.DONE)

    history = ledger.history(job.id)

    assert [state for _at, state, _reason, _detail in history] == [
        State.SEEN,
        State.READY,
        State.CLAIMED,
        State.PROVEN,
        State.DONE,
    ]
    assert history[-1] == (NOW, State.DONE, None, "evidence")


def test_a_refusal_is_recorded_with_its_reason(ledger: Ledger) -> None:
    job = seen(ledger)
    ledger.describe(job, a_header())
    ledger.rejected(ledger.get(job.id), Reason.TOMOSYNTHESIS, "because", NOW)

    found = ledger.get(job.id)
    assert (found.state, found.reason, found.detail) == (
        State.REJECTED,
        Reason.TOMOSYNTHESIS,
        "because",
    )
    assert found.header == a_header()
    assert ledger.history(job.id)[-1] == (NOW, State.REJECTED, Reason.TOMOSYNTHESIS, "because")


@states
@pytest.mark.parametrize(
    "state_wanted", [State.CLAIMED, State.PROVEN, State.REJECTED, State.LEFT, State.DONE]
)
def test_no_method_goes_where_the_table_has_no_way(
    ledger: Ledger, state: State, state_wanted: State
) -> None:
    job = brought_to(ledger, state)
    moves: dict[State, Callable[[], None]] = {
        State.CLAIMED: lambda: ledger.claimed(job, "c", NOW),
        State.PROVEN: lambda: ledger.proven(job, "e", NOW),
        State.REJECTED: lambda: ledger.rejected(job, Reason.EMPTY, "", NOW),
        State.LEFT: lambda: ledger.left(job, Reason.EMPTY, "", NOW),
        State.DONE: lambda: ledger.end(job, State.DONE, NOW),
    }
    move = moves[state_wanted]
    if state_wanted in TRANSITIONS[state]:
        move()
        assert ledger.get(job.id).state is state_wanted
    else:
        with pytest.raises(IllegalTransition):
            move()
        assert ledger.get(job.id) == job


def test_who_comes_second_is_overtaken_and_changes_nothing(ledger: Ledger) -> None:
    job = ready(ledger)
    ledger.claimed(job, "first", NOW)

    with pytest.raises(Overtaken):
        ledger.claimed(job, "second", NOW)

    assert ledger.get(job.id).claim == "first"


def test_of_many_threads_that_claim_at_once_one_gets_the_job(ledger: Ledger) -> None:
    job = ready(ledger)
    outcomes: list[str] = []
    start = threading.Barrier(8)

    def claim(number: int) -> None:
        start.wait()
        try:
            ledger.claimed(job, str(number), NOW)
            outcomes.append("claimed")
        except Overtaken:
            outcomes.append("overtaken")

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["claimed"] + ["overtaken"] * 7


def test_going_back_keeps_the_attempts_unless_told_otherwise(ledger: Ledger) -> None:
    ledger.back(brought_to(ledger, State.CLAIMED), NOW, attempts=2, deaths=1)
    job = ledger.find(PATH)
    assert job is not None
    ledger.claimed(job, "c", NOW)
    ledger.back(ledger.get(job.id), NOW)

    found = ledger.get(job.id)
    assert (found.state, found.claim, found.attempts, found.deaths) == (State.READY, "", 2, 1)
    assert (found.reason, found.not_before) == (None, 0.0)


# -- privacy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ENDS)
def test_at_its_end_a_path_is_forgotten_and_yet_answered_for(
    ledger: Ledger, file: Path, state: State
) -> None:
    path = b"/drop/Miller^Anna.dcm"
    job = brought_to(ledger, state, path)

    assert job.path == b""
    found = ledger.find(path)
    assert found is not None
    assert (found.id, found.path, found.state) == (job.id, path, state)
    with closing(sqlite3.connect(file)) as connection:
        dump = "\n".join(connection.iterdump())
    assert "Miller" not in dump
    assert b"Miller".hex().upper() not in dump.upper()


def test_a_manual_imports_paths_are_forgotten_and_no_others(ledger: Ledger) -> None:
    ours = {
        state: brought_to(ledger, state, b"/a/" + state.name.encode(), "by hand 1")
        for state in State
    }
    other = seen(ledger, b"/b", drop="by handy")
    third = seen(ledger, b"/c", drop="sr")

    ledger.forget("by hand", NOW)

    for state, job in ours.items():
        found = ledger.get(job.id)
        assert found.path == b""
        assert found.state is (State.GONE if state in LIVE | {State.DONE, State.IGNORED} else state)
    assert [ledger.get(job.id).state for job in (other, third)] == [State.SEEN] * 2


# -- whose turn it is ----------------------------------------------------------------------------


def test_the_oldest_study_comes_first_then_the_first_to_arrive(ledger: Ledger) -> None:
    for name, order in ((b"/3", "2024"), (b"/1", "2023"), (b"/4", "2024"), (b"/2", "2023")):
        ready(ledger, name, order=order, study=f"1.2.{order}.{name[1]}", drop="sr")
    ready(ledger, b"/0", order="2022", drop="dx", study="1.2.0")

    turns = []
    while (job := ledger.next_ready(["sr", "dx"], [], NOW)) is not None:
        turns.append(job.path)
        ledger.claimed(job, "c", NOW)

    assert turns == [b"/0", b"/1", b"/2", b"/3", b"/4"]


def test_a_study_that_is_being_imported_is_left_out(ledger: Ledger) -> None:
    ready(ledger, b"/1", study="1.2.3", order="1")
    ready(ledger, b"/2", study="1.2.4", order="2")

    def turn(*busy: str) -> bytes | None:
        job = ledger.next_ready(["sr"], busy, NOW)
        return job.path if job else None

    assert turn() == b"/1"
    assert turn("1.2.3") == b"/2"
    assert turn("1.2.3", "1.2.4") is None


def test_a_file_that_waits_for_its_next_attempt_holds_up_nothing(ledger: Ledger) -> None:
    job = ready(ledger, b"/1", order="1")
    ledger.claimed(job, "c", NOW)
    ledger.back(ledger.get(job.id), NOW, not_before=NOW + 10)
    ready(ledger, b"/2", order="2")

    first = ledger.next_ready(["sr"], [], NOW + 9.9)
    later = ledger.next_ready(["sr"], [], NOW + 10)

    assert first is not None
    assert later is not None
    assert (first.path, later.path) == (b"/2", b"/1")


def test_other_drop_folders_files_are_none_of_ours(ledger: Ledger) -> None:
    ready(ledger)

    assert ledger.next_ready(["dx"], [], NOW) is None
    assert ledger.next_ready([], [], NOW) is None
    assert ledger.due(["dx"], NOW, 10) == []
    assert not ledger.is_due(["dx"], State.READY, NOW)
    assert ledger.live(["dx"], list(State), 10) == []


def test_a_waiting_file_is_due_when_its_time_has_come(ledger: Ledger) -> None:
    for number in (3, 1, 2):
        job = seen(ledger, b"/%d" % number)
        ledger.wait(job, reason=Reason.INCOMPLETE, detail="", not_before=NOW + number)

    assert ledger.due(["sr"], NOW, 10) == []
    assert [job.path for job in ledger.due(["sr"], NOW + 2, 10)] == [b"/1", b"/2"]
    assert [job.path for job in ledger.due(["sr"], NOW + 9, 1)] == [b"/1"]
    assert not ledger.is_due(["sr"], State.SEEN, NOW)
    assert ledger.is_due(["sr"], State.SEEN, NOW + 1)
    assert not ledger.is_due(["sr"], State.READY, NOW + 9)


def test_what_was_left_is_looked_at_again_only_where_that_may_help(ledger: Ledger) -> None:
    never = seen(ledger, b"/never")
    ledger.left(never, Reason.TOMOSYNTHESIS, "", NOW)
    later = seen(ledger, b"/later")
    ledger.left(later, Reason.CANNOT_MOVE, "", NOW, not_before=NOW + 60)

    assert [job.path for job in ledger.due(["sr"], NOW + 60, 10)] == [b"/later"]
    assert ledger.get(never.id).not_before == NEVER


def test_live_jobs_are_listed_by_state_oldest_first(ledger: Ledger) -> None:
    jobs = [
        brought_to(ledger, state, b"/%d" % number)
        for number, state in enumerate((State.PROVEN, State.SEEN, State.CLAIMED))
    ]

    assert ledger.live(["sr"], [State.CLAIMED, State.PROVEN], 10) == [jobs[0], jobs[2]]
    assert ledger.live(["sr"], [State.CLAIMED, State.PROVEN], 1) == [jobs[0]]


def test_all_that_a_manual_import_left_is_forgotten_a_few_at_a_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the service, which writes here meanwhile, never waits long for its turn."""
    monkeypatch.setattr("ingest.ledger.AT_ONCE", 3)
    for number in range(20):
        brought_to(ledger, (State.DONE, State.LEFT)[number % 2], b"/%d" % number, "by hand 1")
    changes: list[int] = []
    forget = ledger._forget

    def forget_some(drop: str, state: State, now: float) -> int:
        changes.append(forget(drop, state, now))
        return changes[-1]

    monkeypatch.setattr(ledger, "_forget", forget_some)

    ledger.forget("by hand", NOW)

    assert [(one.state, one.count) for one in ledger.tallies()] in (
        [(State.GONE, 10), (State.GONE, 10)],
        [(State.GONE, 20)],
    )
    assert sum(changes) == 20
    assert max(changes) == 3


def test_however_many_are_live_each_is_told_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page at a time, also where all have the same order."""
    monkeypatch.setattr("ingest.ledger.AT_ONCE", 3)
    expected = set()
    for number in range(25):
        drop, path = ("sr", "dx")[number % 2], b"/%d" % number
        if number % 5 == 0:
            seen(ledger, path, drop=drop)
        elif number % 3:
            ready(ledger, path, drop=drop, order=str(number % 2))
        else:
            ledger.left(seen(ledger, path, drop=drop), Reason.EMPTY, "", NOW)
        if number % 5 and drop == "dx":
            expected.add(path)

    found = [job.path for job in ledger.all_live(["dx"], [State.READY, State.LEFT])]

    assert len(found) == len(set(found))
    assert set(found) == expected


def test_the_next_to_ask_for_are_the_next_of_all_folders(ledger: Ledger) -> None:
    """And not so many of each: there may be thousands."""
    for number in range(12):
        ready(
            ledger,
            b"/%d" % number,
            drop=f"d{number % 4}",
            order=f"{number:02}",
            study=f"1.{number}",
        )

    asked = ledger.recordable([f"d{number}" for number in range(4)], 5)

    assert [one.study_uid for one in asked] == [f"1.{number}" for number in range(5)]


def test_what_is_in_hand_under_a_former_name_is_found(ledger: Ledger) -> None:
    """Not what is in hand for the folders of today, nor for a manual import."""
    job = brought_to(ledger, State.CLAIMED, b"/1")
    brought_to(ledger, State.SEEN, b"/2")

    assert ledger.in_hand_elsewhere(["sr"]) == []
    assert ledger.in_hand_elsewhere(["another"]) == [job]


@pytest.mark.parametrize("drops", [["sr"], ["sr", "dx"]])
def test_turns_are_found_by_an_index_and_never_sorted(ledger: Ledger, drops: list[str]) -> None:
    """A backlog of a million files is a backlog of a million questions."""
    asked: list[str] = []
    ledger._connection.set_trace_callback(asked.append)
    ledger.next_ready(drops, ["1.2.3"], NOW)
    turn = asked.copy()
    asked.clear()
    ledger.is_due(drops, State.READY, NOW)
    ledger.due(drops, NOW, 10)
    ledger._connection.set_trace_callback(None)

    for statement in [*turn, *asked]:
        plan = [row[3] for row in ledger._connection.execute("EXPLAIN QUERY PLAN " + statement)]
        job_steps = [step for step in plan if re.search(r"\bjob\b", step)]
        assert job_steps
        assert all(re.search(r"USING (COVERING )?INDEX job_(turn|due)", step) for step in job_steps)
    for statement in turn:
        plan = [row[3] for row in ledger._connection.execute("EXPLAIN QUERY PLAN " + statement)]
        assert not [step for step in plan if "TEMP B-TREE" in step]


# -- what status shows ---------------------------------------------------------------------------


def test_tallies_count_by_folder_state_and_reason(ledger: Ledger) -> None:
    brought_to(ledger, State.QUARANTINED, b"/1")
    brought_to(ledger, State.QUARANTINED, b"/2")
    brought_to(ledger, State.DONE, b"/3", "dx")

    assert ledger.tallies() == [
        Tally(drop="dx", state=State.DONE, reason=None, count=1),
        Tally(drop="sr", state=State.QUARANTINED, reason=Reason.EMPTY, count=2),
    ]


def test_ends_are_counted_since_a_time(ledger: Ledger) -> None:
    brought_to(ledger, State.DONE, b"/1")
    brought_to(ledger, State.LEFT, b"/2")
    brought_to(ledger, State.CLAIMED, b"/3")

    assert {(tally.state, tally.count) for tally in ledger.ends_since(NOW)} == {
        (State.DONE, 1),
        (State.LEFT, 1),
    }
    assert ledger.ends_since(NOW + 1) == []


def test_a_word_is_left_and_found(ledger: Ledger) -> None:
    assert ledger.said("openrem") is None
    ledger.say("openrem", "away", NOW)
    ledger.say("openrem", "ready", NOW + 1)

    assert ledger.said("openrem") == ("ready", NOW + 1)


def test_emptied_folders_are_tidied_deepest_first_and_once(ledger: Ledger) -> None:
    for folder in (b"/drop/a", b"/drop/a/\xff", b"/drop/late"):
        ledger.emptied(folder, NOW)
    ledger.emptied(b"/drop/late", NOW + 10)

    assert ledger.folders_to_tidy(NOW) == [b"/drop/a/\xff", b"/drop/a"]
    ledger.tidied(b"/drop/a")
    assert ledger.folders_to_tidy(NOW) == [b"/drop/a/\xff"]


def test_a_folder_that_someone_prepared_is_remembered(ledger: Ledger) -> None:
    assert not ledger.is_standing(b"/drop/a")
    ledger.stands(b"/drop/a", NOW)
    ledger.stands(b"/drop/a", NOW)

    assert ledger.is_standing(b"/drop/a")
    assert not ledger.is_standing(b"/drop")


# -- the file itself -----------------------------------------------------------------------------


@states
def test_what_was_written_is_there_after_opening_again(file: Path, state: State) -> None:
    with closing(Ledger(file)) as ledger:
        job = brought_to(ledger, state)
        history = ledger.history(job.id)

    with closing(Ledger(file)) as ledger:
        assert ledger.get(job.id) == job
        assert ledger.history(job.id) == history
    with closing(Ledger(file, read_only=True)) as ledger:
        assert ledger.get(job.id) == job


def test_claims_proofs_and_refusals_are_on_the_disk_when_they_return(ledger: Ledger) -> None:
    def durable() -> bool:
        """Was the last transaction? The mode is only set before the next one."""
        full = 2
        return bool(ledger.rows("PRAGMA synchronous") == [(full,)])

    job = ready(ledger)
    assert not durable()
    ledger.claimed(job, "c", NOW)
    assert durable()
    ledger.proven(ledger.get(job.id), "e", NOW)
    assert durable()
    other = seen(ledger, b"/other")
    assert not durable()
    ledger.rejected(other, Reason.EMPTY, "", NOW)
    assert durable()


def test_a_ledger_of_a_newer_version_is_refused(file: Path) -> None:
    Ledger(file).close()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")

    for read_only in (False, True):
        with pytest.raises(LedgerError, match=r"newer openrem-ingest\. Next: ") as caught:
            Ledger(file, read_only=read_only)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"this is no database" * 100, b"SQLite format 3\0" + b"x" * 99]
)
def test_a_damaged_ledger_is_one_line_with_a_way_out(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)

    with pytest.raises(LedgerError, match=r"is damaged.*move the ledger away") as caught:
        Ledger(file)

    assert "\n" not in str(caught.value)
    assert file.read_bytes() == content


def test_to_read_a_ledger_that_is_not_there_makes_none(file: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger(file, read_only=True)

    assert not file.parent.exists()


def test_a_ledger_that_cannot_be_reached_is_said_to_be(tmp_path: Path) -> None:
    """For example by a user who may not look into the state folder."""
    unreachable = tmp_path / ("x" * 300) / "ledger.sqlite"

    for read_only in (False, True):
        with pytest.raises(LedgerError, match="File name too long"):
            Ledger(unreachable, read_only=read_only)


def test_a_state_folder_that_cannot_be_made_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(LedgerError, match="can't be made"):
        Ledger(tmp_path / "file" / "state" / "ledger.sqlite")


def test_who_only_reads_cannot_write(file: Path, ledger: Ledger) -> None:
    seen(ledger)
    with closing(Ledger(file, read_only=True)) as reading, pytest.raises(LedgerError):
        seen(reading, b"/other")


def test_on_a_full_disk_nothing_is_half_written_and_all_goes_on_later(ledger: Ledger) -> None:
    connection = ledger._connection
    (used,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {used + 2}")
    job = seen(ledger)
    with pytest.raises(LedgerError, match=r"full.*Next: .*nothing is lost"):
        _fill(ledger)
    connection.execute("PRAGMA max_page_count = 1000000")

    assert ledger.get(job.id) == job
    ledger.claimed(ready(ledger), "c", NOW)
    assert ledger.get(job.id).state is State.CLAIMED


def _fill(ledger: Ledger) -> None:
    for number in range(10_000):
        ledger.say(str(number), "x" * 1000, NOW)


def test_a_step_that_fails_in_the_middle_is_undone(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ready(ledger)

    def fail(*_arguments: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr("ingest.ledger._record", fail)
        with pytest.raises(RuntimeError):
            ledger.claimed(job, "c", NOW)

    assert ledger.get(job.id) == job


def test_what_sqlite_undid_by_itself_is_not_undone_twice(ledger: Ledger) -> None:
    """It does so after some errors of the disk; ours must not hide the first one."""

    def fail_after_sqlite_did() -> None:
        with ledger.writing() as connection:
            connection.execute("ROLLBACK")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_sqlite_did()


def _write_many(file: Path, drop: str, count: int, start: object) -> None:
    assert hasattr(start, "wait")
    start.wait()
    with closing(Ledger(file)) as ledger:
        for number in range(count):
            job = seen(ledger, b"/%s/%d" % (drop.encode(), number), drop=drop)
            ledger.ready(job, header=a_header(), importer=Importer.DX, order="", now=NOW)
            ledger.claimed(ledger.get(job.id), "c", NOW)


def test_processes_that_make_and_write_one_ledger_at_once_do_not_fail(file: Path) -> None:
    """The service and a command of a person's."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    processes = [
        context.Process(target=_write_many, args=(file, drop, 40, start))
        for drop in ("a", "b", "c")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0, 0]
    with closing(Ledger(file, read_only=True)) as ledger:
        assert {(tally.drop, tally.state, tally.count) for tally in ledger.tallies()} == {
            (drop, State.CLAIMED, 40) for drop in ("a", "b", "c")
        }


def test_two_that_upgrade_at_once_upgrade_once(file: Path) -> None:
    start = threading.Barrier(8)
    opened: list[Ledger] = []
    errors: list[Exception] = []

    def open_it() -> None:
        start.wait()
        try:
            opened.append(Ledger(file))
        except Exception as error:  # noqa: BLE001 - for the main thread to see
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ledger in opened:
        ledger.close()

    assert errors == []
    assert len(opened) == 8


@given(order=st.permutations(range(6)))
def test_losing_the_ledger_loses_history_and_nothing_else(
    order: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a fresh ledger is told in whatever order, it knows the same files."""
    with closing(Ledger(tmp_path_factory.mktemp("ledger") / "l")) as ledger:
        for number in order:
            seen(ledger, b"/%d" % number)
        found = {job.path for job in ledger.live(["sr"], [State.SEEN], 10)}

    assert found == {b"/%d" % number for number in range(6)}


def test_a_job_that_another_folder_has_taken_over_is_not_claimed(ledger: Ledger) -> None:
    """As when a manual import looks at a drop folder while the service serves it."""
    job = ready(ledger)
    with pytest.raises(Overtaken):
        ledger.claimed(replace(job, drop="other"), "c", NOW)
    assert ledger.get(job.id) == job


# -- what another configuration or clock has left ------------------------------------------------


@states
@pytest.mark.parametrize(
    ("roots", "stays"),
    [
        ({"sr": b"/drop"}, True),
        ({"sr": b"/drop/"}, True),
        ({"sr": b"/new/drop"}, False),  # the folder has another path now
        ({"dose": b"/drop"}, False),  # or another name
        ({"sr": b"/other", "sr-2": b"/drop"}, False),  # or another one has its name
        ({"sr": b"/dro"}, False),
        ({"sr": b"/", "sub": b"/drop"}, False),  # a folder within it is one of its own now
        ({"sr": b"/drop", "sub": b"/drop/sub"}, True),
        ({}, False),
    ],
)
def test_what_lies_in_no_folder_or_in_another_is_forgotten(
    ledger: Ledger, state: State, roots: dict[str, bytes], *, stays: bool
) -> None:
    job = brought_to(ledger, state)
    theirs = seen(ledger, b"/anywhere", drop="by hand 1")

    ledger.keep_only(roots, spare="by hand", now=NOW)

    expected = state if stays or state not in LIVE else State.GONE
    assert ledger.get(job.id).state is expected
    assert ledger.get(theirs.id) == theirs
    assert seen(ledger, b"/drop/another", drop="dose").state is State.SEEN


def test_a_forgotten_file_is_met_again_as_new_work(ledger: Ledger) -> None:
    brought_to(ledger, State.CLAIMED)

    ledger.keep_only({"dose": b"/drop"}, spare="by hand", now=NOW)

    assert seen(ledger, drop="dose").drop == "dose"


def test_all_that_waits_can_be_made_due(ledger: Ledger) -> None:
    job = seen(ledger)
    ledger.wait(job, reason=None, detail="", not_before=NOW + 86400)
    left = brought_to(ledger, State.LEFT, b"/drop/left")
    assert ledger.due(["sr"], NOW, 10) == []

    ledger.hurry(NOW)

    assert [one.id for one in ledger.due(["sr"], NOW, 10)] == [job.id]
    assert ledger.get(left.id).not_before == NEVER


# -- in trouble ----------------------------------------------------------------------------------


def trouble_of(act: Callable[[], object]) -> tuple[Trouble, str]:
    with pytest.raises(LedgerError) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("Next: ") == 1
    return caught.value.trouble, str(caught.value)


def test_a_ledger_that_another_program_holds_is_said_to_be_locked(
    file: Path, ledger: Ledger
) -> None:
    ledger._connection.execute("PRAGMA busy_timeout = 20")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        trouble, words = trouble_of(lambda: seen(ledger))

    assert trouble is Trouble.LOCKED
    assert "all goes on by itself" in words
    assert seen(ledger).state is State.SEEN


def test_a_ledger_that_breaks_while_it_is_open_is_said_to_be_damaged(
    file: Path, ledger: Ledger
) -> None:
    for number in range(200):
        seen(ledger, b"/%d" % number)
    ledger.clear_traces()
    with file.open("r+b") as broken:
        size = broken.seek(0, 2)
        broken.seek(4096)
        broken.write(b"\xa5" * (size - 4096))
    ledger._connection.execute("PRAGMA shrink_memory")

    for act in (lambda: seen(ledger, b"/more"), ledger.tallies):
        trouble, words = trouble_of(act)
        assert trouble is Trouble.DAMAGED
        assert "loses history and nothing else" in words


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        (sqlite3.SQLITE_FULL, Trouble.FULL),
        (sqlite3.SQLITE_IOERR_WRITE, Trouble.DISK),
        (sqlite3.SQLITE_READONLY_DBMOVED, Trouble.CLOSED),
        (sqlite3.SQLITE_CANTOPEN, Trouble.CLOSED),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Trouble.LOCKED),
        (sqlite3.SQLITE_CORRUPT_INDEX, Trouble.DAMAGED),
        (sqlite3.SQLITE_NOTADB, Trouble.DAMAGED),
        (9999, Trouble.DISK),
        (None, Trouble.DISK),
    ],
)
def test_each_trouble_has_words_of_its_own(file: Path, code: int | None, trouble: Trouble) -> None:
    error = sqlite3.OperationalError("what SQLite says")
    if code is not None:
        error.sqlite_errorcode = code

    told = trouble_with(file, error)

    assert told.trouble is trouble
    assert str(file) in str(told)
    assert "what SQLite says" in str(told)
    assert str(told).count("Next: ") == 1


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_ledger_that_goes_while_it_is_open_is_noticed(
    file: Path, ledger: Ledger, how: str
) -> None:
    assert ledger.check_place() is None
    file.rename(file.with_name("aside"))
    if how == "replaced":
        file.write_bytes(b"")

    told = ledger.check_place()

    assert told is not None
    assert told.trouble is Trouble.MISSING
    assert "start openrem-ingest again" in str(told)


def test_a_ledger_says_whether_it_was_made_just_now(file: Path) -> None:
    for is_new in (True, False):
        with closing(Ledger(file)) as ledger:
            assert ledger.is_new == is_new
