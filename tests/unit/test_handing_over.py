"""`ingest.engine` and `ingest.service`: single turns on real files, before an OpenREM of our own.

What it holds is always whole, so that all which goes wrong here is between a file and its turn.
"""

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from ingest import dicom, parts, policy, service
from ingest.config import Settings
from ingest.context import Inbox
from ingest.engine import Engine
from ingest.ledger import Ledger
from ingest.model import Done, Importer, Outcome, Recordable, SizesWanted, State, StudyOutcome
from ingest.openrem.importers import Hello
from ingest.settle import Patience
from tests.objects import DX_IMAGE, variant
from tests.strategies import a_study, facts_of

DAY_S = 86400.0


class Openrem:
    """Takes every object, and holds the one that it read."""

    def __init__(self) -> None:
        self.took: list[str] = []

    def hello(self) -> Hello:
        """See `OpenRem`, here and below."""
        return Hello(openrem="", database="", server="", duplicate_scanners=0)

    def import_object(self, path: bytes, _importer: Importer) -> Outcome:
        """Take it."""
        header = dicom.look(path).header
        assert header is not None
        self.took.append(header.sop_instance_uid)
        held = a_study(event_uids=(header.sop_instance_uid,), event_rows=1, number_of_events=1)
        return Done(facts=facts_of(header, held))

    def import_sizes(self, path: bytes, wanted: SizesWanted) -> Outcome:
        """No table comes."""
        raise NotImplementedError

    def import_study(self, folder: bytes, importer: Importer) -> StudyOutcome:
        """No study comes."""
        raise NotImplementedError

    def recorded(self, _objects: Sequence[Recordable]) -> Collection[Recordable]:
        """None."""
        return ()

    def prove(self, path: bytes, importer: Importer) -> Outcome:
        """Take it."""
        return self.import_object(path, importer)

    def close(self) -> None:
        """Nothing runs."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "state" / "ledger.sqlite")) as opened:
        yield opened


class Turns:
    """One drop folder, and turns at it."""

    def __init__(self, tmp_path: Path, ledger: Ledger, *, after: str = "delete") -> None:
        self.root = tmp_path / "drop"
        self.root.mkdir()
        (tmp_path / "work").mkdir()
        self.ledger = ledger
        self.openrem = Openrem()
        self.late_s = 0.0
        self.inbox = Inbox(
            name="dx",
            root=os.fsencode(self.root),
            after=after,
            patience=Patience(quiet_s=0.2, incomplete_after_s=60.0),
            quarantine=os.fsencode(tmp_path / "failed"),
        )
        self.engine = Engine(
            ledger=ledger,
            inboxes=[self.inbox],
            retry=policy.RetryPolicy(attempts=3, initial_s=0.2, maximum_s=1.0),
            work=os.fsencode(tmp_path / "work"),
            clock=lambda: time.time() + self.late_s,
            stopping=threading.Event(),
        )

    def look(self, path: Path) -> None:
        """Look at a file."""
        self.engine.intake.look(self.inbox, bytes(path))

    def state_of(self, path: Path) -> State | None:
        """Where a file is on its journey."""
        job = self.ledger.find(bytes(path))
        return job.state if job is not None else None


def test_another_object_with_all_the_marks_of_the_one_we_looked_at(
    tmp_path: Path, ledger: Ledger
) -> None:
    """Inode, size and time are alike, so what OpenREM read tells: it is looked at anew."""
    turns = Turns(tmp_path, ledger)
    path = variant(DX_IMAGE, turns.root / "image.dcm")
    other = variant(DX_IMAGE, tmp_path / "other.dcm")
    while other.stat().st_size != path.stat().st_size:
        other = variant(DX_IMAGE, tmp_path / "other.dcm")
    turns.look(path)
    before = path.stat()
    with path.open("r+b") as file:
        file.write(other.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    turns.engine.import_next(turns.openrem)
    assert path.exists()
    turns.late_s = 10.0
    turns.engine.intake.look_at_due(10)
    turns.engine.import_next(turns.openrem)

    assert turns.state_of(path) is State.DONE
    assert not path.exists()
    assert not (tmp_path / "failed").exists()


def test_a_kept_file_that_is_being_written_again_is_not_imported_in_between(
    tmp_path: Path, ledger: Ledger
) -> None:
    turns = Turns(tmp_path, ledger, after="keep")
    path = variant(DX_IMAGE, turns.root / "image.dcm")
    content = path.read_bytes()
    turns.look(path)
    assert turns.state_of(path) is State.READY

    with path.open("wb") as sender:
        sender.write(content[: len(content) // 2])
        sender.flush()
        turns.engine.import_next(turns.openrem)
        assert turns.openrem.took == []
        sender.write(content[len(content) // 2 :])
    turns.late_s = 10.0
    turns.engine.intake.look_at_due(10)
    turns.engine.import_next(turns.openrem)

    assert len(turns.openrem.took) == 1
    assert path.read_bytes() == content


# -- the service's own turns -------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock that the service goes by; how far it is ahead can be set."""
    ahead = SimpleNamespace(s=0.0)
    real = time.time
    fake = SimpleNamespace(time=lambda: real() + ahead.s, monotonic=time.monotonic)
    monkeypatch.setattr(service, "time", fake)
    return ahead


