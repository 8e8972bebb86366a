"""`ingest.bundle`: a kept study becomes one zip file, and no object goes before it is in there."""

import os
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ingest import bundle, files
from ingest.bundle import Bundler, Shelf
from tests.crash import Crash, Steps, crash_points

UID = "1.2.826.0.1.3680043.8.498.1"
QUIET_S = 300.0
_COPY = shutil.copyfileobj


class Kept:
    """A rule's folder, and who packs it; the time runs ahead as it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.day = folder / "2026-11-24"
        self.ahead_s = 0.0
        self.bundler = Bundler(
            [Shelf(rule="physics", folder=os.fsencode(folder), quiet_s=QUIET_S)],
            lambda: time.time() + self.ahead_s,
            threading.Event(),
        )

    def put(self, name: str, content: bytes, study: str = UID) -> Path:
        """An object that was kept."""
        path = self.day / study / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def run_when_quiet(self) -> None:
        """Let the quiet time pass."""
        self.ahead_s += 2 * QUIET_S
        self.bundler.run()

    def here(self) -> list[str]:
        """All files."""
        return sorted(
            str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()
        )

    def packed(self) -> dict[str, bytes]:
        """What the zip files hold."""
        found: dict[str, bytes] = {}
        for path in sorted(self.folder.rglob("*.zip")):
            with zipfile.ZipFile(path) as file:
                found |= {name: file.read(name) for name in file.namelist()}
        return found


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_a_quiet_study_becomes_one_file(kept: Kept) -> None:
    kept.put("1.dcm", b"one" * 1000)
    kept.put("2.dcm", b"two" * 1000)
    kept.bundler.run()
    assert len(kept.here()) == 2, "it is not quiet yet"

    with capture_logs() as told:
        kept.run_when_quiet()

    assert kept.here() == [f"2026-11-24/{UID}.zip"]
    assert kept.packed() == {f"{UID}/1.dcm": b"one" * 1000, f"{UID}/2.dcm": b"two" * 1000}
    assert [(line["event"], line["count"]) for line in told] == [("study.zipped", 2)]
    assert not (kept.day / UID).exists()


def test_what_comes_later_goes_into_a_second_one(kept: Kept) -> None:
    """Also an object that was sent again: it may be another version."""
    kept.put("1.dcm", b"one")
    kept.run_when_quiet()
    kept.put("1.dcm", b"one more")
    kept.put("2.dcm", b"two")
    kept.run_when_quiet()

    assert kept.here() == [f"2026-11-24/{UID}.zip", f"2026-11-24/{UID}~2.zip"]
    with zipfile.ZipFile(kept.day / f"{UID}.zip") as first:
        assert first.read(f"{UID}/1.dcm") == b"one"
    with zipfile.ZipFile(kept.day / f"{UID}~2.zip") as second:
        assert second.read(f"{UID}/1.dcm") == b"one more"


def test_what_is_no_study_of_ours_is_left_alone(kept: Kept) -> None:
    """A person may keep things there as well."""
    mine = [
        kept.put("notes.txt", b"mine", study="my notes"),
        kept.folder / "lists" / UID / "x.dcm",
        kept.day / "lonely.dcm",
    ]
    for path in mine[1:]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
    (kept.day / UID).symlink_to(mine[1].parent)
    inner = kept.put("1.dcm", b"one", study=UID + "2").parent / "inner"
    inner.mkdir()
    (inner / "x.dcm").write_bytes(b"mine")

    kept.run_when_quiet()

    assert all(path.read_bytes() == b"mine" for path in (*mine, inner / "x.dcm"))
    assert kept.packed() == {f"{UID}2/1.dcm": b"one"}


def test_nor_is_what_a_person_puts_beside_the_objects(kept: Kept) -> None:
    """Whatever its name is made of; and the others are packed all the same."""
    kept.put("1.2.3.dcm", b"one")
    kept.put("notes.ods", b"mine")
    kept.put("1.2.4.part", b"mine")
    odd = os.path.join(os.fsencode(kept.day / UID), b"M\xfcller.ods")
    Path(os.fsdecode(odd)).write_bytes(b"mine")
    kept.put("1.2.5~2.dcm", b"two", study=UID + "9")

    kept.run_when_quiet()

    assert {f"{UID}/1.2.3.dcm", f"{UID}9/1.2.5~2.dcm"} == kept.packed().keys()
    assert {Path(name).name for name in kept.here() if not name.endswith(".zip")} == {
        *("notes.ods", "1.2.4.part", os.fsdecode(b"M\xfcller.ods"))
    }


def test_one_study_that_cannot_be_packed_does_not_stop_the_others(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = bundle.pack

    def fails(study: bytes, *more: Any) -> int:  # noqa: ANN401 - as it is given
        if study.endswith(b"1"):
            raise ValueError
        return plain(study, *more)

    kept.put("1.dcm", b"one")
    kept.put("1.dcm", b"two", study=UID + "2")
    monkeypatch.setattr(bundle, "pack", fails)
    kept.run_when_quiet()

    assert kept.packed() == {f"{UID}2/1.dcm": b"two"}


def test_a_file_that_is_no_zip_has_the_name(kept: Kept) -> None:
    kept.put("1.dcm", b"one")
    (kept.day / f"{UID}.zip").write_bytes(b"no zip at all")

    kept.run_when_quiet()

    assert (kept.day / f"{UID}.zip").read_bytes() == b"no zip at all"
    with zipfile.ZipFile(kept.day / f"{UID}~2.zip") as packed:
        assert packed.read(f"{UID}/1.dcm") == b"one"


def test_a_time_stamp_from_before_zip_files_is_no_hindrance(kept: Kept) -> None:
    path = kept.put("1.dcm", b"one")
    os.utime(path, (0, 0))

    kept.run_when_quiet()

    assert kept.packed() == {f"{UID}/1.dcm": b"one"}


def test_a_zip_that_the_disk_gives_back_wrong_costs_no_object(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing goes that was not read back."""
    path = kept.put("1.dcm", b"one")
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "_is_same", lambda *_: False)
        kept.run_when_quiet()
    assert path.read_bytes() == b"one"


