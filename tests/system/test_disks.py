"""Disks that are full, read-only or gone while the service runs: no file is lost or misplaced.

The disks are real: small file systems in memory, and folders mounted over others.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import mounting
from tests.system.harness import Ground, Moments, Service, files_below, image, report, until

_BALLAST = "ballast.part"  # passed over, wherever it lies


@dataclass(slots=True)
class Disks:
    """File systems of a test's own."""

    ground: Ground
    mounted: list[Path] = field(default_factory=list)

    def in_memory(self, at: Path, options: str = "size=4m") -> Path:
        """Mount a new one."""
        at.mkdir(parents=True, exist_ok=True)
        mounting.mount(at, options)
        self.mounted.append(at)
        return at

    def over(self, source: Path, at: Path) -> Path:
        """Mount a folder over another one."""
        at.mkdir(parents=True, exist_ok=True)
        mounting.bind(source, at)
        self.mounted.append(at)
        return at

    def read_only(self, at: Path) -> None:
        """Make it read-only, as the kernel does after an error of the disk."""
        until(lambda: mounting.remount(at, read_only=True), "nobody writes")

    def writable(self, at: Path) -> None:
        """Make it writable again."""
        assert mounting.remount(at, read_only=False)

    def unmount(self, at: Path, *, lazily: bool = False) -> None:
        """Take it away; ``lazily``: although somebody uses it."""
        until(lambda: mounting.unmount(at, lazily=lazily), "nobody uses it")
        self.mounted.remove(at)

    def end(self) -> None:
        """Unmount all of them, whoever uses them."""
        for at in reversed(self.mounted):
            mounting.unmount(at, lazily=True)


@pytest.fixture
def disks(ground: Ground) -> Iterator[Disks]:
    """Unmounted at the end, whatever the test did."""
    made = Disks(ground)
    yield made
    ground.end()  # it may use them
    made.end()


def _fill(disk: Path) -> None:
    """Leave no byte free on it."""
    ballast = disk / _BALLAST
    ballast.mkdir()
    with (ballast / "bytes").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def _use_up_inodes(disk: Path) -> None:
    """Leave no room for a further name on it."""
    ballast = disk / _BALLAST
    ballast.mkdir()
    with suppress(OSError):
        for number in range(1_000_000):
            (ballast / str(number)).touch()


def _free_some(disk: Path, count: int) -> None:
    """Give so many bytes back."""
    ballast = disk / _BALLAST / "bytes"
    os.truncate(ballast, ballast.stat().st_size - count)


def _free(disk: Path) -> None:
    """Give the room back."""
    for path in (disk / _BALLAST).iterdir():
        path.unlink()
    (disk / _BALLAST).rmdir()


def _below(disk: Path) -> list[bytes]:
    """The files there, less the ballast."""
    return [name for name in files_below(disk) if not name.startswith(os.fsencode(_BALLAST))]


FULL: dict[str, Callable[[Path], None]] = {"bytes": _fill, "inodes": _use_up_inodes}
SMALL = "size=2m,nr_inodes=100"
CONTENT = {b"a/0", b"a/1", b"text"}


def _told(service: Service) -> list[tuple[str, str, int]]:
    """What the log tells of files that could not be moved: event, reason, job."""
    return sorted(
        (line["event"], line["reason"], line["job"])
        for line in service.events()
        if line["event"] in ("file.cannot-move", "file.left")
    )


def _say_so(service: Service, reason: str, *, files: int) -> None:
    """Wait until the log has told of so many files, and let it try again several times."""
    until(lambda: len(_told(service)) >= files, "it says so")
    service.runs_for(3)
    told = _told(service)
    assert [said for _, said, _ in told] == [reason] * files, told
    assert len({job for _, _, job in told}) == files, told  # each once


def _put_three(ground: Ground) -> list[bytes]:
    """Two good files and a bad one; the good ones."""
    good = [image(), image()]
    for number, content in enumerate(good):
        ground.put("dx", f"a/{number}", content)
    ground.put("dx", "text", b"no object")
    return good


