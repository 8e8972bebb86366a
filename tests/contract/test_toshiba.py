"""A study of Toshiba CT images on a real OpenREM, with real Java and PixelMed: counted once."""

import os
import shutil
import signal
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ingest.errors import Reason
from ingest.model import Done, Facts, Failed, Importer, Shortfall, StudyDone, StudyOutcome, Vanished
from ingest.openrem.importers import Worker
from ingest.openrem.site import Site, query
from ingest.verify import Proof, verify
from tests import toshiba
from tests.contract import real
from tests.mounting import mounted
from tests.system.harness import report, until

_FROM_ELSEWHERE = """
import openrem.openremproject.settings as settings
{changes}
"""


def folder_of(images: Sequence[bytes], folder: Path) -> Path:
    """A folder with these images under neutral names, as the engine makes it."""
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number:06d}.dcm").write_bytes(image)
    return folder


def verdicts(folder: Path, outcome: StudyOutcome) -> list[Proof | Shortfall]:
    """The verdict on each image."""
    assert isinstance(outcome, StudyDone), outcome
    return [verdict_on(folder / name, facts) for name, facts in sorted(outcome.facts.items())]


def verdict_on(path: Path, facts: Facts) -> Proof | Shortfall:
    """The verdict on one image."""
    return verify(real.snapshot_of(path), real.header_of(path), Importer.CTTOSHIBA, facts)


def imported(worker: Worker, folder: Path) -> list[Proof | Shortfall]:
    """Import a folder, and judge each image in it."""
    return verdicts(folder, worker.import_study(bytes(folder), Importer.CTTOSHIBA))


def studies(site: Site, database: str) -> list[tuple[str, ...]]:
    """Of each study row: events as counted and as stored, the DLP, objects, patients."""
    return query(
        site,
        """
        SELECT number_of_events, (SELECT count(*) FROM remapp_ctirradiationeventdata), total_dlp,
               (SELECT count(*) FROM remapp_objectuidsprocessed AS uids
                WHERE uids.general_study_module_attributes_id = study.id),
               (SELECT count(*) FROM remapp_patientmoduleattr)
        FROM remapp_generalstudymoduleattr AS study ORDER BY id
        """,
        database,
    )


ONCE = [("2", "2", "307.00000000", "6", "1")]  # two scans; five images and the report made of them


def worker_with(site: Site, database: str, tmp_path: Path, **settings: str) -> Worker:
    """A worker whose OpenREM has these settings."""
    changes = "\n".join(f"settings.{key} = {value!r}" for key, value in settings.items())
    patches = tmp_path / "patches"
    patches.mkdir()
    # The extractor takes its settings when it is imported: they must be others before.
    (patches / "local.py").write_text(_FROM_ELSEWHERE.format(changes=changes))
    (patches / "sitecustomize.py").write_text(
        "import importlib\n"
        "plain = importlib.import_module\n"
        "def changed(name, *args):\n"
        "    if name == 'openrem.remapp.extractors.ct_toshiba':\n"
        "        import local\n"
        "    return plain(name, *args)\n"
        "importlib.import_module = changed\n"
    )
    environment = site.environment(database) | {"PYTHONPATH": str(patches)}
    return Worker([str(site.python)], environment, timeout_s=120.0)


def test_a_study_is_imported_once_however_often_it_comes(
    site: Site, database: str, tmp_path: Path
) -> None:
    """PixelMed gives its events other UIDs each time: only the images' own tell that it is known.

    The folder has a blank in its name, and keeps its images. One of them is there twice.
    """
    images = toshiba.study()
    folder = folder_of([*images, images[0]], tmp_path / "one study")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with real.a_worker(site, database) as worker:
        first = imported(worker, folder)
        assert studies(site, database) == ONCE
        for name, content in before.items():
            assert (folder / name).read_bytes() == content
        cleared(folder)
        second = imported(worker, folder)
        asked = worker.prove(bytes(folder / "000000.dcm"), Importer.CTTOSHIBA)
    assert studies(site, database) == ONCE
    assert [isinstance(one, Proof) and one.already for one in first] == [False] * 5 + [True]
    assert [isinstance(one, Proof) and one.already for one in second] == [True] * 6
    assert isinstance(asked, Done)
    assert isinstance(verdict_on(folder / "000000.dcm", asked.facts), Proof)
    doses = query(
        site,
        "SELECT mean_ctdivol, dlp, acquisition_protocol, pitch_factor "
        "FROM remapp_ctirradiationeventdata ORDER BY id",
        database,
    )
    assert doses == [
        ("2.50000000", "101.50000000", "Chest", "0.80000000"),
        ("7.50000000", "205.50000000", "Chest", "0.80000000"),
    ]


