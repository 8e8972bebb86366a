"""Synthetic CT studies of a Toshiba Aquilion: images, and the dose screen that PixelMed reads.

Whoever has no such scanner can still write what it would show on its dose screen: with the
letters that PixelMed knows, which are in its own jar.
"""

import array
import io
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from tests.system.harness import new_uid

JAR = Path("/usr/share/java/pixelmed.jar")
JAVA = Path("/usr/bin/java")
WIDTH = 800  # pixels of a dose screen
LINE = 30  # pixels between its lines
WORD_GAP, LETTER_GAP = 22, 3  # PixelMed takes what is nearer than 13 for one word
INK, PAPER = 1000, -1000

Letter = tuple[int, tuple[int, ...]]  # width, and which pixels of the letter's box have ink


@dataclass(frozen=True, slots=True)
class Scan:
    """One acquisition."""

    ctdivol: float
    dlp: float


TWO_SCANS = (Scan(2.5, 101.5), Scan(7.5, 205.5))


def study(
    scans: Sequence[Scan] = TWO_SCANS,
    *,
    slices: int = 2,
    screen: bool = True,
    uid: str = "",
) -> list[bytes]:
    """All images of one study: those of each scan, then the dose screen."""
    uid = uid or new_uid()
    images = [
        written(_slice(uid, number, scan, place))
        for number, scan in enumerate(scans, start=1)
        for place in range(slices)
    ]
    return [*images, written(dose_screen(uid, scans))] if screen else images


def written(dataset: Dataset) -> bytes:
    """An object's bytes."""
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _slice(study_uid: str, number: int, scan: Scan, place: int) -> Dataset:
    image = _image(study_uid, CTImageStorage, rows=4, columns=4, pixels=[0] * 16)
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.SeriesNumber = image.AcquisitionNumber = str(number)
    image.AcquisitionTime = f"0916{number:02d}.000"
    image.ProtocolName = "Chest"
    image.KVP, image.ExposureTime, image.XRayTubeCurrent = "120", "500", "200"
    image.SpiralPitchFactor = 0.8
    image.SliceThickness, image.SliceLocation = "5", str(5 * place)
    image.ImagePositionPatient = [0, 0, 5 * place]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.PixelSpacing = [1, 1]
    private = image.private_block(0x7005, "TOSHIBA_MEC_CT3", create=True)
    private.add_new(0x40, "FD", scan.dlp)
    private.add_new(0x63, "FD", scan.ctdivol)
    return image


def dose_screen(study_uid: str, scans: Sequence[Scan]) -> Dataset:
    """The secondary capture of the scanner's dose screen."""
    lines = ["PAGE 1", "<< DETAIL INFORMATION >>", "TOTAL MAS EXPOSURE TIME CTDIVOL DLP"]
    lines += [f"HELICAL 100 5.2 {scan.ctdivol}(BODY) {scan.dlp}(BODY)" for scan in scans]
    rows = LINE * (len(lines) + 1)
    pixels = [PAPER] * (rows * WIDTH)
    for at in _ink(lines):
        pixels[at] = INK
    screen = _image(
        study_uid, SecondaryCaptureImageStorage, rows=rows, columns=WIDTH, pixels=pixels
    )
    screen.ImageType = ["DERIVED", "SECONDARY"]
    screen.ConversionType = "WSD"
    screen.SeriesNumber = "1000"
    screen.WindowWidth, screen.WindowCenter = "1", "0"
    return screen


def _ink(lines: Sequence[str]) -> Iterator[int]:
    """Where the pixels of these lines are."""
    letters = _letters()
    for number, line in enumerate(lines):
        x, top = LETTER_GAP, LINE * number + LETTER_GAP
        for character in line:
            if character == " ":
                x += WORD_GAP
                continue
            width, pixels = letters[character]
            for pixel in pixels:
                yield (top + pixel // width) * WIDTH + x + pixel % width
            x += width + LETTER_GAP


@cache
def _letters() -> dict[str, Letter]:
    """The smallest letter for each character that PixelMed knows, if it is of one piece."""
    with zipfile.ZipFile(JAR) as jar:
        glyphs = ET.fromstring(jar.read("com/pixelmed/doseocr/OCR_Glyphs_DoseScreen.xml"))  # noqa: S314
    found: dict[str, Letter] = {}
    for glyph in glyphs:
        name = (glyph.findtext("string") or "").strip().upper()
        width = int(glyph.findtext("width") or 0)
        pixels = tuple(int(bit.text or 0) for bit in glyph.iter("bit"))
        is_smaller = name not in found or len(pixels) < len(found[name][1])
        if len(name) == 1 and is_smaller and _is_of_one_piece(width, pixels):
            found[name] = width, pixels
    return found


def _is_of_one_piece(width: int, pixels: Sequence[int]) -> bool:
    left = {divmod(pixel, width) for pixel in pixels}
    reached = [left.pop()]
    while reached:
        y, x = reached.pop()
        near = {(y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
        left -= near
        reached += near
    return not left


def _image(
    study_uid: str, sop_class: UID, *, rows: int, columns: int, pixels: Sequence[int]
) -> Dataset:
    """What all images of the scanner have."""
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = sop_class, new_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = study_uid, new_uid()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = sop_class
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20240304"
    image.StudyTime = image.SeriesTime = image.ContentTime = "091500"
    image.Modality = "CT"
    image.Manufacturer, image.ManufacturerModelName = "TOSHIBA", "Aquilion"
    image.StationName, image.DeviceSerialNumber, image.SoftwareVersions = "CT1", "1", "V1"
    image.InstitutionName = "Sample Hospital"
    image.PatientName, image.PatientID, image.PatientSex = "Sample^Toshiba", "T1", "O"
    image.PatientBirthDate = "19500101"
    image.StudyID, image.AccessionNumber, image.StudyDescription = "1", "T1", "CHEST"
    image.InstanceNumber = "1"
    image.Rows, image.Columns = rows, columns
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.PixelRepresentation = 1
    image.PixelData = array.array("h", pixels).tobytes()
    return image
