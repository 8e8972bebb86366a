"""Talking to a real OpenREM in tests: its plain import, its content, and our worker on it."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ingest import dicom, rules
from ingest.model import Header, Import, Importer, Outcome, Snapshot
from ingest.openrem.importers import Worker
from ingest.openrem.site import Site, query

_SIDE = Path(__file__).with_name("openrem_side.py")

# Two dose reports whose import takes as long as that of all other objects together.
_LARGE = {"RF-Pat-Orientation-Modifier-Missing.dcm", "RF-RDSR-Philips_Azurion.dcm"}

Content = dict[str, list[dict[str, Any]]]


def not_too_large(corpus: dict[str, Path]) -> dict[str, Path]:
    """OpenREM's own test objects, for tests that import them more than once."""
    if os.environ.get("OPENREM_INGEST_DEEP"):
        return corpus
    return {name: path for name, path in corpus.items() if name not in _LARGE}


def plain_import(site: Site, database: str, objects: Sequence[tuple[Importer, Path]]) -> str:
    """Import by OpenREM's own functions, nothing patched; returns what they complained of."""
    request = json.dumps([(importer.value, str(path)) for importer, path in objects])
    return _side(site, database, "import", request).stderr


def content(site: Site, database: str) -> Content:
    """All rows of OpenREM's own tables, table by table, ids replaced by content."""
    tables: Content = json.loads(_side(site, database, "dump", "").stdout)
    return tables


def _side(site: Site, database: str, what: str, said: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [site.python, _SIDE, what],
        input=said,
        env={**os.environ, **site.environment(database)},
        capture_output=True,
        text=True,
        check=True,
    )


def differences(ours: Content, reference: Content) -> list[str]:
    """What differs, a line each; no line: the same."""
    found = [f"{table}: only in one" for table in ours.keys() ^ reference.keys()]
    for table in sorted(ours.keys() & reference.keys()):
        mine, theirs = ours[table], reference[table]
        if len(mine) != len(theirs):
            found.append(f"{table}: {len(mine)} rows, reference {len(theirs)}")
        for number, (one, other) in enumerate(zip(mine, theirs, strict=False)):
            found += [
                f"{table}[{number}].{key}: {one[key]!r}, reference {other[key]!r}"
                for key in one
                if one[key] != other[key]
            ]
    return found


@contextmanager
def a_worker(site: Site, database: str, *, timeout_s: float = 120.0) -> Iterator[Worker]:
    """Our worker on this database."""
    worker = Worker([str(site.python)], site.environment(database), timeout_s=timeout_s)
    try:
        yield worker
    finally:
        worker.close()


def in_mid_import(
    site: Site, database: str, worker: Worker, path: Path, kilobytes: int
) -> Future[Outcome]:
    """Begin an import, and wait until OpenREM's tables have grown by so much.

    They do before the commit.
    """
    sql = "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relname LIKE 'remapp%'"
    start = int(query(site, sql, database)[0][0])
    pool = ThreadPoolExecutor(1)
    outcome = pool.submit(worker.import_object, bytes(path), Importer.RDSR)
    pool.shutdown(wait=False)
    pause = threading.Event()
    while int(query(site, sql, database)[0][0]) - start < kilobytes * 1024:
        assert not outcome.done(), f"it ended too early: {outcome.result()}"
        pause.wait(0.01)
    return outcome


def wait_for_sessions_to_end(site: Site, database: str) -> None:
    """Wait until PostgreSQL has noticed that a worker is gone."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity "
        f"WHERE datname = '{database}' AND usename = 'openrem'"
    )
    pause = threading.Event()
    while query(site, sql, "postgres") != [("0",)]:
        pause.wait(0.05)


def header_of(path: Path) -> Header:
    """The header of a sound object."""
    header = dicom.look(path).header
    assert header is not None
    return header


def importer_of(path: Path) -> Importer:
    """The importer that our routing chooses."""
    decision = rules.decide(header_of(path))
    assert isinstance(decision, Import)
    return decision.importer


def snapshot_of(path: Path) -> Snapshot:
    """The identity of a file."""
    return Snapshot.of(path.stat())
