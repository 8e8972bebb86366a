"""Watching that repairs itself: the real watchdog, broken in each way that it is known to break.

Whatever happens to the events, each file is found by the sweeps; and afterwards events come again.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs
from watchdog.observers.inotify_c import InotifyConstants, InotifyFD, inotify_add_watch

from ingest import intake, lookout, service
from ingest.context import Context, Inbox
from ingest.housekeeping import Housekeeping
from ingest.intake import Intake
from ingest.ledger import Ledger
from ingest.lookout import Lookout, Rhythm
from ingest.missed import GRACE_S
from ingest.model import Snapshot, State
from ingest.setback import Setbacks
from ingest.settle import Patience
from tests.mounting import bind, mounted, unmount
from tests.objects import CT_REPORT

DEADLINE_S = 240.0  # the machine may be busy, and one thread spins on purpose
NAME = "sr"


class Looking:
    """A drop folder that is looked after, one turn after the other."""

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self.root = root
        self.ledger = ledger
        self.ahead_s = 0.0
        self.context = Context(
            ledger=ledger,
            inboxes=[
                Inbox(
                    name=NAME,
                    root=os.fsencode(root),
                    after="delete",
                    patience=Patience(quiet_s=1.0, incomplete_after_s=1e6),
                    mount="auto",
                )
            ],
            clock=lambda: time.time() + self.ahead_s,
            stopping=threading.Event(),
            on_end=lambda _ended: None,
        )
        setbacks = Setbacks(self.context)
        self.lookout = Lookout(
            self.context,
            Intake(self.context, setbacks),
            Housekeeping(self.context, setbacks),
            rhythm=Rhythm(quick_s=0.1, full_s=300.0, tidy_after_s=5.0),
        )
        self.lookout.start_watching()
        self.until(lambda: self._is_watched() and not self.lookout.is_sweeping)
        # What changes from now on is to be told of by events.
        self.lookout._watches[NAME].began_ns = 1

    def _is_watched(self) -> bool:
        return bool(self.lookout._watches[NAME].began_ns)

    @property
    def reader(self) -> InotifyFD:
        """Watchdog's reading thread, as it is now."""
        reader = self.lookout._watches[NAME]._reader
        assert reader is not None
        return reader

    def put(self, name: str) -> bytes:
        """A file that is whole one day, perhaps."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM")
        return os.fsencode(path)

    def knows(self, path: bytes) -> bool:
        """Whether the file is in the ledger."""
        return self.ledger.find(path) is not None

    def count(self) -> int:
        """How many files are."""
        (row,) = self.ledger.rows("SELECT count(*) FROM job WHERE state <> 'GONE'")
        return int(str(row[0]))

    def until(self, condition: Callable[[], bool], *, step_s: float = 0.0) -> None:
        """Take turns until it holds; ``step_s`` passes in each."""
        deadline = time.monotonic() + DEADLINE_S
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline
            if not self.lookout.turn():
                pause.wait(0.01)
            self.ahead_s += step_s

    def is_hinted(self, path: bytes) -> bool:
        """Wait for an event, without a sweep."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            self.lookout.hints.arrived.wait(0.1)
            if path in self.lookout.hints.take()[0]:
                return True
        return False


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "state" / "ledger.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def looking(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Looking]:
    monkeypatch.setattr(threading, "excepthook", service._thread_died)
    (tmp_path / "sr").mkdir()
    made = Looking(tmp_path / "sr", ledger)
    yield made
    made.lookout.stop_watching()


# -- watchdog breaks -------------------------------------------------------------------------------


def _wake(looking: Looking) -> None:
    looking.put("wakes-it.part")


def _reading_thread_dies(looking: Looking) -> None:
    """In silence, as after a KeyError on a folder that is moved about."""

    def fails() -> None:
        raise KeyError(b"/drop/Doe^John")

    reader = looking.reader
    reader.read_events = fails  # type: ignore[method-assign, assignment]
    _wake(looking)
    reader.join(DEADLINE_S)


def _telling_fails(looking: Looking) -> None:
    """As by a defect of ours in what the reading thread calls."""

    def fails(_event: object) -> None:
        raise RuntimeError

    reader = looking.reader
    teller = looking.lookout._watches[NAME]._teller
    teller.on_event = fails  # type: ignore[method-assign, assignment]
    _wake(looking)
    reader.join(DEADLINE_S)


