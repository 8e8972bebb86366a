"""`ingest.claim`: a file that is set aside comes home, whatever happens in between."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given

from ingest import claim, files
from ingest.claim import FOLDER, Claim
from ingest.errors import Changed, FileProblem, Reason
from ingest.model import Snapshot
from tests.crash import Crash, Steps, crash_points
from tests.strategies import names

CONTENT = b"an object"


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    path = os.fsencode(tmp_path / "drop")
    os.mkdir(path)
    return path


def a_claim(root: bytes, place: bytes = b"file.dcm", *, now_ns: int = 1) -> Claim:
    return Claim(id=claim.new_id(now_ns), root=root, place=place)


def drop(claimed: Claim, content: bytes = CONTENT) -> Snapshot:
    """The file as its sender leaves it."""
    os.makedirs(os.path.dirname(claimed.original), exist_ok=True)
    with open(claimed.original, "wb") as file:
        file.write(content)
    return files.snapshot(claimed.original)


def taken(root: bytes, place: bytes = b"file.dcm", *, now_ns: int = 1) -> Claim:
    claimed = a_claim(root, place, now_ns=now_ns)
    claim.take(claimed, drop(claimed))
    return claimed


def content_of(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def recover(root: bytes) -> list[bool]:
    """What is done at every start."""
    return [claim.release(claimed) for claimed in claim.found(root)]


def test_a_taken_file_lies_where_no_sender_looks(root: bytes) -> None:
    claimed = taken(root, b"study/file.dcm")

    assert not os.path.lexists(claimed.original)
    assert content_of(claimed.path) == CONTENT
    assert claimed.path == os.path.join(root, FOLDER, claimed.id.encode(), b"study/file.dcm")
    assert os.stat(os.path.join(root, FOLDER, claimed.id.encode())).st_dev == os.stat(root).st_dev


def test_a_released_file_is_back_and_nothing_of_ours_is_left(root: bytes) -> None:
    claimed = taken(root, b"study/file.dcm")
    files.link_aside(claimed.path, claimed.alias)

    assert claim.release(claimed)

    assert content_of(claimed.original) == CONTENT
    assert os.listdir(root) == [b"study"]


def test_every_step_may_be_repeated(root: bytes) -> None:
    claimed = taken(root)

    assert claim.release(claimed)
    assert claim.release(claimed)
    claim.finish(claimed)
    assert recover(root) == []
    assert content_of(claimed.original) == CONTENT


@given(name=names)
def test_any_name_can_be_taken_found_and_released(
    name: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = os.fsencode(tmp_path_factory.mktemp("drop"))
    claimed = taken(root, name)

    assert list(claim.found(root)) == [claimed]
    assert recover(root) == [True]
    assert os.listdir(root) == [name]
    assert claimed.alias.isascii() or not root.isascii()


def test_ids_sort_by_their_time_and_are_never_the_same() -> None:
    ids = [claim.new_id(ns) for ns in (1, 1, 10**9, 1_700_000_000 * 10**9, 2**63)]

    assert len(set(ids)) == len(ids)
    assert [i[:16] for i in ids] == sorted(i[:16] for i in ids)


# -- taking what isn't what we looked at ---------------------------------------------------------


def test_a_file_that_changed_before_it_was_taken_goes_back(root: bytes) -> None:
    claimed = a_claim(root)
    old = drop(claimed)
    drop(claimed, b"sent again, into the same inode")

    with pytest.raises(Changed):
        claim.take(claimed, old)

    assert content_of(claimed.original) == b"sent again, into the same inode"
    assert os.listdir(root) == [b"file.dcm"]


def test_another_inode_with_the_same_size_and_time_is_noticed(root: bytes) -> None:
    claimed = a_claim(root)
    old = drop(claimed)
    os.rename(claimed.original, root + b"/other")
    drop(claimed)
    os.utime(claimed.original, ns=(old.mtime_ns, old.mtime_ns))

    with pytest.raises(Changed):
        claim.take(claimed, old)

    assert sorted(os.listdir(root)) == [b"file.dcm", b"other"]


def test_a_file_that_is_gone_is_said_to_be(root: bytes) -> None:
    claimed = a_claim(root, b"study/file.dcm")
    old = drop(claimed)
    os.unlink(claimed.original)

    with pytest.raises(Changed, match="it is gone"):
        claim.take(claimed, old)

    assert os.listdir(root) == [b"study"]


def test_no_folder_is_made_in_the_place_of_a_drop_folder_that_is_away(root: bytes) -> None:
    """An unmounted share would look like an empty folder, a renamed one would have a twin."""
    claimed = a_claim(root)
    old = drop(claimed)
    os.rename(root, root + b".renamed")

    with pytest.raises(Changed, match="it is gone"):
        claim.take(claimed, old)
    assert claim.release(claimed)
    assert recover(root) == []

    assert not os.path.lexists(root)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EACCES, Reason.CANNOT_MOVE),
        (errno.EXDEV, Reason.CANNOT_MOVE),
        (errno.EROFS, Reason.DISK_READ_ONLY),
        (errno.ENOSPC, Reason.DISK_FULL),
        (errno.EDQUOT, Reason.DISK_FULL),
        (errno.ESTALE, Reason.DISK_AWAY),
    ],
)
def test_a_file_that_may_not_be_moved_stays_and_says_why(
    root: bytes, code: int, reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = a_claim(root)
    old = drop(claimed)

    def refuse(_source: bytes, _target: bytes) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "move", refuse)

    with pytest.raises(FileProblem) as caught:
        claim.take(claimed, old)

    assert caught.value.reason is reason
    assert caught.value.detail == errno.errorcode[code]
    assert os.listdir(root) == [b"file.dcm"]


def test_what_lies_behind_a_linked_folder_is_not_ours(root: bytes, tmp_path: Path) -> None:
    """Whoever may write into the drop folder must not have us move files of others."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "secret").write_bytes(CONTENT)
    os.symlink(os.fsencode(tmp_path / "etc"), root + b"/study")
    claimed = a_claim(root, b"study/secret")

    with pytest.raises(FileProblem, match="its folder is a link"):
        claim.take(claimed, files.snapshot(claimed.original))

    assert (tmp_path / "etc" / "secret").read_bytes() == CONTENT
    assert os.listdir(root) == [b"study"]