def test_a_file_that_is_written_to_meanwhile_stays(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kept.put("1.dcm", b"one")
    plain = bundle._is_same

    def writes(*of: object) -> bool:
        path.write_bytes(b"another")
        return plain(*of) or True  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(bundle, "_is_same", writes)
        kept.run_when_quiet()
    assert path.read_bytes() == b"another"

    kept.run_when_quiet()
    assert set(kept.packed().values()) == {b"another"}


def test_what_cannot_be_packed_is_told_once(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept.put("1.dcm", b"one")

    def full(_target: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, capture_logs() as told:
        patch.setattr(files, "made_durably", full)
        kept.run_when_quiet()
        kept.run_when_quiet()
    assert [line["event"] for line in told] == ["study.cannot-be-zipped"]
    assert path.exists()
    kept.run_when_quiet()
    assert kept.packed()


def test_a_crash_at_every_step_loses_no_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next run ends what it began, with each object in one zip file only."""
    contents = {f"{UID}/{number}.dcm": b"%d" % number for number in range(3)}
    for number, after in crash_points():
        kept = Kept(tmp_path / f"{number}-{after}")
        for name, content in contents.items():
            kept.put(os.path.basename(name), content)
        steps = Steps(number, after=after)
        died = False
        try:
            with steps.counted(), monkeypatch.context() as patch:
                patch.setattr(shutil, "copyfileobj", _COPY)  # a zip takes no two halves
                kept.run_when_quiet()
        except Crash:
            died = True
        there = {path.name for path in kept.folder.rglob("*.dcm")}
        whole = kept.packed()
        for name, content in contents.items():
            assert os.path.basename(name) in there or whole.get(name) == content
        kept.run_when_quiet()
        assert kept.packed() == contents
        assert kept.here() == [f"2026-11-24/{UID}.zip"]
        if not died:
            assert len(steps.taken) > len(contents)
            return


# -- what else may lie there, and what it must not lead to ---------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link", "link to itself"])
def test_what_is_no_ordinary_file_has_the_name(kept: Kept, kind: str) -> None:
    """To open a pipe would wait for somebody to write into it."""
    kept.put("1.dcm", b"one")
    in_the_way = kept.day / f"{UID}.zip"
    match kind:
        case "pipe":
            os.mkfifo(in_the_way)
        case "folder":
            in_the_way.mkdir()
        case "dangling link":
            in_the_way.symlink_to("nowhere.zip")
        case _:
            in_the_way.symlink_to(in_the_way.name)

    packing = threading.Thread(target=kept.run_when_quiet, daemon=True)
    packing.start()
    packing.join(60)

    assert not packing.is_alive()
    assert os.path.lexists(in_the_way)
    with zipfile.ZipFile(kept.day / f"{UID}~2.zip") as packed:
        assert packed.read(f"{UID}/1.dcm") == b"one"


def test_a_zip_file_with_an_unreadable_name_in_it_stops_nothing(kept: Kept) -> None:
    kept.put("1.dcm", b"one")
    kept.put("1.dcm", b"other", study=UID + "9")
    damaged = kept.day / f"{UID}.zip"
    with zipfile.ZipFile(damaged, "w") as packed:
        packed.writestr("ü.dcm", b"")
    damaged.write_bytes(damaged.read_bytes().replace("ü".encode(), b"\xff\xfe"))
    before = damaged.read_bytes()

    kept.run_when_quiet()

    assert damaged.read_bytes() == before
    assert kept.here() == [f"2026-11-24/{name}.zip" for name in (UID, UID + "9", UID + "~2")]


def test_files_that_are_no_objects_of_ours_stay_in_their_studys_folder(kept: Kept) -> None:
    """Also such whose names can't be in a zip file at all."""
    kept.put("1.dcm", b"one")
    kept.put("1~2.dcm", b"another one")
    mine = [kept.put(name, b"mine") for name in ("notes.txt", "\udcff.dcm", "a copy of 1.dcm")]
    later = kept.put("1.dcm", b"other", study=UID + "9")

    kept.run_when_quiet()

    assert all(path.read_bytes() == b"mine" for path in mine)
    with zipfile.ZipFile(kept.day / f"{UID}.zip") as packed:
        assert sorted(packed.namelist()) == [f"{UID}/1.dcm", f"{UID}/1~2.dcm"]
    assert not later.exists(), "the others have their turn"


def test_one_study_never_stops_the_others(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.put("1.dcm", b"one")
    kept.put("1.dcm", b"other", study=UID + "9")
    plain = bundle.pack

    def fails_once(study: bytes, *more: object) -> int:
        if study.endswith(UID.encode()):
            raise OverflowError
        return plain(study, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, capture_logs() as told:
        patch.setattr(bundle, "pack", fails_once)
        kept.run_when_quiet()

    assert kept.packed() == {f"{UID}9/1.dcm": b"other"}
    assert [line["event"] for line in told] == ["study.cannot-be-zipped", "study.zipped"]


def test_a_time_stamp_from_the_future_is_no_hindrance(kept: Kept) -> None:
    """It comes with the file from a machine whose clock is wrong."""
    path = kept.put("1.dcm", b"one")
    os.utime(path, (4e9, 4e9))

    kept.run_when_quiet()

    assert kept.packed() == {f"{UID}/1.dcm": b"one"}


def test_a_study_is_packed_after_the_clock_was_set_back(kept: Kept) -> None:
    kept.put("1.dcm", b"one")
    kept.ahead_s = -1e6

    kept.bundler.run()

    assert kept.packed() == {f"{UID}/1.dcm": b"one"}


def test_a_zip_file_is_not_open_to_more_people_than_its_objects(kept: Kept) -> None:
    kept.put("1.dcm", b"one").chmod(0o600)
    kept.put("2.dcm", b"two").chmod(0o644)

    kept.run_when_quiet()

    assert (kept.day / f"{UID}.zip").stat().st_mode & 0o777 == 0o600


def test_a_large_study_does_not_hold_up_the_end(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is being packed or compared: nothing is lost, and no half file is left."""
    paths = [kept.put(f"{number}.dcm", b"%d" % number) for number in (1, 2, 3)]
    stopping = kept.bundler._stopping
    for step in ("_add", "_is_same"):
        plain = getattr(bundle, step)

        def stops(*of: object, plain: Callable[..., object] = plain) -> object:
            stopping.set()
            return plain(*of)

        with monkeypatch.context() as patch, capture_logs() as told:
            patch.setattr(bundle, step, stops)
            kept.run_when_quiet()
        assert all(path.exists() for path in paths)
        assert not told
        assert not list(kept.day.glob("*.part")) + list(kept.day.glob(".*"))
        stopping.clear()

    kept.run_when_quiet()
    assert len(kept.packed()) == len(paths)
    assert kept.here() == [f"2026-11-24/{UID}.zip"]
