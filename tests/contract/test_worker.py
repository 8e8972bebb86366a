"""Our worker on a real OpenREM: all or nothing, whatever happens, and told as it is."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from ingest.errors import OpenRemUnreachable, Reason
from ingest.model import Done, Failed, Importer, Outcome, Shortfall, Vanished
from ingest.openrem.importers import Worker
from ingest.openrem.site import Site, query, start_server, stop_server
from ingest.verify import Proof, verify
from tests import objects
from tests.contract import real


@pytest.fixture
def count(site: Site, database: str) -> Callable[[str], int]:
    """Counts rows of one of OpenREM's tables."""

    def rows(table: str) -> int:
        return int(query(site, f"SELECT count(*) FROM remapp_{table}", database)[0][0])

    return rows


def judged(path: Path, outcome: Outcome) -> Proof | Shortfall:
    """The verdict on an outcome that has facts."""
    assert isinstance(outcome, Done), outcome
    return verify(
        real.snapshot_of(path), real.header_of(path), real.importer_of(path), outcome.facts
    )


def imported(worker: Worker, path: Path) -> Proof | Shortfall:
    """Import and judge."""
    return judged(path, worker.import_object(bytes(path), real.importer_of(path)))


def test_says_what_is_there(site: Site, database: str) -> None:
    """A greeting names versions and the database."""
    with real.a_worker(site, database) as worker:
        hello = worker.hello()
    assert (hello.openrem, hello.database) == ("1.0.0b3", database)
    assert hello.duplicate_scanners == 0


@pytest.mark.parametrize(
    "sample", [objects.CT_REPORT, objects.RF_REPORT, objects.DX_IMAGE, objects.MG_IMAGE]
)
def test_the_same_object_again_is_already_there(
    site: Site, database: str, sample: Path, count: Callable[[str], int]
) -> None:
    """A second import changes nothing, and is proven too; so is the mere question."""
    with real.a_worker(site, database) as worker:
        first = imported(worker, sample)
        held = real.content(site, database)
        second = imported(worker, sample)
        asked = judged(sample, worker.prove(bytes(sample), real.importer_of(sample)))
    assert isinstance(first, Proof)
    assert not first.already
    assert isinstance(second, Proof)
    assert second.already
    assert isinstance(asked, Proof)
    assert real.differences(real.content(site, database), held) == []
    assert count("generalstudymoduleattr") == 1


def test_asking_for_what_is_not_there_proves_nothing(site: Site, database: str) -> None:
    """`prove` of an object that was never imported is a shortfall."""
    with real.a_worker(site, database) as worker:
        outcome = worker.prove(bytes(objects.CT_REPORT), Importer.RDSR)
    assert isinstance(judged(objects.CT_REPORT, outcome), Shortfall)


@pytest.mark.parametrize("kilobytes", [8, 64, 256])
def test_killed_in_mid_import_leaves_nothing(
    site: Site, database: str, corpus: dict[str, Path], kilobytes: int, count: Callable[[str], int]
) -> None:
    """SIGKILL after so much was written: no row stays, and the next import is complete."""
    path = corpus["RF-RDSR-Philips_Azurion.dcm"]
    before = real.content(site, database)
    with real.a_worker(site, database) as worker:
        worker.hello()
        outcome = real.in_mid_import(site, database, worker, path, kilobytes)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        assert outcome.result() == Vanished(detail="it was ended by SIGKILL")
        real.wait_for_sessions_to_end(site, database)
        assert real.differences(real.content(site, database), before) == []
        assert isinstance(imported(worker, path), Proof)
    assert count("irradeventxraydata") == 89


