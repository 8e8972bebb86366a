"""`ingest.mounts` and `ingest.presence`: which folders are there, and on what file system."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import mounts
from ingest.errors import Reason, hindrance
from ingest.ledger import Ledger
from ingest.mounts import edge, folder_identity, is_edge, is_mounted, is_network
from ingest.presence import AUTO, Place, Presence
from tests.mounting import mounted

MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
tmpfs /run tmpfs rw 0 0
server:/dose /mnt/dose nfs4 rw,vers=4.2 0 0
//server/my\\040share /mnt/my\\040share cifs rw 0 0
/dev/sdb1 /mnt/dose/local ext4 rw 0 0
sshfs#x /home/u/remote fuse.sshfs rw 0 0
server:/ü /mnt/größe\\134tab\\011end nfs rw 0 0
server:/e /mnt/€ nfs rw 0 0
host /mnt/shared virtiofs rw 0 0
/dev/sdc1 /over ext4 rw 0 0
server:/over /over nfs rw 0 0
odd\u2028device /mnt/line\u2028break\x0b nfs rw 0 0
short line
"""


@pytest.mark.parametrize(
    ("path", "network"),
    [
        ("/", False),
        ("/var/dose", False),
        ("/run/x", False),
        ("/mnt/dose", True),
        ("/mnt/dose/sr", True),
        ("/mnt/dosedata", False),
        ("/mnt/dose/local/sr", False),
        ("/mnt/my share/sr", True),
        ("/mnt/my", False),
        ("/home/u/remote/sr", True),
        ("/mnt/größe\\tab\tend/sr", True),
        ("/mnt/€/sr", True),
        ("/mnt/shared", True),
        ("/over/sr", True),  # the later mount hides the earlier
        ("/mnt/line\u2028break\x0b/sr", True),
    ],
)
def test_network_file_systems_are_known_by_their_mounts(
    tmp_path: Path, path: str, network: bool
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS, encoding="utf-8", newline="")

    assert is_network(Path(path), mounts) is network


def test_this_machines_own_mounts_can_be_read() -> None:
    assert not is_network(Path("/proc"))


@given(content=st.binary(max_size=200))
def test_whatever_the_mounts_say_nothing_breaks(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mounts = tmp_path_factory.mktemp("mounts") / "mounts"
    mounts.write_bytes(content)

    assert is_network(Path("/x"), mounts) in {True, False}


def test_a_folders_identity_is_none_where_there_is_no_folder(root: bytes) -> None:
    status = os.stat(root)

    assert folder_identity(root) == (status.st_dev, status.st_ino)
    assert folder_identity(root + b"/none") is None
    assert folder_identity(_file(root + b"/file")) is None


def _file(path: bytes) -> bytes:
    with open(path, "wb"):
        return path


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    return os.path.realpath(os.fsencode(tmp_path))


@pytest.fixture
def share(root: bytes) -> bytes:
    """A folder on which something can be mounted."""
    os.mkdir(root + b"/share")
    return root + b"/share"


# -- where a file system begins --------------------------------------------------------------------


def test_a_file_system_begins_where_it_is_mounted(root: bytes, share: bytes) -> None:
    here = edge(root)
    with mounted(share):
        os.mkdir(share + b"/mammo")
        assert edge(share + b"/mammo") == share
        assert edge(share + b"/not/yet") == share
        assert is_edge(share)
        assert not is_edge(share + b"/mammo")
    assert edge(share) == here
    assert not is_edge(share)
    assert not is_edge(share + b"/none")


def test_a_folder_that_is_mounted_onto_itself_has_not_moved(share: bytes) -> None:
    """As a service manager's sandbox does."""
    here = edge(share)
    with mounted(share, over=share):
        assert edge(share) == here
        assert not is_edge(share)


# -- shares ------------------------------------------------------------------------------------


def auto(folder: bytes) -> Place:
    """A folder as it is by default."""
    return Place(folder=folder, mount=AUTO)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "state" / "ledger.sqlite")
    yield opened
    opened.close()


def test_a_plain_folder_is_there_or_gone(ledger: Ledger, share: bytes) -> None:
    presence = Presence(ledger)
    assert not presence.knows(share)
    assert presence.absence(auto(share)) is None
    assert presence.knows(share)
    os.rmdir(share)
    absence = presence.absence(auto(share))
    assert absence is not None
    assert "gone" in absence.why
    os.mkdir(share)
    assert presence.absence(auto(share)) is None