def test_an_image_that_comes_late_is_not_counted_and_says_so(
    site: Site, database: str, tmp_path: Path
) -> None:
    """Together with one that is held: that one is proven all the same."""
    *early, late, screen = toshiba.study()
    with real.a_worker(site, database) as worker:
        assert all(isinstance(one, Proof) for one in imported(
            worker, folder_of([*early, screen], tmp_path / "early")
        ))  # fmt: skip
        held, refused = imported(worker, folder_of([early[0], late], tmp_path / "late"))
    assert isinstance(held, Proof)
    assert refused == Shortfall(reason=Reason.LATE_IMAGE)
    assert studies(site, database) == [("2", "2", "307.00000000", "5", "1")]


def test_a_study_that_openrem_has_from_a_dose_report_is_left_alone(
    site: Site, database: str, tmp_path: Path
) -> None:
    """The scanner's own report is the better source."""
    images = toshiba.study(uid="2.25.77")
    path = tmp_path / "report.dcm"
    path.write_bytes(report("ct", study="2.25.77"))
    with real.a_worker(site, database) as worker:
        assert isinstance(worker.import_object(bytes(path), Importer.RDSR), Done)
        before = real.content(site, database)
        found = imported(worker, folder_of(images, tmp_path / "study"))
    assert found == [Shortfall(reason=Reason.OTHER_SOURCE)] * 5
    assert real.differences(real.content(site, database), before) == []


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (lambda: toshiba.study(screen=False), Reason.NO_DOSE_SCREEN),
        (lambda: toshiba.study(()), Reason.NO_DOSE_SCREEN),  # of which PixelMed makes a report
    ],
    ids=["no dose screen", "a dose screen without doses"],
)
def test_images_without_doses_are_no_success(
    site: Site,
    database: str,
    tmp_path: Path,
    images: Callable[[], list[bytes]],
    reason: Reason,
) -> None:
    """OpenREM itself reports one, and stores nothing, or an empty study."""
    folder = folder_of(images(), tmp_path / "study")
    with real.a_worker(site, database) as worker:
        outcome = worker.import_study(bytes(folder), Importer.CTTOSHIBA)
    assert isinstance(outcome, Failed)
    assert outcome.reason is reason
    assert studies(site, database) == []
    assert query(site, "SELECT task_type FROM remapp_backgroundtask", database) == [
        ("ingest_cttoshiba",)
    ]


def test_dose_screens_that_pixelmed_passes_over_are_no_success(
    site: Site, database: str, tmp_path: Path
) -> None:
    """It reads those of one series, and says nothing of the others' doses."""
    images = toshiba.study(uid="2.25.78")
    more = toshiba.written(toshiba.dose_screen("2.25.78", [toshiba.Scan(9.5, 309.5)]))
    folder = folder_of([*images, more], tmp_path / "study")
    with real.a_worker(site, database) as worker:
        outcome = worker.import_study(bytes(folder), Importer.CTTOSHIBA)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.SEVERAL_DOSE_SCREENS
    assert studies(site, database) == []


def test_missing_tools_are_named(site: Site, database: str, tmp_path: Path) -> None:
    """None of them is a file's fault: no Java, no jar, a jar that is none."""
    (tmp_path / "bad.jar").write_text("no jar")
    for number, (settings, words) in enumerate([
        ({"JAVA_EXE": "/no/such/java"}, "no program /no/such/java"),
        ({"PIXELMED_JAR": str(tmp_path / "bad.jar")}, "ends with an error on whatever it gets"),
    ]):  # fmt: skip
        root = tmp_path / str(number)
        root.mkdir()
        folder = folder_of(toshiba.study(), root / "study")
        worker = worker_with(site, database, root, **settings)
        try:
            outcome = worker.import_study(bytes(folder), Importer.CTTOSHIBA)
            missing = worker.examine().no_tools
        finally:
            worker.close()
        assert missing == ("there is no program /no/such/java" if "JAVA_EXE" in settings else "")
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.TOOLS_MISSING
        assert words in outcome.detail
    assert studies(site, database) == []


