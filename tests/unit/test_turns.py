"""The turns of looking and of putting in order, on real files and a real ledger."""

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ingest import claim, dicom, files, rules
from ingest.breaker import Breaker
from ingest.claim import Claim
from ingest.config import BY_HAND
from ingest.context import Context, Ended, Inbox
from ingest.errors import Changed, LedgerError, Reason
from ingest.housekeeping import Housekeeping
from ingest.intake import Intake
from ingest.ledger import Ledger
from ingest.model import Importer, Job, State
from ingest.policy import UNKNOWN_ATTEMPTS
from ingest.setback import Setbacks
from ingest.settle import Patience
from tests.objects import CT_REPORT


class Bench:
    """A drop folder, and the parts that serve it; the time stands far ahead of the files."""

    def __init__(self, folder: Path, ledger: Ledger, *, name: str = "sr") -> None:
        """Serve ``folder/sr``, called ``name``."""
        self.root = folder / "sr"
        self.root.mkdir(exist_ok=True)
        self.inbox = Inbox(
            name=name,
            root=os.fsencode(self.root),
            after="delete",
            patience=Patience(quiet_s=1.0, incomplete_after_s=60.0),
            quarantine=os.fsencode(folder / "failed" / name),
        )
        self.ended: list[Ended] = []
        self.time = self.root.stat().st_mtime + 1000
        self.ledger = ledger
        self.context = Context(
            ledger=ledger,
            inboxes=[self.inbox],
            clock=lambda: self.time,
            stopping=threading.Event(),
            on_end=self.ended.append,
        )
        setbacks = Setbacks(self.context)
        self.intake = Intake(self.context, setbacks)
        self.house = Housekeeping(self.context, setbacks)

    def put(self, name: str = "x.dcm") -> bytes:
        """A whole dose report."""
        shutil.copyfile(CT_REPORT, self.root / name)
        return os.fsencode(self.root / name)

    def job(self, path: bytes) -> Job:
        """What the ledger knows of it."""
        job = self.ledger.find(path)
        assert job is not None
        return job


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "state" / "ledger.sqlite")
    yield ledger
    ledger.close()


@pytest.fixture
def bench(tmp_path: Path, ledger: Ledger) -> Bench:
    return Bench(tmp_path, ledger)


def _claimed(bench: Bench) -> tuple[bytes, Claim]:
    """A file in hand, as a killed service leaves it."""
    path = bench.put()
    bench.intake.look(bench.inbox, path)
    job = bench.ledger.next_ready([bench.inbox.name], [], bench.time)
    assert job is not None
    assert job.importer is Importer.RDSR
    claimed = Claim(id=claim.new_id(1), root=bench.inbox.root, place=b"x.dcm")
    bench.ledger.claimed(job, claimed.id, bench.time)
    claim.take(claimed, job.snapshot)
    return path, claimed


def test_a_whole_object_is_ready_at_the_first_look(bench: Bench) -> None:
    path = bench.put()
    bench.intake.look(bench.inbox, path)
    assert bench.job(path).state is State.READY


def test_what_a_crash_left_in_hand_is_put_back(bench: Bench) -> None:
    path, _claim = _claimed(bench)
    bench.house.recover(bench.inbox)
    assert os.path.exists(path)
    assert bench.job(path).state is State.SEEN
    assert not os.path.exists(bench.root / ".ingest")


def test_also_where_the_drop_folder_has_another_name_since(
    bench: Bench, tmp_path: Path, ledger: Ledger
) -> None:
    path, _claim = _claimed(bench)
    renamed = Bench(tmp_path, ledger, name="reports")
    renamed.house.adopt()
    renamed.intake.look(renamed.inbox, path)
    assert os.path.exists(path)
    job = renamed.job(path)
    assert (job.state, job.drop) == (State.READY, "reports")


def test_and_where_it_is_served_no_more(bench: Bench, tmp_path: Path, ledger: Ledger) -> None:
    """The file is back in its folder, and the ledger has no word of it in anybody's hand."""
    path, _claim = _claimed(bench)
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other", ledger, name="other")
    other.house.adopt()
    assert os.path.exists(path)
    assert other.job(path).state is State.GONE


