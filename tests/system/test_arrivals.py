"""However files arrive, each is imported whole and once, and its folder is tidied up."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from tests.system.harness import Ground, image, new_uid, report, until

MANY = 1000 if os.environ.get("OPENREM_INGEST_DEEP") else 400


def test_a_file_written_slowly_is_imported_only_when_it_is_whole(ground: Ground) -> None:
    """Neither a pause nor a close in the middle makes a part of a report pass for all of it."""
    slow, reopened = report("ct"), report("ct")
    service = ground.service().ready()
    held_open = _in_pieces(ground.drop("sr") / "slow.dcm", slow, closes=False)
    closed_often = _in_pieces(ground.drop("sr") / "reopened.dcm", reopened, closes=True)
    for writer in (held_open, closed_often):
        writer.join()
    until(ground.is_empty, "both are imported")
    service.stop()
    assert ground.quarantined() == {}
    # Three acquisitions each; a truncated one passes for a whole report of less.
    assert [(row[1], row[2], row[3], row[5]) for row in ground.held()] == [
        ("CT", "3", "3", "1")
    ] * 2


def test_a_file_renamed_into_place_is_imported(ground: Ground) -> None:
    """Also under a name that was a download in progress, which itself is left alone."""
    service = ground.service().ready()
    path = ground.put("dx", "image.part", image())
    outside = ground.root / "outside.dcm"
    outside.write_bytes(image())
    ground.put("dx", "other.part", image())
    outside.rename(ground.drop("dx") / "from-outside.dcm")
    os.rename(path, path.removesuffix(b".part") + b".dcm")
    until(lambda: ground.files()["dx"] == [b"other.part"], "both are imported, one is left")
    service.stop()
    assert ground.events() == 2


@pytest.mark.timeout(600)
def test_a_large_folder_moved_in_and_one_there_at_start(ground: Ground) -> None:
    """All are imported once; the emptied sub-folders go, the drop folders stay."""
    studies = [new_uid() for _ in range(MANY // 2)]
    moved = ground.root / "moved"
    for number in range(MANY):
        folder = (ground.drop("dx") if number % 10 == 0 else moved) / "a" / str(number % 3) / "c"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.dcm").write_bytes(image(study=studies[number // 2]))
    prepared = ground.drop("sr") / "prepared"
    prepared.mkdir()
    service = ground.service()
    moved.rename(ground.drop("dx") / "moved")
    until(ground.is_empty, "all are imported", deadline_s=400)
    until(lambda: ground.folders() == [prepared], "emptied sub-folders are removed")
    service.stop()
    assert [ground.drop(name).is_dir() for name in ("mammo", "dx", "sr")] == [True] * 3
    assert ground.quarantined() == {}
    assert [(row[2], row[3], row[5]) for row in ground.held()] == [("2", "2", "2")] * (MANY // 2)
    assert ground.folder_status("dx")["done_today"] == MANY


def test_the_same_object_twice_is_counted_once(ground: Ground) -> None:
    """In two folders at once, and again under the same name while the first is imported."""
    twice, again, inode = image(), report("fluoroscopy"), image("mammo")
    service = ground.service().ready()
    ground.put("dx", "one.dcm", twice)
    ground.put("sr", "two.dcm", twice)
    path = ground.put("sr", "again.dcm", again)
    until(lambda: not os.path.exists(path), "it is being imported")
    ground.put("sr", "again.dcm", again)
    with open(ground.put("mammo", "inode.dcm", inode), "r+b") as same:
        for _ in range(5):
            same.seek(0)
            same.truncate()
            same.write(inode)
            same.flush()
    until(ground.is_empty, "all are gone")
    service.stop()
    assert ground.quarantined() == {}
    held = sorted(row[2:6] for row in ground.held())
    assert held == [("1", "1", "1", "1"), ("1", "1", "1", "1"), ("4", "4", "1", "1")]


def test_archived_files_lie_in_a_dated_folder(ground: Ground) -> None:
    """With after = "archive" an imported file is kept elsewhere, under its place in the drop."""
    ground.after = "archive"
    ground.configure()
    content = image()
    ground.put("dx", "a/b.dcm", content)
    said = ground.says("run", "--once")
    assert said.code == 0, said
    (path,) = ground.archive.glob("????-??-??/a/b.dcm")
    assert path.read_bytes() == content
    assert ground.is_empty()
    assert ground.events() == 1


def test_kept_files_are_imported_once(ground: Ground) -> None:
    """With after = "keep" a file stays as it is; neither a restart nor a lost ledger repeats it."""
    ground.after = "keep"
    ground.configure()
    path = Path(os.fsdecode(ground.put("dx", "a/b.dcm", image())))
    before = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
    ends = []
    for lost in (False, False, True):
        if lost:
            shutil.rmtree(ground.state)
        service = ground.service().ready()
        later = image()
        ground.put("dx", "later.dcm", later)
        service.imports(later)
        (ground.drop("dx") / "later.dcm").unlink()
        log = service.stop()
        ends.append((log.count('"outcome": "imported"'), log.count('"outcome": "already there"')))
    # The second run knows it from the ledger, the third asks OpenREM.
    assert ends == [(2, 0), (1, 0), (1, 1)]
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert ground.events() == 4


def _in_pieces(path: Path, content: bytes, *, closes: bool) -> threading.Thread:
    """Write in five pieces with pauses, closing in between or not."""

    def write() -> None:
        step = len(content) // 5 + 1
        pieces = [content[start : start + step] for start in range(0, len(content), step)]
        if closes:
            for piece in pieces:
                with path.open("ab") as file:
                    file.write(piece)
                threading.Event().wait(0.3)  # the sender's pace
        else:
            with path.open("ab") as file:
                for piece in pieces:
                    file.write(piece)
                    file.flush()
                    threading.Event().wait(0.8)  # longer than the quiet time

    thread = threading.Thread(target=write)
    thread.start()
    return thread