def _wait(ground: Ground, reason: str, *names: bytes) -> None:
    """Wait until status shows so many files, and (between two attempts) all are where they were."""
    until(
        lambda: ground.folder_status("dx")["stuck"] == {reason: len(names)},
        "status shows them",
    )
    until(lambda: {*_below(ground.drop("dx"))} == {*names}, "they lie where they were")


def _is_clean(disk: Path) -> None:
    """Wait until (between two attempts) nothing is left of one."""
    until(lambda: _below(disk) == [], "nothing half lies there")


# -- full ------------------------------------------------------------------------------------------


def test_a_ledger_on_a_full_disk_holds_all_up_and_loses_nothing(
    ground: Ground, disks: Disks
) -> None:
    disk = disks.in_memory(ground.state)
    service = ground.service().ready()
    _fill(disk)
    _put_three(ground)
    until(lambda: service.has_said("ledger.failed"), "it says so")
    service.runs_for(6)
    assert set(ground.files()["dx"]) == CONTENT
    _free(disk)
    until(lambda: service.has_said("ledger.recovered"), "it has recovered")
    until(ground.is_empty, "all have gone their way")
    service.stop()
    (failed,) = [line for line in service.events() if line["event"] == "ledger.failed"]
    assert "its disk is full" in failed["error"]
    assert ground.events() == 2
    assert ground.quarantined() == {b"dx/text": "not-dicom"}


@pytest.mark.parametrize("kind", FULL)
def test_files_wait_for_a_full_archive(ground: Ground, disks: Disks, kind: str) -> None:
    """OpenREM has them meanwhile; no half copy lies there under any name."""
    disk = disks.in_memory(ground.archive, SMALL)
    ground.after = "archive"
    ground.configure()
    FULL[kind](disk)
    good = _put_three(ground)
    service = ground.service().ready()
    _say_so(service, "disk-full", files=2)
    _wait(ground, "disk-full", b"a/0", b"a/1")
    _is_clean(disk)
    assert ground.events() == 2
    _free(disk)
    until(ground.is_empty, "all are archived")
    service.stop()
    archived = [path.read_bytes() for path in sorted(disk.glob("*/a/*"))]
    assert archived == good
    assert ground.events() == 2
    assert ground.quarantined() == {b"dx/text": "not-dicom"}
    assert ground.folder_status("dx")["stuck"] == {}


@pytest.mark.parametrize("kind", FULL)
def test_files_wait_for_a_full_quarantine(ground: Ground, disks: Disks, kind: str) -> None:
    """Neither they nor their reasons lie there half."""
    disk = disks.in_memory(ground.failed, SMALL)
    FULL[kind](disk)
    _put_three(ground)
    ground.put("dx", "bad value", image(StudyID="S" * 20))
    service = ground.service().ready()
    _say_so(service, "disk-full", files=2)
    _wait(ground, "disk-full", b"bad value", b"text")
    _is_clean(disk)
    _free(disk)
    until(ground.is_empty, "all are in quarantine")
    service.stop()
    assert ground.quarantined() == {b"dx/text": "not-dicom", b"dx/bad value": "bad-value"}
    assert ground.events() == 2


def test_there_is_room_for_the_reason_and_none_for_the_file(ground: Ground, disks: Disks) -> None:
    """Then the reason does not lie there alone."""
    disk = disks.in_memory(ground.failed, SMALL)
    _fill(disk)
    _free_some(disk, 64 << 10)
    ground.put("dx", "text", b"no object" * 20_000)
    service = ground.service().ready()
    _say_so(service, "disk-full", files=1)
    _is_clean(disk)
    _free(disk)
    until(ground.is_empty, "it is in quarantine")
    service.stop()
    assert ground.quarantined() == {b"dx/text": "not-dicom"}


