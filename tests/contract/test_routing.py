"""The built-in routing against OpenREM's extractors themselves: each is called with each object."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

from ingest import dicom, routing
from ingest.model import ONE_BY_ONE, Done, Import, Importer, Outcome
from ingest.openrem.importers import Worker
from ingest.openrem.site import Site, query
from tests.contract import real
from tests.objects import CT_REPORT, DX_IMAGE, MG_IMAGE, variant
from tests.strategies import STORAGE

Change = Callable[[FileDataset], None]


def _class(tail: str, **elements: object) -> Change:
    def change(dataset: FileDataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(STORAGE + tail)
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)

    return change


def _titled(tail: str, code: str, scheme: str = "DCM") -> Change:
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = code, scheme, "a title"
    return _class(tail, ConceptNameCodeSequence=[title])


PHILIPS = {"Manufacturer": "Philips", "SeriesDescription": "Dose Info", "Modality": "CT"}
ORIGINAL = {"Modality": "MG", "ImageType": ["ORIGINAL", "PRIMARY"]}

# By what OpenREM looks at: the SOP class, a report's title, and a few elements of captures.
MADE: dict[str, tuple[Path, Change]] = {
    **{
        f"image {tail}": (DX_IMAGE, _class(tail))
        for tail in (
            *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "2", "2.1", "4", "7.1", "7.4"),
            *("12.1", "12.2", "13.1.3", "13.1.4", "13.1.5", "130", "104.1"),
        )
    },
    "image 1.1 of modality XX": (DX_IMAGE, _class("1.1", Modality="XX")),
    "image 1.1 of modality MG": (DX_IMAGE, _class("1.1", Modality="MG")),
    "mammogram of modality DX": (MG_IMAGE, _class("1.2", Modality="DX")),
    "mammogram as a capture": (MG_IMAGE, _class("7", **ORIGINAL)),
    "derived mammogram as a capture": (
        MG_IMAGE,
        _class("7", Modality="MG", ImageType=["DERIVED", "SECONDARY"]),
    ),
    "radiograph as a capture": (DX_IMAGE, _class("7", Modality="DX", ImageType=["ORIGINAL"])),
    "capture": (DX_IMAGE, _class("7", Modality="OT", ImageType=["DERIVED", "SECONDARY"])),
    "Philips, other words": (DX_IMAGE, _class("7", **PHILIPS | {"SeriesDescription": "dose info"})),
    "Philips, other name": (
        DX_IMAGE,
        _class("7", **PHILIPS | {"Manufacturer": "Philips Medical Systems"}),
    ),
    "Philips, other class": (DX_IMAGE, _class("2", **PHILIPS)),
    **{
        f"report {tail} {code} {scheme}": (CT_REPORT, _titled(tail, code, scheme))
        for tail in ("88.67", "88.22", "88.68", "88.33", "88.11")
        for code, scheme in (
            *(("113701", "DCM"), ("113500", "DCM"), ("121181", "DCM")),
            *(("C-10", "99SMS_RADSUM"), ("C-10", "DCM"), ("C-11", "99SMS_RADSUM")),
        )
    },
}


def is_accepted(outcome: Outcome) -> bool:
    """Did OpenREM store anything of it? The importer for NM says that all is well anyway."""
    if not isinstance(outcome, Done) or outcome.facts.refused:
        return False
    return any(study.has_sop or study.has_ct_dose for study in outcome.facts.studies)


def routed(path: Path) -> Importer | None:
    """What we would call."""
    header = dicom.look(path).header
    assert header is not None
    decision = routing.route(header)
    return decision.importer if isinstance(decision, Import) else None


def accepting(worker: Worker, path: Path, importers: list[Importer]) -> set[Importer]:
    """Those of OpenREM's importers that take it."""
    return {one for one in importers if is_accepted(worker.import_object(bytes(path), one))}


@pytest.mark.timeout(300)
def test_what_is_made_goes_where_openrems_own_extractors_take_it(
    site: Site, database: str, tmp_path: Path
) -> None:
    """And nowhere where none does."""
    wrong: dict[str, object] = {}
    with real.a_worker(site, database) as worker:
        for name, (sample, change) in MADE.items():
            path = variant(sample, tmp_path / "x.dcm", change)
            ours = routed(path)
            taken = accepting(worker, path, sorted(ONE_BY_ONE, key=lambda one: one is ours))
            if taken != ({ours} if ours else set()):
                wrong[name] = (ours, taken)
    assert wrong == {}


@pytest.mark.timeout(300)
def test_no_other_extractor_takes_an_object_of_openrems_own_tests(
    site: Site, database: str, corpus: dict[str, Path]
) -> None:
    """Called plainly. That the chosen one does is shown with all of them in test_corpus.py."""
    chosen = list(real.not_too_large(corpus).values())
    others = [(one, path) for path in chosen for one in ONE_BY_ONE if one is not routed(path)]
    assert len(others) == (len(chosen) - 1) * 4 + 5
    real.plain_import(site, database, others)
    assert query(site, "SELECT count(*) FROM remapp_generalstudymoduleattr", database) == [("0",)]
    # And would have been taken, had it been the right one.
    path = corpus["DX-Im-GE_XR220-1.dcm"]
    real.plain_import(site, database, [(Importer.DX, path)])
    assert query(site, "SELECT count(*) FROM remapp_generalstudymoduleattr", database) == [("1",)]
