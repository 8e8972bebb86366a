"""The committed samples are what their maker makes and what their names say."""

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from runpy import run_path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

SAMPLES = Path(__file__).resolve().parents[2] / "sample_data"
MAKE = SAMPLES / "make.py"

DOSE_SR = "1.2.840.10008.5.1.4.1.1.88.67"
ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
MAMMO = "1.2.840.10008.5.1.4.1.1.1.2"

WHOLE_OBJECTS = {
    "sr/ct-dose-report.dcm": (DOSE_SR, "SR"),
    "sr/fluoroscopy-dose-report.dcm": (DOSE_SR, "SR"),
    "sr/mammography-dose-report.dcm": (DOSE_SR, "SR"),
    "sr/enhanced-sr-not-dose.dcm": (ENHANCED_SR, "SR"),
    "dx/dx-1.dcm": (DX, "DX"),
    "dx/dx-2.dcm": (DX, "DX"),
    "mammo/mammo-left.dcm": (MAMMO, "MG"),
    "mammo/mammo-right.dcm": (MAMMO, "MG"),
}
OTHERS = {"sr/truncated-dose-report.dcm", "sr/notes.txt"}
PAIRS = [("dx/dx-1.dcm", "dx/dx-2.dcm"), ("mammo/mammo-left.dcm", "mammo/mammo-right.dcm")]


def read(name: str) -> Dataset:
    return dcmread(SAMPLES / name)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.glob("*/*") if path.parent.name != "__pycache__")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def concept(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def children(item: Dataset, value: str) -> list[Dataset]:
    """The direct children of that concept."""
    return [child for child in item.ContentSequence if concept(child) == value]


def number(item: Dataset, value: str) -> Decimal:
    """The one number of that concept directly below."""
    (child,) = children(item, value)
    return Decimal(str(child.MeasuredValueSequence[0].NumericValue))


def test_making_them_again_gives_the_same_bytes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, MAKE, "--into", tmp_path], check=True)

    assert contents(tmp_path) == contents(SAMPLES)


def test_no_sample_is_missing_or_unknown() -> None:
    assert set(contents(SAMPLES)) == WHOLE_OBJECTS.keys() | OTHERS


@pytest.mark.parametrize("name", WHOLE_OBJECTS)
def test_is_a_whole_object_of_its_kind(name: str) -> None:
    sample = read(name)

    assert (sample.SOPClassUID, sample.Modality) == WHOLE_OBJECTS[name]
    assert sample.file_meta.MediaStorageSOPClassUID == sample.SOPClassUID
    assert sample.file_meta.MediaStorageSOPInstanceUID == sample.SOPInstanceUID
    assert sample.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert sample.StudyDate
    assert sample.StudyTime


@pytest.mark.parametrize("name", WHOLE_OBJECTS)
def test_is_obviously_about_nobody(name: str) -> None:
    sample = read(name)

    assert str(sample.PatientName).startswith("Sample^")
    assert str(sample.PatientID).startswith("SAMPLE-")
    assert sample.Manufacturer == "openrem-ingest"
    assert len(sample.StationName) <= 16


def test_no_two_share_an_instance_uid() -> None:
    assert len({read(name).SOPInstanceUID for name in WHOLE_OBJECTS}) == len(WHOLE_OBJECTS)


def test_only_the_pairs_share_a_study() -> None:
    studies = {name: read(name).StudyInstanceUID for name in WHOLE_OBJECTS}

    assert len(set(studies.values())) == len(WHOLE_OBJECTS) - len(PAIRS)
    assert all(studies[one] == studies[other] for one, other in PAIRS)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_images_of_a_pair_are_two_exposures(pair: tuple[str, str]) -> None:
    """OpenREM takes two images of one acquisition time for one exposure."""
    times = {str(read(name).AcquisitionTime) for name in pair}

    assert len(times) == 2
    assert all("." in time for time in times)


def test_the_mammograms_are_of_left_and_right() -> None:
    assert read("mammo/mammo-left.dcm").ImageLaterality == "L"
    assert read("mammo/mammo-right.dcm").ImageLaterality == "R"


@pytest.mark.parametrize(
    ("name", "template", "event", "events"),
    [
        ("sr/ct-dose-report.dcm", "10011", "113819", 3),
        ("sr/fluoroscopy-dose-report.dcm", "10001", "113706", 4),
        ("sr/mammography-dose-report.dcm", "10001", "113706", 4),
    ],
)
def test_a_dose_report_has_its_events(name: str, template: str, event: str, events: int) -> None:
    report = read(name)
    found = children(report, event)

    assert concept(report) == "113701"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == template
    assert len(found) == events
    assert len({children(item, "113769")[0].UID for item in found}) == events


def test_the_ct_total_is_the_sum_of_its_acquisitions() -> None:
    report = read("sr/ct-dose-report.dcm")
    (totals,) = children(report, "113811")
    doses = [children(scan, "113829")[0] for scan in children(report, "113819")]

    assert number(totals, "113813") == sum(number(dose, "113838") for dose in doses)
    assert number(totals, "113813") == Decimal("575.20")


def test_the_fluoroscopy_totals_are_the_sums_of_its_events() -> None:
    report = read("sr/fluoroscopy-dose-report.dcm")
    (totals,) = children(report, "113702")
    events = children(report, "113706")

    assert number(totals, "113722") == sum(number(event, "122130") for event in events)
    assert number(totals, "113725") == sum(number(event, "113738") for event in events)


def test_the_mammography_totals_are_the_sum_of_its_exposures() -> None:
    report = read("sr/mammography-dose-report.dcm")
    (totals,) = children(report, "113702")
    breasts = children(totals, "111637")
    total = sum(Decimal(str(one.MeasuredValueSequence[0].NumericValue)) for one in breasts)

    assert len(breasts) == 2
    assert total == sum(number(event, "111631") for event in children(report, "113706"))


def test_the_enhanced_sr_is_no_dose_report() -> None:
    assert concept(read("sr/enhanced-sr-not-dose.dcm")) != "113701"


def test_the_truncated_report_is_the_beginning_of_a_whole_one(tmp_path: Path) -> None:
    whole = tmp_path / "whole.dcm"
    whole.write_bytes(run_path(str(MAKE))["whole_dose_report"]())
    cut = SAMPLES / "sr/truncated-dose-report.dcm"

    assert whole.read_bytes().startswith(cut.read_bytes())
    assert cut.stat().st_size < whole.stat().st_size
    assert len(children(dcmread(whole), "113819")) == 3
    assert len(children(dcmread(cut), "113819")) == 2  # and not a word of complaint


def test_the_notes_are_text() -> None:
    assert len((SAMPLES / "sr/notes.txt").read_text(encoding="ascii").splitlines()) == 2
