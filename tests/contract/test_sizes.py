"""Tables of heights and weights on a real OpenREM: each row is where it should be, or none is."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from ingest import sizes
from ingest.errors import Reason
from ingest.model import Failed, Outcome, Shortfall, SizesDone, SizesWanted, Vanished
from ingest.openrem.importers import Worker
from ingest.openrem.site import Site, query
from ingest.verify import Proof, verify_sizes
from tests import objects
from tests.contract import real
from tests.system.harness import until

WANTED = SizesWanted(id_title="Acc", height_title="Height", weight_title="Weight")
OVER = replace(WANTED, overwrite=True)

Study = Callable[..., str]


@pytest.fixture
def worker(site: Site, database: str) -> Iterator[Worker]:
    """Our worker on this test's database."""
    with real.a_worker(site, database) as worker:
        yield worker


@pytest.fixture
def study(worker: Worker, tmp_path: Path) -> Study:
    """Has OpenREM import a radiograph with this accession number; gives its Study UID."""

    def make(accession: str, **elements: str) -> str:
        def change(dataset: pydicom.FileDataset) -> None:
            dataset.AccessionNumber = accession
            for keyword in ("PatientSize", "PatientWeight"):
                if keyword in dataset:
                    delattr(dataset, keyword)
            for keyword, value in elements.items():
                setattr(dataset, keyword, value)

        path = objects.variant(objects.DX_IMAGE, tmp_path / "study.dcm", change)
        worker.import_object(bytes(path), real.importer_of(path))
        return real.header_of(path).study_uid

    return make


class Table:
    """A CSV file, as it is handed over."""

    def __init__(self, folder: Path, *rows: str, wanted: SizesWanted = WANTED) -> None:
        self.wanted = wanted
        self.path = os.fsencode(folder / "table.csv")
        Path(os.fsdecode(self.path)).write_text(
            "\n".join(("Acc;Height;Weight", *rows)) + "\n", encoding="utf-8"
        )
        found = sizes.look(self.path, wanted)
        assert found.structure.is_complete, found
        self.plain = os.fsencode(folder / "plain")
        self.rows = sizes.write_plain(self.path, self.plain, wanted, found.snapshot)
        self.snapshot = found.snapshot

    def imported(self, worker: Worker) -> Proof | Shortfall:
        """The verdict on its import."""
        return self.judged(worker.import_sizes(self.plain, self.wanted))

    def judged(self, outcome: Outcome) -> Proof | Shortfall:
        """The verdict on an outcome."""
        assert isinstance(outcome, SizesDone), outcome
        return verify_sizes(self.snapshot, self.rows, self.wanted, outcome.facts)


def stored(site: Site, database: str) -> dict[str, tuple[str, str]]:
    """Height (m) and weight (kg) by accession number, as OpenREM's tables have them."""
    rows = query(
        site,
        "SELECT accession_number, coalesce(round(patient_size, 4)::text, ''), "
        "coalesce(round(patient_weight, 3)::text, '') FROM remapp_patientstudymoduleattr AS own "
        "JOIN remapp_generalstudymoduleattr AS study "
        "ON study.id = own.general_study_module_attributes_id ORDER BY study.id",
        database,
    )
    return {accession: (size, weight) for accession, size, weight in rows}


def number(site: Site, database: str, table: str) -> int:
    return int(query(site, f"SELECT count(*) FROM remapp_{table}", database)[0][0])


def logs(site: Site) -> set[Path]:
    """OpenREM's logs of size imports."""
    return set((site.root / "media").glob("sizelogs/**/*.txt"))


def test_sizes_come_to_the_studies_with_the_accession_number(
    site: Site, database: str, worker: Worker, study: Study, tmp_path: Path
) -> None:
    """OpenREM's own page of size imports shows it, with its log; a second time changes nothing."""
    for accession in ("A1", "A2", "A3"):
        study(accession)
    table = Table(tmp_path, "A1;180;80,5", "A2;;71", "A4;170;60", "A3;155.5;", ";;")
    before = logs(site)
    first = table.imported(worker)
    assert isinstance(first, Proof), first
    assert (first.rows, first.unmatched, first.already) == (3, 1, False)
    assert first.evidence == "3 rows held, 1 without a study in OpenREM"
    held = stored(site, database)
    assert held == {"A1": ("1.8000", "80.500"), "A2": ("", "71.000"), "A3": ("1.5550", "")}
    assert query(
        site,
        "SELECT status, num_records, id_type, overwrite, id_field, height_field, sizefile = '' "
        "FROM remapp_sizeupload",
        database,
    ) == [("COMPLETE", "4", "acc-no", "f", "Acc", "Height", "t")]
    (log,) = logs(site) - before
    assert "Inserted height of 180 cm" in log.read_text(encoding="utf-8")
    assert query(site, "SELECT logfile FROM remapp_sizeupload", database) == [
        (str(log.relative_to(site.root / "media")),)
    ]
    assert query(
        site,
        "SELECT task.completed_successfully FROM remapp_backgroundtask AS task "
        "JOIN remapp_sizeupload AS upload ON upload.task_id = task.uuid "
        "WHERE task.task_type = 'ingest_ptsizecsv' AND task.complete",
        database,
    ) == [("t",)]

    again = table.imported(worker)
    assert isinstance(again, Proof)
    assert again.already
    assert stored(site, database) == held
    assert number(site, database, "sizeupload") == 1
    assert len(logs(site) - before) == 1