def a_service(tmp_path: Path, ledger: Ledger) -> service.Service:
    (tmp_path / "drop" / "sub").mkdir(parents=True, exist_ok=True)
    settings = Settings.model_validate(
        {
            "state_dir": tmp_path / "state",
            "openrem": {"python": "/nowhere/python"},
            "drop": [{"path": tmp_path / "drop"}],
            "settle": {"quiet": 0.1},
        }
    )
    return service.Service(settings, ledger, parts.inboxes_of(settings), stop=threading.Event())


@pytest.mark.parametrize("restart", [False, True])
def test_a_clock_that_is_set_back_holds_nothing_up(
    tmp_path: Path, ledger: Ledger, clock: SimpleNamespace, *, restart: bool
) -> None:
    """As at the start of a machine whose own clock was wrong."""
    serving = a_service(tmp_path, ledger)
    cut = tmp_path / "drop" / "sub" / "cut.dcm"
    cut.write_bytes(DX_IMAGE.read_bytes()[:-100])
    clock.s = DAY_S
    serving._intake_turn()
    job = ledger.find(bytes(cut))
    assert job is not None

    clock.s = 0.0
    if restart:
        serving = a_service(tmp_path, ledger)
    new = variant(DX_IMAGE, tmp_path / "drop" / "sub" / "new.dcm")
    cut.write_bytes(DX_IMAGE.read_bytes())
    serving._intake_turn()
    serving._intake_turn()

    states = {path.name: ledger.find(bytes(path)) for path in (new, cut)}
    assert {name: job and job.state for name, job in states.items()} == {
        "new.dcm": State.READY,
        "cut.dcm": State.READY,
    }


# -- who waits for work is told of it ------------------------------------------------------------


class Importing:
    """A service with one import thread, which looks by itself once an hour."""

    def __init__(self, tmp_path: Path, ledger: Ledger, when_idle: Callable[[], None]) -> None:
        """Whenever the thread has found nothing, ``when_idle`` is called before it waits."""
        self.serving = a_service(tmp_path, ledger)
        self.root = tmp_path / "drop"
        self.serving._workers = [Openrem()]  # type: ignore[list-item]
        self.is_idle, self.has_worked = threading.Event(), threading.Event()
        import_next = self.serving.engine.import_next

        def looked(openrem: Openrem) -> bool:
            worked = import_next(openrem)
            if worked:
                self.has_worked.set()
            elif not self.is_idle.is_set():
                when_idle()
                self.is_idle.set()
            return worked

        self.serving.engine.import_next = looked  # type: ignore[method-assign, assignment]

    def put(self) -> None:
        """Have a whole file become ready."""
        path = variant(DX_IMAGE, self.root / "image.dcm")
        inbox = self.serving.engine.inboxes["drop"]
        self.serving.engine.intake.look(inbox, bytes(path))


@pytest.mark.parametrize("moment", ["while it waits", "just before it waits"])
def test_an_import_thread_at_rest_is_told_of_new_work(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(service, "IDLE_S", 3600.0)
    early = moment == "just before it waits"
    importing = Importing(tmp_path, ledger, lambda: importing.put() if early else None)
    importing.serving._start_importing()
    try:
        assert importing.is_idle.wait(60)
        if not early:
            importing.put()
        assert importing.has_worked.wait(60)
    finally:
        importing.serving._end()
    job = ledger.find(bytes(importing.root / "image.dcm"))
    assert job is not None
    assert job.state is State.DONE


def test_each_way_to_be_ready_is_told(tmp_path: Path, ledger: Ledger) -> None:
    turns = Turns(tmp_path, ledger)
    path = variant(DX_IMAGE, turns.root / "image.dcm")

    heard = ledger.ready_bell.rings
    turns.look(path)
    assert turns.state_of(path) is State.READY
    assert ledger.ready_bell.rings > heard

    job = ledger.next_ready(["dx"], [], time.time())
    assert job is not None
    ledger.claimed(job, "1", time.time())
    heard = ledger.ready_bell.rings
    ledger.back(ledger.get(job.id), time.time())
    assert ledger.ready_bell.rings > heard

    heard = ledger.ready_bell.rings
    ledger.hurry(time.time())
    assert ledger.ready_bell.rings > heard


def test_a_file_that_was_whole_before_its_writer_closed_it_is_ready_at_the_close(
    tmp_path: Path, ledger: Ledger
) -> None:
    """As of a sender that syncs before it closes; a sweep looks again in its own time."""
    turns = Turns(tmp_path, ledger)
    path = turns.root / "image.dcm"
    with path.open("wb") as sender:
        sender.write(variant(DX_IMAGE, tmp_path / "whole.dcm").read_bytes())
        sender.flush()
        turns.look(path)
        turns.engine.intake.look(turns.inbox, bytes(path), is_told=True)
        assert turns.state_of(path) is State.SEEN
    turns.look(path)
    assert turns.state_of(path) is State.SEEN
    turns.engine.intake.look(turns.inbox, bytes(path), is_told=True)
    assert turns.state_of(path) is State.READY
