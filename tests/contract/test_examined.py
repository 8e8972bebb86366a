"""What our worker tells `doctor` of a real OpenREM: as it is, and with a fault in each place."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ingest.doctor.facts import User
from ingest.doctor.openrem import judge_clock, judge_openrem
from ingest.findings import Finding, Level
from ingest.openrem.importers import Worker
from ingest.openrem.site import Site, query
from tests.contract import real

USER = User(name="dose", may_do_everything=False)
STUDIES = "remapp_generalstudymoduleattr"
SETTINGS = "remapp_patientidsettings"
DELETIONS = "remapp_dicomdeletesettings"
SCANNERS = "remapp_uniqueequipmentnames"
MAPS = "remapp_skindosemapcalcsettings"
NOT_DURABLE = "PostgreSQL runs with fsync"  # as the tests' own does, on purpose

# What is done to the database, how it is undone, how bad it is, and words of the finding.
FAULTS = {
    "no patient ID settings": (
        f"CREATE TABLE kept AS SELECT * FROM {SETTINGS}; DELETE FROM {SETTINGS}",
        f"INSERT INTO {SETTINGS} SELECT * FROM kept; DROP TABLE kept",
        Level.ERROR,
        ("patient ID settings", "home page once"),
    ),
    "patient ID settings twice": (
        (
            f"CREATE TABLE kept AS SELECT * FROM {SETTINGS}; UPDATE kept SET id = 2; "
            f"INSERT INTO {SETTINGS} SELECT * FROM kept"
        ),
        f"DELETE FROM {SETTINGS} WHERE id = 2; DROP TABLE kept",
        Level.ERROR,
        ("patient ID settings", f"all but one row of {SETTINGS}"),
    ),
    "a scanner twice": (
        f"INSERT INTO {SCANNERS} (hash_generated) VALUES (true), (true)",
        f"DELETE FROM {SCANNERS}",
        Level.ERROR,
        ("two entries for the same scanner (1 of them)", "merge the two rows"),
    ),
    "a deletion switched on": (
        f"UPDATE {DELETIONS} SET del_rdsr = true, del_no_match = true",
        f"UPDATE {DELETIONS} SET del_rdsr = false, del_no_match = false",
        Level.WARNING,
        ("switched on for: files that are no mammograms, dose reports", "DICOM object deletion"),
    ),
    "no delete settings": (
        f"CREATE TABLE kept AS SELECT * FROM {DELETIONS}; DELETE FROM {DELETIONS}",
        f"INSERT INTO {DELETIONS} SELECT * FROM kept; DROP TABLE kept",
        Level.WARNING,
        ("delete settings do not exist", "openrem_mg.py", "home page once"),
    ),
    "skin dose maps without Redis": (
        f"UPDATE {MAPS} SET enable_skin_dose_maps = true",
        f"UPDATE {MAPS} SET enable_skin_dose_maps = false",
        Level.WARNING,
        ("Redis at 127.0.0.1:1 does not answer (ConnectionError)", "start Redis"),
    ),
    "a read-only database": (
        "ALTER DATABASE {database} SET default_transaction_read_only = on",
        "ALTER DATABASE {database} RESET default_transaction_read_only",
        Level.ERROR,
        ("database is read-only", "RESET default_transaction_read_only"),
    ),
    "a table is missing": (
        f"ALTER TABLE {STUDIES} RENAME TO other",
        f"ALTER TABLE other RENAME TO {STUDIES}",
        Level.ERROR,
        (f"not migrated: it lacks {STUDIES}", "manage.py migrate"),
    ),
    "a column is missing": (
        f"ALTER TABLE {STUDIES} RENAME COLUMN number_of_events TO other",
        f"ALTER TABLE {STUDIES} RENAME COLUMN other TO number_of_events",
        Level.ERROR,
        (f"it lacks {STUDIES}.number_of_events", "manage.py migrate"),
    ),
    "a right is missing": (
        f"REVOKE DELETE ON {STUDIES} FROM openrem",
        f"GRANT DELETE ON {STUDIES} TO openrem",
        Level.ERROR,
        (f"may not read and write {STUDIES}", "GRANT"),
    ),
}


@contextmanager
def a_worker(site: Site, database: str, **environment: str) -> Iterator[Worker]:
    """Our worker, with something changed in OpenREM's environment."""
    env = {**site.environment(database), "REDIS_HOST": "127.0.0.1", **environment}
    worker = Worker([str(site.python)], env, timeout_s=120.0)
    try:
        yield worker
    finally:
        worker.close()


