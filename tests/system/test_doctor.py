"""`doctor` on real folders, disks, ledgers and a real OpenREM: each fault planted is found."""

import ctypes
import hashlib
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ingest import commands, config, ledger_file, mounts
from ingest.commands.doctor import doctor
from ingest.doctor import look
from ingest.ledger import Ledger
from ingest.openrem.site import Site, start_server, stop_server
from tests.mounting import mounted, remount
from tests.system.harness import Ground, image

PATIENT = "Mustermann_Erika_19500101.dcm"  # whatever else is said, this is not
NOBODY = 65534
NO_LIMITS = "[disk]\nlow = 0\nlow_files = 0"  # the machine's own disk may be full
KEYS = ["group", "level", "what", "why", "next"]

Found = list[dict[str, Any]]


@pytest.fixture
def bare(tmp_path: Path) -> Ground:
    """Folders and a configuration whose OpenREM does not exist."""
    return Ground(
        root=tmp_path,
        site=Site(root=tmp_path / "nowhere"),
        database="none",
        env={"LOG_ROOT": str(tmp_path)},
        python=tmp_path / "nowhere" / "python",
        tables=NO_LIMITS,
    )


Examine = Callable[..., tuple[int, Found]]


@pytest.fixture
def examine(bare: Ground, capsys: pytest.CaptureFixture[str]) -> Examine:
    """Runs doctor in this process; gives its exit code and what it found."""

    def run(dicom_ini: Path | None = None, config: Path | None = None) -> tuple[int, Found]:
        code = doctor(config or bare.config, dicom_ini=dicom_ini, as_json=True)
        out, err = capsys.readouterr()
        assert err == ""
        assert PATIENT not in out
        found = [json.loads(line) for line in out.splitlines()]
        assert all(list(one) == KEYS for one in found)
        return code, found

    return run


def troubles(found: Found, group: str = "") -> Found:
    """The warnings and errors of what a test has in its own hand.

    Its OpenREM may not exist, and other tests may watch folders, too.
    """
    return [
        one
        for one in found
        if one["level"] in {"warning", "error"}
        and one["group"] not in {"OpenREM", "Kernel"}
        and group in one["group"]
    ]


# -- faults of folders, disks and the ledger -------------------------------------------------------

Fault = Callable[[Ground], AbstractContextManager[None]]
FAULTS: list[Any] = []


def fault(level: str, what: str, next_step: str = "") -> Callable[[Callable[..., Any]], Fault]:
    """Enter a fault into the list of those that are tried."""

    def wrap(plant: Callable[..., Any]) -> Fault:
        planted: Fault = contextmanager(plant)
        FAULTS.append(pytest.param(planted, level, what, next_step, id=plant.__name__))
        return planted

    return wrap


@fault("error", "drop folder sr", "make the folder")
def no_folder(ground: Ground) -> Iterator[None]:
    ground.drop("sr").rmdir()
    yield


@fault("error", "is not a folder", "correct its path")
def a_file_in_its_place(ground: Ground) -> Iterator[None]:
    ground.drop("sr").rmdir()
    ground.drop("sr").touch()
    yield


@fault("error", "is offline: nothing is mounted", "mount it again")
def a_share_that_is_not_mounted(ground: Ground) -> Iterator[None]:
    place = ground.drop("sr")
    _reconfigure(ground, f'path = "{place}"', f'path = "{place}"\nmount = "{place}"')
    yield


@fault("error", "read-only", "mount it writable")
def a_read_only_disk(ground: Ground) -> Iterator[None]:
    with mounted(ground.drop("sr")):
        assert remount(ground.drop("sr"), read_only=True)
        yield


@fault("warning", "MiB and room for", "free space on it")
def a_disk_that_is_nearly_full(ground: Ground) -> Iterator[None]:
    _reconfigure(ground, "low = 0", "low = 8")
    with mounted(ground.drop("sr"), "size=9m"):
        (ground.drop("sr") / PATIENT).write_bytes(bytes(2 << 20))
        yield


@fault("warning", "room for 9", "free space on it")
def a_disk_nearly_without_inodes(ground: Ground) -> Iterator[None]:
    _reconfigure(ground, "low_files = 0", "low_files = 100")
    with mounted(ground.drop("sr"), "size=16m,nr_inodes=100"):
        yield


@fault("note", "1 file set aside in its .ingest", "start the service")
def a_claim_left_behind(ground: Ground) -> Iterator[None]:
    ground.put("sr", f".ingest/0123456789abcdef-01234567/{PATIENT}", image())
    ground.put("sr", ".ingest/0123456789abcdef-01234567.dcm", b"its alias")
    yield


