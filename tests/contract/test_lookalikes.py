"""What OpenREM takes for something that it has, and stores nothing of, is proven by nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from ingest.errors import Reason
from ingest.model import Done, Importer, Shortfall
from ingest.openrem.importers import Worker
from ingest.openrem.site import Site, query, start_server, stop_server
from ingest.verify import Proof
from tests import objects
from tests.contract import real
from tests.contract.test_worker import imported, judged

Change = Callable[[pydicom.FileDataset], None]

PHILIPS = "CT-SC-Philips_Brilliance16P.dcm"
NM_IMAGE = "NM-NmIm-Siemens-s1-1.dcm"
PET_IMAGE = "NM-PetIm-GE.dcm"
PET_IMAGE_WITH_REPORT = "NM-PetIm-Siemens.dcm"
NM_REPORT = "NM-RRDSR-Siemens.dcm"
DLP = 0x00E11021


@pytest.fixture
def worker(site: Site, database: str) -> Iterator[Worker]:
    """Our worker on a fresh database."""
    with real.a_worker(site, database) as one:
        yield one


def another(path: Path, target: Path, change: Change) -> Path:
    """Another object of the same study, with this change."""
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = generate_uid()
    change(dataset)
    return objects.write(dataset, target)


def unchanged(_dataset: pydicom.FileDataset) -> None:
    """No change."""


# -- dose info of Philips --------------------------------------------------------------------------


def ten_times(keyword_or_tag: str | int) -> Change:
    """Ten times this dose, in the last exposure."""

    def change(dataset: pydicom.FileDataset) -> None:
        element = dataset.ExposureDoseSequence[-1][keyword_or_tag]
        element.value = 10 * float(element.value)

    return change


def in_another_order(dataset: pydicom.FileDataset) -> None:
    """The same exposures."""
    dataset.ExposureDoseSequence = list(reversed(dataset.ExposureDoseSequence))


@pytest.mark.parametrize("change", [ten_times("CTDIvol"), ten_times(DLP)], ids=["CTDIvol", "DLP"])
def test_a_dose_info_with_other_doses_is_not_proven_by_the_first(
    worker: Worker, corpus: dict[str, Path], tmp_path: Path, change: Change
) -> None:
    """OpenREM ignores a second dose info of a study, whatever it says."""
    first = corpus[PHILIPS]
    second = another(first, tmp_path / "second.dcm", change)
    assert isinstance(imported(worker, first), Proof)
    verdict = imported(worker, second)
    assert isinstance(verdict, Shortfall)
    assert verdict.reason is Reason.OTHER_SOURCE


@pytest.mark.parametrize("change", [unchanged, in_another_order])
def test_a_dose_info_with_the_same_doses_is_proven_by_the_first(
    worker: Worker, corpus: dict[str, Path], tmp_path: Path, change: Change
) -> None:
    """It is another capture of the same exposures."""
    first = corpus[PHILIPS]
    second = another(first, tmp_path / "second.dcm", change)
    assert isinstance(imported(worker, first), Proof)
    assert isinstance(imported(worker, second), Proof)


# -- nuclear medicine ------------------------------------------------------------------------------


def administered(**elements: str) -> Change:
    """An administration that differs in this."""

    def change(dataset: pydicom.FileDataset) -> None:
        dataset.SeriesInstanceUID = generate_uid()
        for keyword, value in elements.items():
            setattr(dataset.RadiopharmaceuticalInformationSequence[0], keyword, value)

    return change


def of_code(sequence: str, value: str, meaning: str) -> Change:
    """An administration with this code for its radionuclide or agent."""

    def change(dataset: pydicom.FileDataset) -> None:
        dataset.SeriesInstanceUID = generate_uid()
        code = dataset.RadiopharmaceuticalInformationSequence[0][sequence][0]
        code.CodeValue, code.CodeMeaning = value, meaning

    return change


@pytest.mark.parametrize(
    ("sample", "change"),
    [
        (NM_IMAGE, administered(RadionuclideTotalDose="960")),
        (NM_IMAGE, administered(Radiopharmaceutical="Tetrofosmin")),
        (NM_IMAGE, of_code("RadionuclideCodeSequence", "C-138A9", "201 Thallium")),
        (PET_IMAGE, administered(RadionuclideTotalDose="321596288")),
        (PET_IMAGE, administered(RadiopharmaceuticalStartDateTime="20220310154100")),
        (PET_IMAGE, administered(RadiopharmaceuticalStartDateTime="20220311124100")),
        (PET_IMAGE, of_code("RadiopharmaceuticalCodeSequence", "C-B1038", "Sodium fluoride F^18^")),
    ],
    ids=["activity", "name", "radionuclide", "activity-pet", "time-pet", "day-pet", "agent-pet"],
)
def test_another_administration_of_a_study_is_not_proven_by_the_first(
    worker: Worker, corpus: dict[str, Path], tmp_path: Path, sample: str, change: Change
) -> None:
    """OpenREM has room for one that images tell of, and only fills what the first left empty."""
    first = corpus[sample]
    second = another(first, tmp_path / "second.dcm", change)
    assert isinstance(imported(worker, first), Proof)
    verdict = imported(worker, second)
    assert isinstance(verdict, Shortfall)
    assert verdict.reason is Reason.NOT_HELD
    assert verdict.detail == "OpenREM holds another administration of this study"
    assert isinstance(judged(first, worker.prove(bytes(first), Importer.NM)), Proof)


def without_the_administration(dataset: pydicom.FileDataset) -> None:
    """An image that tells nothing of it."""
    dataset.RadiopharmaceuticalInformationSequence = []


@pytest.mark.parametrize(
    ("sample", "change"),
    [
        (NM_IMAGE, administered()),
        (NM_IMAGE, without_the_administration),
        (NM_IMAGE, administered(RadionuclideTotalDose="")),
        (NM_IMAGE, administered(RadionuclideTotalDose="321")),
        (NM_IMAGE, of_code("RadionuclideCodeSequence", "72454004", "Technetium-99m")),
        (PET_IMAGE, administered()),
        (PET_IMAGE, administered(RadiopharmaceuticalStartDateTime="20220310124500")),
    ],
    ids=["same", "untold", "no-activity", "about", "other-scheme", "same-pet", "minutes-pet"],
)
def test_another_image_of_one_administration_is_proven(
    worker: Worker, corpus: dict[str, Path], tmp_path: Path, sample: str, change: Change
) -> None:
    """Only a contradiction tells two administrations apart."""
    first = corpus[sample]
    second = another(first, tmp_path / "second.dcm", change)
    assert isinstance(imported(worker, first), Proof)
    assert isinstance(imported(worker, second), Proof)


@pytest.mark.parametrize("order", [(0, 1, 0), (1, 0, 1)], ids=["image first", "report first"])
def test_a_report_and_an_image_of_one_administration_are_proven(
    worker: Worker, corpus: dict[str, Path], order: tuple[int, ...]
) -> None:
    """Whichever comes first."""
    pair = corpus[PET_IMAGE_WITH_REPORT], corpus[NM_REPORT]
    for number in order:
        assert isinstance(imported(worker, pair[number]), Proof)


# -- dose reports ----------------------------------------------------------------------------------


def test_a_second_report_without_events_is_not_proven_by_the_first(
    worker: Worker, tmp_path: Path
) -> None:
    """OpenREM takes no events for a part of any, and stores nothing of it."""

    def without_events(dataset: pydicom.FileDataset) -> None:
        while objects.events(dataset):
            objects.without_last_event(dataset)

    first = objects.variant(objects.CT_REPORT, tmp_path / "first.dcm", without_events)
    second = another(first, tmp_path / "second.dcm", unchanged)
    assert isinstance(imported(worker, first), Proof)
    assert isinstance(imported(worker, first), Proof)
    verdict = imported(worker, second)
    assert isinstance(verdict, Shortfall)
    assert verdict.reason is Reason.NOT_HELD


def test_an_event_that_openrem_counts_twice_is_told(
    site: Site, database: str, worker: Worker, tmp_path: Path
) -> None:
    """Of two reports that a later one continues, OpenREM replaces one only."""
    whole = objects.variant(objects.CT_REPORT, tmp_path / "whole.dcm")

    def only(number: int) -> Change:
        def change(dataset: pydicom.FileDataset) -> None:
            others = objects.events(dataset)
            del others[number]
            dataset.ContentSequence = [i for i in dataset.ContentSequence if i not in others]

        return change

    warnings = []
    for path in (
        another(whole, tmp_path / "first.dcm", only(0)),
        another(whole, tmp_path / "second.dcm", only(1)),
        whole,
    ):
        outcome = worker.import_object(bytes(path), Importer.RDSR)
        assert isinstance(judged(path, outcome), Proof)
        assert isinstance(outcome, Done)
        warnings.append(outcome.facts.warnings)
    assert warnings == [(), (), ("event-counted-twice",)]
    rows = query(
        site,
        "SELECT count(*), count(DISTINCT irradiation_event_uid) FROM remapp_ctirradiationeventdata",
        database,
    )
    assert rows == [("4", "3")]


# -- images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "keyword", "value"),
    [
        (objects.DX_IMAGE, "KVP", "33"),
        (objects.DX_IMAGE, "ImageAndFluoroscopyAreaDoseProduct", "99"),
        (objects.MG_IMAGE, "OrganDose", "0.9"),
    ],
    ids=["DX-kVp", "DX-DAP", "MG-dose"],
)
def test_another_exposure_under_the_same_uid_is_not_proven_by_the_first(
    worker: Worker, tmp_path: Path, sample: Path, keyword: str, value: str
) -> None:
    """OpenREM has that UID, and ignores the object."""
    first = objects.variant(sample, tmp_path / "first.dcm")
    dataset = pydicom.dcmread(first)
    setattr(dataset, keyword, value)
    second = objects.write(dataset, tmp_path / "second.dcm")
    assert isinstance(imported(worker, first), Proof)
    verdict = imported(worker, second)
    assert isinstance(verdict, Shortfall)
    assert verdict.reason is Reason.NOT_HELD
    assert isinstance(imported(worker, first), Proof)


# -- what PostgreSQL has not yet written -----------------------------------------------------------


@pytest.fixture
def lazy(site: Site, database: str) -> Iterator[None]:
    """PostgreSQL writes commits to the disk when it likes, and that is late."""
    query(site, f'ALTER DATABASE "{database}" SET synchronous_commit = off')
    query(site, "ALTER SYSTEM SET wal_writer_delay = '10s'")
    query(site, "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        query(site, "ALTER SYSTEM RESET wal_writer_delay")
        query(site, "SELECT pg_reload_conf()")


def crash(site: Site) -> None:
    """Stop PostgreSQL without leave to write anything, and start it again."""
    stop_server(site, "immediate")
    start_server(site)


@pytest.mark.usefixtures("lazy")
def test_what_is_proven_outlives_a_crash_of_postgresql(
    site: Site, database: str, tmp_path: Path
) -> None:
    """Also where the database is set to answer before a commit is written."""
    first = objects.variant(objects.CT_REPORT, tmp_path / "first.dcm")
    path = objects.variant(objects.CT_REPORT, tmp_path / "path.dcm")
    with real.a_worker(site, database) as worker:
        assert isinstance(imported(worker, first), Proof)
        assert isinstance(imported(worker, path), Proof)
        crash(site)
    with real.a_worker(site, database) as worker:
        assert isinstance(judged(path, worker.prove(bytes(path), Importer.RDSR)), Proof)


@pytest.mark.usefixtures("lazy")
@pytest.mark.parametrize("asked", ["imported again", "asked for"])
def test_what_is_found_to_be_there_outlives_a_crash_of_postgresql(
    site: Site, database: str, asked: str, tmp_path: Path
) -> None:
    """Somebody else imported it, and that commit is not yet written."""
    path = objects.variant(objects.DX_IMAGE, tmp_path / "path.dcm")
    with real.a_worker(site, database) as worker:
        worker.hello()
        real.plain_import(site, database, [(Importer.DX, path)])
        if asked == "imported again":
            assert isinstance(imported(worker, path), Proof)
        else:
            assert isinstance(judged(path, worker.prove(bytes(path), Importer.DX)), Proof)
        crash(site)
    with real.a_worker(site, database) as worker:
        assert isinstance(judged(path, worker.prove(bytes(path), Importer.DX)), Proof)