def _reading_thread_ends(looking: Looking) -> None:
    looking.reader.stop()
    looking.reader.join(DEADLINE_S)


def _goes_blind(looking: Looking) -> None:
    """All threads live, and no event ever comes again."""
    _change_mask(looking, InotifyConstants.IN_DELETE_SELF)


def _spins(looking: Looking) -> None:
    """The reading thread is busy with itself for ever."""
    spins = threading.Event()

    def reads_nothing() -> list[object]:
        spins.set()
        return []

    looking.reader.read_events = reads_nothing  # type: ignore[method-assign, assignment]
    _wake(looking)
    spins.wait(DEADLINE_S)  # before that it may yet read of the next file


def _change_mask(looking: Looking, mask: int) -> None:
    path = os.fsencode(looking.root)
    assert inotify_add_watch(looking.reader._inotify_fd, path, mask) > 0, ctypes.get_errno()


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (_reading_thread_dies, ["thread.died"]),
        (_reading_thread_ends, []),
        (_telling_fails, ["thread.died"]),
        (_goes_blind, ["watch.missed"]),
        (_spins, ["watch.missed"]),
    ],
)
def test_whatever_breaks_each_file_is_found_and_events_come_again(
    looking: Looking, breaks: Callable[[Looking], None], told: list[str]
) -> None:
    broken = looking.reader
    with capture_logs() as log:
        breaks(looking)
        path = looking.put("while-broken.dcm")
        looking.until(lambda: looking.knows(path))
        looking.until(
            lambda: looking.lookout._watches[NAME]._reader not in (None, broken),
            step_s=GRACE_S / 5,
        )
        looking.until(lambda: not looking.lookout.is_sweeping)
    assert not broken.is_alive()
    assert looking.is_hinted(looking.put("afterwards.dcm"))
    events = [line["event"] for line in log]
    assert [event for event in events if event != "file.left"] == told
    assert "Doe" not in str(log)
    assert looking.lookout.missed()[NAME] == ("watch.missed" in told)


def test_what_events_told_of_is_not_missed(looking: Looking) -> None:
    """Also where the sweep was faster than the event."""
    paths = [looking.put(f"{number}.dcm") for number in range(50)]
    looking.until(lambda: all(looking.knows(path) for path in paths))
    end = time.time() + looking.ahead_s + 4 * GRACE_S
    looking.until(lambda: time.time() + looking.ahead_s > end, step_s=GRACE_S / 10)
    assert looking.lookout.missed() == {NAME: 0}


# -- too many events -------------------------------------------------------------------------------


def test_a_file_that_was_whole_before_its_writer_closed_it_is_ready_at_the_close(
    looking: Looking,
) -> None:
    """The event hurries it: by itself it would be looked at again in an hour."""
    inbox = looking.context.inboxes[NAME]
    patience = Patience(quiet_s=7200.0, incomplete_after_s=1e6)
    looking.context.inboxes[NAME] = replace(inbox, patience=patience)
    path = os.fsencode(looking.root / "x.dcm")

    def state() -> State | None:
        job = looking.ledger.find(path)
        return job.state if job is not None else None

    with open(path, "wb") as sender:
        sender.write(CT_REPORT.read_bytes())
        sender.flush()
        looking.until(lambda: state() is State.SEEN)
    looking.until(lambda: state() is State.READY)


