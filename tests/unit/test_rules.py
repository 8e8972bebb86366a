"""`ingest.rules`: each object goes to the importer of OpenREM's that accepts it, or none does."""

from pathlib import Path

import pytest
from hypothesis import given

from ingest import dicom
from ingest.errors import Kind, Reason
from ingest.model import Decision, Header, Import, Importer, Reject
from ingest.routing import study_order
from ingest.rules import decide
from tests.strategies import STORAGE, a_header, headers

ACCEPTED = {
    "1": Importer.DX,
    "1.1": Importer.DX,
    "1.1.1": Importer.DX,
    "1.2": Importer.MG,
    "1.2.1": Importer.MG,
    "20": Importer.NM,
    "128": Importer.NM,
}
REFUSED = {
    "13.1.3": Reason.TOMOSYNTHESIS,
    "13.1.4": Reason.TOMOSYNTHESIS,
    "13.1.5": Reason.TOMOSYNTHESIS,
    "2": Reason.UNSUPPORTED_OBJECT,  # CT image
    "4": Reason.UNSUPPORTED_OBJECT,  # MR image
    "1.3": Reason.UNSUPPORTED_OBJECT,  # intra-oral X-ray image
    "12.1": Reason.UNSUPPORTED_OBJECT,  # angiography
    "7.4": Reason.UNSUPPORTED_OBJECT,  # multi-frame secondary capture
    "130": Reason.UNSUPPORTED_OBJECT,  # Enhanced PET image
    "88.11": Reason.NOT_A_DOSE_REPORT,  # Basic Text SR
    "88.33": Reason.NOT_A_DOSE_REPORT,  # Comprehensive SR
    "88.59": Reason.NOT_A_DOSE_REPORT,  # Key Object Selection
    "88.76": Reason.NOT_A_DOSE_REPORT,
}
REPORTS = [
    ("88.67", "113701", "DCM", True),
    ("88.67", "113500", "DCM", False),
    ("88.67", "121181", "DCM", False),
    ("88.67", "", "", False),
    ("88.67", "C-10", "99SMS_RADSUM", False),
    ("88.22", "113701", "DCM", True),
    ("88.22", "C-10", "99SMS_RADSUM", True),
    ("88.22", "C-10", "DCM", False),
    ("88.22", "C-11", "99SMS_RADSUM", False),
    ("88.22", "113500", "DCM", False),
    ("88.68", "113500", "DCM", True),
    ("88.68", "113701", "DCM", False),
]
# By the first words of the file names in OpenREM's own tests, the first that fits.
CORPUS = {
    "ESR_non-dose": None,
    "CT-SC-Philips": Importer.CTPHILIPS,
    "DX-Im": Importer.DX,
    "PX-Im": Importer.DX,
    "MG-Im": Importer.MG,
    "NM-NmIm": Importer.NM,
    "NM-PetIm": Importer.NM,
    "": Importer.RDSR,
}


def importer_of(decision: Decision) -> Importer | None:
    return decision.importer if isinstance(decision, Import) else None


def reason_of(decision: Decision) -> Reason | None:
    return decision.reason if isinstance(decision, Reject) else None


@pytest.mark.parametrize(("tail", "importer"), ACCEPTED.items())
@pytest.mark.parametrize("modality", ["DX", "MG", "XX", ""])
def test_an_image_goes_by_its_sop_class_whatever_its_modality(
    tail: str, importer: Importer, modality: str
) -> None:
    """OpenREM imports a DX image of modality XX."""
    header = a_header(sop_class_uid=STORAGE + tail, modality=modality)

    assert importer_of(decide(header)) is importer


@pytest.mark.parametrize(("tail", "reason"), REFUSED.items())
def test_what_openrem_has_no_importer_for_is_refused(tail: str, reason: Reason) -> None:
    header = a_header(sop_class_uid=STORAGE + tail, modality="MG", manufacturer="Philips")

    assert reason_of(decide(header)) is reason


@pytest.mark.parametrize(("tail", "code", "scheme", "accepted"), REPORTS)
def test_a_report_goes_by_its_title(tail: str, code: str, scheme: str, accepted: bool) -> None:
    decision = decide(
        a_header(sop_class_uid=STORAGE + tail, title_code=code, title_scheme=scheme, modality="SR")
    )

    if accepted:
        assert importer_of(decision) is Importer.RDSR
    else:
        assert reason_of(decision) is Reason.NOT_A_DOSE_REPORT