def test_database_killed_in_mid_import(
    site: Site, database: str, corpus: dict[str, Path], count: Callable[[str], int]
) -> None:
    """An immediate stop of PostgreSQL: told as the database's trouble, undone, then complete."""
    path = corpus["RF-RDSR-Philips_Azurion.dcm"]
    with real.a_worker(site, database) as worker:
        worker.hello()
        outcome = real.in_mid_import(site, database, worker, path, 64)
        stop_server(site, "immediate")
        try:
            failed = outcome.result()
            assert isinstance(failed, Failed)
            assert failed.reason in (Reason.DATABASE_UNREACHABLE, Reason.DATABASE_HICCUP)
            with pytest.raises(OpenRemUnreachable) as caught:
                worker.hello()
            assert caught.value.reason is Reason.DATABASE_UNREACHABLE
        finally:
            start_server(site)
        assert count("irradeventxraydata") == 0
        assert isinstance(imported(worker, path), Proof)
    assert count("irradeventxraydata") == 89


def test_a_value_too_long_is_refused_and_undone(site: Site, database: str, tmp_path: Path) -> None:
    """Nothing stays of it but the task row, where OpenREM's own pages show the error."""
    path = objects.variant(
        objects.CT_REPORT, tmp_path / "x.dcm", lambda dataset: setattr(dataset, "StudyID", "9" * 20)
    )
    before = real.content(site, database)
    with real.a_worker(site, database) as worker:
        outcome = worker.import_object(bytes(path), Importer.RDSR)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.BAD_VALUE
    assert "9999" not in outcome.detail
    assert real.differences(real.content(site, database), before) == []
    rows = query(
        site,
        "SELECT task_type, complete, completed_successfully FROM remapp_backgroundtask "
        "WHERE error LIKE '%too long%'",
        database,
    )
    assert rows == [("ingest_rdsr", "t", "f")]


def test_mammograms_are_read_alike_before_and_after_a_radiograph(
    site: Site, database: str, tmp_path: Path
) -> None:
    """dx() leaves a reading switch of pydicom on; the next object must not notice."""
    path = objects.variant(objects.MG_IMAGE, tmp_path / "odd.dcm")
    raw = path.read_bytes()
    rows = raw.index(b"\x28\x00\x10\x00US\x02\x00")
    odd = raw[:rows] + b"\x28\x00\x10\x00US\x03\x00\x08\x00\x00" + raw[rows + 10 :]
    path.write_bytes(odd)
    with real.a_worker(site, database) as worker:
        before = worker.import_object(bytes(path), Importer.MG)
        assert isinstance(imported(worker, objects.DX_IMAGE), Proof)
        after = worker.import_object(bytes(path), Importer.MG)
    assert isinstance(before, Failed)
    assert before == after


def test_two_rows_for_one_scanner_are_named(site: Site, database: str, tmp_path: Path) -> None:
    """A scanner that OpenREM has twice: the greeting counts it, its objects wait."""
    with real.a_worker(site, database) as worker:
        assert isinstance(imported(worker, objects.DX_IMAGE), Proof)
        columns = query(
            site,
            "SELECT string_agg(quote_ident(column_name), ',') FROM information_schema.columns "
            "WHERE table_name = 'remapp_uniqueequipmentnames' AND column_name <> 'id'",
            database,
        )[0][0]
        query(
            site,
            f"INSERT INTO remapp_uniqueequipmentnames ({columns}) "
            f"SELECT {columns} FROM remapp_uniqueequipmentnames RETURNING id",
            database,
        )
        assert worker.hello().duplicate_scanners == 1
        path = objects.variant(objects.DX_IMAGE, tmp_path / "next.dcm")
        outcome = worker.import_object(bytes(path), Importer.DX)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.DUPLICATE_SCANNER


