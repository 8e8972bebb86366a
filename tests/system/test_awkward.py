"""What does not belong into a drop folder, or has an awkward name or awkward rights."""

import os
import stat
from pathlib import Path

import pytest

from tests.system.harness import Ground, files_below, image, relay, report, sample, until

NAMES = [
    b"with space.dcm",
    b"[a-z]*.dcm",
    b'quote\' and "double".dcm',
    b"new\nline.dcm",
    b"-rf.dcm",
    b"latin-\xe9\xff.dcm",
    b"l" * 246 + b".dcm",
    b"no suffix",
    b".dcm",
    b"$(touch x);`touch y`.dcm",
    b"percent%s{}\\.dcm",
    "μ\N{EN DASH}\N{GRINNING FACE}.dcm".encode(),
    b"deep [x]/\xff\xfe/- -/image.dcm",
]


def test_links_and_pipes_are_never_opened_or_followed(ground: Ground) -> None:
    """They go to quarantine as what they are; what they lead to is not touched."""
    outside = ground.root / "outside"
    outside.mkdir()
    (outside / "object.dcm").write_bytes(image())
    os.mkfifo(outside / "pipe")  # whoever opens it waits for ever
    before = _picture(outside)
    drop = ground.drop("dx")
    (drop / "link.dcm").symlink_to(outside / "object.dcm")
    (drop / "link-to-pipe.dcm").symlink_to(outside / "pipe")
    (drop / "link-to-folder").symlink_to(outside)
    (drop / "dangling.dcm").symlink_to(outside / "nothing")
    os.mkfifo(drop / "pipe.dcm")
    ground.put("dx", "good.dcm", image())
    said = ground.says("run", "--once")
    assert said.code == 1
    assert ground.events() == 1
    assert ground.is_empty()
    names = (b"dangling.dcm", b"link-to-folder", b"link-to-pipe.dcm", b"link.dcm", b"pipe.dcm")
    assert ground.quarantined() == {b"dx/" + name: "not-a-file" for name in names}
    assert (ground.failed / "dx" / "link.dcm").readlink() == outside / "object.dcm"
    assert stat.S_ISFIFO((ground.failed / "dx" / "pipe.dcm").lstat().st_mode)
    assert _picture(outside) == before
    assert ground.folder_status("dx")["quarantined_today"] == 5


def test_a_folder_may_be_called_like_a_file(ground: Ground) -> None:
    """What lies in a folder named x.dcm is imported; an empty one stays."""
    ground.put("dx", "x.dcm/y.dcm", image())
    (ground.drop("dx") / "empty.dcm").mkdir()
    service = ground.service()
    until(ground.is_empty, "the object in it is imported")
    until(lambda: ground.folders() == [ground.drop("dx") / "empty.dcm"], "it is tidied up")
    service.stop()
    assert ground.events() == 1
    assert ground.quarantined() == {}


def test_awkward_names(ground: Ground) -> None:
    """A file's name decides nothing, and in quarantine it is still the same."""
    for name in NAMES:
        ground.put("dx", name, image())
        ground.put("sr", name, b"no DICOM")
    long_twins = [b"l" * 249 + end for end in (b"1", b"2")]
    for name, content in zip(long_twins, (b"no DICOM", b""), strict=True):
        ground.put("mammo", name, content)
    service = ground.service()
    until(ground.is_empty, "all have gone their way")
    service.stop()
    assert ground.events() == len(NAMES)
    quarantined = ground.quarantined()
    assert set(quarantined) == {b"sr/" + name for name in NAMES} | {
        b"mammo/" + name for name in long_twins
    }
    assert {quarantined[b"sr/" + name] for name in NAMES} == {"not-dicom"}
    assert ground.folder_status("sr")["quarantined_today"] == len(NAMES)
    assert not (ground.root / "x").exists()


