"""`ingest.files`: nothing is replaced, nothing unknown is removed, and no crash loses a file."""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import files
from ingest.errors import Changed
from ingest.model import Snapshot
from tests.crash import Crash, Steps, crash_points
from tests.strategies import AWKWARD_NAMES, names

CONTENT = b"a dose report" * 1000


@pytest.fixture
def folder(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[bytes]:
    """A folder on another file system: a real one where the machine has one."""
    shared = Path("/dev/shm")  # noqa: S108 - a file system, not a name
    if shared.is_dir() and os.stat(shared).st_dev != os.stat(tmp_path).st_dev:
        with tempfile.TemporaryDirectory(dir=shared) as path:
            yield os.fsencode(path)
        return
    (tmp_path / "elsewhere").mkdir()
    with Steps().counted(apart=os.fsencode(tmp_path / "elsewhere")):
        yield os.fsencode(tmp_path / "elsewhere")


def put(path: bytes, content: bytes = CONTENT) -> Snapshot:
    with open(path, "wb") as file:
        file.write(content)
    return files.snapshot(path)


def content_of(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


# -- identity ------------------------------------------------------------------------------------


def rewritten(path: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(b"!")
    os.utime(path, ns=(1, 1))


def grown(path: bytes) -> None:
    before = os.stat(path)
    with open(path, "ab") as file:
        file.write(b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def another_inode(path: bytes) -> None:
    before = os.stat(path)
    put(path + b".new", content_of(path))
    os.utime(path + b".new", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(path + b".new", path)


def gone(path: bytes) -> None:
    os.unlink(path)


def a_link_to_itself(path: bytes) -> None:
    os.rename(path, path + b".real")
    os.symlink(path + b".real", path)


CHANGES = (rewritten, grown, another_inode, gone, a_link_to_itself)


@pytest.mark.parametrize("change", CHANGES)
def test_another_version_of_a_file_is_changed_and_stays(folder: bytes, change: object) -> None:
    path, target = folder + b"/file", folder + b"/target"
    expected = put(path)
    assert callable(change)
    change(path)
    before = sorted(os.listdir(folder))

    with pytest.raises(Changed):
        files.check_identity(path, expected)
    with pytest.raises(Changed):
        files.remove(path, expected)
    with pytest.raises(Changed):
        files.move_durably(path, target, expected)

    assert sorted(os.listdir(folder)) == before


def test_our_own_links_do_not_change_a_file(folder: bytes) -> None:
    expected = put(folder + b"/file")
    os.link(folder + b"/file", folder + b"/alias")
    os.rename(folder + b"/file", folder + b"/moved")

    files.check_identity(folder + b"/moved", expected)


def test_links_are_not_followed(folder: bytes) -> None:
    put(folder + b"/file")
    os.symlink(b"file", folder + b"/link")

    assert files.snapshot(folder + b"/link") != files.snapshot(folder + b"/file")
    with pytest.raises(FileNotFoundError):
        files.snapshot(folder + b"/nothing")


# -- moving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("knows_noreplace", [True, False])
@pytest.mark.parametrize("what", ["file", "folder", "link to nowhere", "pipe"])
def test_a_move_never_replaces(
    folder: bytes, what: str, knows_noreplace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = folder + b"/source", folder + b"/target"
    expected = put(source)
    match what:
        case "file":
            put(target, b"older")
        case "folder":
            os.mkdir(target)
        case "link to nowhere":
            os.symlink(b"nowhere", target)
        case _:
            os.mkfifo(target)
    before = os.lstat(target)
    if not knows_noreplace:
        monkeypatch.setattr(files, "_rename_noreplace", lambda _source, _target: False)

    with pytest.raises(FileExistsError):
        files.move(source, target)
    with pytest.raises(FileExistsError):
        files.move_durably(source, target, expected)

    assert content_of(source) == CONTENT
    assert os.lstat(target).st_ino == before.st_ino


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_noreplace_is_served_as_well(
    folder: bytes, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OldLibc:
        def renameat2(self, *_arguments: object) -> int:
            ctypes.set_errno(code)
            return -1

    monkeypatch.setattr(files, "_libc", OldLibc())
    put(folder + b"/source")

    files.move(folder + b"/source", folder + b"/target")

    assert os.listdir(folder) == [b"target"]


def test_so_is_an_old_c_library(folder: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_libc", object())
    put(folder + b"/source")

    files.move(folder + b"/source", folder + b"/target")

    assert os.listdir(folder) == [b"target"]


def test_a_move_of_nothing_says_so(folder: bytes) -> None:
    with pytest.raises(FileNotFoundError):
        files.move(folder + b"/nothing", folder + b"/target")


@given(name=names)
def test_any_name_can_be_moved_and_removed(
    name: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = os.fsencode(tmp_path_factory.mktemp("names"))
    os.mkdir(folder + b"/to")
    expected = put(os.path.join(folder, name)) if name != b"to" else put(folder + b"/to/to")
    if name != b"to":
        files.move_durably(os.path.join(folder, name), os.path.join(folder, b"to", name), expected)

    files.remove(os.path.join(folder, b"to", name), expected)

    assert os.listdir(folder + b"/to") == []


# -- across file systems -------------------------------------------------------------------------


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_a_move_across_file_systems_keeps_content_time_and_mode(
    folder: bytes, elsewhere: bytes, name: bytes
) -> None:
    source, target = os.path.join(folder, name), os.path.join(elsewhere, name)
    put(source)
    os.chmod(source, 0o640)
    os.utime(source, ns=(10**18, 10**18 + 1))

    files.move_durably(source, target, files.snapshot(source))

    assert content_of(target) == CONTENT
    assert os.listdir(elsewhere) == [name]
    assert not os.path.lexists(source)
    found = os.stat(target)
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert found.st_mtime_ns == 10**18 + 1


def test_it_never_replaces_either(folder: bytes, elsewhere: bytes) -> None:
    expected = put(folder + b"/file")
    put(elsewhere + b"/file", b"older")

    with pytest.raises(FileExistsError):
        files.move_durably(folder + b"/file", elsewhere + b"/file", expected)

    assert content_of(folder + b"/file") == CONTENT
    assert content_of(elsewhere + b"/file") == b"older"


def test_a_link_is_moved_as_a_link(folder: bytes, elsewhere: bytes) -> None:
    os.symlink(b"no/where", folder + b"/link")

    files.move_durably(folder + b"/link", elsewhere + b"/link", files.snapshot(folder + b"/link"))

    assert os.readlink(elsewhere + b"/link") == b"no/where"
    assert not os.path.lexists(folder + b"/link")


def test_a_pipe_is_never_opened_and_stays(folder: bytes, elsewhere: bytes) -> None:
    os.mkfifo(folder + b"/pipe")

    with pytest.raises(OSError, match="Invalid cross-device link"):
        files.move_durably(
            folder + b"/pipe", elsewhere + b"/pipe", files.snapshot(folder + b"/pipe")
        )

    assert os.listdir(folder)
    assert os.listdir(elsewhere) == []


def test_a_file_that_changes_while_it_is_copied_stays_and_its_copy_goes(
    folder: bytes, elsewhere: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = put(folder + b"/file")
    real = files._digest

    def digest_then_change(path: bytes) -> bytes:
        digest = real(path)
        if path.startswith(folder + b"/file"):
            grown(path)
        return digest

    monkeypatch.setattr(files, "_digest", digest_then_change)

    with pytest.raises(Changed):
        files.move_durably(folder + b"/file", elsewhere + b"/file", expected)

    assert content_of(folder + b"/file") == CONTENT + b"!"
    assert os.listdir(elsewhere) == []


def test_a_file_that_can_t_be_removed_from_its_disk_is_not_in_two_places(
    folder: bytes, elsewhere: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk became read-only while it was copied."""
    expected = put(folder + b"/file")
    real = os.unlink

    def refuse(path: bytes) -> None:
        if path == folder + b"/file":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        real(path)

    monkeypatch.setattr(os, "unlink", refuse)

    with pytest.raises(OSError, match="Read-only"):
        files.move_durably(folder + b"/file", elsewhere + b"/file", expected)

    assert content_of(folder + b"/file") == CONTENT
    assert os.listdir(elsewhere) == []


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOENT])
def test_a_copy_stays_where_the_file_went_in_spite_of_an_error(
    folder: bytes, elsewhere: bytes, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server did it, and its answer was lost: the copy is all that there is."""
    expected = put(folder + b"/file")
    real = os.unlink

    def lose_the_answer(path: bytes) -> None:
        real(path)
        if path == folder + b"/file":
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "unlink", lose_the_answer)

    with contextlib.suppress(OSError):
        files.move_durably(folder + b"/file", elsewhere + b"/file", expected)

    assert content_of(elsewhere + b"/file") == CONTENT


def test_a_copy_that_differs_is_no_copy(
    folder: bytes, elsewhere: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk gave back other bytes than were written."""
    expected = put(folder + b"/file")
    monkeypatch.setattr(
        shutil, "copyfileobj", lambda reading, writing, _n: writing.write(reading.read()[:-1])
    )

    with pytest.raises(OSError, match="differs"):
        files.move_durably(folder + b"/file", elsewhere + b"/file", expected)

    assert content_of(folder + b"/file") == CONTENT
    assert os.listdir(elsewhere) == []


@pytest.mark.parametrize("when", ["copied", "named"])
def test_two_copies_to_one_target_do_not_mix(
    folder: bytes, elsewhere: bytes, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Files of one name, from two drop folders that share an archive."""
    one, two = put(folder + b"/one"), put(folder + b"/two", b"another report" * 1000)
    step = {"copied": "_compare", "named": "sync_folder"}[when]
    plain = getattr(files, step)

    def meanwhile(*arguments: bytes) -> None:
        monkeypatch.setattr(files, step, plain)
        with pytest.raises(FileExistsError):
            files.move_durably(folder + b"/two", elsewhere + b"/target", two)
        plain(*arguments)

    monkeypatch.setattr(files, step, meanwhile)
    files.move_durably(folder + b"/one", elsewhere + b"/target", one)

    assert content_of(elsewhere + b"/target") == CONTENT
    assert content_of(folder + b"/two") == b"another report" * 1000
    assert os.listdir(elsewhere) == [b"target"]


def test_who_opened_a_copy_before_it_got_its_name_leaves_it_alone(
    folder: bytes, elsewhere: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = put(folder + b"/file")

    def named(file: object, _operation: int) -> None:
        (passing,) = os.listdir(elsewhere)
        os.rename(elsewhere + b"/" + passing, elsewhere + b"/target")
        put(elsewhere + b"/target", b"somebody else's")
        assert file

    monkeypatch.setattr(fcntl, "flock", named)

    with pytest.raises(FileExistsError):
        files.move_durably(folder + b"/file", elsewhere + b"/target", expected)

    assert content_of(elsewhere + b"/target") == b"somebody else's"
    assert content_of(folder + b"/file") == CONTENT


def test_on_a_full_disk_no_half_copy_stays(
    folder: bytes, elsewhere: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(reading: object, writing: object, _chunk: int) -> None:
        assert hasattr(writing, "write")
        assert hasattr(reading, "read")
        writing.write(reading.read(5))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    expected = put(folder + b"/file")
    monkeypatch.setattr(shutil, "copyfileobj", fill)

    with pytest.raises(OSError, match="No space left"):
        files.move_durably(folder + b"/file", elsewhere + b"/file", expected)

    assert content_of(folder + b"/file") == CONTENT
    assert os.listdir(elsewhere) == []


def test_the_copys_name_is_on_the_disk_before_the_source_goes(
    folder: bytes, elsewhere: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two file systems keep no common order: a power cut may forget either's last step."""
    done: list[str] = []
    expected = put(folder + b"/file")
    real_sync, real_unlink = files.sync_folder, os.unlink

    def sync(path: bytes) -> None:
        done.append("sync target" if path == elsewhere else "sync source")
        real_sync(path)

    def unlink(path: bytes) -> None:
        if path == folder + b"/file":
            done.append("remove source")
        real_unlink(path)

    monkeypatch.setattr(files, "sync_folder", sync)
    monkeypatch.setattr(os, "unlink", unlink)

    files.move_durably(folder + b"/file", elsewhere + b"/file", expected)

    assert done[:2] == ["sync target", "remove source"]
    assert done[-1] == "sync source"


@pytest.mark.parametrize("across", [False, True])
def test_killed_at_any_step_a_move_has_the_whole_file_in_one_place_or_the_other(
    tmp_path: Path, across: bool
) -> None:
    points = 0
    for number, after in crash_points():
        folder = os.fsencode(tmp_path / f"{number}-{after}")
        os.makedirs(folder + b"/from")
        os.makedirs(folder + b"/to")
        source, target = folder + b"/from/file", folder + b"/to/file"
        expected = put(source)
        steps = Steps(number, after=after)
        try:
            with steps.counted(apart=folder + b"/to" if across else None):
                files.move_durably(source, target, expected)
        except Crash:
            points += 1
            places = [path for path in (source, target) if os.path.lexists(path)]
            assert places
            assert all(content_of(path) == CONTENT for path in places)
            if source in places:  # starting again converges, whatever the crash left behind
                files.unlink_alias(target)
                with Steps().counted(apart=folder + b"/to" if across else None):
                    files.move_durably(source, target, expected)
            assert os.listdir(folder + b"/to") == [b"file"]
            assert content_of(target) == CONTENT
        else:
            break
    assert points >= (14 if across else 6)


def test_what_has_become_a_link_is_not_opened(folder: bytes) -> None:
    put(folder + b"/file")
    os.symlink(b"file", folder + b"/link")

    with pytest.raises(OSError, match="symbolic link"):
        files.open_regular(folder + b"/link")


# -- removing ------------------------------------------------------------------------------------


def test_a_file_that_is_known_is_removed(folder: bytes) -> None:
    expected = put(folder + b"/file")

    files.remove(folder + b"/file", expected)

    assert os.listdir(folder) == []


def test_only_an_empty_folder_is_removed(folder: bytes) -> None:
    os.makedirs(folder + b"/full")
    os.makedirs(folder + b"/empty")
    put(folder + b"/full/file")
    os.symlink(b"empty", folder + b"/link")

    assert not files.remove_empty(folder + b"/full")
    assert not files.remove_empty(folder + b"/full/file")
    assert not files.remove_empty(folder + b"/link")
    assert files.remove_empty(folder + b"/empty")
    assert files.remove_empty(folder + b"/empty")  # gone is gone
    assert content_of(folder + b"/full/file") == CONTENT


# -- aliases -------------------------------------------------------------------------------------


def refuse(*_arguments: object) -> None:
    """What ``fs.protected_hardlinks`` says, and a file system without symbolic links."""
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("refused", [(), ("link",), ("link", "symlink")])
def test_an_alias_can_be_read_and_deleted_without_harm(
    folder: bytes, refused: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, alias = folder + b"/file", folder + b"/alias.dcm"
    expected = put(path)
    for name in refused:
        monkeypatch.setattr(os, name, refuse)

    files.link_aside(path, alias)
    assert content_of(alias) == CONTENT
    assert os.path.islink(alias) == (refused == ("link",))
    os.unlink(alias)  # as OpenREM does

    assert content_of(path) == CONTENT
    files.check_identity(path, expected)
    files.unlink_alias(alias)  # is gone already: no harm


@pytest.mark.parametrize("left_over", ["file", "link to nowhere"])
def test_an_alias_left_by_a_crash_is_in_nobodys_way(folder: bytes, left_over: str) -> None:
    path, alias = folder + b"/file", folder + b"/alias"
    put(path)
    if left_over == "file":
        put(alias, b"older")
    else:
        os.symlink(b"nowhere", alias)

    files.link_aside(path, alias)

    assert content_of(alias) == CONTENT
    files.unlink_alias(alias)
    assert os.listdir(folder) == [b"file"]


def test_where_no_alias_can_be_made_the_reason_is_told(
    folder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder + b"/file")
    for owner, name in ((os, "link"), (os, "symlink"), (shutil, "copyfile")):
        monkeypatch.setattr(owner, name, refuse)

    with pytest.raises(PermissionError):
        files.link_aside(folder + b"/file", folder + b"/alias")

    assert os.listdir(folder) == [b"file"]


# -- our own small files, and folders ------------------------------------------------------------


def test_killed_at_any_step_a_note_is_whole_or_not_there(tmp_path: Path) -> None:
    for number, after in crash_points():
        folder = os.fsencode(tmp_path / f"{number}-{after}")
        os.mkdir(folder)
        try:
            with Steps(number, after=after).counted():
                files.write_durably(folder + b"/note", "words")
        except Crash:
            assert not os.path.exists(folder + b"/note") or content_of(folder + b"/note") == (
                b"words"
            )
            files.write_durably(folder + b"/note", "words")
        assert os.listdir(folder) == [b"note"]
        assert content_of(folder + b"/note") == b"words"
        if number > 20:
            break


def test_on_a_full_disk_no_half_note_stays(folder: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space left"):
        files.write_durably(folder + b"/note", "why")
    assert os.listdir(folder) == []


def test_a_folder_is_made_with_those_above_it(folder: bytes) -> None:
    files.make_folder(folder + b"/a/b/c")
    files.make_folder(folder + b"/a/b/c")

    assert os.path.isdir(folder + b"/a/b/c")


def test_a_folder_is_not_made_where_a_file_is(folder: bytes) -> None:
    put(folder + b"/a")

    with pytest.raises((FileExistsError, NotADirectoryError)):
        files.make_folder(folder + b"/a/b")
    with pytest.raises(FileExistsError):
        files.make_folder(folder + b"/a")


@given(name=names, suffix=st.sampled_from((b".why.json", b"~2.dcm", b"~12")))
def test_a_name_fits_with_its_ending(name: bytes, suffix: bytes) -> None:
    fitting = files.name_that_fits(name, suffix)

    assert len(fitting) <= 255
    assert fitting.endswith(suffix)
    if len(name) + len(suffix) <= 255:
        assert fitting == name + suffix


def test_two_long_names_do_not_become_one() -> None:
    left, right = b"x" * 254 + b"1", b"x" * 254 + b"2"

    assert files.name_that_fits(left, b".why.json") != files.name_that_fits(right, b".why.json")


@pytest.mark.parametrize("come", ["from nowhere", "in a moment when nobody looks"])
def test_without_noreplace_a_newer_file_is_not_replaced(
    folder: bytes, come: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On some network file systems: a sender may write between a look and a rename."""
    put(folder + b"/claimed")
    monkeypatch.setattr(files, "_rename_noreplace", lambda _source, _target: False)
    put(folder + b"/original", b"newer")
    if come == "in a moment when nobody looks":
        monkeypatch.setattr(os.path, "lexists", lambda _path: False)

    with pytest.raises(FileExistsError):
        files.move(folder + b"/claimed", folder + b"/original")

    assert content_of(folder + b"/original") == b"newer"
    assert content_of(folder + b"/claimed") == CONTENT


def test_a_move_that_a_crash_left_under_both_names_is_ended(
    folder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder + b"/source")
    os.link(folder + b"/source", folder + b"/target")
    monkeypatch.setattr(files, "_rename_noreplace", lambda _source, _target: False)

    files.move(folder + b"/source", folder + b"/target")

    assert os.listdir(folder) == [b"target"]