def test_files_wait_for_a_drop_folder_without_inodes(ground: Ground, disks: Disks) -> None:
    """None can be set aside, so none is imported or refused."""
    disk = disks.in_memory(ground.drop("dx"), SMALL)
    _put_three(ground)
    _use_up_inodes(disk)
    service = ground.service().ready()
    _say_so(service, "disk-full", files=3)
    _wait(ground, "disk-full", *CONTENT)
    assert ground.events() == 0
    _free(disk)
    until(ground.is_empty, "all have gone their way")
    service.stop()
    assert ground.events() == 2
    assert ground.quarantined() == {b"dx/text": "not-dicom"}


def test_what_a_sender_could_not_write_to_its_end_is_never_imported(
    ground: Ground, disks: Disks
) -> None:
    """The disk of the drop folder is full: its last file is cut, the others make room."""
    disk = disks.in_memory(ground.drop("sr"), "size=512k")
    whole: list[bytes] = []
    with suppress(OSError):
        while True:
            whole.append(report())
            ground.put("sr", f"{len(whole)}.dcm", whole[-1])
    cut = f"{len(whole)}.dcm"
    assert (disk / cut).stat().st_size < len(whole.pop())
    assert len(whole) > 3
    service = ground.service()
    until(ground.is_empty, "all have gone their way")
    service.stop()
    assert ground.quarantined() == {f"sr/{cut}".encode(): "truncated"}
    assert all(ground.holds(content) for content in whole)
    assert len(ground.held()) == len(whole)


# -- read-only -------------------------------------------------------------------------------------


def test_a_drop_folder_becomes_read_only_while_the_service_runs(
    ground: Ground, disks: Disks
) -> None:
    """Also under a file that is being imported: it stays set aside until it can be put back."""
    disk = disks.in_memory(ground.drop("dx"))
    moments = Moments(ground)
    service = ground.service().ready()
    with moments.hold("committed") as here:
        good = [image() for _ in range(5)]
        for number, content in enumerate(good):
            ground.put("dx", f"a/{number}", content)
        here()
        disks.read_only(disk)
        before = _below(disk)
    assert any(name.startswith(b".ingest/") for name in before), before
    _say_so(service, "disk-read-only", files=5)
    until(lambda: ground.folder_status("dx")["stuck"] == {"disk-read-only": 5}, "status shows them")
    assert _below(disk) == before
    until(lambda: service.has_said("claim.cannot-put-back"), "a claim is told of")
    service.runs_for(6)  # another full sweep
    stuck = [line["file"] for line in service.events() if line["event"] == "claim.cannot-put-back"]
    assert len(stuck) == len({*stuck}), stuck
    disks.writable(disk)
    until(ground.is_empty, "all have gone their way")
    service.stop()
    assert all(ground.holds(content) for content in good)
    assert ground.events() == 5
    assert ground.quarantined() == {}


def test_files_that_stay_are_imported_from_a_read_only_folder(ground: Ground, disks: Disks) -> None:
    disk = disks.in_memory(ground.drop("dx"))
    ground.after = "keep"
    ground.configure()
    _put_three(ground)
    (disk / "text").unlink()
    disks.read_only(disk)
    service = ground.service().ready()
    until(lambda: ground.folder_status("dx")["done_today"] == 2, "both are imported")
    service.stop()
    assert sorted(ground.files()["dx"]) == [b"a/0", b"a/1"]
    assert ground.events() == 2
    assert _told(service) == []


def test_files_that_are_to_go_wait_in_a_read_only_folder(ground: Ground, disks: Disks) -> None:
    """One of them was imported by hand meanwhile, and is not counted twice."""
    disk = disks.in_memory(ground.drop("dx"))
    _put_three(ground)
    disks.read_only(disk)
    service = ground.service().ready()
    _say_so(service, "disk-read-only", files=3)
    _wait(ground, "disk-read-only", *CONTENT)
    said = ground.says("import", disk / "a" / "0")
    assert said.code == 0, said
    assert set(ground.files()["dx"]) == CONTENT
    assert ground.events() == 1
    disks.writable(disk)
    until(ground.is_empty, "all have gone their way")
    service.stop()
    assert ground.events() == 2
    assert ground.quarantined() == {b"dx/text": "not-dicom"}