@pytest.mark.parametrize(
    ("state", "end"),
    [
        (State.CLAIMED, State.GONE),
        (State.PROVEN, State.DONE),
        (State.REJECTED, State.QUARANTINED),
    ],
)
def test_a_file_that_reached_its_end_unrecorded_ends_so(
    bench: Bench, state: State, end: State
) -> None:
    path, claimed = _claimed(bench)
    if state is State.PROVEN:
        bench.ledger.proven(bench.job(path), "", bench.time)
    if state is State.REJECTED:
        bench.ledger.rejected(bench.job(path), Reason.BAD_VALUE, "", bench.time)
    os.unlink(claimed.path)
    bench.house.recover(bench.inbox)
    assert bench.job(path).state is end


def test_a_disk_in_trouble_is_told_once_and_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.put()

    def broken(*_: object) -> dicom.Look:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, capture_logs() as told:
        patch.setattr(dicom, "look", broken)
        for _ in range(5):
            bench.intake.look(bench.inbox, path)
            bench.time += 100
    job = bench.job(path)
    assert (job.state, job.reason, job.detail) == (State.SEEN, Reason.CANNOT_READ, "EIO")
    assert [line["event"] for line in told] == ["file.cannot-read"]
    bench.intake.look(bench.inbox, path)
    assert bench.job(path).state is State.READY


def test_a_defect_of_ours_ends_in_quarantine_not_in_a_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.put()

    def defect(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of patient Smith")

    monkeypatch.setattr(rules, "decide", defect)
    with capture_logs() as told:
        for _ in range(UNKNOWN_ATTEMPTS):
            bench.intake.look(bench.inbox, path)
            bench.time += 100
    assert bench.job(path).state is State.QUARANTINED
    assert not os.path.exists(path)
    assert [ended.reason for ended in bench.ended] == [Reason.INTERNAL_ERROR]
    assert "Smith" not in str(told)


def test_a_file_in_anothers_hand_is_not_touched_by_a_defect(bench: Bench) -> None:
    path, claimed = _claimed(bench)
    bench.context.in_hand[claimed.id] = bench.job(path)
    Setbacks(bench.context).internal_error(path, ValueError())
    assert os.path.exists(claimed.path)
    assert bench.job(path).state is State.CLAIMED


def test_a_folder_without_rights_costs_no_word_and_no_row_each_minute(bench: Bench) -> None:
    """While nothing has changed, nothing is told, and nothing is written."""
    path = bench.put()
    bench.intake.look(bench.inbox, path)
    Setbacks(bench.context).leave(
        bench.inbox, bench.job(path), Reason.CANNOT_MOVE, "EACCES", again_s=1.0
    )
    events = len(bench.ledger.history(bench.job(path).id))
    with pytest.MonkeyPatch.context() as patch, capture_logs() as told:
        patch.setattr(os, "access", lambda *_arguments: False)
        for _ in range(5):
            bench.time += 100
            bench.intake.look_at_due(10)
    assert told == []
    assert len(bench.ledger.history(bench.job(path).id)) == events
    bench.time += 100
    bench.intake.look_at_due(10)
    assert bench.job(path).state is State.READY


def test_the_longer_a_target_is_full_the_less_often_it_is_tried(bench: Bench) -> None:
    """A backlog would else be imported anew each minute; once something moves, all is as before."""
    path = bench.put()
    setbacks = Setbacks(bench.context, look_again_s=60.0, at_most_s=900.0)
    claimed = Claim(id="1", root=bench.inbox.root, place=b"x.dcm")
    pauses, said = [], []
    for later_s in (0, 700, 6000):
        bench.time += later_s
        bench.intake.look(bench.inbox, path)
        told = bench.job(path).reason
        bench.ledger.claimed(bench.job(path), claimed.id, bench.time)
        bench.ledger.proven(bench.job(path), "", bench.time)
        with capture_logs() as log:
            setbacks.cannot_move(bench.job(path), claimed, OSError(errno.ENOSPC, ""), told)
        said.append(len(log))
        pauses.append(bench.job(path).not_before - bench.time)
    assert pauses == pytest.approx([60, 350, 900])
    assert said == [1, 0, 0]
    assert bench.job(path).reason is Reason.DISK_FULL
    setbacks.moved(bench.inbox)
    assert setbacks._pause_s(bench.inbox.name) == 60


def test_what_is_left_there_can_be_imported_by_hand(bench: Bench) -> None:
    """Although the service waits until it can move it."""
    path = bench.put()
    by_hand = replace(bench.inbox, name="by hand")
    for state, told in ((State.LEFT, Reason.DISK_READ_ONLY), (State.SEEN, Reason.DISK_FULL)):
        bench.intake.look(bench.inbox, path)
        if state is State.LEFT:
            bench.ledger.left(bench.job(path), told, "", bench.time, not_before=bench.time + 60)
        else:
            bench.ledger.wait(bench.job(path), reason=told, detail="", not_before=bench.time + 60)
            bench.context.see_again(bench.job(path), bench.job(path).snapshot)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "access", lambda *_arguments: False)
            bench.intake.look(by_hand, path)
        assert (bench.job(path).state, bench.job(path).drop) == (State.READY, "by hand")


