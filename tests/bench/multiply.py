"""Makes many studies of a few real objects: each copy is new to OpenREM in every respect.

An object is parsed once and written with a token wherever a copy must differ: in all UIDs of
instances and events, consistently, so that references within the object hold; and in what
identifies patient and order. A copy is then its bytes with the token replaced by a number of the
same length. So a copy has the transfer syntax, the encoding and the size of every other.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydicom import dcmread, dcmwrite
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import UID

_TOKEN = b"602214076137"  # of the length of each copy's number
_FIRST = 700_000_000_000

_STANDARD = "1.2.840.10008."  # classes, transfer syntaxes and code tables: the same for all
# They name a class or a table, too, but some vendors' are under roots of their own.
_NOT_OF_INSTANCES = frozenset(
    BaseTag(tag_for_keyword(keyword) or 0)
    for keyword in (
        "SOPClassUID",
        "ReferencedSOPClassUID",
        "RelatedGeneralSOPClassUID",
        "OriginalSpecializedSOPClassUID",
        "CodingSchemeUID",
        "ContextUID",
        "ContextGroupExtensionCreatorUID",
        "MappingResourceUID",
        "TransferSyntaxUID",
    )
)
# What differs between the exposures of one study.
_OF_AN_EXPOSURE = frozenset({"SOPInstanceUID", "IrradiationEventUID"})
_APART = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stencil:
    """An object with a token for what differs."""

    name: str
    content: bytes

    def copy(self, number: int) -> bytes:
        """The copy of this number, which is part of a study of this number."""
        return self.content.replace(_TOKEN, str(_FIRST + number).encode("ascii"))


def study_of_one(path: Path) -> Stencil:
    """Cut the stencil of a study that has this object alone."""
    return _cut(path, exposure=0)


def study_of_images(path: Path, images: int) -> list[Stencil]:
    """Cut the stencils of a study of so many images, taken one after the other."""
    return [_cut(path, exposure=exposure) for exposure in range(images)]


def copies(stencils: Sequence[Stencil], studies: int, first: int = 0) -> Iterator[bytes]:
    """So many copies of each, in turns, as they come from many scanners at work."""
    for number in range(first, first + studies):
        for stencil in stencils:
            yield stencil.copy(number)


def _cut(path: Path, *, exposure: int) -> Stencil:
    dataset = dcmread(path)
    if _TOKEN in path.read_bytes():
        raise ValueError(f"{path.name} has the token by itself")
    _Renaming(path.name, exposure).rename(dataset)
    _put(dataset, "PatientName", f"Bench^{_TOKEN.decode()}")
    _put(dataset, "PatientID", f"B{_TOKEN.decode()}")
    _put(dataset, "AccessionNumber", f"A{_TOKEN.decode()}")
    if exposure:
        _take_later(dataset, exposure * _APART)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return Stencil(name=path.name, content=buffer.getvalue())


class _Renaming:
    """New UIDs for those of instances, the same for the same."""

    def __init__(self, name: str, exposure: int) -> None:
        # Copies of different objects have the same number: their UIDs must differ, too.
        self._of_object = sum(ord(letter) * 131**at for at, letter in enumerate(name)) % 10**9
        self._exposure = exposure
        self._known: list[str] = []

    def rename(self, dataset: Dataset) -> None:
        """All UIDs in it, on any level."""
        dataset.walk(self._rename)

    def _rename(self, _level: Dataset, element: DataElement) -> None:
        if element.VR != "UI" or element.tag in _NOT_OF_INSTANCES or not element.value:
            return
        of_exposure = element.keyword in _OF_AN_EXPOSURE
        if isinstance(element.value, MultiValue):
            element.value = [self._new(uid, of_exposure) for uid in element.value]
        else:
            element.value = self._new(element.value, of_exposure)

    def _new(self, uid: UID, of_exposure: bool) -> UID:
        if uid.startswith(_STANDARD):
            return uid
        if uid not in self._known:
            self._known.append(uid)
        at = self._known.index(uid)
        exposure = self._exposure if of_exposure else 0
        return UID(f"2.25.{_TOKEN.decode()}{self._of_object:09d}{exposure:02d}{at:05d}")


def _put(dataset: FileDataset, keyword: str, value: str) -> None:
    if keyword in dataset:  # OpenREM reads some objects differently where it is missing
        dataset[keyword].value = value


def _take_later(dataset: FileDataset, later: timedelta) -> None:
    """Twins are told by their times: another exposure has others."""
    for keyword in ("AcquisitionTime", "ContentTime"):
        if dataset.get(keyword):
            clock = str(dataset[keyword].value)
            moved = datetime.strptime(clock[:6], "%H%M%S") + later  # noqa: DTZ007 - a clock time
            dataset[keyword].value = moved.strftime("%H%M%S") + clock[6:]