def test_what_was_there_before_stays_unless_it_is_to_be_overwritten(
    site: Site, database: str, worker: Worker, study: Study, tmp_path: Path
) -> None:
    study("A1", PatientSize="1.62", PatientWeight="55")
    study("A2", PatientWeight="0")
    rows = ("A1;180;80", "A1;181;82", "A2;170;70", "A2;171;71")
    kept = Table(tmp_path, *rows).imported(worker)
    assert isinstance(kept, Proof), kept
    assert stored(site, database) == {"A1": ("1.6200", "55.000"), "A2": ("1.7000", "70.000")}
    over = Table(tmp_path, *rows, wanted=OVER).imported(worker)
    assert isinstance(over, Proof), over
    assert stored(site, database) == {"A1": ("1.8100", "82.000"), "A2": ("1.7100", "71.000")}


def test_studies_may_be_told_by_their_uids(
    site: Site, database: str, worker: Worker, study: Study, tmp_path: Path
) -> None:
    uid = study("A1")
    study("A2")
    by_uid = replace(WANTED, by_study_uid=True)
    proof = Table(tmp_path, f"{uid};180;80", wanted=by_uid).imported(worker)
    assert isinstance(proof, Proof), proof
    assert stored(site, database) == {"A1": ("1.8000", "80.000"), "A2": ("", "")}
    verdict = Table(tmp_path, f"{uid};180;80").imported(worker)
    assert isinstance(verdict, Shortfall)
    assert verdict.reason is Reason.NO_ROW_MATCHES


def test_each_of_several_studies_with_the_accession_number_gets_the_sizes(
    site: Site, database: str, worker: Worker, study: Study, tmp_path: Path
) -> None:
    study("A1")
    study("A1", PatientSize="1.5")
    proof = Table(tmp_path, "A1;180;80").imported(worker)
    assert isinstance(proof, Proof), proof
    assert query(
        site,
        "SELECT round(patient_size, 2), patient_weight::int FROM remapp_patientstudymoduleattr "
        "ORDER BY id",
        database,
    ) == [("1.80", "80"), ("1.50", "80")]


def test_a_row_that_waits_for_its_study_finds_it_later(
    site: Site, database: str, worker: Worker, study: Study, tmp_path: Path
) -> None:
    """What can be held is held at once; asking again writes nothing more, until it can."""
    study("A1")
    waits = replace(WANTED, wait_s=3600.0)
    table = Table(tmp_path, "A1;180;80", "A2;170;70", wanted=waits)
    for _ in range(3):
        verdict = table.imported(worker)
        assert verdict == Shortfall(
            reason=Reason.UNMATCHED_ROWS, detail="1 row held, 1 without a study in OpenREM"
        )
    assert number(site, database, "sizeupload") == 1
    study("A2")
    assert isinstance(table.imported(worker), Proof)
    assert stored(site, database) == {"A1": ("1.8000", "80.000"), "A2": ("1.7000", "70.000")}
    assert number(site, database, "sizeupload") == 2


def test_a_study_that_is_only_there_in_part_is_none(
    site: Site, database: str, worker: Worker, study: Study, tmp_path: Path
) -> None:
    """OpenREM's importer passes over a study whose own import broke off."""
    study("A1")
    study("A2")
    query(
        site,
        "DELETE FROM remapp_patientstudymoduleattr WHERE id = "
        "(SELECT max(id) FROM remapp_patientstudymoduleattr) RETURNING id",
        database,
    )
    proof = Table(tmp_path, "A1;180;80", "A2;170;70").imported(worker)
    assert isinstance(proof, Proof)
    assert (proof.rows, proof.unmatched) == (1, 1)


def test_a_row_that_openrem_fails_on_undoes_the_others(
    site: Site, database: str, worker: Worker, study: Study, tmp_path: Path
) -> None:
    """Two rows where there should be one: no size stays, nor a log, nor an upload."""
    study("A1")
    study("A2")
    query(
        site,
        "INSERT INTO remapp_patientstudymoduleattr (general_study_module_attributes_id) "
        "SELECT max(general_study_module_attributes_id) FROM remapp_patientstudymoduleattr "
        "RETURNING id",
        database,
    )
    before, logged = stored(site, database), logs(site)
    outcome = worker.import_sizes(Table(tmp_path, "A1;180;80", "A2;170;70").plain, WANTED)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.IMPORT_FAILED
    assert "A2" not in outcome.detail
    assert stored(site, database) == before
    assert logs(site) == logged
    assert number(site, database, "sizeupload") == 0
    rows = query(
        site,
        "SELECT complete, completed_successfully FROM remapp_backgroundtask "
        "WHERE task_type = 'ingest_ptsizecsv'",
        database,
    )
    assert rows == [("t", "f")]


