"""All objects of OpenREM's own tests, dropped in: OpenREM holds what it would by itself."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.model import Importer, State
from ingest.openrem.site import Site, query
from ingest.verify import Proof
from tests.contract import real
from tests.contract.test_worker import judged

REFUSED = "ESR_non-dose.dcm"
FOLDERS = {
    Importer.RDSR: "sr",
    Importer.MG: "mammo",
    Importer.DX: "dx",
    Importer.NM: "nm",
    Importer.CTPHILIPS: "philips",
}


@pytest.fixture
def dosedata(site: Site, database: str, tmp_path: Path) -> Path:
    """Drop folders by kind, and their configuration."""
    folder = tmp_path / "dosedata"
    lines = [f'state_dir = "{tmp_path}/state"', "[openrem]", f'python = "{site.python}"']
    lines += ["workers = 1", "[openrem.env]"]
    lines += [f'{key} = "{value}"' for key, value in site.environment(database).items()]
    for name in FOLDERS.values():
        (folder / name).mkdir(parents=True)
        lines += ["[[drop]]", f'path = "{folder / name}"']
    (tmp_path / "openrem-ingest.toml").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.timeout(900)
def test_content_equals_that_of_openrems_own_import(
    site: Site, database: str, second_database: str, corpus: dict[str, Path], dosedata: Path
) -> None:
    """64 objects are imported, proven, deleted, and stored as by OpenREM's own functions.

    Row by row and column by column in all of OpenREM's tables, ids aside, against its
    functions called one after the other in the same order; the 65th is quarantined. Whatever
    was imported after an object, it is proven still.
    """
    by_uids = {_uids(path): path for path in corpus.values()}
    assert len(by_uids) == 65
    for name, path in corpus.items():
        kind = Importer.RDSR if name == REFUSED else real.importer_of(path)
        shutil.copyfile(path, dosedata / FOLDERS[kind] / name)

    done = subprocess.run(
        [
            *(sys.executable, "-m", "ingest"),
            *("-c", str(dosedata.parent / "openrem-ingest.toml")),
            *("run", "--once"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "not-a-dose-report" in done.stdout

    left = [path.name for path in dosedata.rglob("*") if path.is_file()]
    assert sorted(left) == [REFUSED, f"{REFUSED}.why.json"]
    assert (dosedata / "failed" / "sr" / REFUSED).read_bytes() == corpus[REFUSED].read_bytes()

    order = _order_of_imports(dosedata.parent / "state" / "ledger.sqlite", by_uids)
    assert len(order) == 64
    assert "Error" not in real.plain_import(site, second_database, order)
    ours, reference = real.content(site, database), real.content(site, second_database)
    assert sum(map(len, reference.values())) > 8000
    assert real.differences(ours, reference) == []

    with real.a_worker(site, database) as worker:
        for kind, path in order:
            outcome = worker.prove(bytes(path), kind)
            assert isinstance(judged(path, outcome), Proof), path

    rows = query(
        site,
        "SELECT count(*), count(*) FILTER (WHERE complete) FROM remapp_backgroundtask "
        "WHERE task_type LIKE 'ingest\\_%'",
        database,
    )
    assert rows == [("64", "64")]


def _uids(path: Path) -> tuple[str, str]:
    """Two of the objects share their SOP Instance UID, in different studies."""
    header = real.header_of(path)
    return header.study_uid, header.sop_instance_uid


def _order_of_imports(
    ledger: Path, by_uids: dict[tuple[str, str], Path]
) -> list[tuple[Importer, Path]]:
    connection = sqlite3.connect(ledger)
    rows = connection.execute(
        "SELECT importer, study_uid, sop_uid FROM event WHERE state = ? ORDER BY rowid",
        (State.DONE.name,),
    ).fetchall()
    connection.close()
    return [(Importer(importer), by_uids[study, sop]) for importer, study, sop in rows]
