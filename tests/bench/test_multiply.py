"""A multiplied object is new to OpenREM, and otherwise what its original is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from ingest import dicom
from tests.bench import bare, mixes
from tests.bench.mixes import Work
from tests.bench.multiply import study_of_images, study_of_one
from tests.bench.place import Place

# One of each importer, and of each kind of dose report.
REAL = [
    "CT-ESR-GE_Optima.dcm",
    "CT-RDSR-Siemens_Flash-TAP-SS.dcm",
    "CT-SC-Philips_Brilliance16P.dcm",
    "DX-Im-GE_XR220-1.dcm",
    "MG-Im-Hologic-PropProj.dcm",
    "NM-PetIm-GE.dcm",
    "NM-RRDSR-Siemens.dcm",
    "RF-RDSR-GE.dcm",
]


def uids(dataset: Dataset) -> Iterator[str]:
    """All UIDs of an object, on any level, in order."""
    for element in dataset.iterall():
        if element.VR == "UI" and element.value:
            yield from [element.value] if isinstance(element.value, str) else element.value


def schemes(dataset: Dataset) -> set[str]:
    """The UIDs of the code tables that an object refers to."""
    return {element.value for element in dataset.iterall() if element.keyword == "CodingSchemeUID"}


@pytest.mark.parametrize("name", REAL)
def test_a_copy_is_of_the_kind_of_its_original(
    name: str, corpus: dict[str, Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(study_of_one(corpus[name]).copy(7))

    assert mixes.importer_of(copy) is mixes.importer_of(corpus[name])
    assert dicom.look(copy).structure == dicom.look(corpus[name]).structure
    syntaxes = {dcmread(path).file_meta.TransferSyntaxUID for path in (copy, corpus[name])}
    assert len(syntaxes) == 1


@pytest.mark.parametrize("name", REAL)
def test_uids_of_instances_are_replaced_consistently(
    name: str, corpus: dict[str, Path], tmp_path: Path
) -> None:
    stencil = study_of_one(corpus[name])
    copies = [tmp_path / "1.dcm", tmp_path / "2.dcm"]
    for number, path in enumerate(copies):
        path.write_bytes(stencil.copy(number))

    first, second, original = (list(uids(dcmread(path))) for path in (*copies, corpus[name]))
    renamed = dict(zip(original, first, strict=True))
    assert [renamed[uid] for uid in original] == first
    assert len(set(first)) == len(set(original))
    dataset = dcmread(copies[0])
    standard = {uid for uid in first if uid.startswith("1.2.840.10008.")}
    assert set(first) & set(second) == set(first) & set(original)
    assert set(first) & set(second) <= standard | schemes(dataset)
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID


def test_images_of_a_study_differ_in_uid_and_time(corpus: dict[str, Path], tmp_path: Path) -> None:
    images = []
    for number, stencil in enumerate(study_of_images(corpus["DX-Im-GE_XR220-1.dcm"], 4)):
        (tmp_path / f"{number}.dcm").write_bytes(stencil.copy(0))
        images.append(dcmread(tmp_path / f"{number}.dcm"))

    assert len({image.StudyInstanceUID for image in images}) == 1
    assert len({image.SOPInstanceUID for image in images}) == 4
    assert len({image.AcquisitionTime for image in images}) == 4


def test_openrem_makes_a_study_of_each_copy_with_the_events_of_its_original(
    place: Place, corpus: dict[str, Path]
) -> None:
    mix = mixes.small(corpus[name] for name in REAL)
    originals = [
        Work(importer=pattern.importer, path=corpus[pattern.stencil.name])
        for pattern in mix.patterns
    ]
    with bare.in_processes(1).started(place) as loop:
        loop.feed(originals)
        once = place.rows()
        loop.feed(mixes.lay_out(mix, place.folder / "work", 2))
        twice = place.rows().since(once)

        assert loop.failed() == 0
    assert once.studies == len(REAL)
    assert (twice.studies, twice.events) == (2 * once.studies, 2 * once.events)
    assert twice.double_scanners == 0


def test_openrem_counts_each_image_of_a_study_of_four(
    place: Place, corpus: dict[str, Path]
) -> None:
    mix = mixes.images([corpus["DX-Im-DRGEM.dcm"], corpus["MG-Im-GE_Seno_1_ForProcessing.dcm"]])
    with bare.in_processes(1).started(place) as loop:
        loop.feed(mixes.lay_out(mix, place.folder / "work", 1))

        assert loop.failed() == 0
    rows = place.rows()
    assert (rows.studies, rows.events) == (2, 8)
