"""Makes DICOM objects for tests out of the synthetic samples: fresh UIDs, other content."""

from collections.abc import Callable
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import generate_uid

SAMPLES = Path(__file__).parents[1] / "sample_data"
CT_REPORT = SAMPLES / "sr" / "ct-dose-report.dcm"
RF_REPORT = SAMPLES / "sr" / "fluoroscopy-dose-report.dcm"
DX_IMAGE = SAMPLES / "dx" / "dx-1.dcm"
MG_IMAGE = SAMPLES / "mammo" / "mammo-left.dcm"

_EVENTS = {"113706": "113769", "113819": "113769"}  # container, and the UID item in it


def write(dataset: FileDataset, path: Path) -> Path:
    """Write an object with the file meta that belongs to it."""
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def variant(
    sample: Path, target: Path, change: Callable[[FileDataset], None] = lambda _dataset: None
) -> Path:
    """Another object like a sample: own SOP Instance and Study UID, own events."""
    dataset = pydicom.dcmread(sample)
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    renew_events(dataset)
    change(dataset)
    return write(dataset, target)


def renew_events(dataset: Dataset) -> None:
    """Give each irradiation event of a dose report a UID of its own."""
    for container in events(dataset):
        for item in container.ContentSequence:
            if item.ConceptNameCodeSequence[0].CodeValue == _EVENTS[_concept(container)]:
                item.UID = generate_uid()


def remove_event_uids(dataset: Dataset) -> None:
    """Take the UIDs of all irradiation events of a dose report away."""
    for container in events(dataset):
        uid = _EVENTS[_concept(container)]
        container.ContentSequence = [
            item for item in container.ContentSequence if _concept(item) != uid
        ]


def events(dataset: Dataset) -> list[Dataset]:
    """The event containers of a dose report."""
    return [item for item in dataset.get("ContentSequence", []) if _concept(item) in _EVENTS]


def without_last_event(dataset: Dataset) -> None:
    """Make it an earlier report of the same examination."""
    last = events(dataset)[-1]
    dataset.ContentSequence = [item for item in dataset.ContentSequence if item is not last]
    dataset.SOPInstanceUID = generate_uid()


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""