def test_a_commit_that_fails_leaves_no_log(
    site: Site, database: str, worker: Worker, study: Study, tmp_path: Path
) -> None:
    """The log is written just before; then it must go again."""
    study("A1")
    query(
        site,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN RAISE EXCEPTION ''no''; END'; "
        "CREATE CONSTRAINT TRIGGER refused AFTER INSERT ON remapp_sizeupload "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse(); SELECT 1",
        database,
    )
    before, logged = stored(site, database), logs(site)
    outcome = worker.import_sizes(Table(tmp_path, "A1;180;80").plain, WANTED)
    assert isinstance(outcome, Failed)
    assert stored(site, database) == before
    assert logs(site) == logged


def test_without_room_for_its_log_the_sizes_come_all_the_same(
    site: Site, database: str, study: Study, tmp_path: Path
) -> None:
    study("A1")
    (tmp_path / "file").touch()
    environment = site.environment(database) | {"MEDIA_ROOT": str(tmp_path / "file" / "media")}
    worker = Worker([str(site.python)], environment, timeout_s=120)
    table = Table(tmp_path, "A1;180;80")
    try:
        outcome = worker.import_sizes(table.plain, WANTED)
    finally:
        worker.close()
    assert isinstance(outcome, SizesDone), outcome
    assert outcome.facts.warnings == ("size-import-log-not-written",)
    assert isinstance(table.judged(outcome), Proof)
    assert stored(site, database) == {"A1": ("1.8000", "80.000")}
    assert number(site, database, "sizeupload") == 0


def test_killed_in_mid_import_nothing_is_held(
    site: Site, database: str, worker: Worker, study: Study, tmp_path: Path
) -> None:
    """SIGKILL while the second of three rows is being written; the next import is complete."""
    for accession in ("A1", "A2", "A3"):
        study(accession)
    query(
        site,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN PERFORM pg_sleep(60); RETURN NEW; END'; "
        "CREATE TRIGGER slows BEFORE UPDATE ON remapp_patientstudymoduleattr FOR EACH ROW "
        "WHEN (NEW.patient_weight = 77) EXECUTE FUNCTION slow(); SELECT 1",
        database,
    )
    before, logged = stored(site, database), logs(site)
    table = Table(tmp_path, "A1;180;80", "A2;170;77", "A3;160;60")
    sleeping = f"FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(worker.import_sizes, table.plain, WANTED)
        until(lambda: query(site, f"SELECT 1 {sleeping}", database), "it writes the second row")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        assert outcome.result() == Vanished(detail="it was ended by SIGKILL")
    query(site, f"SELECT pg_terminate_backend(pid) {sleeping}", database)
    real.wait_for_sessions_to_end(site, database)
    assert stored(site, database) == before
    assert number(site, database, "sizeupload") == 0
    assert logs(site) == logged
    query(site, "DROP TRIGGER slows ON remapp_patientstudymoduleattr; SELECT 1", database)
    assert isinstance(table.imported(worker), Proof)
    assert stored(site, database)["A2"] == ("1.7000", "77.000")


def test_two_at_once_do_as_one(
    site: Site, database: str, worker: Worker, study: Study, tmp_path: Path
) -> None:
    for accession in ("A1", "A2"):
        study(accession)
    table = Table(tmp_path, "A1;180;80", "A2;170;70")
    with real.a_worker(site, database) as other, ThreadPoolExecutor(2) as pool:
        other.hello()
        both = [pool.submit(one.import_sizes, table.plain, WANTED) for one in (worker, other)]
        proofs = [table.judged(one.result()) for one in both]
    assert sorted(proof.already for proof in proofs if isinstance(proof, Proof)) == [False, True]
    assert number(site, database, "sizeupload") == 1


def test_nothing_is_proven_that_somebody_else_changes_meanwhile(
    site: Site, database: str, worker: Worker, study: Study, tmp_path: Path
) -> None:
    """What is read back after the commit counts, not what was written."""
    study("A1")
    query(
        site,
        "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN NEW.patient_weight = 12; RETURN NEW; END'; "
        "CREATE TRIGGER others BEFORE UPDATE ON remapp_patientstudymoduleattr FOR EACH ROW "
        "EXECUTE FUNCTION other(); SELECT 1",
        database,
    )
    verdict = Table(tmp_path, "A1;180;80").imported(worker)
    assert verdict == Shortfall(reason=Reason.NOT_HELD, detail="1 row of 1 not stored")
