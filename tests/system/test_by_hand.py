"""`import`: files and folders by hand; the sources stay unless told otherwise."""

import csv
import os
import signal
from pathlib import Path

import pytest

from tests.system.harness import (
    DEADLINE_S,
    END_S,
    Ground,
    files_below,
    image,
    relay,
    report,
    sample,
    until,
)


def test_sources_stay_as_they_are(ground: Ground) -> None:
    """Bytes, times and place; what is not imported is listed, and exit code 1 says so."""
    folder = _folder(ground)
    before = _picture(folder)
    said = ground.says("import", folder)
    assert said.code == 1, said
    assert _summary(said.out) == {
        "imported": 3,
        "already there": 0,
        "ignored": 0,
        "not imported: not-dicom": 1,
        "not imported: truncated": 1,
    }
    complaints = said.err.splitlines()
    assert len(complaints) == 2, complaints
    for name in ("notes.txt", "cut.dcm"):
        (line,) = [line for line in complaints if name in line]
        assert "Next: " in line
    assert _picture(folder) == before
    again = ground.says("import", folder)
    assert (again.code, _summary(again.out)["already there"]) == (1, 3), again
    assert sorted(row[2:6] for row in ground.held()) == [
        ("1", "1", "1", "1"),
        ("1", "1", "1", "1"),
        ("3", "3", "1", "1"),
    ]
    assert _picture(folder) == before


def test_delete_removes_only_what_is_proven(ground: Ground) -> None:
    """The rejected stay, and so do the folders: they are the user's own."""
    folder = _folder(ground)
    said = ground.says("import", "--delete", folder)
    assert said.code == 1, said
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert left == {"a", "a/b", "notes.txt", "a/cut.dcm"}
    assert ground.events() == 2


def test_files_and_folders_named_in_every_way(ground: Ground) -> None:
    """Singly, twice, within a named folder, relative, awkward: each is imported once."""
    folder = ground.root / "in [x]"
    folder.mkdir()
    (folder / "tree.dcm").mkdir()
    for name in ("tree.dcm/one.dcm", "-two.dcm", "three\n.dcm"):
        (folder / name).write_bytes(image())
    alone = ground.root / "alone.dcm"
    alone.write_bytes(image())
    said = ground.says("import", folder, folder / "-two.dcm", "alone.dcm", alone)
    assert said.code == 0, said
    assert ground.events() == 4
    summary = _summary(said.out)
    assert (summary["imported"], summary["already there"]) == (4, 0)
    assert ground.says("import", "--workers", "1", folder / "tree.dcm").code == 0
    assert ground.events() == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_before_the_end_it_says_so(ground: Ground, number: int) -> None:
    """With exit code 1 and one line; the same command again does the rest."""
    folder = _images(ground, 60)
    process = ground.starts("import", folder)
    until(lambda: ground.events() > 3, "some are imported")
    process.send_signal(number)
    out, err = process.communicate(timeout=END_S)
    assert process.returncode == 1, err
    assert len(err.splitlines()) == 1, err
    assert b"Next: " in err
    assert 0 < _summary(out.decode())["imported"] < 60
    said = ground.says("import", folder)
    assert (said.code, sum(_summary(said.out).values())) == (0, 60), said
    assert ground.events() == 60


def test_what_openrem_has_costs_no_import(ground: Ground) -> None:
    """Killed at any moment and begun again, it looks up what it has done: no task is opened.

    Of what somebody else's failed import left half of, it is not believed that OpenREM has it.
    """
    folder = _images(ground, 40)
    process = ground.starts("import", folder)
    until(lambda: ground.events() > 20, "half of them are imported")
    process.kill()
    process.communicate(timeout=END_S)
    until(lambda: not ground.number(_SESSIONS), "what was begun is undone")
    done, tasks = ground.events(), ground.number(_TASKS)
    assert tasks == done

    said = ground.says("import", folder)
    assert (said.code, _summary(said.out)["already there"]) == (0, done), said
    assert (ground.events(), ground.number(_TASKS)) == (40, 40)

    ground.query(
        "DELETE FROM remapp_patientmoduleattr WHERE id IN "
        "(SELECT min(id) FROM remapp_patientmoduleattr)"
    )
    said = ground.says("import", folder)
    assert "held-in-part" in said.out, said
    assert ground.number(_TASKS) > 40


# It comes upon 20 files, says so once they are noted, and then comes upon nothing more.
_MEETS_FOR_EVER = """
import sys, threading
from ingest.commands import bulk
everything = bulk.Chosen.everything

def meets_for_ever(self):
    for number, path in enumerate(everything(self)):
        if number == 20:
            print("twenty", file=sys.stderr, flush=True)
            threading.Event().wait()
        yield path

bulk.Chosen.everything = meets_for_ever
"""


