"""The service looks after its folders and disks, and says how they are."""

import io
import os
import signal
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.mounting import bind, mounted, unmount
from tests.system.harness import Ground, Service, image, until, written

FLOOD = 200_000


def test_a_share_that_goes_is_offline_and_comes_back(ground: Ground) -> None:
    """In mid-run, over a restart, and with files waiting on it: none is lost or done twice."""
    root = ground.drop("dx")
    share = ground.root / "share"
    share.mkdir()
    with mounted(share), mounted(root, over=share):
        ground.put("dx", "first.dcm", first := image())
        service = ground.service()
        service.imports(first)
        assert ground.folder_status("dx")["state"] == "watched"
        unmount(root, lazily=True)
        (share / "second.dcm").write_bytes(second := image())
        until(lambda: service.has_said("drop.offline"), "it notices")
        status = ground.folder_status("dx")
        assert status["state"] == "offline"
        assert "nothing is mounted" in status["why_offline"]
        assert "dx (OFFLINE)" in ground.says("status").out
        ground.put("mammo", "other.dcm", other := image("mammo"))
        service.imports(other)  # the other folders go on
        service.kill()

        service = ground.service().ready()
        until(lambda: service.has_said("drop.offline"), "it knows it from before")
        service.stop()
        once = ground.says("run", "--once")
        assert once.code == 1
        assert "drop folder dx is offline" in once.err
        assert list(root.iterdir()) == []

        service = ground.service().ready()
        bind(share, root)
        service.imports(second)
        assert ground.folder_status("dx")["state"] == "watched"
        service.stop()
        told = [line["event"] for line in service.events() if line["event"].startswith("drop.")]
        assert told == ["drop.offline", "drop.back"]
        assert ground.is_empty()
        assert [row[2:6] for row in ground.held()] == [("1", "1", "1", "1")] * 3


def test_nothing_is_moved_to_where_a_share_is_not_mounted(ground: Ground) -> None:
    """Neither into quarantine, of whichever folder, nor back from it by retry."""
    ground.configure()
    ground.failed.mkdir()
    with mounted(ground.failed):
        with mounted(ground.drop("sr")):
            service = ground.service().ready()
            ground.put("sr", "first.dcm", b"no object")
            until(ground.quarantined, "it is quarantined")
            service.stop()
            assert ground.says("run", "--once").code == 0  # and the folder is known
        said = ground.says("retry", "--all")
        assert said.code == 1, said
        assert "nothing is mounted at" in said.err
        assert list(ground.drop("sr").iterdir()) == []
        assert ground.quarantined() == {b"sr/first.dcm": "not-dicom"}
    service = ground.service().ready()
    until(lambda: service.has_said("target.offline"), "it says so")
    ground.put("dx", "second.dcm", b"no object")
    until(lambda: ground.folder_status("dx")["stuck"] == {"disk-away": 1}, "status says so")
    assert [target["what"] for target in ground.status()["offline"]] == ["quarantine"]
    assert "quarantine (OFFLINE)" in ground.says("status").out
    assert list(ground.failed.iterdir()) == []
    service.stop()
    ground.tables = ""
    text = ground.config.read_text()
    ground.config.write_text(text.replace("[quarantine]", '[quarantine]\nmount = "none"'))
    assert ground.says("run", "--once").code == 1
    assert ground.quarantined() == {b"dx/second.dcm": "not-dicom"}


def test_a_folder_that_was_there_before_may_be_away_at_the_start(ground: Ground) -> None:
    """One that never was is likelier a typo; and a named mount is waited for."""
    assert ground.says("run", "--once").code == 0
    aside = ground.root / "aside"
    ground.drop("dx").rename(aside)
    service = ground.service().ready()
    until(lambda: service.has_said("drop.offline"), "it says so")
    (aside / "x.dcm").write_bytes(content := image())
    aside.rename(ground.drop("dx"))
    service.imports(content)
    service.stop()

    text = ground.config.read_text()
    path = f'path = "{ground.drop("dx")}"'
    never = ground.root / "never"
    ground.config.write_text(text.replace(path, f'path = "{never}"'))
    assert ground.says("run", "--once").code == 2
    ground.config.write_text(text.replace(path, f'path = "{never}"\nmount = "{never}"'))
    once = ground.says("run", "--once")
    assert once.code == 1, once
    assert f"nothing is mounted at {never}" in once.err


def test_a_second_service_on_the_same_folder_ends_at_once(ground: Ground) -> None:
    """Also with a state folder of its own, and by another path to the same folder."""
    service = ground.service().ready()
    other = ground.root / "other.toml"
    text = ground.config.read_text().replace(f'"{ground.state}"', f'"{ground.root}/other"')
    link = ground.root / "link"
    link.mkdir()
    with mounted(link, over=ground.drop("dx")):
        for path in (str(ground.drop("dx")), str(link)):
            other.write_text(text.replace(f'"{ground.drop("dx")}"', f'"{path}"'))
            for arguments in (("run",), ("run", "--once")):
                said = ground.says("--config", other, *arguments, config=False)
                assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1), said
                assert "another openrem-ingest already works on" in said.err
                assert "Next: " in said.err
    ground.put("dx", "x.dcm", image())
    until(ground.is_empty, "the first goes on")
    service.kill()
    other.write_text(text)
    assert ground.says("--config", other, "run", "--once", config=False).code == 0