def test_the_breaker_opens_also_when_the_ledger_is_full(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker = Breaker(ledger, lambda: 0.0, threading.Event())
    breaker.is_open = False

    def full(*_arguments: object) -> None:
        raise LedgerError("disk full")

    monkeypatch.setattr(ledger, "say", full)
    with pytest.raises(LedgerError):
        breaker.open(Reason.DATABASE_UNREACHABLE, "")
    assert breaker.is_open


def test_a_folder_in_the_place_of_a_known_file_is_no_file(bench: Bench) -> None:
    """What lies in it is swept as files of their own; the folder itself is never set aside."""
    path = bench.put("x")
    os.truncate(path, 3000)
    bench.time = os.stat(path).st_mtime + 2
    bench.intake.look(bench.inbox, path)
    os.unlink(path)
    os.mkdir(path)
    inner = bench.put("x/one.dcm")
    bench.intake.look(bench.inbox, path)
    assert bench.job(path).state is State.GONE
    with pytest.raises(Changed):
        claim.take(
            Claim(id=claim.new_id(1), root=bench.inbox.root, place=b"x"), files.snapshot(path)
        )
    assert os.path.exists(inner)


def test_a_machine_short_of_memory_is_not_the_files_fault(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.put()

    def fails(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(dicom, "look", fails)
        for _ in range(2 * UNKNOWN_ATTEMPTS):
            bench.intake.look(bench.inbox, path)
            bench.time += 1000
    assert bench.job(path).reason is Reason.CANNOT_READ
    bench.intake.look(bench.inbox, path)
    assert bench.job(path).state is State.READY


def test_where_files_stay_a_refused_one_whose_name_is_taken_gets_another(bench: Bench) -> None:
    """The one that took its name never makes room; so it is refused again from beside it."""
    inbox = replace(bench.inbox, after="keep")
    path, claimed = _claimed(bench)
    bench.put()
    setbacks = Setbacks(bench.context)
    setbacks.put_back(bench.inbox, claimed)
    assert os.path.exists(claimed.path)  # where files go, it waits for the newer one to go
    setbacks.put_back(inbox, claimed)
    assert not os.path.exists(claimed.path)
    assert sorted(os.listdir(bench.root)) == ["x.dcm", "x~2.dcm"]
    assert os.path.exists(path)


def test_what_the_service_has_in_hand_is_looked_at_again_by_a_manual_import(
    bench: Bench, tmp_path: Path, ledger: Ledger
) -> None:
    """Not passed over as if there had been nothing to import."""
    path, _ = _claimed(bench)
    shutil.copyfile(CT_REPORT, bench.root / "x.dcm")  # sent once more meanwhile
    by_hand = Bench(tmp_path, ledger, name=BY_HAND + " 1")
    by_hand.intake.look(by_hand.inbox, path)
    assert by_hand.intake.elsewhere == [path]
    assert by_hand.intake.look_at_due(10) == 0
    assert by_hand.intake.elsewhere == [path]

    in_hand = bench.job(path)
    ledger.back(in_hand, bench.time)  # its turn in the service is over
    by_hand.intake.look_at_due(10)

    assert by_hand.intake.elsewhere == []
    assert (bench.job(path).drop, bench.job(path).state) == (by_hand.inbox.name, State.READY)


def test_what_is_in_a_hand_of_our_own_is_looked_at_again_by_its_end(bench: Bench) -> None:
    path, claimed = _claimed(bench)
    bench.context.in_hand[claimed.id] = bench.job(path)
    shutil.copyfile(CT_REPORT, bench.root / "x.dcm")
    other = replace(bench.inbox, name="another name")
    bench.intake.look(other, path)
    assert bench.intake.elsewhere == []
