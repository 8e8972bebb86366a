"""The ledger in trouble while the service runs: said once, and it never costs a file."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.system.harness import Ground, Service, image, until


def _ledger(ground: Ground) -> Path:
    return ground.state / "ledger.sqlite"


def _told(service: Service) -> list[dict[str, Any]]:
    return [line for line in service.events() if line["event"].startswith("ledger.")]


def _fails(service: Service, words: str) -> None:
    until(
        lambda: any(words in line.get("error", "") for line in _told(service)),
        f"it says that the ledger {words}",
    )


@contextmanager
def _locked(ground: Ground) -> Iterator[None]:
    """Have another program hold the ledger, such as a database viewer."""
    with closing(sqlite3.connect(_ledger(ground), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


def test_a_ledger_that_is_locked_holds_all_up_and_loses_nothing(ground: Ground) -> None:
    service = ground.service().ready()
    content = image()
    with _locked(ground):
        ground.put("dx", "a.dcm", content)
        _fails(service, "is locked by another program")
        assert ground.files()["dx"] == [b"a.dcm"]
    service.imports(content)
    until(lambda: service.has_said("ledger.recovered"), "it has recovered")
    service.stop()
    told = [line["event"] for line in _told(service)]
    assert told == ["ledger.made", "ledger.failed", "ledger.recovered"]
    assert ground.events() == 1


def test_a_ledger_that_breaks_is_said_to_be_damaged_and_is_done_without(ground: Ground) -> None:
    """Everything waits; once it is moved away all goes on, and nothing is counted twice."""
    first, second = image(), image()
    ground.put("dx", "first.dcm", first)
    service = ground.service().ready()
    service.imports(first)
    with closing(sqlite3.connect(_ledger(ground), isolation_level=None)) as connection:
        (version,) = connection.execute("PRAGMA schema_version").fetchone()
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET rootpage = 99999 WHERE name = 'job'")
        connection.execute(f"PRAGMA schema_version = {version + 1}")
    ground.put("dx", "first again.dcm", first)
    ground.put("dx", "second.dcm", second)
    _fails(service, "is damaged")
    service.runs_for(6)  # each thread meets it a few times more
    assert sum(line["event"] == "ledger.failed" for line in _told(service)) == 1
    status = ground.status(code=2)
    assert "is damaged" in status["ledger"]
    service.stop()
    assert ground.files()["dx"] == [b"first again.dcm", b"second.dcm"]

    said = ground.says("run", "--once")
    assert said.code == 2
    assert "is damaged" in said.err
    assert "loses history and nothing else" in said.err
    for name in os.listdir(ground.state):
        if name.startswith("ledger.sqlite"):
            (ground.state / name).rename(ground.root / name)
    assert ground.says("run", "--once").code == 0
    assert ground.is_empty()
    assert ground.events() == 2


def test_a_ledger_that_is_taken_away_in_use_is_noticed(ground: Ground) -> None:
    service = ground.service().ready()
    _ledger(ground).rename(ground.root / "aside")
    _fails(service, "was moved away")
    content = image()
    ground.put("dx", "a.dcm", content)
    service.imports(content)
    status = ground.status(code=2)
    assert "was moved away" in status["ledger"]
    service.stop()
    assert sum(line["event"] == "ledger.failed" for line in _told(service)) == 1
    assert ground.is_empty()
    assert ground.events() == 1


def test_a_ledger_of_a_newer_version_is_left_alone(ground: Ground) -> None:
    ground.state.mkdir()
    with closing(sqlite3.connect(_ledger(ground))) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = _ledger(ground).read_bytes()
    ground.put("dx", "a.dcm", image())
    for command in (("run",), ("run", "--once"), ("retry", "--all"), ("history", "--since", "1d")):
        if command == ("retry", "--all"):  # with something to do
            bad = ground.failed / "sr" / "x"
            bad.parent.mkdir(parents=True)
            bad.write_bytes(b"x")
            (line,) = ground.says("failures", "--json").lines
            command = ("retry", line["id"])  # noqa: PLW2901
        said = ground.says(*command)
        assert said.code == 2, said
        assert "newer openrem-ingest" in said.err
        assert len([line for line in said.err.splitlines() if "Next: " in line]) == 1
    assert _ledger(ground).read_bytes() == before
    assert ground.files()["dx"] == [b"a.dcm"]


def test_who_may_not_write_the_ledger_is_told_in_one_line(ground: Ground) -> None:
    assert ground.says("run", "--once").code == 0
    for path in (ground.state, *ground.state.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    ground.put("dx", "a.dcm", image())
    bad = ground.failed / "sr" / "x"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"x")
    (one,) = ground.says("failures", "--json", weak=True).lines
    said = ground.says("discard", one["id"], "--yes", weak=True)
    assert said.code == 2, said
    (line,) = said.err.splitlines()
    assert "Next: " in line
    assert bad.exists()


def test_a_state_folder_without_room_is_told_of_in_one_line(ground: Ground) -> None:
    """Before anything is begun; whatever is in the way of its own folder there."""
    assert ground.says("run", "--once").code == 0
    (ground.state / "work" / "run").rmdir()
    (ground.state / "work" / "run").write_text("in the way")
    path = ground.put("dx", "a.dcm", image())
    said = ground.says("run", "--once")
    assert said.code == 2, said
    (line,) = said.err.splitlines()
    assert str(ground.state) in line
    assert "Next: " in line
    assert os.path.exists(path)