def test_missing_patient_id_settings_are_an_outage(site: Site, database: str) -> None:
    """OpenREM fails on everything without that row: nothing is sent to it."""
    query(site, "DELETE FROM remapp_patientidsettings RETURNING id", database)
    with real.a_worker(site, database) as worker, pytest.raises(OpenRemUnreachable) as caught:
        worker.hello()
    assert caught.value.reason is Reason.SETTINGS_MISSING


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"POSTGRES_DB": "no_such_database"}, Reason.DATABASE_UNREACHABLE),
        ({"SQL_HOST": "/no/such/folder"}, Reason.DATABASE_UNREACHABLE),
        ({"LOG_ROOT": "/no/such/folder"}, Reason.WORKER_WONT_START),
        ({"SQL_ENGINE": "django.db.backends.sqlite3", "POSTGRES_DB": ":memory:"},
         Reason.DATABASE_UNSUPPORTED),
    ],
)  # fmt: skip
def test_a_wrong_set_up_is_told(
    site: Site, database: str, change: dict[str, str], reason: Reason
) -> None:
    """Each cause has its own reason."""
    worker = Worker([str(site.python)], site.environment(database) | change, timeout_s=60)
    try:
        with pytest.raises(OpenRemUnreachable) as caught:
            worker.hello()
    finally:
        worker.close()
    assert caught.value.reason is reason


def test_an_unmigrated_database_is_told(site: Site) -> None:
    """`postgres` has none of OpenREM's tables."""
    with real.a_worker(site, "postgres") as worker, pytest.raises(OpenRemUnreachable) as caught:
        worker.hello()
    assert caught.value.reason is Reason.DATABASE_NOT_READY


def test_no_interpreter_is_told(tmp_path: Path) -> None:
    """A path that leads nowhere."""
    worker = Worker([str(tmp_path / "python")], {}, timeout_s=60)
    with pytest.raises(OpenRemUnreachable) as caught:
        worker.hello()
    assert caught.value.reason is Reason.WORKER_WONT_START


def test_openrems_own_deletions_reach_an_alias_only(
    site: Site, database: str, tmp_path: Path
) -> None:
    """With OpenREM's delete settings on, what goes is the name that it was handed."""
    query(site, "UPDATE remapp_dicomdeletesettings SET del_rdsr = true RETURNING id", database)
    path = objects.variant(objects.CT_REPORT, tmp_path / "kept.dcm")
    alias = tmp_path / "alias.dcm"
    os.link(path, alias)
    with real.a_worker(site, database) as worker:
        outcome = worker.import_object(bytes(alias), Importer.RDSR)
    assert isinstance(judged(path, outcome), Proof)
    assert not alias.exists()
    assert path.exists()


def test_a_dead_redis_costs_the_skin_map_only(
    site: Site, database: str, corpus: dict[str, Path]
) -> None:
    """The map is queued after the commit; that it could not be is told as a warning."""
    path = corpus["RF-RDSR-Siemens-Zee.dcm"]
    query(
        site,
        "UPDATE remapp_skindosemapcalcsettings SET enable_skin_dose_maps = true, "
        "calc_on_import = true RETURNING id",
        database,
    )
    header = real.header_of(path)
    query(
        site,
        "INSERT INTO remapp_openskinsafelist "
        "(manufacturer, manufacturer_model_name, software_version) "
        f"VALUES ('{header.manufacturer}', '{header.model}', '') RETURNING id",
        database,
    )
    environment = site.environment(database) | {"REDIS_PORT": "1"}
    worker = Worker([str(site.python)], environment, timeout_s=120)
    try:
        outcome = worker.import_object(bytes(path), Importer.RDSR)
    finally:
        worker.close()
    assert isinstance(outcome, Done)
    assert outcome.facts.warnings == ("skin-dose-map-not-queued",)
    assert isinstance(judged(path, outcome), Proof)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("", ""), ("KVP", "117"), ("ImageAndFluoroscopyAreaDoseProduct", "77")],
)
def test_another_exposure_in_the_same_second_is_not_proven_by_the_first(
    site: Site, database: str, tmp_path: Path, keyword: str, value: str
) -> None:
    """OpenREM takes it for the processing/presentation twin of the first, and stores nothing."""
    study = generate_uid()

    def at_ten(dataset: pydicom.FileDataset) -> None:
        dataset.StudyInstanceUID = study
        dataset.AcquisitionTime = dataset.ContentTime = "101010"

    def another(dataset: pydicom.FileDataset) -> None:
        at_ten(dataset)
        if keyword:
            setattr(dataset, keyword, value)

    first = objects.variant(objects.DX_IMAGE, tmp_path / "first.dcm", at_ten)
    second = objects.variant(objects.DX_IMAGE, tmp_path / "second.dcm", another)
    with real.a_worker(site, database) as worker:
        assert isinstance(imported(worker, first), Proof)
        verdict = imported(worker, second)
    assert isinstance(verdict, Shortfall if keyword else Proof)