def stand_in_java(tmp_path: Path, script: str) -> str:
    """A program in the place of Java, that has the target of the report as its last argument."""
    path = tmp_path / "java"
    path.write_text(f"#!/bin/sh\nfor target; do :; done\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_report_that_was_written_in_part_is_not_imported(
    site: Site, database: str, tmp_path: Path
) -> None:
    """Its own totals tell that events are missing."""
    folder = folder_of(toshiba.study(), tmp_path / "study")
    cut = tmp_path / "cut.py"
    cut.write_text(_CUT)
    java = stand_in_java(tmp_path, f'{toshiba.JAVA} "$@" && {site.python} {cut} "$target"')
    worker = worker_with(site, database, tmp_path, JAVA_EXE=java)
    try:
        outcome = worker.import_study(bytes(folder), Importer.CTTOSHIBA)
    finally:
        worker.close()
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.IMPORT_FAILED
    assert "PixelMedFailed" in outcome.detail
    assert studies(site, database) == []


_CUT = """
import sys, pydicom
report = pydicom.dcmread(sys.argv[1])
events = [
    item for item in report.ContentSequence
    if item.ConceptNameCodeSequence[0].CodeValue == "113819"
]
report.ContentSequence = [item for item in report.ContentSequence if item is not events[-1]]
report.save_as(sys.argv[1])
"""


def test_a_full_disk_is_told(site: Site, database: str, tmp_path: Path) -> None:
    """PixelMed says nothing of it, and writes nothing: without doses the images are not."""
    small = tmp_path / "small"
    small.mkdir()
    with mounted(small, "size=2m"):
        folder = folder_of(toshiba.study(), small / "study")
        (small / "more").write_bytes(bytes(shutil.disk_usage(small).free))
        with real.a_worker(site, database) as worker:
            outcome = worker.import_study(bytes(folder), Importer.CTTOSHIBA)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.DISK_FULL
    assert studies(site, database) == []


def test_killed_while_pixelmed_runs_leaves_nothing(
    site: Site, database: str, tmp_path: Path
) -> None:
    """Java ends with the worker."""
    folder = folder_of(toshiba.study(), tmp_path / "study")
    pid_file = tmp_path / "pid"
    java = stand_in_java(
        tmp_path, f"echo $$ > {pid_file}.part; mv {pid_file}.part {pid_file}; exec sleep 100"
    )
    worker = worker_with(site, database, tmp_path, JAVA_EXE=java)
    try:
        killed(worker, folder, pid_file.exists)
    finally:
        worker.close()
    until(lambda: not Path("/proc", pid_file.read_text().strip()).exists(), "Java has ended")
    assert studies(site, database) == []


def test_killed_before_the_commit_leaves_nothing(site: Site, database: str, tmp_path: Path) -> None:
    """All is written but the task row; the next import counts all once."""
    folder = folder_of(toshiba.study(), tmp_path / "study")
    query(site, _HOLD_BEFORE_COMMIT, database)
    sleeping = f"FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
    with real.a_worker(site, database) as worker:
        killed(worker, folder, lambda: query(site, f"SELECT pid {sleeping}", "postgres"))
        query(site, f"SELECT pg_terminate_backend(pid) {sleeping}", "postgres")
        real.wait_for_sessions_to_end(site, database)
        assert studies(site, database) == []
        query(site, "DROP TRIGGER hold ON remapp_backgroundtask", database)
        cleared(folder)
        assert all(isinstance(one, Proof) for one in imported(worker, folder))
    assert studies(site, database) == ONCE


_HOLD_BEFORE_COMMIT = """
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
CREATE TRIGGER hold BEFORE INSERT ON remapp_backgroundtask FOR EACH ROW EXECUTE FUNCTION hold()
"""


def killed(worker: Worker, folder: Path, is_there: Callable[[], object]) -> None:
    """Begin an import, and kill OpenREM's process when it has come to a point."""
    worker.hello()
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(worker.import_study, bytes(folder), Importer.CTTOSHIBA)
        until(lambda: is_there() or outcome.done(), "the import has come so far")
        assert not outcome.done(), outcome.result()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        assert isinstance(outcome.result(), Vanished)


def cleared(folder: Path) -> None:
    """Remove what an import left there beside the images."""
    for path in folder.iterdir():
        if path.is_dir():
            path.rmdir()
        elif not path.name[0].isdigit():
            path.unlink()
