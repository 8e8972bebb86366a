"""`ingest.watch`: sweeps find every file and nothing else; events shorten the wait."""

import errno
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from watchdog.observers.inotify_c import InotifyConstants, InotifyFD

from ingest import claim, watch
from ingest.watch import (
    MAX_HINTS,
    RESTLESS_NS,
    Folder,
    Hints,
    Tree,
    Watch,
    is_passed_over,
)
from tests.strategies import AWKWARD_NAMES, names

PATIENCE_S = 20.0  # until an event must have come; a test waits for it no longer than it takes
LATER_NS = 2**62  # long after any file of these tests was made


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    path = os.fsencode(tmp_path / "drop")
    os.mkdir(path)
    return path


def put(path: bytes, content: bytes = b"x") -> bytes:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    return path


def set_old(*folders: bytes) -> None:
    """As if nothing had happened there for long."""
    for folder in folders:
        os.utime(folder, ns=(10**18, 10**18))


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(b"a.part", b"a.PART", b"a.partial", b"a.tmp", b"a.crdownload", b"a.dcm.filepart"),
        *(b"Thumbs.db", b"THUMBS.DB", b".DS_Store", b"desktop.ini", b".directory"),
        *(b".ingest", b"a.dcm.why.json"),
    ],
)
def test_downloads_clutter_and_our_own_are_passed_over(name: bytes) -> None:
    assert is_passed_over(name)


@pytest.mark.parametrize(
    "name", [b".dcm", b"a.dcm", b"a", b"part", b"tmp", b"a.part.dcm", b".hidden", b"why.json"]
)
def test_other_names_are_not(name: bytes) -> None:
    """Conquest makes `.dcm` of an object without a SOP Instance UID."""
    assert not is_passed_over(name)


# -- sweeping in full ----------------------------------------------------------------------------


def test_every_file_is_found_once_at_any_depth(root: bytes) -> None:
    expected = {
        put(os.path.join(root, folder, name))
        for folder in (b"", b"study", b"study/\xff\n", b"a/b/c/d")
        for name in AWKWARD_NAMES
    }

    found = list(Tree(root).everything())

    assert len(found) == len(expected)
    assert set(found) == expected