@fault("note", "1 name in work", "clears them up")
def an_alias_left_behind(ground: Ground) -> Iterator[None]:
    (ground.state / "work" / "run").mkdir(parents=True)
    (ground.state / "work" / "run" / "0123456789abcdef-01234567.dcm").touch()
    yield


@fault("note", 'watch = "poll", although')
def sweeping_without_need(ground: Ground) -> Iterator[None]:
    place = ground.drop("sr")
    _reconfigure(ground, f'path = "{place}"', f'path = "{place}"\nwatch = "poll"')
    yield


@fault("note", "lies on another file system than mammo, dx, sr", "")
def an_archive_on_another_disk(ground: Ground) -> Iterator[None]:
    ground.after = "archive"
    ground.configure()
    ground.failed.mkdir()
    with mounted(ground.failed):
        yield


@fault("error", "quarantine", "move away what lies there")
def a_file_in_place_of_the_quarantine(ground: Ground) -> Iterator[None]:
    ground.failed.touch()
    yield


@fault("error", "state folder", "move away what lies there")
def a_file_in_place_of_the_state_folder(ground: Ground) -> Iterator[None]:
    ground.state.touch()
    yield


@fault("error", "written by a newer openrem-ingest", "upgrade this one")
def a_ledger_of_a_newer_version(ground: Ground) -> Iterator[None]:
    with _ledger(ground) as connection:
        connection.execute("PRAGMA user_version = 99")
    yield


@fault("error", "is damaged", "move the ledger away")
def a_ledger_that_is_none(ground: Ground) -> Iterator[None]:
    with _ledger(ground):
        pass
    (ground.state / "ledger.sqlite").write_bytes(b"no database at all" * 1000)
    yield


@fault("error", "is damaged", "move the ledger away")
def a_ledger_with_a_damaged_page(ground: Ground) -> Iterator[None]:
    with _ledger(ground) as connection:
        connection.executemany(
            "INSERT INTO folder VALUES (?, 0)", [(b"%09d" % n,) for n in range(9999)]
        )
        connection.commit()
    path = ground.state / "ledger.sqlite"
    content = bytearray(path.read_bytes())
    middle = content.index(b"000004999")
    content[middle : middle + 4096] = bytes(4096)
    path.write_bytes(content)
    yield


@fault("error", "is locked by another program", "end whatever has it open")
def a_ledger_that_is_locked(ground: Ground) -> Iterator[None]:
    with _ledger(ground) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("UPDATE service SET at = 0")
        connection.commit()
        yield


@fault("warning", "s in the future", "time server")
def a_clock_that_was_ahead(ground: Ground) -> Iterator[None]:
    with _ledger(ground) as connection:
        later = time.time() + 3600
        connection.execute("INSERT INTO service VALUES ('service', 'x', ?)", (later,))
        connection.commit()
    yield


@contextmanager
def _ledger(ground: Ground) -> Iterator[sqlite3.Connection]:
    """A ledger of ours, opened by somebody."""
    path = ground.state / "ledger.sqlite"
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as connection:
        yield connection


def _reconfigure(ground: Ground, old: str, new: str) -> None:
    text = ground.config.read_text(encoding="utf-8")
    assert old in text
    ground.config.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(("plant", "level", "what", "next_step"), FAULTS)