def test_bad_files_are_quarantined_with_their_reason(ground: Ground) -> None:
    """Empty, text, cut, with a tail, and no dose report: each is told apart; none is lost."""
    whole = image()
    bad = {
        b"empty.dcm": (b"", "empty"),
        b"notes.txt": (sample("sr/notes.txt"), "not-dicom"),
        b"cut.dcm": (sample("sr/truncated-dose-report.dcm"), "truncated"),
        b"cut-image.dcm": (whole[:-1], "truncated"),
        b"two.dcm": (whole + whole, "trailing-data"),
        b"no-dose.dcm": (sample("sr/enhanced-sr-not-dose.dcm"), "not-a-dose-report"),
    }
    for name, (content, _) in bad.items():
        ground.put("sr", b"folder/" + name, content)
    ground.put("sr", "good.dcm", report("ct"))
    service = ground.service()
    until(ground.is_empty, "all have gone their way")
    service.stop()
    assert ground.quarantined() == {b"sr/folder/" + name: why for name, (_, why) in bad.items()}
    for name, (content, _) in bad.items():
        path = os.path.join(os.fsencode(ground.failed), b"sr/folder", name)
        assert Path(os.fsdecode(path)).read_bytes() == content
    assert [row[:4] for row in ground.held()] == [(ground.held()[0][0], "CT", "3", "3")]
    status = ground.folder_status("sr")
    assert (status["done_today"], status["quarantined_today"], status["stuck"]) == (1, 6, {})


def test_the_same_bad_name_twice_keeps_both(ground: Ground) -> None:
    """A second file of a name that is in quarantine already is numbered, with its own reason."""
    for content in (b"no DICOM", b""):
        ground.put("sr", "a.dcm", content)
        assert ground.says("run", "--once").code == 1
    assert ground.quarantined() == {b"sr/a.dcm": "not-dicom", b"sr/a~2.dcm": "empty"}


def test_an_unreadable_file_is_quarantined_unread(ground: Ground) -> None:
    """The service may not read it, says so, and imports the others."""
    with relay(ground.site) as way:
        _by(ground, way)
        path = ground.put("dx", "unreadable.dcm", image())
        os.chmod(path, 0)
        os.makedirs(ground.drop("dx") / "closed", mode=0)
        ground.put("dx", "good.dcm", image())
        service = ground.service(weak=True)
        until(lambda: ground.files()["dx"] == [], "both have gone their way")
        until(lambda: service.has_said("folder.unreadable"), "it tells of the closed folder")
        service.stop()
    assert ground.quarantined() == {b"dx/unreadable.dcm": "unreadable"}
    assert ground.events() == 1
    assert os.stat(ground.failed / "dx" / "unreadable.dcm").st_mode & 0o777 == 0
    os.chmod(ground.drop("dx") / "closed", 0o700)


def test_files_stay_in_a_folder_that_may_not_be_written_until_it_may(ground: Ground) -> None:
    """Status tells why; once the rights are right, all goes on without a restart."""
    with relay(ground.site) as way:
        _by(ground, way)
        ground.put("dx", "good.dcm", image())
        ground.put("dx", "bad.dcm", b"no DICOM")
        ground.drop("dx").chmod(0o500)
        service = ground.service(weak=True)
        until(lambda: ground.folder_status("dx")["stuck"] == {"cannot-move": 2}, "status tells")
        assert ground.folder_status("dx")["left_in_place"] == 2
        assert ground.files()["dx"] == [b"bad.dcm", b"good.dcm"]
        ground.drop("dx").chmod(0o700)
        until(ground.is_empty, "both have gone their way")
        service.stop()
    assert ground.quarantined() == {b"dx/bad.dcm": "not-dicom"}
    assert ground.events() == 1


@pytest.mark.parametrize("place", ["failed", "archive"])
def test_files_stay_while_their_target_may_not_be_written(ground: Ground, place: str) -> None:
    """A quarantine or archive without the right to write loses nothing and stops nothing else."""
    ground.after = "archive"
    with relay(ground.site) as way:
        _by(ground, way)
        ground.put("dx", "good.dcm", image())
        ground.put("sr", "bad.dcm", b"no DICOM")
        target = getattr(ground, place)
        target.mkdir(mode=0o500)
        name = "dx" if place == "archive" else "sr"
        service = ground.service(weak=True)
        until(lambda: ground.folder_status(name)["stuck"] == {"cannot-move": 1}, "status tells")
        target.chmod(0o700)
        until(ground.is_empty, "both have gone their way")
        service.stop()
    assert ground.quarantined() == {b"sr/bad.dcm": "not-dicom"}
    assert len(files_below(ground.archive)) == 1
    assert ground.events() == 1


def _by(ground: Ground, way: object) -> None:
    assert isinstance(way, dict)
    ground.env = {**ground.site.environment(ground.database), **way}
    ground.configure()


def _picture(folder: Path) -> list[tuple[object, ...]]:
    """All that a touch could change, and when a file was last read."""
    found: list[tuple[object, ...]] = []
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found.append((path, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_mode))
        if path.is_file():
            found.append((status.st_atime_ns, status.st_nlink))
    return found