def test_after_an_overflow_all_is_swept_and_it_is_told_once(looking: Looking) -> None:
    """The kernel's queue holds so many events; what comes then is lost."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    reader = looking.reader
    plain, has_stopped, goes_on = reader.read_events, threading.Event(), threading.Event()

    def waits() -> object:
        has_stopped.set()
        goes_on.wait()
        return plain()

    reader.read_events = waits  # type: ignore[method-assign, assignment]
    with capture_logs() as log:
        _wake(looking)
        assert has_stopped.wait(DEADLINE_S)  # else it may still read what is to overflow
        for number in range(most // 2 + 100):
            (looking.root / f"{number}.part").touch()
        late = [looking.put(f"{number}.dcm") for number in range(20)]
        goes_on.set()
        looking.until(lambda: any(line["event"] == "watch.overflowed" for line in log))
        looking.until(lambda: all(looking.knows(path) for path in late))
        looking.until(lambda: not looking.lookout.is_sweeping)
        end = time.time() + looking.ahead_s + 4 * GRACE_S
        looking.until(lambda: time.time() + looking.ahead_s > end, step_s=GRACE_S / 10)
    assert [line["event"] for line in log] == ["watch.overflowed"]
    assert looking.lookout.missed() == {NAME: 20}
    assert looking.is_hinted(looking.put("afterwards.dcm"))


# -- trees -----------------------------------------------------------------------------------------


def test_only_the_drop_folder_itself_is_watched(looking: Looking) -> None:
    """What watchdog does to trees (lost closes, death, livelock) can't happen."""
    for number in range(300):
        (looking.root / f"a/{number}/b").mkdir(parents=True)
    looking.put("a/7/b/x.dcm")
    looking.until(lambda: looking.count() == 1)
    fd = looking.reader._inotify_fd
    watches = Path(f"/proc/self/fdinfo/{fd}").read_text().count("inotify wd:")
    assert watches == 1


@pytest.mark.parametrize("depth", [1, 3])
def test_a_thousand_new_folders_with_a_file_in_each(looking: Looking, depth: int) -> None:
    for number in range(1000):
        looking.put("/".join([str(number)] * depth) + "/x.dcm")
    looking.until(lambda: looking.count() == 1000)


def test_a_tree_that_is_moved_in_and_then_added_to(looking: Looking, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "study" / "series").mkdir(parents=True)
    (outside / "study" / "1.dcm").write_bytes(b"x")
    outside.rename(looking.root / "moved")
    looking.until(lambda: looking.count() == 1)
    looking.put("moved/study/series/2.dcm")
    looking.put("moved/study/later/3.dcm")
    looking.put("moved/4.dcm")
    looking.until(lambda: looking.count() == 4)


def test_the_archived_study_folder_whose_name_is_used_again(
    looking: Looking, tmp_path: Path
) -> None:
    """The order of steps that ends watchdog's thread where trees are watched."""
    study, out = looking.root / "s", tmp_path / "out"
    study.mkdir()
    looking.lookout.turn()
    study.rename(out)
    study.mkdir()
    looking.lookout.turn()
    study.rmdir()
    out.rmdir()
    looking.lookout.turn()
    assert looking.is_hinted(looking.put("afterwards.dcm"))


def test_links_to_the_folder_itself_are_no_maze(looking: Looking) -> None:
    for name in ("one", "two"):
        (looking.root / name).symlink_to(".")
    path = looking.put("x.dcm")
    looking.until(lambda: looking.knows(path))
    assert looking.count() == 3  # the links are looked at as what they are, and not followed


# -- the drop folder itself ------------------------------------------------------------------------


def _is_removed(looking: Looking) -> Callable[[], object]:
    looking.root.rmdir()
    return looking.root.mkdir


def _is_renamed(looking: Looking) -> Callable[[], object]:
    aside = looking.root.with_name("aside")
    looking.root.rename(aside)
    return lambda: aside.rename(looking.root)


@pytest.mark.parametrize("goes", [_is_removed, _is_renamed])
def test_a_drop_folder_that_goes_and_comes_back(
    looking: Looking, goes: Callable[[Looking], Callable[[], object]]
) -> None:
    with capture_logs() as log:
        comes_back = goes(looking)
        looking.until(lambda: NAME in looking.context.offline)
        for _ in range(5):
            looking.lookout.turn()
        comes_back()
        path = looking.put("x.dcm")
        looking.until(lambda: looking.knows(path))
        looking.until(lambda: not looking.lookout.is_sweeping)
    assert [line["event"] for line in log] == ["drop.offline", "drop.back"]
    assert looking.is_hinted(looking.put("afterwards.dcm"))


def test_a_drop_folder_in_whose_place_another_is_put(looking: Looking) -> None:
    """Renamed and made anew between two looks: the old watch would tell of the old folder."""
    looking.root.rename(looking.root.with_name("old"))
    looking.root.mkdir()
    path = looking.put("x.dcm")
    looking.until(lambda: looking.knows(path))
    looking.until(lambda: not looking.lookout.is_sweeping)
    assert looking.is_hinted(looking.put("afterwards.dcm"))