def test_killed_before_it_has_met_all_it_has_imported_nothing(ground: Ground) -> None:
    """The next one begins anew, and keeps no trace of what the first had noted."""
    folder = _images(ground, 30)
    (folder / "no.dcm").touch()
    process = ground.starts("import", folder, first=_MEETS_FOR_EVER)
    assert process.stderr is not None
    while process.stderr.readline() not in (b"twenty\n", b""):
        pass
    process.kill()
    process.communicate(timeout=END_S)
    assert ground.events() == 0
    assert ground.ledger("SELECT count(*) FROM job WHERE path NOT NULL") == [(20,)]

    said = ground.says("import", folder)
    assert _summary(said.out) == {
        "imported": 30,
        "already there": 0,
        "ignored": 0,
        "not imported: empty": 1,
    }
    assert (ground.events(), ground.number(_TASKS)) == (30, 30)
    assert ground.ledger("SELECT count(*) FROM job WHERE path NOT NULL") == [(0,)]


_TELLS_OF_SWEEPS = """
import sys
from ingest.commands import bulk
everything = bulk.Chosen.everything

def told(self):
    print("swept", file=sys.stderr, flush=True)
    yield from everything(self)

bulk.Chosen.everything = told
"""


def test_a_tree_is_not_swept_as_often_as_a_drop_folder(ground: Ground) -> None:
    """Of a large tree, that would soon take longer than its import."""
    settings = ground.config.read_text(encoding="utf-8")
    ground.config.write_text(settings.replace("full = 5.0", "full = 0.05"), encoding="utf-8")
    process = ground.starts("import", _images(ground, 25), first=_TELLS_OF_SWEEPS)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert err.decode().splitlines() == ["swept"]
    assert _summary(out.decode())["imported"] == 25


def test_of_many_failures_a_few_are_shown_and_all_are_listed(ground: Ground) -> None:
    """In a file for its owner only: nothing else that is kept names them."""
    folder = _images(ground, 1)
    for number in range(40):
        (folder / f"Miller^Anna {number}.txt").write_text("no DICOM", encoding="utf-8")
    said = ground.says("import", folder)
    assert said.code == 1, said
    assert _summary(said.out)["not imported: not-dicom"] == 40
    assert sum("Miller^Anna" in line for line in said.err.splitlines()) == 6
    assert "and 37 more" in said.err
    (file,) = (ground.state / "imports").iterdir()
    assert said.out.splitlines()[-1].endswith(f": {file}")
    assert file.stat().st_mode & 0o777 == 0o600
    with file.open(encoding="utf-8", newline="") as reading:
        rows = list(csv.DictReader(reading))
    assert {Path(row["path"]) for row in rows} == set(folder.glob("*.txt"))
    assert {(row["reason"], bool(row["next"])) for row in rows} == {("not-dicom", True)}
    kept = [path for path in ground.state.rglob("*") if path.is_file() and path != file]
    assert kept
    assert not [path for path in kept if b"Miller" in path.read_bytes()]


def test_all_are_listed_where_the_user_says(ground: Ground) -> None:
    """Nothing but an earlier list is written over, and nobody waits hours to hear of it."""
    folder = _folder(ground)
    own = ground.root / "own.csv"
    own.write_text("figures", encoding="utf-8")
    said = ground.says("import", "--failures", own, folder)
    assert (said.code, len(said.err.splitlines())) == (2, 1), said
    assert "Next: " in said.err
    assert own.read_text(encoding="utf-8") == "figures"
    assert ground.events() == 0

    own.unlink()
    said = ground.says("import", "--failures", own, folder)
    assert said.code == 1, said
    lines = own.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    assert {"a/cut.dcm", "notes.txt"} == {
        Path(line.partition(",")[0]).relative_to(folder).as_posix() for line in lines[1:]
    }
    assert not (ground.state / "imports").exists()


def _images(ground: Ground, count: int) -> Path:
    """A folder of so many images, a study each."""
    folder = ground.root / "files"
    folder.mkdir()
    for one in range(count):
        (folder / f"{one}.dcm").write_bytes(image())
    return folder


_TASKS = "SELECT count(*) FROM remapp_backgroundtask"
_SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


def test_the_oldest_study_comes_first_wherever_it_lies(ground: Ground) -> None:
    """It is met long after the first could have been imported: nothing is, before all are met."""
    new, old, between = ground.root / "new.dcm", ground.root / "old.dcm", ground.root / "between"
    new.write_bytes(image(StudyDate="20200102"))
    old.write_bytes(image(StudyDate="20200101"))
    between.mkdir()
    for number in range(2000):
        (between / f"{number}.txt").write_text("no DICOM", encoding="utf-8")
    said = ground.says("import", new, between, old)
    assert _summary(said.out)["imported"] == 2, said
    days = ground.query("SELECT study_date FROM remapp_generalstudymoduleattr ORDER BY id")
    assert days == [("2020-01-01",), ("2020-01-02",)]


def test_a_link_is_not_followed(ground: Ground) -> None:
    """It is told, and left where it is."""
    (ground.root / "real.dcm").write_bytes(image())
    link = ground.root / "link.dcm"
    link.symlink_to("real.dcm")
    said = ground.says("import", "--delete", link)
    assert said.code == 1, said
    assert "not-a-file" in said.out
    assert link.is_symlink()
    assert ground.events() == 0


