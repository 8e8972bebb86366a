"""`ingest.quarantine`: what lies there is found, and leaves once, whatever crashes when."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import claim, dispose, files, quarantine, watch
from ingest.claim import Claim
from ingest.dispose import Why, why_of
from ingest.errors import Changed, Reason
from ingest.history import Event, History, Intent, Query
from ingest.ledger import Ledger
from ingest.ledger_file import digest
from ingest.model import Snapshot, State
from ingest.quarantine import Held, Leaving
from tests.crash import Crash, Steps, crash_points
from tests.strategies import AWKWARD_NAMES, a_header, names

CONTENT = b"an object" * 100
AT = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
NOW = AT.timestamp() + 3600


class Yard:
    """A drop folder, its quarantine, and a ledger."""

    def __init__(self, folder: Path) -> None:
        self.root = os.fsencode(folder.resolve())
        self.drop = os.path.join(self.root, b"sr")
        self.failed = os.path.join(self.root, b"failed")
        os.makedirs(self.drop)
        self.ledger = Ledger(folder / "state" / "ledger")
        self.history = History(self.ledger)

    def refuse(
        self,
        place: bytes = b"file.dcm",
        make: Callable[[bytes], None] | None = None,
        at: datetime = AT,
    ) -> bytes:
        """Put a file into the drop folder, and quarantine it as the service does."""
        claimed = Claim(id=claim.new_id(1), root=self.drop, place=place)
        os.makedirs(os.path.dirname(claimed.original), exist_ok=True)
        (make or a_file)(claimed.original)
        expected = files.snapshot(claimed.original)
        claim.take(claimed, expected)
        why = Why(
            reason=Reason.NOT_DICOM,
            detail="",
            drop="sr",
            job=7,
            header=a_header(),
            at=at,
            root=self.drop,
            path=claimed.original,
            snapshot=expected,
        )
        return dispose.quarantine(claimed, expected, os.path.join(self.failed, b"sr"), why)

    def held(self, drops: tuple[str, ...] = ("sr",)) -> list[Held]:
        """What is found."""
        return list(quarantine.held(self.failed, drops, on_error=_no_error))

    def the_one(self) -> Held:
        """The only one."""
        (one,) = self.held()
        return one

    def below(self, folder: bytes) -> list[bytes]:
        """All that is no folder below one."""
        return sorted(
            os.path.relpath(os.path.join(base, name), folder)
            for base, folders, found in os.walk(folder)
            for name in found + [one for one in folders if os.path.islink(os.path.join(base, one))]
        )

    def send_off(self, state: State, history: History | None = None) -> list[object]:
        """Have all that lies there leave; what came of each."""
        told: list[object] = []
        leaving = [
            Leaving(one=one, home=self.drop, snapshot=files.snapshot(one.path))
            for one in self.held()
        ]
        quarantine.send_off(
            history or self.history,
            leaving,
            WAYS[state],
            lambda _leaving, outcome: told.append(outcome),
            state=state,
            by="by hand",
            now=NOW,
        )
        return told

    def events(self) -> list[Event]:
        """What the ledger tells."""
        return list(self.history.find(Query()))


def _no_error(folder: bytes, error: OSError) -> None:
    raise AssertionError((folder, error))


def _discard(leaving: Leaving) -> bytes:
    quarantine.discard(leaving.one, leaving.snapshot)
    return b""


def _bring_back(leaving: Leaving) -> bytes:
    assert leaving.home is not None
    return quarantine.bring_back(leaving.one, leaving.home)


WAYS = {State.RETURNED: _bring_back, State.DISCARDED: _discard}
ways = pytest.mark.parametrize("state", WAYS, ids=lambda state: state.name)


def a_file(path: bytes, content: bytes = CONTENT) -> None:
    with open(path, "wb") as file:
        file.write(content)


def content_of(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path)
    with closing(made.ledger):
        yield made


# -- what lies there -----------------------------------------------------------------------------


def test_a_refused_file_is_found_with_all_that_was_written(yard: Yard) -> None:
    path = yard.refuse(b"study/file.dcm")

    one = yard.the_one()

    assert (one.path, one.drop, one.place) == (path, "sr", b"study/file.dcm")
    assert one.reason is Reason.NOT_DICOM
    note = one.note
    assert note is not None
    assert (note.reason, note.next) == ("not-dicom", Reason.NOT_DICOM.next_step)
    assert (note.sop_uid, note.study_uid) == (a_header().sop_instance_uid, a_header().study_uid)
    assert (note.at, note.job, note.folder) == (AT, 7, yard.drop)
    assert note.trace == digest(yard.drop + b"/study/file.dcm") == one.trace(None)
    assert one.is_the_noted(files.snapshot(path))


@given(name=names.filter(lambda name: not watch.is_passed_over(name)))
def test_any_name_is_found_and_comes_home_as_it_was(
    name: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    yard = Yard(tmp_path_factory.mktemp("yard"))
    with closing(yard.ledger):
        yard.refuse(b"a study/" + name)
        assert yard.the_one().place == b"a study/" + name

        assert yard.send_off(State.RETURNED) == [yard.drop + b"/a study/" + name]

        assert yard.below(yard.drop) == [b"a study/" + name]
        assert yard.below(yard.failed) == []


def test_an_id_is_short_the_same_tomorrow_and_of_one_file_only(yard: Yard) -> None:
    for number in range(50):
        yard.refuse(b"%d.dcm" % number)

    ids = [one.id for one in yard.held()]

    assert len(set(ids)) == 50
    assert all(len(one) == 12 and set(one) <= set("0123456789abcdef") for one in ids)
    assert ids == [one.id for one in yard.held()]
    assert quarantine.id_of("sr", b"0.dcm") == yard.held()[0].id


def test_a_reason_without_its_file_is_no_failure(yard: Yard) -> None:
    os.unlink(yard.refuse())

    assert yard.held() == []


def test_half_a_copy_is_no_failure(yard: Yard) -> None:
    yard.refuse()
    a_file(yard.failed + b"/sr/.0123456789abcdef.part")

    assert len(yard.held()) == 1


def test_what_a_person_put_there_is_found_in_a_folder_of_ours_only(yard: Yard) -> None:
    """The quarantine may be a folder that has other things in it."""
    os.makedirs(yard.failed + b"/sr")
    os.makedirs(yard.failed + b"/photos")
    for place in (b"/sr/mine.dcm", b"/photos/holiday.jpg", b"/readme.txt"):
        a_file(yard.failed + place)

    assert [(one.place, one.note) for one in yard.held()] == [(b"mine.dcm", None)]


def test_what_was_refused_under_a_former_name_of_the_folder_is_found(yard: Yard) -> None:
    yard.refuse()

    (one,) = yard.held(drops=("reports",))

    assert one.drop == "sr"


def test_no_link_is_followed_and_no_excluded_folder_entered(yard: Yard, tmp_path: Path) -> None:
    yard.refuse()
    os.symlink(tmp_path, yard.failed + b"/sr/link")
    os.symlink(tmp_path, yard.failed + b"/elsewhere")
    a_folder = yard.failed + b"/sr/drop"
    os.mkdir(a_folder)
    a_file(a_folder + b"/a.dcm")

    found = quarantine.held(yard.failed, ["sr"], excluded=[a_folder], on_error=_no_error)

    assert sorted(one.place for one in found) == [b"file.dcm", b"link"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"reason": "empty"}',
        "{" * 10_000,
        "[" * 50_000,
        '{"reason": 1, "time": 2, "version": 3, "folder": 4, "trace": "x", "size": true}',
        '{"reason": "of the future", "time": "yesterday", "version": "9", "folder": "\\ud800"}',
    ],
)
def test_a_strange_note_breaks_nothing(yard: Yard, text: str) -> None:
    path = yard.refuse()
    with open(why_of(path), "w", encoding="utf-8") as file:
        file.write(text)

    one = yard.the_one()

    assert one.reason is None
    assert one.note is None or one.note.at is None
    assert not quarantine.is_aged(one, NOW + 1e9, 1.0)


def test_a_note_that_is_a_pipe_or_endless_is_none(yard: Yard) -> None:
    path = yard.refuse()
    os.unlink(why_of(path))
    os.mkfifo(why_of(path))
    assert yard.the_one().note is None
    os.unlink(why_of(path))
    os.symlink("/dev/zero", why_of(path))
    assert yard.the_one().note is None


def test_a_folder_that_cannot_be_read_is_told_of(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.refuse()
    real = os.listdir

    def closed(path: bytes) -> list[bytes]:
        if path.endswith(b"/sr/"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", closed)
    told: list[bytes] = []

    assert list(quarantine.held(yard.failed, ["sr"], on_error=lambda f, _e: told.append(f))) == []

    assert told == [yard.failed + b"/sr/"]


# -- how a file leaves ---------------------------------------------------------------------------


def test_what_comes_back_lies_in_its_place_and_nothing_else_is_left(yard: Yard) -> None:
    path = yard.refuse(b"study/file.dcm")
    before = files.snapshot(path)

    yard.send_off(State.RETURNED)

    assert files.snapshot(yard.drop + b"/study/file.dcm") == before
    assert yard.below(yard.failed) == []
    assert os.listdir(yard.failed + b"/sr") == []


@pytest.mark.parametrize("obstacle", ["file", "link", "folder"])
def test_what_comes_back_replaces_nothing(yard: Yard, obstacle: str) -> None:
    yard.refuse()
    there = yard.drop + b"/file.dcm"
    match obstacle:
        case "file":
            a_file(there, b"newer")
        case "link":
            os.symlink(b"nowhere", there)
        case _:
            os.mkdir(there)
    before = os.lstat(there)

    yard.send_off(State.RETURNED)

    assert os.lstat(there).st_ino == before.st_ino
    assert content_of(yard.drop + b"/file~2.dcm") == CONTENT


def test_a_file_of_the_same_content_but_another_time_is_no_twin(yard: Yard) -> None:
    yard.refuse()
    a_file(yard.drop + b"/file.dcm")
    os.utime(yard.drop + b"/file.dcm", ns=(1, 1))

    yard.send_off(State.RETURNED)

    assert len(yard.below(yard.drop)) == 2


def test_nothing_comes_back_through_a_link(yard: Yard, tmp_path: Path) -> None:
    yard.refuse(b"study/file.dcm")
    os.rmdir(yard.drop + b"/study")
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", yard.drop + b"/study")

    yard.send_off(State.RETURNED)

    assert os.listdir(tmp_path / "elsewhere") == []
    assert content_of(yard.drop + b"/file.dcm") == CONTENT


def test_a_new_reason_for_the_file_that_came_back_is_left_alone(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may refuse it once more before its old reason is removed."""
    path = yard.refuse()
    real = files.move_durably

    def refused_at_once(source: bytes, target: bytes, expected: Snapshot) -> None:
        real(source, target, expected)
        monkeypatch.undo()
        os.rename(target, path)
        files.write_durably(why_of(path), json.dumps({"reason": "new"}))

    monkeypatch.setattr(files, "move_durably", refused_at_once)

    yard.send_off(State.RETURNED)

    assert json.loads(content_of(why_of(path))) == {"reason": "new"}