def test_a_disk_that_fills_up_is_told_of_before_it_is_full(ground: Ground) -> None:
    """In the log and in status; nothing is deleted, and all goes on."""
    ground.tables = "[disk]\nlow = 8"
    ground.configure()
    with mounted(ground.drop("dx"), "size=32m"):
        (ground.drop("dx") / "filler.part").write_bytes(bytes(28 << 20))
        service = ground.service()
        ground.put("dx", "x.dcm", content := image())
        service.imports(content)
        until(lambda: service.has_said("disk.low"), "it warns")
        (low,) = [line for line in service.events() if line["event"] == "disk.low"]
        assert low["path"] == str(ground.drop("dx"))
        assert low["folders"] == ["drop folder dx"]
        (disk,) = [disk for disk in ground.status()["disks"] if disk["low"]]
        assert disk["free_mib"] < 8
        assert "Disk low: " in ground.says("status").out
        service.stop()
        assert (ground.drop("dx") / "filler.part").stat().st_size == 28 << 20
        (ground.drop("dx") / "filler.part").unlink()
        assert not any(disk["low"] for disk in ground.status()["disks"])


def test_events_that_come_faster_than_they_are_read_lose_no_file(ground: Ground) -> None:
    """The service stands still while the kernel's queue of events overflows."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    service = ground.service().ready()
    service.runs_for(2)  # what comes in the first second may have been there before the watch
    service.process.send_signal(signal.SIGSTOP)
    for number in range(most // 2 + 100):
        (ground.drop("dx") / f"{number}.part").touch()
    for number in range(10):
        ground.put("dx", f"{number}.dcm", image())
    service.process.send_signal(signal.SIGCONT)
    until(lambda: ground.events() == 10, "all are imported")
    assert [line["event"] for line in service.events()].count("watch.overflowed") == 1
    until(lambda: ground.folder_status("dx")["missed_by_events"] > 0, "they are counted")
    ground.put("dx", "later.dcm", later := image())
    service.imports(later)
    service.stop()
    assert not service.has_said("watch.missed")
    assert ground.quarantined() == {}


@pytest.mark.timeout(900)
def test_a_flood_of_files_is_found_in_flat_memory(ground: Ground) -> None:
    """Into one folder, as fast as can be, while OpenREM is away: so all of them wait.

    In memory: on a disk that others sync at the same time, all of them would crawl.
    """
    with mounted(ground.drop("dx"), "size=1500m,nr_inodes=400k"):
        ground.python = ground.root / "no-python"
        ground.configure()
        service = ground.service()
        until(lambda: service.has_said("openrem.away"), "it has begun")
        ground.put("dx", "first.dcm", _a_small_image())
        until(lambda: _waiting(ground) == 1, "the first is found")
        before = _peak_kib(service)
        content = _a_small_image()
        folder = os.open(ground.drop("dx"), os.O_RDONLY)
        for number in range(FLOOD):
            file = os.open(f"{number}.dcm", os.O_WRONLY | os.O_CREAT, dir_fd=folder)
            os.write(file, content)
            os.close(file)
        os.close(folder)
        until(lambda: _waiting(ground) > FLOOD // 100, "it has come upon them")
        ground.put("sr", "other.dcm", _a_small_image())
        until(lambda: _waiting(ground, "sr") == 1, "so is that of another folder")
        assert _waiting(ground) < FLOOD // 2, "the flood is still being found"
        until(lambda: _waiting(ground) == FLOOD + 1, "all are found", deadline_s=800)
        grown = _peak_kib(service) - before
        service.stop()
        assert grown < 15 << 10, f"{grown} KiB"


def _a_small_image() -> bytes:
    """Of the elements that a decision needs."""
    whole = dcmread(io.BytesIO(image()))
    small = Dataset()
    small.file_meta = whole.file_meta
    for keyword in (
        *("SOPClassUID", "SOPInstanceUID", "StudyDate", "StudyTime", "Modality", "Manufacturer"),
        *("StudyInstanceUID", "SeriesInstanceUID"),
    ):
        setattr(small, keyword, whole[keyword].value)
    return written(small)


def _waiting(ground: Ground, drop: str = "dx") -> int:
    """By the ledger itself: each `status` would cost as much as a thousand files."""
    sql = "SELECT count(*) FROM job WHERE drop_name = ? AND state = 'READY'"
    return int(ground.ledger(sql, drop)[0][0])


def _peak_kib(service: Service) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