def test_a_share_that_is_not_mounted_is_no_empty_folder(ledger: Ledger, share: bytes) -> None:
    """Also for whoever knows it from the ledger only, and in each folder on it."""
    inside = share + b"/mammo"
    with mounted(share):
        os.mkdir(inside)
        assert Presence(ledger).absence(auto(share)) is None
        assert Presence(ledger).absence(auto(inside)) is None
    os.mkdir(inside)  # the same in the folder beneath
    for presence in (Presence(ledger), Presence(ledger, learns=False)):
        for folder in (share, inside):
            absence = presence.absence(auto(folder))
            assert absence is not None
            assert absence.why == f"nothing is mounted at {os.fsdecode(share)}"
        with pytest.raises(OSError, match="nothing is mounted") as caught:
            presence.check_target(auto(inside))
        assert hindrance(caught.value) is Reason.DISK_AWAY
        assert presence.absence(Place(folder=share)) is None
    with mounted(share):
        assert Presence(ledger).absence(auto(share)) is None


def test_what_was_written_beneath_a_share_is_told_of(ledger: Ledger, share: bytes) -> None:
    with mounted(share):
        assert Presence(ledger).absence(auto(share)) is None
    absence = Presence(ledger).absence(auto(share))
    assert absence is not None
    assert "move away" not in absence.next_step
    _file(share + b"/a.dcm")
    absence = Presence(ledger).absence(auto(share))
    assert absence is not None
    assert "move away" in absence.next_step


def test_a_share_on_a_share_is_the_one_that_counts(ledger: Ledger, share: bytes) -> None:
    presence = Presence(ledger)
    with mounted(share):
        assert presence.absence(auto(share)) is None
        with mounted(share):
            assert presence.absence(auto(share)) is None
        assert presence.absence(auto(share)) is None
        inner = share + b"/inner"
        os.mkdir(inner)
        assert presence.absence(auto(inner)) is None
        with mounted(inner):
            assert presence.absence(auto(inner)) is None
        assert presence.absence(auto(inner)) is not None


def test_a_mount_that_is_asked_for_by_name_must_be_there(ledger: Ledger, share: bytes) -> None:
    """Before it was ever seen: a machine that starts before its shares are mounted."""
    presence = Presence(ledger)
    name = os.fsdecode(share)
    assert presence.absence(Place(folder=share, mount=name)) is not None
    with mounted(share):
        assert presence.absence(Place(folder=share, mount=name)) is None


def test_a_target_may_be_made_later(ledger: Ledger, share: bytes) -> None:
    presence = Presence(ledger)
    presence.check_target(auto(share + b"/archive"))
    with mounted(share):
        os.mkdir(share + b"/archive")
        presence.check_target(auto(share + b"/archive"))
    with pytest.raises(OSError, match="nothing is mounted"):
        presence.check_target(auto(share + b"/archive"))


def test_who_only_looks_remembers_nothing(ledger: Ledger, share: bytes) -> None:
    with mounted(share):
        assert Presence(ledger, learns=False).absence(auto(share)) is None
    assert Presence(ledger).absence(auto(share)) is None


def test_a_target_on_a_share_is_known_before_it_is_made(ledger: Ledger, share: bytes) -> None:
    with mounted(share):
        Presence(ledger).check_target(auto(share + b"/archive"))
    with pytest.raises(OSError, match="nothing is mounted"):
        Presence(ledger).check_target(auto(share + b"/archive"))


def test_a_share_that_goes_while_it_is_looked_at_is_not_forgotten(
    ledger: Ledger, share: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    presence = Presence(ledger)
    with mounted(share):
        assert presence.absence(auto(share)) is None
    with monkeypatch.context() as patch:  # it was mounted a moment ago
        patch.setattr(mounts, "is_edge", lambda _folder: True)
        assert presence.absence(auto(share)) is not None
    assert presence.absence(auto(share)) is not None
    assert Presence(ledger).absence(auto(share)) is not None


def test_a_named_mount_may_be_of_the_same_disk(ledger: Ledger, share: bytes, root: bytes) -> None:
    os.mkdir(root + b"/source")
    place = Place(folder=share, mount=os.fsdecode(share))
    with mounted(share, over=root + b"/source"):
        assert is_mounted(share)
        assert Presence(ledger).absence(place) is None
    assert Presence(ledger).absence(place) is not None


def test_what_may_not_be_looked_at_is_not_called_unmounted(
    share: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(_path: bytes) -> os.stat_result:
        raise PermissionError

    monkeypatch.setattr(os, "lstat", closed)
    assert is_edge(share)


def test_without_a_ledger_a_folder_is_there_or_it_is_not(share: bytes) -> None:
    assert Presence(None).absence(auto(share)) is None
    absence = Presence(None).absence(auto(share + b"/none"))
    assert absence is not None
    assert "does not exist" in absence.why