@ways
@pytest.mark.parametrize("kind", ["link", "pipe", "socket-like"])
def test_what_is_no_file_leaves_without_being_opened(yard: Yard, state: State, kind: str) -> None:
    makes: dict[str, Callable[[bytes], None]] = {
        "link": lambda path: os.symlink(b"/dev/zero", path),
        "pipe": os.mkfifo,
        "socket-like": lambda path: os.mknod(path, 0o600 | stat.S_IFSOCK),
    }
    path = yard.refuse(b"odd.dcm", makes[kind])
    before = os.lstat(path)

    yard.send_off(state)

    assert yard.below(yard.failed) == []
    if state is State.RETURNED:
        assert os.lstat(yard.drop + b"/odd.dcm").st_ino == before.st_ino


def test_a_file_that_changed_since_it_was_chosen_is_not_deleted(yard: Yard) -> None:
    path = yard.refuse()
    one, chosen = yard.the_one(), files.snapshot(path)
    a_file(path, b"another")

    with pytest.raises(Changed):
        quarantine.discard(one, chosen)

    assert content_of(path) == b"another"
    assert os.path.lexists(why_of(path))


def test_of_files_of_one_name_each_comes_back(yard: Yard) -> None:
    for number in range(3):
        yard.refuse(make=lambda path, number=number: a_file(path, b"%d" % number))  # type: ignore[misc]

    yard.send_off(State.RETURNED)

    found = yard.below(yard.drop)
    assert {content_of(os.path.join(yard.drop, name)) for name in found} == {b"0", b"1", b"2"}


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_two_of_one_awkward_name_come_back(yard: Yard, name: bytes) -> None:
    for _ in range(2):
        yard.refuse(name)

    yard.send_off(State.RETURNED)

    assert len(yard.below(yard.drop)) == 2
    assert yard.below(yard.failed) == []


