"""While OpenREM is away all files stay; once it is back, all goes on by itself."""

import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from ingest.model import Importer
from ingest.openrem.site import (
    Site,
    StopMode,
    drop_database,
    query,
    start_server,
    stop_server,
)
from tests.contract import real
from tests.contract.test_corpus import REFUSED, _order_of_imports, _uids
from tests.system.harness import (
    Ground,
    Service,
    another_database,
    image,
    new_uid,
    until,
)

COUNT = 80
SEED = 20240318
ONLY_ONE = "attempts = 1"  # of [retry]: whatever spends a file's attempt quarantines it
DISK = "48m"


@pytest.fixture
def outages(ground: Ground) -> Iterator[Ground]:
    """A ground whose PostgreSQL is up again at the end, whatever the test did to it."""
    yield ground
    start_server(ground.site)


def test_openrem_is_away_at_the_start(outages: Ground) -> None:
    """Nothing is lost, status and exit codes tell, and all is imported without a restart."""
    ground = outages
    for number in range(20):
        ground.put("dx", f"{number}.dcm", image())
    stop_server(ground.site)
    status = ground.status(code=3)
    assert status["service"] == "stopped"
    _is_away(status)
    once = ground.says("run", "--once")
    assert (once.code, once.out, len(once.err.splitlines())) == (3, "", 1), once
    assert "Next: " in once.err
    by_hand = ground.says("import", ground.drop("dx"))
    assert (by_hand.code, by_hand.out, len(by_hand.err.splitlines())) == (3, "", 1), by_hand
    service = ground.service()
    until(lambda: service.has_said("openrem.away"), "the service notices")
    until(lambda: ground.status(code=3)["service"] == "running", "it runs all the same")
    _is_away(ground.status(code=3))
    assert len(ground.files()["dx"]) == 20
    start_server(ground.site)
    until(ground.is_empty, "all are imported")
    assert ground.status()["openrem"]["reachable"]
    service.stop()
    assert ground.quarantined() == {}
    assert ground.events() == 20