def test_by_hand_nothing_is_deleted_from_a_read_only_disk(ground: Ground, disks: Disks) -> None:
    disk = disks.in_memory(ground.root / "disc")
    for name in ("one", "two"):
        (disk / name).write_bytes(image())
    disks.read_only(disk)
    for _ in range(2):
        said = ground.says("import", "--delete", disk)
        assert said.code == 1, said
        assert len(said.err.splitlines()) == 2, said
        assert all("read-only" in line for line in said.err.splitlines()), said
        assert files_below(disk) == [b"one", b"two"]
    assert ground.says("import", disk).code == 0
    assert ground.events() == 2
    disks.writable(disk)
    assert ground.says("import", "--delete", disk).code == 0
    assert files_below(disk) == []
    assert ground.events() == 2


# -- gone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "lazily"), [("memory", False), ("folder", True)])
def test_a_drop_folder_is_unmounted_while_its_files_wait_and_are_imported(
    ground: Ground, disks: Disks, kind: str, lazily: bool
) -> None:
    """Nothing is made where it was mounted; once it is back, all go their way, once."""
    share = ground.root / "share"
    if kind == "memory":
        disks.in_memory(share)
    share.mkdir(exist_ok=True)
    drop = disks.over(share, ground.drop("dx"))
    moments = Moments(ground)
    service = ground.service().ready()
    with moments.hold("read") as here:
        for number in range(5):
            ground.put("dx", f"a/{number}", image())
        ground.put("dx", "text", b"no object")
        here()
        with (drop / "a" / "4").open("rb") if lazily else nullcontext():
            disks.unmount(drop, lazily=lazily)
    until(lambda: ground.folder_status("dx")["in_hand"] == 0, "it has let go of it")
    service.runs_for(6)  # a full sweep
    assert os.listdir(drop) == []
    there = [os.path.basename(name) for name in files_below(share)]
    assert {b"0", b"1", b"2", b"3", b"4"} <= {*there}
    disks.over(share, drop)
    until(lambda: files_below(share) == [], "all have gone their way")
    disks.unmount(drop, lazily=True)
    service.runs_for(2)
    service.stop()
    assert os.listdir(drop) == []
    assert ground.events() == 5
    assert ground.quarantined() == {b"dx/text": "not-dicom"}


@pytest.mark.parametrize("target", ["archive", "failed"])
def test_what_files_are_moved_to_is_unmounted(ground: Ground, disks: Disks, target: str) -> None:
    """Nothing is put where it was mounted, to be hidden by it; all waits until it is back."""
    ground.after = "archive"
    ground.configure()
    at: Path = getattr(ground, target)
    share = disks.in_memory(ground.root / "share", "size=16m")
    disks.over(share, at)
    service = ground.service().ready()
    _put_three(ground)
    until(ground.is_empty, "the way is open")
    disks.unmount(at)
    good = _put_three(ground)
    _say_so(service, "disk-away", files=2 if target == "archive" else 1)
    assert os.listdir(at) == []
    disks.over(share, at)
    until(ground.is_empty, "all have gone their way")
    service.stop()
    assert all(ground.holds(content) for content in good)
    assert ground.events() == 4
    assert ground.quarantined() == {b"dx/text": "not-dicom", b"dx/text~2": "not-dicom"}
    assert len(files_below(ground.archive)) == 4
    disks.unmount(at)
    assert os.listdir(at) == []


def test_what_files_are_moved_to_is_removed_and_made_again(ground: Ground) -> None:
    ground.after = "archive"
    ground.configure()
    service = ground.service().ready()
    for times in (1, 2):
        _put_three(ground)
        until(ground.is_empty, "all have gone their way")
        assert len(files_below(ground.archive)) == 2
        assert ground.quarantined() == {b"dx/text": "not-dicom"}
        if times == 1:
            shutil.rmtree(ground.archive)
            shutil.rmtree(ground.failed)
    service.stop()
    assert ground.events() == 4
    assert _told(service) == []