@pytest.mark.parametrize("obstacle", ["file", "link"])
def test_a_file_with_the_name_of_our_folder_is_told_of(
    root: bytes, tmp_path: Path, obstacle: str
) -> None:
    """It blocks the drop folder, and only a person may take it away."""
    claimed = a_claim(root)
    old = drop(claimed)
    if obstacle == "file":
        drop(a_claim(root, FOLDER))
    else:
        os.symlink(os.fsencode(tmp_path), os.path.join(root, FOLDER))

    with pytest.raises(FileProblem, match=r"a file called \.ingest") as caught:
        claim.take(claimed, old)

    assert caught.value.reason is Reason.CANNOT_MOVE
    assert content_of(claimed.original) == CONTENT
    assert list(claim.found(root)) == []
    assert sorted(os.listdir(root)) == [FOLDER, b"file.dcm"]


def test_two_at_once_never_disturb_each_other(root: bytes) -> None:
    """One removes our folder when it is empty, in the very moment in which another needs it."""

    def take_and_give_back(number: int) -> list[str]:
        claimed = a_claim(root, b"%d.dcm" % number, now_ns=number)
        snapshot, trouble = drop(claimed), []
        for _ in range(1000):
            try:
                claim.take(claimed, snapshot)
            except FileProblem as problem:
                trouble.append(str(problem))
            claim.release(claimed)
        return trouble

    with ThreadPoolExecutor(3) as pool:
        assert [*pool.map(take_and_give_back, range(3))] == [[], [], []]
    assert sorted(os.listdir(root)) == [b"0.dcm", b"1.dcm", b"2.dcm"]


def test_links_pipes_and_links_to_folders_can_be_taken_and_come_home(root: bytes) -> None:
    """They are refused, and go to quarantine like any other file."""
    os.symlink(b"no/where", root + b"/link")
    os.symlink(b"/", root + b"/link-to-folder")
    os.mkfifo(root + b"/pipe")
    for number, name in enumerate((b"link", b"link-to-folder", b"pipe")):
        claim.take(a_claim(root, name, now_ns=number), files.snapshot(os.path.join(root, name)))
    assert os.listdir(root) == [FOLDER]

    assert [claimed.place for claimed in claim.found(root)] == [b"link", b"link-to-folder", b"pipe"]
    assert recover(root) == [True] * 3

    assert sorted(os.listdir(root)) == [b"link", b"link-to-folder", b"pipe"]


# -- releasing into a folder that has moved on ---------------------------------------------------


def test_a_newer_file_at_its_place_is_never_replaced(root: bytes) -> None:
    claimed = taken(root)
    drop(claimed, b"newer")

    assert not claim.release(claimed)
    assert content_of(claimed.original) == b"newer"
    assert content_of(claimed.path) == CONTENT

    os.unlink(claimed.original)  # once it has gone its way
    assert recover(root) == [True]
    assert content_of(claimed.original) == CONTENT


def test_its_folder_is_made_again(root: bytes) -> None:
    claimed = taken(root, b"a/b/file.dcm")
    os.removedirs(root + b"/a/b")

    assert claim.release(claimed)
    assert content_of(claimed.original) == CONTENT