def test_openrem_goes_away_in_the_middle(outages: Ground) -> None:
    """However its database ends in mid-import: no file is lost, refused, or counted twice."""
    ground = outages
    study = [new_uid() for _ in range(COUNT // 4)]
    for number in range(COUNT):
        ground.put("dx", f"{number}.dcm", image(study=study[number % len(study)]))
    service = ground.service().ready()
    outage: tuple[tuple[int, StopMode], ...] = ((COUNT - 5, "immediate"), (COUNT // 2, "fast"))
    for most, mode in outage:
        ground.wait_for_fewer("dx", most)
        stop_server(ground.site, mode)
        until(lambda: not ground.status_reachable(), "the service notices")
        _is_away(ground.status(code=3))
        assert len(ground.files()["dx"]) > 0
        start_server(ground.site)
    until(ground.is_empty, "all are imported")
    assert ground.status()["openrem"]["reachable"]
    service.stop()
    assert ground.quarantined() == {}
    assert [row[2:6] for row in ground.held()] == [("4", "4", "1", "4")] * (COUNT // 4)


def test_openrem_goes_away_while_files_are_imported_by_hand(outages: Ground) -> None:
    """The command ends with 3 and keeps the sources; again, it takes up where it was."""
    ground = outages
    folder = ground.root / "files"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.dcm").write_bytes(image())
    process = ground.starts("import", folder)
    until(lambda: ground.events() > 3, "some are imported")
    stop_server(ground.site, "immediate")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert b"Traceback" not in err
    start_server(ground.site)
    assert len(list(folder.iterdir())) == 60
    said = ground.says("import", folder)
    assert said.code == 0, said
    assert ground.events() == 60


def _is_away(status: dict[str, object]) -> None:
    openrem = status["openrem"]
    assert isinstance(openrem, dict)
    assert openrem["reachable"] is False
    assert openrem["reason"] == "database-unreachable"
    assert openrem["why"]
    assert openrem["next"]


# -- every kind of outage, with its own cause ------------------------------------------------------

Cause = Callable[[Ground], AbstractContextManager[Callable[[], AbstractContextManager[None]]]]


@contextmanager
def too_many_connections(
    ground: Ground,
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """The database lets nobody in but its superuser (SQLSTATE 53300)."""

    @contextmanager
    def outage() -> Iterator[None]:
        database = ground.database
        query(ground.site, f"ALTER DATABASE {database} CONNECTION LIMIT 0", "postgres")
        # One that is in would go on with its imports.
        query(ground.site, _CUT.format(database), "postgres")
        yield
        query(ground.site, f"ALTER DATABASE {database} CONNECTION LIMIT -1", "postgres")

    yield outage


@contextmanager
def a_read_only_database(
    ground: Ground,
) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """It can be read, but not be written (SQLSTATE 25006)."""

    @contextmanager
    def outage() -> Iterator[None]:
        setting = f"ALTER DATABASE {ground.database} {{}} default_transaction_read_only"
        query(ground.site, setting.format("SET") + " = on", "postgres")
        yield
        query(ground.site, setting.format("RESET"), "postgres")

    yield outage


@contextmanager
def a_full_disk(ground: Ground) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """The database lies on a small disk of its own, which is filled up (SQLSTATE 53100)."""
    space = f"{ground.database}_disk"
    # Beside PostgreSQL's data, where its account gets to.
    disk = ground.site.server.folder / space
    owner = ground.site.server.data.stat()
    with ExitStack() as clear_up:
        disk.mkdir()
        clear_up.callback(disk.rmdir)
        options = f"size={DISK},mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
        clear_up.callback(lambda: subprocess.run(["umount", disk], check=True))
        place = disk / "tablespace"
        place.mkdir(mode=0o700)
        os.chown(place, owner.st_uid, owner.st_gid)
        query(ground.site, f"CREATE TABLESPACE {space} LOCATION '{place}'", "postgres")
        clear_up.callback(query, ground.site, f"DROP TABLESPACE {space}", "postgres")
        clear_up.callback(drop_database, ground.site, ground.database)
        clear_up.callback(ground.end)
        move = f"ALTER DATABASE {ground.database} SET TABLESPACE {space}"
        query(ground.site, move, "postgres")

        @contextmanager
        def outage() -> Iterator[None]:
            filler = disk / "filler"
            with filler.open("wb") as file, suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
            yield
            filler.unlink()

        yield outage


@contextmanager
def no_interpreter(ground: Ground) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """OpenREM's interpreter is gone when the next process is to be started."""
    ground.python = ground.root / "python"
    ground.python.write_text(f'#!/bin/sh\nexec {ground.site.python} "$@"\n', encoding="utf-8")
    ground.python.chmod(0o755)
    yield lambda: _moved_away(ground, ground.root / "python")


@contextmanager
def no_folder_for_logs(ground: Ground) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """OpenREM can't write its log when the next process is to be started."""
    folder = ground.root / "log"
    folder.mkdir()
    ground.env = {**ground.site.environment(ground.database), "LOG_ROOT": str(folder)}
    yield lambda: _moved_away(ground, folder)


def _lives(pid: int) -> bool:
    """Neither gone nor only waiting for its parent to take note of that (proc(5))."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return words.rpartition(")")[2].split()[0] not in ("Z", "X")


@contextmanager
def _moved_away(ground: Ground, path: Path) -> Iterator[None]:
    aside = path.with_name("aside")
    path.rename(aside)
    workers = ground.services[-1].workers()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    # One that still dies would have the next file in hand.
    until(lambda: not any(map(_lives, workers)), "the processes have ended")
    yield
    aside.rename(path)


@pytest.mark.parametrize(
    ("cause", "reason", "words"),
    [
        (too_many_connections, "database-unreachable", "too many connections"),
        (a_read_only_database, "database-not-ready", "read-only"),
        (a_full_disk, "database-not-ready", "disk is full"),
        (no_interpreter, "worker-wont-start", "No such file"),
        (no_folder_for_logs, "worker-wont-start", "ValueError"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_outage_costs_no_file_an_attempt(
    outages: Ground, cause: Cause, reason: str, words: str
) -> None:
    """It is said once, status tells it, all files stay, and then all are imported, once."""
    ground = outages
    ground.retry = ONLY_ONE
    with cause(ground) as outage:
        ground.configure()
        service = ground.service().ready()
        with outage():
            names = itertools.count()

            def put() -> None:
                ground.put("dx", f"{next(names)}.dcm", image())

            # Some may yet be imported: connections that are open are as good as before.
            def is_noticed() -> bool:
                put()
                return service.has_said("openrem.away")

            until(is_noticed, "the service notices")
            for _ in range(20):
                put()
            until(lambda: ground.folder_status("dx", code=3)["waiting_for_import"] > 15, "all seen")
            service.runs_for(6)  # it asks a few times more
            told = ground.status(code=3)["openrem"]
            assert (told["reachable"], told["reason"]) == (False, reason)
            assert words in told["why"]
            assert told["next"]
            _nothing_is_spent(ground)
            dropped = next(names)
            assert len(ground.files()["dx"]) == dropped - ground.events() >= 20
        until(ground.is_empty, "all are imported")
        assert ground.status()["openrem"]["reachable"]
        service.stop()
        (away,) = [line for line in service.events() if line["event"] == "openrem.away"]
        assert (away["reason"], bool(away["next"])) == (reason, True)
        assert words in away["detail"]
        assert [line["event"] for line in service.events()].count("openrem.ready") == 2
        assert not service.has_said("file.will-retry")
        assert ground.quarantined() == {}
        assert ground.events() == len(ground.held()) == dropped


def test_a_connection_lost_in_mid_import_costs_no_attempt(
    outages: Ground, corpus: dict[str, Path]
) -> None:
    """However often, and though the database answers again at once."""
    ground = outages
    ground.retry = ONLY_ONE
    ground.configure()
    ground.put("sr", "long.dcm", corpus["RF-RDSR-Philips_Azurion.dcm"].read_bytes())
    service = ground.service().ready()

    def cut() -> None:
        query(ground.site, _CUT.format(ground.database), "postgres")

    def restart() -> None:
        stop_server(ground.site, "immediate")
        start_server(ground.site)

    for number, lose in enumerate((cut, restart, cut), start=1):
        until(lambda: ground.number(_LOCKS) == 1, "its import runs")
        lose()
        until(lambda number=number: _count(service, "openrem.away") >= number, "it is noticed")  # type: ignore[misc]
        _nothing_is_spent(ground)
    ground.put("dx", "other.dcm", image())
    until(ground.is_empty, "all are imported")
    service.stop()
    assert not service.has_said("file.will-retry")
    assert ground.quarantined() == {}
    assert ground.events() == 89 + 1


@pytest.mark.timeout(900)
def test_postgresql_restarts_again_and_again_while_all_objects_are_imported(
    outages: Ground, site: Site, corpus: dict[str, Path]
) -> None:
    """Nothing is lost or refused, and OpenREM holds what it does after a calm import."""
    ground = outages
    ground.openrem = "workers = 2"
    ground.retry = ONLY_ONE
    ground.configure()
    objects = real.not_too_large(corpus)
    for name, path in objects.items():
        kind = Importer.RDSR if name == REFUSED else real.importer_of(path)
        folder = {Importer.RDSR: "sr", Importer.MG: "mammo"}.get(kind, "dx")
        shutil.copyfile(path, ground.drop(folder) / name)
    moments = random.Random(SEED)  # noqa: S311 - not a secret
    service = ground.service().ready()
    for number in range(8):
        service.runs_for(moments.uniform(0.5, 3.0))
        stop_server(site, "immediate")
        if number % 4 == 0:  # else it answers again before anybody has asked
            service.runs_for(moments.uniform(0.0, 1.0))
        start_server(site)
    until(ground.is_empty, "all are imported", deadline_s=600)
    service.stop()
    assert service.has_said("openrem.away")
    assert not service.has_said("file.will-retry")
    assert ground.quarantined() == {f"sr/{REFUSED}".encode(): "not-a-dose-report"}

    by_uids = {_uids(path): path for path in objects.values()}
    order = _order_of_imports(ground.state / "ledger.sqlite", by_uids)
    assert len(order) == len(objects) - 1
    with another_database(site, f"{ground.database}_calm") as database:
        with real.a_worker(site, database) as worker:
            for importer, path in order:
                worker.import_object(bytes(path), importer)
        calm = Ground(root=ground.root / "calm", site=site, database=database)
        assert ground.held() == calm.held()


_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
_CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = '{}' AND usename = 'openrem'"
)


def _count(service: Service, event: str) -> int:
    return sum(line["event"] == event for line in service.events())


def _nothing_is_spent(ground: Ground) -> None:
    """No waiting file has an attempt behind it, and none has gone to quarantine."""
    ledger = f"file:{ground.state / 'ledger.sqlite'}?mode=ro"
    with closing(sqlite3.connect(ledger, uri=True)) as connection:
        spent = connection.execute(
            "SELECT DISTINCT attempts, deaths FROM job WHERE path IS NOT NULL"
        ).fetchall()
    assert spent == [(0, 0)]
    assert ground.quarantined() == {}