def test_a_share_that_is_unmounted_and_mounted_again(looking: Looking, tmp_path: Path) -> None:
    """Its files are not gone meanwhile, and what lies beneath is left alone."""
    share = tmp_path / "share"
    share.mkdir()
    with mounted(share), mounted(looking.root, over=share):
        first = looking.put("first.dcm")
        looking.until(lambda: looking.knows(first))
        looking.until(lambda: not looking.lookout.is_sweeping)
        with capture_logs() as log:
            unmount(looking.root, lazily=True)
            beneath = looking.put("beneath.dcm")
            looking.until(lambda: NAME in looking.context.offline)
            for _ in range(20):
                looking.lookout.turn()
                looking.ahead_s += 1000.0
            assert not looking.knows(beneath)
            job = looking.ledger.find(first)
            assert job is not None
            assert job.state.name == "SEEN"
            bind(share, looking.root)
            second = looking.put("second.dcm")
            looking.until(lambda: looking.knows(second))
            looking.until(lambda: not looking.lookout.is_sweeping)
        assert [line["event"] for line in log] == ["drop.offline", "drop.back"]
        assert "nothing is mounted" in log[0]["why"]
        assert "move away" in log[0]["next"]
        assert looking.is_hinted(looking.put("afterwards.dcm"))


def test_a_folder_that_is_mounted_over_in_use(looking: Looking) -> None:
    hidden = looking.put("hidden.dcm")
    looking.until(lambda: looking.knows(hidden))
    with mounted(looking.root):
        path = looking.put("x.dcm")
        looking.until(lambda: looking.knows(path))
        looking.until(lambda: not looking.lookout.is_sweeping)
        assert looking.is_hinted(looking.put("afterwards.dcm"))


# -- a slow disk or share --------------------------------------------------------------------------


def _an_inbox(folder: Path, name: str) -> Inbox:
    return Inbox(
        name=name,
        root=os.fsencode(folder / name),
        after="delete",
        patience=Patience(quiet_s=1.0, incomplete_after_s=1e6),
    )


def test_a_slow_folder_does_not_hold_up_the_sweep_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(s=0.0)
    monkeypatch.setattr(lookout, "time", SimpleNamespace(monotonic=lambda: clock.s))

    def sweep(name: str, count: int, each_s: float) -> Iterator[tuple[Inbox, bytes]]:
        inbox = _an_inbox(tmp_path, name)
        for number in range(count):
            clock.s += each_s
            yield inbox, b"%d" % number

    found = lookout._by_turns([sweep("slow", 1000, 0.6), sweep("quick", 300, 0.0)])
    names = [inbox.name for inbox, _path in found]
    assert (names.count("slow"), names.count("quick")) == (1000, 300)
    assert "slow" in names[200:]
    assert names[: 300 + 10].count("quick") == 300


def test_a_slow_folder_does_not_hold_up_what_waits_in_others(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though all of its files have waited for longer."""
    clock = SimpleNamespace(s=0.0)
    monkeypatch.setattr(intake, "time", SimpleNamespace(monotonic=lambda: clock.s))
    context = Context(
        ledger=ledger,
        inboxes=[_an_inbox(tmp_path, "slow"), _an_inbox(tmp_path, "quick")],
        clock=time.time,
        stopping=threading.Event(),
        on_end=lambda _ended: None,
    )
    looking = Intake(context, Setbacks(context))
    looked: list[str] = []

    def look(inbox: Inbox, _path: bytes) -> bool:
        looked.append(inbox.name)
        clock.s += 0.6 if inbox.name == "slow" else 0.001
        return False

    monkeypatch.setattr(looking, "look", look)
    for at, name in enumerate(("slow", "quick")):
        for number in range(100):
            ledger.see(
                drop=name,
                path=b"/%s/%d" % (name.encode(), number),
                snapshot=Snapshot(device=1, inode=number, size=1, mtime_ns=1, ctime_ns=1),
                now=float(at),
            )
    assert looking.look_at_due(200) == 200, "there is more to do"
    assert looked.count("quick") == 100
    assert looked.count("slow") <= 2
    assert looking.look_at_due(200) == 200
    assert looked.count("slow") > 2
