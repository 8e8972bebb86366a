"""`ingest.disks`: little room is told of once, on each volume, and nothing is deleted."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ingest import disks
from ingest.disks import DiskGuard, Limits, Volume
from ingest.presence import Place
from tests.mounting import mounted

LIMITS = Limits(free_mib=4, free_files=100)


def _at(folder: Path) -> Place:
    return Place(folder=bytes(folder))


def _never(_place: Place) -> None:
    """No folder is away."""


def _guard(limits: Limits = LIMITS, **folders: Path) -> DiskGuard:
    return DiskGuard({what: _at(folder) for what, folder in folders.items()}, limits, _never)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A volume of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    with mounted(folder):
        yield folder


def test_a_volume_is_asked_once_for_all_that_lies_on_it(tmp_path: Path, small: Path) -> None:
    (small / "sr").mkdir()
    found = disks.volumes(
        {
            "drop folder sr": _at(small / "sr"),
            "ledger": _at(tmp_path),
            "quarantine": _at(small / "not" / "yet"),
        },
        _never,
    )
    assert [volume.holds for volume in found] == [("drop folder sr", "quarantine"), ("ledger",)]
    assert found[0].path == str(small / "sr")
    assert found[0].free_mib == 16


def test_little_room_is_told_of_once_and_so_is_its_end(small: Path) -> None:
    guard = _guard(sr=small)
    filler = small / "filler"
    with capture_logs() as told:
        guard.look()
        filler.write_bytes(bytes(13 << 20))
        guard.look()
        guard.look()
        os.truncate(filler, (12 << 20) - 4096)  # at the very limit it would come and go
        guard.look()
        filler.unlink()
        guard.look()
        guard.look()
    assert [line["event"] for line in told] == ["disk.low", "disk.recovered"]
    assert told[0]["path"] == str(small)
    assert told[0]["folders"] == ["sr"]
    assert told[0]["detail"].startswith("3 MiB")
    assert told[0]["next"]


def test_no_room_for_further_files_is_little_room(small: Path) -> None:
    limits = Limits(free_mib=0, free_files=10**9)
    with capture_logs() as told:
        _guard(limits, ledger=small).look()
    assert [line["event"] for line in told] == ["disk.low"]


def test_a_folder_that_is_away_lies_on_no_volume(tmp_path: Path, small: Path) -> None:
    """Its empty place lies on another disk, whose room is not what matters."""
    away = _at(tmp_path / "share")
    found = disks.volumes({"sr": away, "dx": _at(small)}, lambda place: place == away or None)
    assert [volume.holds for volume in found] == [("dx",)]


def test_a_low_volume_that_is_away_is_not_well_again(tmp_path: Path) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    is_away = False
    guard = DiskGuard({"sr": _at(folder)}, LIMITS, lambda _place: is_away or None)
    with capture_logs() as told:
        with mounted(folder, "size=2m"):
            guard.look()
        is_away = True
        guard.look()
        is_away = False
        with mounted(folder):
            guard.look()
        with mounted(folder, "size=2m"):
            guard.look()
    assert [line["event"] for line in told if line["event"] == "disk.low"] == ["disk.low"] * 2


@pytest.mark.parametrize(
    ("free_mib", "free_files", "low"),
    [(4, 100, False), (3, 100, True), (4, 99, True), (4, None, False), (0, None, True)],
)
def test_what_is_little(free_mib: int, free_files: int | None, *, low: bool) -> None:
    volume = Volume(path="/x", holds=("x",), device=1, free_mib=free_mib, free_files=free_files)
    assert volume.is_low(LIMITS) is low
    assert not volume.is_low(Limits(free_mib=0, free_files=0))
