"""Makes DICOM objects for tests out of the synthetic samples: fresh UIDs, other content."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid

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


def deflated(sample: Path, target: Path, zeros: int) -> Path:
    """A small file that unpacks to an object of its own with a private value of so many zeros."""
    dataset = pydicom.dcmread(sample)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    with target.open("wb") as file:
        file.write(bytes(128) + b"DICM")
        meta = DicomBytesIO()
        write_file_meta_info(meta, dataset.file_meta)
        file.write(meta.getvalue())
        file.write(packer.compress(_explicit(dataset[:0x0009_0000])))
        file.write(packer.compress(struct.pack("<HH2sHL", 9, 0x10, b"LO", 4, 0)[:8] + b"TEST"))
        file.write(packer.compress(struct.pack("<HH2sHL", 9, 0x1010, b"OB", 0, zeros)))
        for at in range(0, zeros, 1 << 20):
            file.write(packer.compress(bytes(min(1 << 20, zeros - at))))
        file.write(packer.compress(_explicit(dataset[0x000A_0000:])))
        file.write(packer.flush())
    return target


def _explicit(dataset: Dataset) -> bytes:
    """Elements without a head before them."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    dataset._read_little, dataset._read_implicit = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


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