@pytest.mark.parametrize(
    ("manufacturer", "description", "accepted"),
    [
        ("Philips", "Dose Info", True),
        ("Philips Medical Systems", "Dose Info", False),
        ("philips", "Dose Info", False),
        ("Philips", "dose info", False),
        ("Philips", "Dose Info ", False),
        ("Philips", "", False),
        ("", "Dose Info", False),
    ],
)
def test_philips_dose_info_is_matched_exactly_as_openrem_does(
    manufacturer: str, description: str, accepted: bool
) -> None:
    decision = decide(
        a_header(
            sop_class_uid=STORAGE + "7",
            modality="CT",
            manufacturer=manufacturer,
            series_description=description,
        )
    )

    if accepted:
        assert importer_of(decision) is Importer.CTPHILIPS
    else:
        assert reason_of(decision) is Reason.UNSUPPORTED_SECONDARY_CAPTURE


@pytest.mark.parametrize(
    ("modality", "image_type", "accepted"),
    [
        ("MG", ("ORIGINAL", "PRIMARY"), True),
        ("MG", ("DERIVED", "ORIGINAL"), True),
        ("MG", ("DERIVED", "PRIMARY"), False),
        ("MG", (), False),
        ("CT", ("ORIGINAL",), False),
    ],
)
def test_of_secondary_captures_original_mammograms_are_read(
    modality: str, image_type: tuple[str, ...], accepted: bool
) -> None:
    decision = decide(
        a_header(sop_class_uid=STORAGE + "7", modality=modality, image_type=image_type)
    )

    if accepted:
        assert importer_of(decision) is Importer.MG
    else:
        assert reason_of(decision) is Reason.UNSUPPORTED_SECONDARY_CAPTURE


@pytest.mark.parametrize(
    ("changes", "needs_time"),
    [
        ({"sop_class_uid": STORAGE + "1.1"}, True),
        ({"sop_class_uid": STORAGE + "1.2"}, True),
        (
            {
                "sop_class_uid": STORAGE + "7",
                "manufacturer": "Philips",
                "series_description": "Dose Info",
            },
            True,
        ),
        ({"sop_class_uid": STORAGE + "20"}, False),
        ({"sop_class_uid": STORAGE + "128"}, False),
        ({"sop_class_uid": STORAGE + "88.67", "title_code": "113701"}, False),
    ],
)
def test_openrem_needs_the_study_time_of_some(changes: dict[str, object], needs_time: bool) -> None:
    decision = decide(a_header(study_time="", **changes))

    if needs_time:
        assert reason_of(decision) is Reason.NO_STUDY_TIME
    else:
        assert isinstance(decision, Import)


@given(header=headers)
def test_every_header_has_a_decision_that_explains_itself(header: Header) -> None:
    decision = decide(header)

    assert decision.because
    assert isinstance(decision, Import | Reject)
    if isinstance(decision, Reject):
        assert decision.reason.kind is Kind.PERMANENT
        assert decision.reason.next_step
    if isinstance(decision, Import) and decision.importer is Importer.CTPHILIPS:
        assert (header.manufacturer, header.series_description) == ("Philips", "Dose Info")


@given(header=headers)
def test_a_study_order_can_be_told_of_every_header(header: Header) -> None:
    assert isinstance(study_order(header), str)


def test_a_backlog_is_sorted_by_the_studies_times() -> None:
    times = [
        ("", ""),
        ("19991231", "235959"),
        ("20240101", ""),
        ("20240101", "08"),
        ("20240101", "0830"),
        ("20240101", "083000.5"),
        ("20240102", "000000"),
    ]
    in_order = [study_order(a_header(study_date=date, study_time=time)) for date, time in times]

    assert in_order == sorted(in_order)


def test_the_old_forms_of_date_and_time_sort_with_the_new_ones() -> None:
    """PS3.5 section 6.2 tells of 1993.08.22 and 10:30:00 in objects older than DICOM 3.0."""
    new = a_header(study_date="19930822", study_time="103000")
    old = a_header(study_date="1993.08.22", study_time="10:30:00")

    assert study_order(old) == study_order(new)


def test_the_65_objects_of_openrems_own_tests_go_where_openrem_reads_them(
    corpus: dict[str, Path],
) -> None:
    found: dict[Importer | None, int] = {}
    for name, path in corpus.items():
        header = dicom.look(path).header
        assert header is not None, name
        decision = decide(header)
        importer = importer_of(decision)
        found[importer] = found.get(importer, 0) + 1
        if importer is None:
            assert name == "ESR_non-dose.dcm"
            assert reason_of(decision) is Reason.NOT_A_DOSE_REPORT

    assert found == {
        Importer.RDSR: 40,
        Importer.DX: 10,
        Importer.NM: 8,
        Importer.MG: 5,
        Importer.CTPHILIPS: 1,
        None: 1,
    }


def test_each_of_them_by_its_name(corpus: dict[str, Path]) -> None:
    for name, path in corpus.items():
        header = dicom.look(path).header
        assert header is not None
        expected = next(importer for head, importer in CORPUS.items() if name.startswith(head))
        assert importer_of(decide(header)) is expected, name
