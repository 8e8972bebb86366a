"""The list of what was not imported: a few for the screen, all in a file."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.commands import listing
from ingest.commands.listing import EXAMPLES, Failure, Listing, check_file, forget_old
from ingest.errors import ConfigError, Reason

BEGAN = 1_795_000_000.0
NAME = "20261118T110640Z"


def failure(number: int, reason: Reason = Reason.NOT_DICOM) -> Failure:
    return Failure(path=b"/archive/%d.dcm" % number, reason=reason, detail="why", study_uid="1.2")


def listed(file: Path) -> list[dict[str, str]]:
    """The file's rows."""
    text = file.read_text(encoding="utf-8", errors="surrogateescape")
    return list(csv.DictReader(text.splitlines(keepends=True)))


def test_what_the_screen_can_show_goes_to_no_file(tmp_path: Path) -> None:
    one = Listing(tmp_path, began=BEGAN)
    for number in range(EXAMPLES):
        one.add(failure(number))
        one.add(failure(number, Reason.EMPTY))
    one.close()

    assert one.path is None
    assert list(tmp_path.iterdir()) == []
    assert one.counts == {Reason.NOT_DICOM: EXAMPLES, Reason.EMPTY: EXAMPLES}


def test_of_more_than_that_all_are_in_the_file_and_a_few_in_memory(tmp_path: Path) -> None:
    one = Listing(tmp_path, began=BEGAN)
    one.add(failure(0, Reason.EMPTY))
    for number in range(1, 1000):
        one.add(failure(number))
    one.add(failure(1000, Reason.TRUNCATED))
    one.close()

    assert one.path == tmp_path / "imports" / f"{NAME}.csv"
    rows = listed(one.path)
    assert sorted(row["path"] for row in rows) == sorted(
        f"/archive/{number}.dcm" for number in range(1001)
    )
    assert rows[0] == {
        "path": "/archive/0.dcm",
        "reason": "empty",
        "why": Reason.EMPTY.why,
        "detail": "why",
        "next": Reason.EMPTY.next_step,
        "sop_instance_uid": "",
        "study_uid": "1.2",
    }
    assert one.counts.total() == 1001
    assert sum(map(len, one.examples.values())) == EXAMPLES + 2


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    for file in (None, tmp_path / "mine.csv"):
        one = Listing(tmp_path, began=BEGAN, file=file)
        for number in range(EXAMPLES + 1):
            one.add(failure(number))
        one.close()

        assert one.path is not None
        assert one.path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "imports").stat().st_mode & 0o777 == 0o700


def test_two_of_one_second_have_names_of_their_own(tmp_path: Path) -> None:
    paths = []
    for _ in range(2):
        one = Listing(tmp_path, began=BEGAN)
        for number in range(EXAMPLES + 1):
            one.add(failure(number))
        one.close()
        paths.append(one.path)

    assert [path.name for path in paths if path] == [f"{NAME}.csv", f"{NAME}-2.csv"]


def test_a_name_that_is_no_text_is_found_again(tmp_path: Path) -> None:
    awkward = b'/a,"b"\n\xff.dcm'
    one = Listing(tmp_path, file=tmp_path / "mine.csv")
    one.add(Failure(path=awkward, reason=Reason.EMPTY))
    one.close()

    (row,) = listed(tmp_path / "mine.csv")
    assert os.fsencode(row["path"]) == awkward


def test_the_users_own_file_is_there_even_if_there_is_nothing_to_list(tmp_path: Path) -> None:
    """The list of an earlier run, begun again, gives way to it; no other file ever does."""
    file = tmp_path / "mine.csv"
    first = Listing(tmp_path, file=file)
    first.add(failure(1))
    first.close()
    assert len(listed(file)) == 1

    check_file(file)
    again = Listing(tmp_path, file=file)
    again.close()

    assert again.path == file
    assert listed(file) == []


def _other_file(file: Path) -> None:
    file.write_text("a photograph", encoding="utf-8")


def _empty_file(file: Path) -> None:
    file.touch()


def _link(file: Path) -> None:
    target = file.with_name("target.csv")
    one = Listing(file.parent, file=target)
    one.close()
    file.symlink_to(target)


@pytest.mark.parametrize("put", [_other_file, _empty_file, _link, os.mkfifo, Path.mkdir])
def test_nothing_else_is_ever_written_over(tmp_path: Path, put: Callable[[Path], None]) -> None:
    file = tmp_path / "mine.csv"
    put(file)
    before = os.lstat(file)

    with pytest.raises(ConfigError, match="Next: "):
        check_file(file)
    one = Listing(tmp_path, file=file)
    one.add(failure(1))
    one.close()

    assert one.trouble
    after = os.lstat(file)
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert after.st_mtime_ns == before.st_mtime_ns


def test_a_folder_that_is_not_there_is_told_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Next: make that folder"):
        check_file(tmp_path / "none" / "mine.csv")


def test_a_list_that_can_not_be_written_costs_no_count(tmp_path: Path) -> None:
    (tmp_path / "imports").write_text("in the way", encoding="utf-8")
    one = Listing(tmp_path, began=BEGAN)
    for number in range(10 * EXAMPLES):
        one.add(failure(number))
    one.close()

    assert one.trouble
    assert one.counts.total() == 10 * EXAMPLES


def test_a_full_disk_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Listing(tmp_path, began=BEGAN)
    monkeypatch.setattr(
        one, "_opened", lambda _state: (tmp_path / "x.csv", os.open("/dev/full", os.O_WRONLY))
    )
    for number in range(1000):
        one.add(failure(number))
    one.close()

    assert "No space left" in one.trouble
    assert one.counts.total() == 1000


def test_old_lists_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "imports"
    folder.mkdir()
    old = BEGAN - listing.KEEP_DAYS * 86400 - 1
    for name, at in ((f"{NAME}.csv", old), ("20261101T000000Z.csv", BEGAN), ("mine.csv", old)):
        (folder / name).touch()
        os.utime(folder / name, (at, at))

    forget_old(tmp_path, BEGAN)

    assert {path.name for path in folder.iterdir()} == {"20261101T000000Z.csv", "mine.csv"}