def test_each_fault_of_the_set_up_is_found(
    bare: Ground,
    examine: Examine,
    plant: Fault,
    level: str,
    what: str,
    next_step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, and nothing else is blamed; and looking at it changes nothing."""
    monkeypatch.setattr(ledger_file, "BUSY_TIMEOUT_S", 0.1)
    calm = _words(examine()[1])
    with plant(bare):
        before = picture(bare.root)
        code, found = examine()
        assert picture(bare.root) == before
    assert code == 3  # because of the OpenREM that does not exist
    if "sr" not in what:
        assert len(troubles(found)) == (level in {"warning", "error"}), troubles(found)
    new = [one for one in found if _words([one]) - calm and what in one["what"]]
    (told,) = [one for one in new if one["level"] == level]
    assert next_step in told["next"]


def _words(found: Found) -> set[tuple[str, str]]:
    return {(one["level"], one["what"]) for one in found}


def test_a_calm_set_up_has_no_fault(bare: Ground, examine: Examine) -> None:
    """And to look at a set-up that was never used makes nothing."""
    before = picture(bare.root)
    _, found = examine()
    assert troubles(found) == []
    assert picture(bare.root) == before
    assert not bare.state.exists()


def test_what_network_file_systems_must_not_be_used_for_is_found(
    bare: Ground, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here those in memory count as such; their clock is an hour ahead of ours."""
    monkeypatch.setattr(mounts, "_NETWORK", frozenset({"tmpfs"}))
    monkeypatch.setattr(commands.doctor, "now", lambda: time.time() - 3600)
    place = bare.drop("dx")
    _reconfigure(bare, f'path = "{place}"', f'path = "{place}"\nwatch = "native"')
    bare.state.mkdir()
    with mounted(place), mounted(bare.drop("sr")), mounted(bare.state):
        _, found = examine()
    told = troubles(found)
    for one, level, what in zip(
        told,
        ("error", "warning", "warning", "warning"),
        (
            f"state folder ({bare.state}) lies on a network file system (tmpfs)",
            f'dx ({place}): watch = "native", but it lies on a network file system (tmpfs)',
            f"dx ({place}): the file server's clock is ahead of ours by 3",
            f"sr ({bare.drop('sr')}): the file server's clock is ahead of ours by 3",
        ),
        strict=True,
    ):
        assert one["level"] == level
        assert what in one["what"]


def test_inotify_instances_in_use_are_counted(bare: Ground) -> None:
    """Those of this user's processes, of which this test is one."""
    assert bare.config.exists()
    settings = config.load(bare.config)
    before = look.events(settings)
    assert before is not None
    assert before.needed == 3
    instances = [ctypes.CDLL(None).inotify_init() for _ in range(5)]
    try:
        after = look.events(settings)
        assert after is not None
        # Others of this user come and go meanwhile.
        assert (
            sum(os.readlink(f"/proc/self/fd/{one}").endswith("inotify") for one in instances) == 5
        )
        assert after.taken >= 5
        assert after.instances > 5
    finally:
        for one in instances:
            os.close(one)


def test_a_check_that_fails_itself_stops_no_other(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError(PATIENT)

    monkeypatch.setattr(look, "volumes", breaks)
    _, found = examine()
    (told,) = troubles(found)
    assert (told["group"], told["level"]) == ("Disks", "error")
    assert told["what"] == "this could not be checked (RuntimeError)"
    assert "OpenREM" in {one["group"] for one in found}


# -- rights ----------------------------------------------------------------------------------------


def test_rights_that_are_missing_are_found(bare: Ground) -> None:
    """Of a drop folder, a sub-folder, the quarantine, the state folder; and the sticky bit."""
    bare.drop("mammo").chmod(0o000)
    bare.put("dx", f"{PATIENT}/a.dcm", image())
    (bare.drop("dx") / PATIENT).chmod(0o500)
    os.chmod(bare.put("dx", "b.dcm", image()), 0o000)
    os.chown(bare.drop("sr"), NOBODY, NOBODY)
    bare.drop("sr").chmod(0o1777)
    for folder in (bare.failed, bare.state):
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
    said = bare.says("doctor", "--json", weak=True)
    assert (said.code, said.err) == (3, "")
    assert PATIENT not in said.out
    told = {one["what"]: one for one in troubles(said.lines)}
    assert [one["level"] for one in told.values()].count("error") == 5
    assert len(told) == 6, told
    for words in (
        f"mammo ({bare.drop('mammo')}): root may not read, write, enter it",
        f"dx ({bare.drop('dx')}): root may not read and write 1 sub-folder in it",
        f"dx ({bare.drop('dx')}): root may not read 1 file in it",
        f"sr ({bare.drop('sr')}) has the sticky bit",
        f"quarantine ({bare.failed}): root may not write it",
        f"state folder ({bare.state}): root may not write it",
    ):
        (one,) = [one for what, one in told.items() if words in what]
        assert "sudo " in one["next"]


def test_whoever_may_do_everything_is_told_who_should_be_tried(
    bare: Ground, examine: Examine
) -> None:
    for name in ("mammo", "dx", "sr"):
        os.chown(bare.drop(name), NOBODY, NOBODY)
    _, found = examine()
    (told,) = [one for one in found if "all is tried as root" in one["what"]]
    assert told["level"] == "note"
    assert "sudo -u nobody openrem-ingest doctor" in told["next"]


# -- the configuration, and Conquest's -------------------------------------------------------------


def test_a_mistake_in_the_configuration_is_one_finding(bare: Ground, examine: Examine) -> None:
    """What needs no configuration is checked all the same; the exit code is 2."""
    _reconfigure(bare, "quiet =", "quite =")
    ini = bare.root / "dicom.ini"
    ini.write_text("[sscscp]\n ImportModality1 = MG\n", encoding="utf-8")
    code, found = examine(ini)
    assert code == 2
    mistake, indented = [one for one in found if one["level"] == "error"]
    assert "settle.quite" in mistake["what"]
    assert mistake["next"] == "did you mean quiet?"
    assert "line 2: ImportModality1 is indented" in indented["what"]
    assert {one["group"] for one in found} == {"Configuration", "Kernel", "Conquest"}


def test_no_configuration_is_said(bare: Ground) -> None:
    """With where it was looked for; in words, the last line sums up."""
    bare.config.rename(bare.root / "elsewhere.toml")
    said = bare.says("doctor", config=False)
    assert (said.code, said.err) == (2, "")
    assert "  ERROR    no configuration found (looked for openrem-ingest.toml" in said.out
    assert "Next: name one with -c FILE" in said.out
    assert said.out.splitlines()[-1].startswith("Something is wrong: ")
    assert said.out.splitlines()[-1].endswith("1 error.")


def test_drop_folders_that_are_one_are_a_mistake_of_the_configuration(
    bare: Ground, examine: Examine
) -> None:
    bare.drop("sr").rmdir()
    bare.drop("sr").symlink_to(bare.drop("dx"))
    code, found = examine()
    assert code == 2
    assert ["one and the same" in one["what"] for one in troubles(found)] == [True]
    assert {"Drop folders", "Kernel"} <= {one["group"] for one in found}


def test_conquests_converters_are_held_against_the_drop_folders(
    bare: Ground, examine: Examine, capsys: pytest.CaptureFixture[str]
) -> None:
    """By whatever path it knows them; awkward bytes in the file do no harm."""
    (bare.root / "by a link").symlink_to(bare.drop("mammo"))
    lines = (
        "[sscscp]",
        "Comment = \\xff",
        "ImportModality1 = MG",
        f"ImportConverter1 = save to {bare.root}/by a link/%o.dcm; destroy",
        "ImportModality2 = DX",
        f"ImportConverter2 = save to {bare.root}/dosedata/dX/%o.dcm; destroy",
    )
    ini = bare.root / "dicom.ini"
    ini.write_bytes("\r\n".join(lines).encode().replace(b"\\xff", b"\xff"))
    _, found = examine(ini)
    (lost,) = troubles(found)
    assert "line 6: ImportConverter2" in lost["what"]
    assert "all DX objects are lost" in lost["why"]
    notes = [one["what"] for one in found if one["group"] == "Conquest" and one["level"] == "note"]
    assert [what.rpartition("/")[2] for what in notes] == ["dx", "sr"]
    ini.write_bytes(b"[sscscp]\nImportConverter1 = save to /\xff\x1b[31m/%o.dcm; destroy\n")
    assert doctor(bare.config, dicom_ini=ini, as_json=False) == 3
    assert "\\udcff\\x1b[31m, which does not exist" in capsys.readouterr().out
    right = (lines[2], f"ImportConverter1 = save to {bare.drop('dx')}/%o.dcm; destroy")
    ini.write_text("\n".join(("[sscscp]", right[0], right[1].replace("%o", "one"))))
    assert doctor(bare.config, dicom_ini=ini, as_json=False) == 3
    copied = {line.strip() for line in capsys.readouterr().out.splitlines()}
    assert copied >= {*right}  # each is a line of its own
    _, found = examine(ini)
    assert tuple(troubles(found)[0]["next"].splitlines()[1:]) == right
    _, found = examine(bare.root / "no.ini")
    assert "can't be read (No such file" in troubles(found)[0]["what"]


# -- OpenREM ---------------------------------------------------------------------------------------


def test_an_interpreter_that_is_missing_or_closed(bare: Ground, examine: Examine) -> None:
    code, found = examine()
    (missing,) = [one for one in found if one["group"] == "OpenREM"]
    assert (code, missing["level"]) == (3, "error")
    assert f"{bare.python} does not exist" in missing["what"]
    bare.python = bare.root / "python"
    bare.python.touch(mode=0o644)
    bare.configure()
    code, found = examine()
    (closed,) = [one for one in found if one["group"] == "OpenREM"]
    assert (code, closed["level"]) == (3, "error")
    assert f"{bare.python} may not be run" in closed["what"]


def test_a_set_up_that_works_is_said_to_work_and_nothing_is_touched(
    ground: Ground,
) -> None:
    """Before, after and while the service runs; Conquest's lines are our own."""
    ground.tables = NO_LIMITS
    ground.configure()
    ground.put("dx", "a.dcm", image())
    ground.put("sr", PATIENT, b"no object")
    said = ground.says("run", "--once")
    assert (said.code, ground.files()["dx"]) == (1, []), said
    ini = ground.root / "dicom.ini"
    ini.write_text("[sscscp]\n" + ground.says("conquest").out, encoding="utf-8")
    shutil.copytree(ground.drop("dx"), ground.drop("dx") / "dragged in")
    before = picture(ground.root)
    said = ground.says("doctor", "--json", "--dicom-ini", ini)
    assert (said.code, said.err) == (0, ""), said
    assert picture(ground.root) == before
    assert [one["what"][:26] for one in troubles(said.lines)] == []
    groups = list(dict.fromkeys(one["group"] for one in said.lines))
    assert groups == [
        *("Configuration", "User and state folder", "Drop folders", "Archive and quarantine"),
        *("Disks", "Kernel", "OpenREM", "Clock", "Conquest"),
    ]
    assert all(list(one) == KEYS for one in said.lines)
    service = ground.service().ready()
    words = ground.says("doctor")
    assert words.code == 0, words
    assert "  ok       the service runs" in words.out
    assert words.out.splitlines()[-1].endswith(" 0 errors.")
    assert PATIENT not in words.out
    service.stop()
    ground.drop("mammo").rmdir()
    said = ground.says("doctor", "--json")
    assert said.code == 1, said
    assert "mammo" in troubles(said.lines)[0]["what"]


def test_openrem_that_is_away_is_said_and_why(ground: Ground) -> None:
    """Its database is stopped; then it can't write its log. The other checks run all the same."""
    with ExitStack() as clear_up:
        clear_up.callback(start_server, ground.site)
        stop_server(ground.site)
        said = ground.says("doctor", "--json")
    (away,) = [one for one in said.lines if one["level"] == "error"]
    assert (said.code, away["group"]) == (3, "OpenREM")
    assert "database can't be reached" in away["what"]
    assert "start PostgreSQL" in away["next"]
    gone = ground.root / "no log"
    ground.env = {**ground.site.environment(ground.database), "LOG_ROOT": str(gone)}
    ground.configure()
    said = ground.says("doctor", "--json")
    (away,) = [one for one in said.lines if one["level"] == "error"]
    assert (said.code, away["group"]) == (3, "OpenREM")
    assert f"its LOG_ROOT {gone} does not exist" in away["what"]
    assert not gone.exists()


def test_logs_that_openrem_made_as_root_are_to_be_given_back(ground: Ground) -> None:
    """In a LOG_ROOT of another user's, who could not start OpenREM any more."""
    place = ground.root / "its logs"
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    ground.env = {**ground.site.environment(ground.database), "LOG_ROOT": str(place)}
    ground.tables = NO_LIMITS
    ground.configure()
    said = ground.says("doctor", "--json")
    (told,) = [one for one in said.lines if "LOG_ROOT they are in" in one["what"]]
    assert (said.code, told["level"], told["group"]) == (0, "warning", "OpenREM")
    made = sorted(str(path) for path in place.iterdir())
    assert made
    remedy = shlex.split(told["next"].partition(": sudo ")[2])
    assert remedy == ["chown", "nobody", *made]
    subprocess.run(remedy, check=True)
    assert look.logs(str(place)).foreign == ()
    for path in place.iterdir():
        os.chown(path, 0, 0)
        path.chmod(0o664)
    assert look.logs(str(place)).foreign == ()  # the group may write them


def picture(root: Path) -> dict[str, tuple[object, ...]]:
    """All that lies below a folder: places, owners, rights, times and contents."""
    seen: dict[str, tuple[object, ...]] = {}
    for base, folders, names in os.walk(root):
        for name in (".", *folders, *names):
            path = os.path.join(base, name)
            status = os.lstat(path)
            content = b""
            if name in names and not os.path.islink(path):
                content = hashlib.sha256(Path(path).read_bytes()).digest()
            seen[path] = (
                *(status.st_ino, status.st_mode, status.st_uid, status.st_size),
                *(status.st_mtime_ns, status.st_ctime_ns, content),
            )
    return seen