# -- what the ledger tells -----------------------------------------------------------------------


@ways
def test_it_is_in_the_ledger_before_it_happens(yard: Yard, state: State) -> None:
    yard.refuse()
    seen: list[list[State]] = []

    def act(leaving: Leaving) -> bytes:
        assert os.path.lexists(leaving.one.path)
        seen.append([event.state for event in yard.events()])
        return b""

    one = yard.the_one()
    leaving = Leaving(one=one, home=yard.drop, snapshot=files.snapshot(one.path))
    quarantine.send_off(
        yard.history, [leaving], act, lambda *_: None, state=state, by="by hand", now=NOW
    )

    assert seen == [[state]]


@ways
@pytest.mark.parametrize("error", [PermissionError(13, "no"), Changed(), FileNotFoundError()])
def test_what_did_not_happen_is_taken_back(
    yard: Yard, state: State, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.refuse()

    def act(_leaving: Leaving) -> bytes:
        raise error

    monkeypatch.setitem(WAYS, state, act)
    before = yard.ledger.tallies()

    assert yard.send_off(state) == [error]

    assert yard.events() == []
    assert [tally.state for tally in yard.ledger.tallies()] == [State.QUARANTINED]
    assert before == []


def test_who_interrupts_it_does_not_have_the_rest_called_deleted(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (b"a", b"b", b"c"):
        yard.refuse(name)

    def act(leaving: Leaving) -> bytes:
        if leaving.one.place == b"b":
            raise KeyboardInterrupt
        return _discard(leaving)

    monkeypatch.setitem(WAYS, State.DISCARDED, act)

    with pytest.raises(KeyboardInterrupt):
        yard.send_off(State.DISCARDED)

    assert len(yard.events()) == 1
    assert [one.place for one in yard.held()] == [b"b", b"c"]


# -- crashes -------------------------------------------------------------------------------------


class KilledHistory(History):
    """Of a process that is killed: it takes nothing back."""

    def take_back(self, intents: list[Intent]) -> None:  # type: ignore[override]
        """Not any more."""
        if not intents:
            super().take_back(intents)


@ways
@pytest.mark.parametrize("across", [False, True], ids=["one file system", "two"])
def test_killed_at_any_step_it_is_in_one_place_and_a_second_call_ends_it(
    tmp_path: Path, state: State, across: bool
) -> None:
    points = 0
    for number, after in crash_points():
        yard = Yard(tmp_path / f"{number}-{after}")
        with closing(yard.ledger):
            yard.refuse(b"study/file.dcm")
            apart = yard.failed if across else None
            steps = Steps(number, after=after)
            try:
                with steps.counted(apart=apart):
                    yard.send_off(state, KilledHistory(yard.ledger))
            except Crash:
                points += 1
            if number >= len(steps.taken):
                break
            _is_whole(yard, state, steps, across=across)

            if yard.held():
                with Steps().counted(apart=apart):
                    yard.send_off(state)

            assert yard.held() == []
            came = [name for name in yard.below(yard.drop) if not name.endswith(b".part")]
            assert came == ([b"study/file.dcm"] if state is State.RETURNED else [])
            told = {event.state for event in yard.events()}
            assert told == {state}
    assert points >= 4


def _is_whole(yard: Yard, state: State, steps: Steps, *, across: bool) -> None:
    """Right after the crash: the whole file is in one place, or it was to be deleted."""
    held = [one.path for one in yard.held()]
    came = [
        os.path.join(yard.drop, name)
        for name in yard.below(yard.drop)
        if not name.endswith(b".part")
    ]
    if state is State.DISCARDED:
        assert came == []
        assert held or "unlink" in steps.taken
        return
    assert {content_of(path) for path in held + came} == {CONTENT}
    if across:  # a copy is complete before its source goes
        assert len(held) + len(came) in (1, 2)
    else:
        assert len(held) + len(came) == 1
    for path in held:
        assert os.path.lexists(why_of(path))


# -- aging ---------------------------------------------------------------------------------------


@given(days=st.floats(-400, 400), keep=st.integers(1, 300))
def test_aged_is_what_has_been_there_for_longer(
    days: float, keep: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    yard = Yard(tmp_path_factory.mktemp("yard"))
    with closing(yard.ledger):
        yard.refuse(at=AT - timedelta(days=days))
        one = yard.the_one()
        assert one.note is not None
        assert one.note.at is not None

        is_aged = quarantine.is_aged(one, AT.timestamp(), keep * 86400.0)

        assert is_aged == (AT.timestamp() - one.note.at.timestamp() >= keep * 86400.0)


def test_another_file_in_the_place_of_the_noted_one_does_not_age(yard: Yard) -> None:
    path = yard.refuse()
    os.unlink(path)
    a_file(path, b"a person's own")

    assert not quarantine.is_aged(yard.the_one(), NOW + 1e9, 1.0)


def test_what_has_no_note_does_not_age(yard: Yard) -> None:
    os.unlink(why_of(yard.refuse()))

    assert not quarantine.is_aged(yard.the_one(), NOW + 1e9, 1.0)


def test_a_link_ages_as_well(yard: Yard) -> None:
    path = yard.refuse(make=lambda path: os.symlink(b"nowhere", path))
    os.unlink(path)
    os.symlink(b"anywher", path)  # as after a copy to another file system: its time is another

    assert quarantine.is_aged(yard.the_one(), NOW + 1e9, 1.0)