def test_a_folder_that_may_only_be_read(ground: Ground) -> None:
    """As a CD or somebody else's archive; nothing needs to be written there."""
    folder = _folder(ground)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    before = _picture(folder)
    with relay(ground.site) as way:
        ground.env = {**ground.site.environment(ground.database), **way}
        ground.configure()
        said = ground.says("import", folder, weak=True)
        assert (said.code, _summary(said.out)["imported"]) == (1, 3), said
        deleting = ground.says("import", "--delete", folder, weak=True)
        assert deleting.code == 1, deleting
    assert _picture(folder) == before
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700)


def test_it_works_beside_the_service(ground: Ground) -> None:
    """Both import the same object and others at once; each is counted once."""
    ground.after = "keep"
    ground.configure()
    folder = ground.root / "files"
    folder.mkdir()
    both = [image() for _ in range(20)]
    for number, content in enumerate(both):
        (folder / f"{number}.dcm").write_bytes(content)
    (folder / "own.dcm").write_bytes(image())
    service = ground.service().ready()
    for number, content in enumerate(both):
        ground.put("dx", f"{number}.dcm", content)
    ground.put("dx", "service's.dcm", last := image())
    said = ground.says("import", folder)
    assert said.code == 0, said
    summary = _summary(said.out)
    assert summary["imported"] + summary["already there"] == 21
    service.imports(last)
    until(lambda: ground.folder_status("dx")["done_today"] == 21, "all of its own are done")
    log = service.stop()
    assert "file.will-retry" not in log
    assert ground.quarantined() == {}
    assert ground.events() == 22


def test_a_drop_folder_by_hand_while_the_service_serves_it(ground: Ground) -> None:
    """Whoever comes first: all are imported once, and the service has disposed of all."""
    for number in range(40):
        ground.put("dx", f"{number}.dcm", image())
    service = ground.service().ready()
    said = ground.says("import", ground.drop("dx"))
    assert said.code in (0, 1), said
    until(ground.is_empty, "the service has them all")
    service.stop()
    assert ground.quarantined() == {}
    assert ground.events() == 40


def test_a_killed_import_of_a_drop_folder_holds_nothing_up(ground: Ground) -> None:
    """What it had in hand is taken over by the service, which runs already."""
    for number in range(40):
        ground.put("dx", f"{number}.dcm", image())
    process = ground.starts("import", ground.drop("dx"))
    until(lambda: ground.events() > 3, "some are imported")
    process.kill()
    process.communicate()
    assert len(ground.files()["dx"]) == 40
    service = ground.service()
    until(ground.is_empty, "the service has them all")
    service.stop()
    assert ground.quarantined() == {}
    assert ground.events() == 40


def _folder(ground: Ground) -> Path:
    """Three good objects and two bad ones."""
    folder = ground.root / "files"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "one.dcm").write_bytes(image())
    (folder / "a" / "two.dcm").write_bytes(report("ct"))
    (folder / "a" / "b" / "three").write_bytes(image("mammo"))
    (folder / "notes.txt").write_bytes(sample("sr/notes.txt"))
    (folder / "a" / "cut.dcm").write_bytes(sample("sr/truncated-dose-report.dcm"))
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def _picture(folder: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[str(path)] = (content, status.st_mtime_ns, status.st_ino, status.st_nlink)
    return found


def _summary(out: str) -> dict[str, int]:
    """The table on stdout: outcome and number."""
    rows = [line.split("│") for line in out.splitlines() if line.startswith("│")]
    return {row[1].strip(): int(row[2]) for row in rows}


def test_nor_does_a_killed_one_that_deletes_from_a_folder_within_it(ground: Ground) -> None:
    """What it has set aside lies where the service looks for it."""
    for number in range(40):
        ground.put("dx", f"of-today/{number}.dcm", image())
    process = ground.starts("import", "--delete", ground.drop("dx") / "of-today")
    until(lambda: any(b".ingest" in file for file in ground.files()["dx"]), "one is set aside")
    process.kill()
    process.communicate()
    service = ground.service()
    until(ground.is_empty, "the service has them all")
    service.stop()
    assert ground.quarantined() == {}
    assert ground.events() == 40


@pytest.mark.parametrize("again", ["batch", "data"])
def test_what_a_killed_import_had_set_aside_is_found_by_the_next(
    ground: Ground, again: str
) -> None:
    """By one that deletes nothing, too, and by one of the folder above."""
    batch = ground.root / "data" / "batch"
    claimed = batch / ".ingest" / "0123456789abcdef-01234567" / "x.dcm"
    claimed.parent.mkdir(parents=True)
    claimed.write_bytes(content := image())
    said = ground.says("import", ground.root / "data" if again == "data" else batch)
    assert said.code == 0, said
    assert ground.holds(content)
    assert len(files_below(batch)) == 1
