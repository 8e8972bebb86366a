"""Savings: with or without each of them, OpenREM's tables hold the same.

That all of them together come to the same over the whole corpus is shown in test_corpus.py.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from ingest.config import Saving
from ingest.model import Failed, Importer
from ingest.openrem import savings
from ingest.openrem.importers import WORKER, Worker
from ingest.openrem.site import Site, create_database, drop_database, query
from ingest.verify import Proof
from tests.contract import real
from tests.contract.test_worker import judged

JOURNEYS = 5000 if os.environ.get("OPENREM_INGEST_DEEP") else 150

# Of each kind, with further images of a study, a cumulative report, and lists where one value is
# due: what OpenREM saves with an error and goes on.
MIXED = (
    "CT-RDSR-Siemens-Continued-1.dcm",
    "CT-RDSR-Siemens-Continued-2.dcm",
    "CT-SC-Philips_Brilliance16P.dcm",
    "DX-Im-GE_XR220-1.dcm",
    "DX-Im-GE_XR220-2.dcm",
    "MG-Im-GE_Seno_1_ForProcessing.dcm",
    "MG-Im-Hologic-PropProj.dcm",
    "NM-PetIm-GE.dcm",
    "RF-RDSR-Eurocolumbus.dcm",
)


@pytest.fixture(scope="module")
def mixed(corpus: dict[str, Path]) -> list[tuple[Importer, Path]]:
    return [(real.importer_of(corpus[name]), corpus[name]) for name in MIXED]


def test_the_configuration_knows_each_saving() -> None:
    assert get_args(Saving) == savings.ALL


@pytest.fixture(scope="module")
def reference(site: Site, mixed: list[tuple[Importer, Path]]) -> Iterator[real.Content]:
    """What OpenREM's own functions make of them."""
    name = f"test_{os.getpid()}_reference"
    create_database(site, name)
    try:
        assert real.plain_import(site, name, mixed) == ""
        yield real.content(site, name)
    finally:
        drop_database(site, name)


@pytest.mark.parametrize("without", [*((name,) for name in savings.ALL), savings.ALL], ids=str)
def test_without_a_saving_the_rest_comes_to_the_same(
    site: Site,
    database: str,
    mixed: list[tuple[Importer, Path]],
    reference: real.Content,
    without: tuple[str, ...],
) -> None:
    environment = site.environment(database)
    worker = Worker([str(site.python)], environment, timeout_s=120, without=without)
    try:
        for importer, path in mixed:
            assert isinstance(judged(path, worker.import_object(bytes(path), importer)), Proof)
    finally:
        worker.close()

    assert real.differences(real.content(site, database), reference) == []


def test_rows_that_are_held_back_come_to_the_same(site: Site, database: str) -> None:
    """Whatever is done with them: see savings_side.py."""
    done = subprocess.run(
        [
            *(site.python, Path(__file__).with_name("savings_side.py"), WORKER),
            *("0", str(JOURNEYS)),
        ],
        env={**os.environ, **site.environment(database)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["differing"] == [], done.stderr[-2000:]
    plain, late = told["statements"]
    assert 0 < late < plain


def test_where_there_are_standard_names_they_are_found(
    site: Site, database: str, second_database: str, mixed: list[tuple[Importer, Path]]
) -> None:
    for name in (database, second_database):
        query(
            site,
            "INSERT INTO remapp_standardnames (standard_name, modality, acquisition_protocol) "
            "VALUES ('Head', 'CT', 'Topogram'), ('Chest', 'DX', 'CHEST')",
            name,
        )
    reports = mixed[:2]
    with real.a_worker(site, database) as worker:
        for importer, path in reports:
            worker.import_object(bytes(path), importer)
    assert real.plain_import(site, second_database, reports) == ""

    ours, reference = real.content(site, database), real.content(site, second_database)
    assert real.differences(ours, reference) == []
    named = "SELECT count(*) FROM remapp_ctirradiationeventdata_standard_protocols"
    assert query(site, named, database) != [("0",)]


def test_a_code_that_was_rolled_back_is_made_again(
    site: Site, database: str, mixed: list[tuple[Importer, Path]]
) -> None:
    """What is remembered of an import that failed would refer to a row that never was."""
    (report,) = (path for _, path in mixed if path.name == "RF-RDSR-Eurocolumbus.dcm")
    trigger = "BEFORE INSERT ON remapp_patientmoduleattr"
    with real.a_worker(site, database) as worker:
        query(
            site,
            "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no'; END $$; "
            f"CREATE TRIGGER fails {trigger} FOR EACH ROW EXECUTE FUNCTION fails()",
            database,
        )
        assert isinstance(worker.import_object(bytes(report), Importer.RDSR), Failed)
        assert query(site, "SELECT count(*) FROM remapp_contextid", database) == [("0",)]
        query(site, "DROP TRIGGER fails ON remapp_patientmoduleattr", database)
        outcome = worker.import_object(bytes(report), Importer.RDSR)
        assert isinstance(judged(report, outcome), Proof)


def test_codes_that_were_changed_behind_its_back_are_not_used(
    site: Site, database: str, second_database: str, mixed: list[tuple[Importer, Path]]
) -> None:
    """By a database that was restored, say: what it has is looked at in each import."""
    first, second = mixed[:2]
    change = "UPDATE remapp_contextid SET code_value = code_value || '-old'"
    with real.a_worker(site, database) as worker:
        worker.import_object(bytes(first[1]), first[0])
        query(site, change, database)
        outcome = worker.import_object(bytes(second[1]), second[0])
        assert isinstance(judged(second[1], outcome), Proof)
    real.plain_import(site, second_database, [first])
    query(site, change, second_database)
    real.plain_import(site, second_database, [second])

    ours, reference = real.content(site, database), real.content(site, second_database)
    assert real.differences(ours, reference) == []
    failed = "SELECT count(*) FROM remapp_backgroundtask WHERE NOT completed_successfully"
    assert query(site, failed, database) == [("0",)]