def troubles(worker: Worker) -> list[Finding]:
    """The warnings and errors, but for the one that the tests' PostgreSQL deserves."""
    facts = worker.examine()
    found = [*judge_openrem(facts, USER), *judge_clock(facts)]
    return [
        one
        for one in found
        if one.level in {Level.WARNING, Level.ERROR} and NOT_DURABLE not in one.what
    ]


def test_each_fault_of_openrems_database_is_found(
    site: Site, database: str, subtests: pytest.Subtests
) -> None:
    """Planted for real, one after the other, before one warm worker."""
    with a_worker(site, database, REDIS_PORT="1") as worker:
        fresh = worker.examine()
        assert (fresh.openrem, fresh.database, fresh.durable) == ("1.0.0b3", database, False)
        assert any(NOT_DURABLE in one.what for one in judge_openrem(fresh, USER))
        assert troubles(worker) == []
        for name, (plant, cure, level, words) in FAULTS.items():
            with subtests.test(name):
                _run(site, database, plant)
                (one,) = troubles(worker)
                assert one.level is level
                told = f"{one.what} {one.why} {one.next}"
                assert all(word in told for word in words), told
                _run(site, database, cure)
                assert troubles(worker) == []


def test_redis_answers_and_the_clock_is_wrong(site: Site, database: str, tmp_path: Path) -> None:
    """With skin dose maps on; OpenREM's process thinks it is an hour ago."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nplain = time.time\ntime.time = lambda: plain() - 3600\n", encoding="utf-8"
    )
    query(site, f"UPDATE {MAPS} SET enable_skin_dose_maps = true", database)
    with (
        _redis() as port,
        a_worker(site, database, REDIS_PORT=str(port), PYTHONPATH=str(tmp_path)) as worker,
    ):
        facts = worker.examine()
        (late,) = troubles(worker)
    assert (facts.skin_maps, facts.redis.trouble) == (True, "")
    assert 3500 < facts.clock_ahead_s <= 3600
    assert late.what.startswith("PostgreSQL's clock is 3")
    assert late.what.endswith(" s ahead of ours")


def test_the_index_of_studies_is_found(site: Site, database: str) -> None:
    """OpenREM makes none."""
    with a_worker(site, database, REDIS_PORT="1") as worker:
        assert not worker.examine().finds_studies
        query(
            site,
            "CREATE INDEX openrem_ingest_study_uid "
            "ON remapp_generalstudymoduleattr (study_instance_uid)",
            database,
        )
        assert worker.examine().finds_studies


def test_the_examination_writes_nothing(site: Site, database: str) -> None:
    before = real.content(site, database)
    with a_worker(site, database, REDIS_PORT="1") as worker:
        worker.examine()
    assert real.differences(real.content(site, database), before) == []


def _run(site: Site, database: str, statements: str) -> None:
    for statement in statements.split("; "):
        where = "postgres" if statement.startswith("ALTER DATABASE") else database
        query(site, statement.format(database=database), where)


@contextmanager
def _redis() -> Iterator[int]:
    """A stand-in that answers as Redis does to a ping, on its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_answer, args=(listening,))
        thread.start()
        port = int(listening.getsockname()[1])
        try:
            yield port
        finally:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _answer(listening: socket.socket) -> None:
    with suppress(OSError):
        while True:
            client, _ = listening.accept()
            with client:
                while said := client.recv(1 << 12):
                    commands = said.count(b"*")
                    client.sendall((b"+PONG\r\n" if b"PING" in said else b"+OK\r\n") * commands)