def test_a_second_report_whose_events_have_no_uids_is_not_proven_by_the_first(
    site: Site, database: str, tmp_path: Path
) -> None:
    """OpenREM takes it for a part of the first, and stores nothing of it."""
    study = generate_uid()

    def without_uids(dataset: pydicom.FileDataset) -> None:
        dataset.StudyInstanceUID = study
        objects.remove_event_uids(dataset)

    first = objects.variant(objects.CT_REPORT, tmp_path / "first.dcm", without_uids)
    second = objects.variant(objects.CT_REPORT, tmp_path / "second.dcm", without_uids)
    with real.a_worker(site, database) as worker:
        assert isinstance(imported(worker, first), Proof)
        assert isinstance(imported(worker, first), Proof)
        verdict = imported(worker, second)
        assert isinstance(verdict, Shortfall)
        assert verdict.reason is Reason.NOT_HELD


def test_a_later_report_replaces_the_right_study(site: Site, database: str, tmp_path: Path) -> None:
    """Two studies under one UID: the report that continues the second replaces the second.

    OpenREM numbers them by id and then indexes an unordered query; an UPDATE of the first
    row changes the order that PostgreSQL gives them in.
    """
    study = generate_uid()

    def of_study(dataset: pydicom.FileDataset) -> None:
        dataset.StudyInstanceUID = study

    first = objects.variant(objects.CT_REPORT, tmp_path / "first.dcm", of_study)
    later = objects.variant(objects.CT_REPORT, tmp_path / "later.dcm", of_study)
    dataset = pydicom.dcmread(later)
    objects.without_last_event(dataset)
    earlier = objects.write(dataset, tmp_path / "earlier.dcm")
    with real.a_worker(site, database) as worker:
        assert isinstance(imported(worker, first), Proof)
        assert isinstance(imported(worker, earlier), Proof)
        query(
            site,
            "UPDATE remapp_generalstudymoduleattr SET study_id = 'moved' "
            "WHERE id = (SELECT min(id) FROM remapp_generalstudymoduleattr) RETURNING id",
            database,
        )
        assert isinstance(imported(worker, later), Proof)
        for path in (first, earlier, later):
            assert isinstance(judged(path, worker.prove(bytes(path), Importer.RDSR)), Proof)
    rows = query(
        site, "SELECT number_of_events FROM remapp_generalstudymoduleattr ORDER BY id", database
    )
    assert rows == [("3",), ("3",)]


def test_a_hung_worker_is_given_up(site: Site, database: str, tmp_path: Path) -> None:
    """No answer within the time for an import: told as vanished, and the next one works."""
    with real.a_worker(site, database, timeout_s=60) as worker:
        worker.hello()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        worker._timeout_s = 0.5
        path = objects.variant(objects.CT_REPORT, tmp_path / "x.dcm")
        assert isinstance(worker.import_object(bytes(path), Importer.RDSR), Vanished)
        worker._timeout_s = 60
        assert isinstance(imported(worker, path), Proof)


def test_awkward_paths(site: Site, database: str, tmp_path: Path) -> None:
    """Names that glob() or a shell would misread, and names that are no text."""
    folder = os.fsencode(tmp_path) + b"/a [b]* 'c' \"d\"\n\xff"
    os.mkdir(folder)
    path = objects.variant(objects.CT_REPORT, tmp_path / "x.dcm")
    shutil.copyfile(path, folder + b"/-x\xe9.dcm")
    with real.a_worker(site, database) as worker:
        outcome = worker.import_object(folder + b"/-x\xe9.dcm", Importer.RDSR)
    assert isinstance(judged(path, outcome), Proof)