def test_a_file_in_the_place_of_its_folder_holds_it_up(root: bytes) -> None:
    claimed = taken(root, b"a/b/file.dcm")
    os.removedirs(root + b"/a/b")
    drop(Claim(id="x", root=root, place=b"a"))

    assert recover(root) == [False]
    assert content_of(claimed.path) == CONTENT

    os.unlink(root + b"/a")
    assert recover(root) == [True]
    assert content_of(claimed.original) == CONTENT


def test_nothing_is_put_back_through_a_link(root: bytes, tmp_path: Path) -> None:
    claimed = taken(root, b"a/file.dcm")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.rmdir(root + b"/a")
    os.symlink(elsewhere, root + b"/a")

    assert recover(root) == [False]
    assert list(elsewhere.iterdir()) == []

    os.unlink(root + b"/a")
    assert recover(root) == [True]
    assert content_of(claimed.original) == CONTENT


def test_rights_that_are_missing_hold_it_up(root: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = taken(root)

    def refuse(_source: bytes, _target: bytes) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(files, "move", refuse)
        assert recover(root) == [False]

    assert recover(root) == [True]
    assert content_of(claimed.original) == CONTENT


# -- finding -------------------------------------------------------------------------------------


def test_claims_are_found_oldest_first_less_those_in_hand(root: bytes) -> None:
    second, third, first = (
        taken(root, b"%d.dcm" % number, now_ns=ns)
        for number, ns in enumerate((2 * 10**18, 2 * 10**18 + 1, 10**9))
    )
    files.link_aside(second.path, second.alias)

    assert list(claim.found(root)) == [first, second, third]
    files.link_aside(second.path, second.alias)
    assert list(claim.found(root, {second.id})) == [first, third]
    assert os.path.lexists(second.alias)


def test_what_a_crash_left_empty_is_removed(root: bytes) -> None:
    claimed = a_claim(root, b"a/b/file.dcm")
    os.makedirs(os.path.dirname(claimed.path))
    with open(a_claim(root).alias, "wb"):
        pass
    os.symlink(b"nowhere", a_claim(root).alias)

    assert list(claim.found(root)) == []

    assert os.listdir(root) == []


@pytest.mark.parametrize("name", [b"Miller.dcm", b"notes", b"backup~", b"\xff"])
def test_what_someone_else_put_there_is_not_ours_to_remove(root: bytes, name: bytes) -> None:
    os.mkdir(root + b"/" + FOLDER)
    drop(Claim(id="x", root=os.path.join(root, FOLDER), place=name))

    assert recover(root) == []

    assert os.listdir(os.path.join(root, FOLDER)) == [name]


@pytest.mark.parametrize("name", [b"odd name", b"\xff\xfe", b"a.b.c", b"backup.dcm"])
def test_a_folder_of_any_name_gives_its_files_back(root: bytes, name: bytes) -> None:
    """For example a claim that someone renamed to look into it."""
    claimed = taken(root)
    os.rename(claimed.folder, os.path.join(root, FOLDER, name))

    assert recover(root) == [True]
    assert content_of(claimed.original) == CONTENT


def test_a_drop_folder_without_claims_has_none(root: bytes) -> None:
    assert list(claim.found(root)) == []
    assert list(claim.found(root + b"/away")) == []


# -- crashes -------------------------------------------------------------------------------------

Act = Callable[[Claim, Snapshot], None]


def take(claimed: Claim, expected: Snapshot) -> None:
    claim.take(claimed, expected)


def take_and_release(claimed: Claim, expected: Snapshot) -> None:
    claim.take(claimed, expected)
    files.link_aside(claimed.path, claimed.alias)
    claim.release(claimed)


def take_a_changed_one(claimed: Claim, expected: Snapshot) -> None:
    os.utime(claimed.original, ns=(1, 1))
    with pytest.raises(Changed):
        claim.take(claimed, expected)


@pytest.mark.parametrize("act", [take, take_and_release, take_a_changed_one])
def test_killed_at_any_step_the_file_is_whole_and_comes_home(tmp_path: Path, act: Act) -> None:
    points = 0
    for number, after in crash_points():
        root = os.fsencode(tmp_path / f"{number}-{after}")
        claimed = a_claim(root, b"study/file.dcm")
        expected = drop(claimed)
        steps = Steps(number, after=after)
        try:
            with steps.counted():
                act(claimed, expected)
        except Crash:
            points += 1
        if number >= len(steps.taken):
            break
        held = [path for path in (claimed.original, claimed.path) if os.path.lexists(path)]
        assert [content_of(path) for path in held] == [CONTENT]

        recover(root)

        assert content_of(claimed.original) == CONTENT
        assert os.listdir(root) == [b"study"]
        assert os.listdir(root + b"/study") == [b"file.dcm"]
    assert points >= 8