@given(places=st.lists(st.lists(names, min_size=1, max_size=3), max_size=8))
def test_any_tree_is_swept(
    places: list[list[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = os.fsencode(tmp_path_factory.mktemp("drop"))
    expected = set()
    for parts in places:
        if any(map(is_passed_over, parts)):
            continue
        try:
            expected.add(put(os.path.join(root, *parts)))
        except OSError:  # a file of that name is there already
            continue

    assert set(Tree(root).everything()) == expected


def test_a_link_is_found_and_never_followed(root: bytes) -> None:
    """Two links to "." had another sweeper walk for ever."""
    links = {root + b"/loop", root + b"/loop2", root + b"/up", root + b"/nowhere", root + b"/file"}
    for link, target in zip(sorted(links), (b"nothing", b".", b".", b"no", b".."), strict=True):
        os.symlink(target, link)

    assert set(Tree(root).everything()) == links


def test_a_pipe_is_found_and_never_opened(root: bytes) -> None:
    os.mkfifo(root + b"/pipe.dcm")

    assert list(Tree(root).everything()) == [root + b"/pipe.dcm"]


def test_a_folder_that_is_called_like_a_file_is_a_folder(root: bytes) -> None:
    inner = put(root + b"/object.dcm/object.dcm")

    assert list(Tree(root).everything()) == [inner]


def test_claims_clutter_and_excluded_folders_are_left_out(root: bytes) -> None:
    for name in (b".ingest/1-2/a.dcm", b"failed/a.dcm", b"x/failed/b.dcm", b"x/a.part"):
        put(os.path.join(root, name))
    wanted = put(root + b"/x/failed2/c.dcm")

    tree = Tree(root, excluded={root + b"/failed", root + b"/x/failed"})

    assert list(tree.everything()) == [wanted]


def test_each_folder_is_told_of(root: bytes) -> None:
    put(root + b"/full/a.dcm")
    os.mkdir(root + b"/empty")
    met: list[Folder] = []

    list(Tree(root, on_folder=met.append).everything())

    assert {(folder.path, folder.is_empty, folder.is_readable) for folder in met} == {
        (root, False, True),
        (root + b"/full", False, True),
        (root + b"/empty", True, True),
    }
    assert all(folder.mtime_ns == os.stat(folder.path).st_mtime_ns for folder in met)


def test_a_folder_with_nothing_but_clutter_is_not_empty(root: bytes) -> None:
    put(root + b"/Thumbs.db")
    met: list[Folder] = []

    list(Tree(root, on_folder=met.append).everything())

    assert [folder.is_empty for folder in met] == [False]


def test_a_drop_folder_that_is_away_has_no_files(root: bytes) -> None:
    met: list[Folder] = []
    tree = Tree(root + b"/away", on_folder=met.append)

    assert list(tree.everything()) == []
    assert list(tree.changed(LATER_NS)) == []
    assert met == []


def test_a_folder_that_may_not_be_read_is_told_of_and_found_later(root: bytes) -> None:
    """Tried as a user without rights, whoever runs the tests."""
    put(root + b"/open/a.dcm")
    put(root + b"/shut/b.dcm")
    os.chmod(root + b"/shut", 0)
    for base in (root, root + b"/open"):
        os.chmod(base, 0o755)  # noqa: S103 - the other user has to come so far
    probe = textwrap.dedent("""
        import os, sys
        root = os.fsencode(sys.argv[1])
        os.chdir(root)
        if os.geteuid() == 0:
            sys.path[:] = [path for path in sys.path if path]
        from ingest.watch import Tree
        if os.geteuid() == 0:
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
        met = []
        tree = Tree(b".", on_folder=met.append)
        print(sorted(tree.everything()), [f.path for f in met if not f.is_readable])
        met.clear()
        print(sorted(tree.changed(2**62)), [f.path for f in met if not f.is_readable])
    """)

    result = subprocess.run(
        [sys.executable, "-c", probe, os.fsdecode(root)],
        capture_output=True,
        text=True,
        check=False,
    )

    os.chmod(root + b"/shut", 0o700)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "[b'./open/a.dcm'] [b'./shut']",
        "[] [b'./shut']",  # asked again each time, so that it is found once it can be read
    ]


def test_a_file_system_that_breaks_off_stops_no_sweep(
    root: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NFS server goes away in the middle of a listing."""
    put(root + b"/a/1.dcm")
    put(root + b"/b/1.dcm")
    set_old(root, root + b"/a", root + b"/b")
    real = watch._entries

    def broken(folder: bytes) -> Iterator[os.DirEntry[bytes]]:
        if folder == root + b"/a":
            raise OSError(5, "Input/output error")
        yield from real(folder)

    met: list[Folder] = []
    tree = Tree(root, on_folder=met.append)
    with monkeypatch.context() as patch:
        patch.setattr(watch, "_entries", broken)
        assert list(tree.everything()) == [root + b"/b/1.dcm"]
    assert [folder.path for folder in met if not folder.is_readable] == [root + b"/a"]

    assert list(tree.changed(LATER_NS)) == [root + b"/a/1.dcm"]


# -- sweeping what changed -----------------------------------------------------------------------


def test_where_nothing_changed_nothing_is_found_again(root: bytes) -> None:
    put(root + b"/a.dcm")
    put(root + b"/study/b.dcm")
    set_old(root, root + b"/study")
    tree = Tree(root)
    assert len(list(tree.everything())) == 2

    assert list(tree.changed(LATER_NS)) == []


@pytest.mark.parametrize("how", ["written", "renamed in", "linked in"])
def test_a_new_file_is_found_with_those_beside_it(root: bytes, tmp_path: Path, how: str) -> None:
    put(root + b"/elsewhere/a.dcm")
    old = put(root + b"/study/old.dcm")
    set_old(root, root + b"/study", root + b"/elsewhere")
    tree = Tree(root)
    list(tree.everything())
    new = root + b"/study/new.dcm"
    outside = put(os.fsencode(tmp_path) + b"/outside")
    match how:
        case "written":
            put(new)
        case "renamed in":
            os.rename(outside, new)
        case _:
            os.link(outside, new)

    assert set(tree.changed(LATER_NS)) == {old, new}
    assert list(tree.changed(LATER_NS)) == []


def test_a_folder_that_is_renamed_in_is_swept_to_its_depths(root: bytes, tmp_path: Path) -> None:
    """Its own time stamps may be old."""
    tree = Tree(root)
    list(tree.everything())
    set_old(root)
    list(tree.changed(LATER_NS))
    outside = os.fsencode(tmp_path) + b"/outside"
    put(outside + b"/deep/er/a.dcm")
    set_old(outside, outside + b"/deep", outside + b"/deep/er")
    os.rename(outside, root + b"/inside")

    assert list(tree.changed(LATER_NS)) == [root + b"/inside/deep/er/a.dcm"]


def test_a_folder_that_was_just_modified_is_not_trusted(root: bytes) -> None:
    """Time stamps are coarse: a file may have come after our look without moving them."""
    put(root + b"/a.dcm")
    tree = Tree(root)
    list(tree.everything())
    mtime_ns = os.stat(root).st_mtime_ns

    assert list(tree.changed(mtime_ns + RESTLESS_NS - 1)) == [root + b"/a.dcm"]
    assert list(tree.changed(mtime_ns + RESTLESS_NS)) == []


def test_a_folder_that_is_gone_is_forgotten_and_comes_back(root: bytes) -> None:
    path = put(root + b"/study/a.dcm")
    tree = Tree(root)
    list(tree.everything())
    os.unlink(path)
    os.rmdir(root + b"/study")
    assert list(tree.changed(LATER_NS)) == []

    put(path)

    assert list(tree.changed(LATER_NS)) == [path]


def test_a_drop_folder_that_comes_back_is_swept_in_full(root: bytes) -> None:
    path = put(root + b"/study/a.dcm")
    tree = Tree(root)
    list(tree.everything())
    os.rename(root, root + b".away")
    assert list(tree.changed(LATER_NS)) == []
    set_old(root + b".away", root + b".away/study")
    os.rename(root + b".away", root)

    assert list(tree.changed(LATER_NS)) == [path]


def test_a_folder_that_becomes_a_link_is_not_followed(root: bytes, tmp_path: Path) -> None:
    """Whoever may write into the drop folder must not lead us to files of others."""
    put(root + b"/study/a.dcm")
    tree = Tree(root)
    list(tree.everything())
    secret = os.fsencode(tmp_path) + b"/secret"
    put(secret + b"/shadow")
    os.rename(root + b"/study", root + b"/study.old")
    os.symlink(secret, root + b"/study")

    assert set(tree.changed(LATER_NS)) == {root + b"/study", root + b"/study.old/a.dcm"}
    assert set(tree.everything()) == {root + b"/study", root + b"/study.old/a.dcm"}


# -- hints ---------------------------------------------------------------------------------------


def test_a_path_is_hinted_at_once_and_in_order() -> None:
    hints = Hints()
    for path in (b"/b", b"/a", b"/b"):
        hints.add(path)

    assert hints.arrived.is_set()
    assert hints.take() == ([b"/b", b"/a"], False)
    assert not hints.arrived.is_set()
    assert hints.take() == ([], False)


def test_hints_are_bounded_and_say_when_some_were_dropped() -> None:
    hints = Hints()
    for number in range(MAX_HINTS + 10):
        hints.add(b"%d" % number)

    paths, overflowed = hints.take()
    assert (len(paths), overflowed) == (MAX_HINTS, True)
    assert hints.take() == ([], False)


def test_a_flood_of_hints_in_one_folder_holds_up_no_other() -> None:
    hints = Hints()
    for number in range(MAX_HINTS + 10):
        hints.add(b"/flooded/%d" % number)
    hints.add(b"/other/a")

    assert hints.take(2) == ([b"/flooded/0", b"/other/a"], True)
    assert hints.arrived.is_set()
    assert hints.holds(b"/flooded/1")
    assert not hints.holds(b"/flooded/0")
    assert not hints.holds(b"/other/a")


# -- events --------------------------------------------------------------------------------------


class Watched:
    """A drop folder with its watch, and the hints that came."""

    def __init__(self, root: bytes) -> None:
        self.hints = Hints()
        self.watch = Watch(root, self.hints)
        self._seen: set[bytes] = set()

    def hinted(self, path: bytes) -> bool:
        """Wait for the hint at this path."""
        deadline = threading.Event()

        def give_up() -> None:
            deadline.set()
            self.hints.arrived.set()

        timer = threading.Timer(PATIENCE_S, give_up)
        timer.start()
        try:
            while path not in self._seen and not deadline.is_set():
                self.hints.arrived.wait()
                self._seen.update(self.hints.take()[0])
        finally:
            timer.cancel()
        return path in self._seen

    def is_built_anew(self) -> bool:
        """Wait until a check finds that the folder must be watched anew."""
        pause, tries = threading.Event(), 0
        while not self.watch.check(0.0) and tries < PATIENCE_S * 100:
            pause.wait(0.01)
            tries += 1
        return tries < PATIENCE_S * 100


@pytest.fixture
def watched(root: bytes) -> Iterator[Watched]:
    made = Watched(root)
    assert made.watch.check(0.0)
    yield made
    made.watch.stop()


@pytest.mark.parametrize("name", [b"a.dcm", b"two\nlines.dcm", b"\xff.dcm", b"x" * 255])
def test_a_file_that_is_written_is_hinted_at(watched: Watched, root: bytes, name: bytes) -> None:
    path = put(os.path.join(root, name))

    assert watched.hinted(path)


def _rename_in(outside: bytes, target: bytes) -> None:
    os.rename(outside, target)


def _link_in(outside: bytes, target: bytes) -> None:
    os.link(outside, target)


def _make_folder(_outside: bytes, target: bytes) -> None:
    os.mkdir(target)


@pytest.mark.parametrize("come", [_rename_in, _link_in, _make_folder])
def test_so_is_what_comes_otherwise(
    watched: Watched, root: bytes, tmp_path: Path, come: Callable[[bytes, bytes], None]
) -> None:
    outside = put(os.fsencode(tmp_path) + b"/outside")
    come(outside, root + b"/new")

    assert watched.hinted(root + b"/new")


def test_what_leaves_is_nobodys_business(watched: Watched, root: bytes) -> None:
    """Each of our own claims leaves."""
    mask = watch._Teller.MASK

    assert not mask & (InotifyConstants.IN_MOVED_FROM | InotifyConstants.IN_DELETE)
    assert not mask & InotifyConstants.IN_MODIFY
    path = put(root + b"/a.dcm")
    assert watched.hinted(path)
    os.rename(path, os.path.join(os.path.dirname(root), b"away"))
    assert watched.hinted(put(root + b"/b.dcm"))


def test_a_watch_that_is_well_is_left_alone(watched: Watched) -> None:
    reader = watched.watch._reader

    assert not watched.watch.check(0.0)
    assert watched.watch._reader is reader


@pytest.mark.parametrize("how", ["renamed", "removed"])
def test_a_folder_that_is_replaced_is_watched_anew(watched: Watched, root: bytes, how: str) -> None:
    if how == "renamed":
        os.rename(root, root + b".old")
    else:
        os.rmdir(root)
    os.mkdir(root)

    # The new folder may have the old one's inode: then only the end of the old one's thread,
    # which comes by an event, tells them apart. The service asks at every turn.
    assert watched.is_built_anew()
    assert watched.hinted(put(root + b"/a.dcm"))


def test_a_folder_that_is_away_is_watched_when_it_returns(watched: Watched, root: bytes) -> None:
    os.rename(root, root + b".away")
    assert not watched.watch.check(0.0)
    assert watched.watch._reader is None

    os.rename(root + b".away", root)

    assert watched.watch.check(0.0)
    assert watched.hinted(put(root + b"/a.dcm"))


def test_a_watch_whose_thread_died_is_built_anew(watched: Watched, root: bytes) -> None:
    reader = watched.watch._reader
    assert reader is not None
    reader.stop()
    reader.join()

    assert watched.watch.check(0.0)
    assert watched.hinted(put(root + b"/a.dcm"))


def _without_instances(patch: pytest.MonkeyPatch) -> None:
    def fails() -> int:
        raise OSError(errno.EMFILE, "inotify instance limit reached")

    patch.setattr(InotifyFD, "_create_inotify_fd", staticmethod(fails))


def _without_watches(patch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> int:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    patch.setattr(InotifyFD, "add_callback", fails)


@pytest.mark.parametrize("lacks", [_without_instances, _without_watches])
def test_what_cannot_be_watched_is_swept_and_told_once(
    root: bytes, monkeypatch: pytest.MonkeyPatch, lacks: Callable[[pytest.MonkeyPatch], None]
) -> None:
    watching = Watch(root, Hints())
    threads = threading.active_count()
    with monkeypatch.context() as patch, capture_logs() as told:
        lacks(patch)
        assert not watching.check(0.0)
        assert not watching.check(60.0)
    assert [line["event"] for line in told] == ["watch.unavailable"]
    assert threading.active_count() == threads
    assert not watching.check(61.0)  # it is tried again after a while
    assert watching.check(120.0)
    watching.stop()


def test_a_folder_without_rights_is_not_taken_for_watched(root: bytes) -> None:
    """Watchdog passes over this error."""
    os.chmod(root, 0o300)
    code = """
        import sys
        from ingest.watch import Hints, Watch
        print(Watch(sys.argv[1].encode(), Hints()).check(0))
    """
    python = [sys.executable, "-c", textwrap.dedent(code), os.fsdecode(root)]
    powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]

    command = [*(powerless if os.geteuid() == 0 else []), *python]
    done = subprocess.run(command, check=True, capture_output=True)

    assert b"correct the folder's rights" in done.stdout
    assert done.stdout.splitlines()[-1] == b"False"


def test_a_watch_may_be_stopped_twice_and_before_it_began(root: bytes) -> None:
    watching = Watch(root, Hints())
    watching.stop()
    assert watching.check(0.0)
    watching.stop()
    watching.stop()


def test_only_our_own_folder_of_claims_is_not_swept(root: bytes) -> None:
    """One further down came along with a drop folder that was dragged in: nobody puts it back."""
    ours = put(os.path.join(root, claim.FOLDER, b"1", b"ours.dcm"))
    theirs = put(os.path.join(root, b"old", claim.FOLDER, b"1", b"theirs.dcm"))

    found = list(Tree(root).everything())

    assert is_passed_over(claim.FOLDER)
    assert ours not in found
    assert found == [theirs]
