"""The built-in routing: which of OpenREM's importers reads an object, if any. A pure function.

The table is that of OpenREM's extractors, by what each really accepts: the SOP Class UID first,
then what OpenREM looks at besides (OpenREM ``remapp.extractors``, ``rdsr``,
``mam._test_if_mammo``, ``dx._test_if_dx``, ``nm_image``, ``ct_philips``). Content decides; the
drop folder that an object lies in is only a hint.
"""

import re

from ingest.errors import Reason
from ingest.model import Header, Import, Importer, Reject

_STORAGE = "1.2.840.10008.5.1.4.1.1."  # root of the Storage SOP Classes (PS3.4 annex B.5)

XRAY_DOSE_SR = _STORAGE + "88.67"
ENHANCED_SR = _STORAGE + "88.22"
RADIOPHARMACEUTICAL_DOSE_SR = _STORAGE + "88.68"
SECONDARY_CAPTURE = _STORAGE + "7"

XRAY_DOSE_REPORT = "113701"  # DCM, "X-Ray Radiation Dose Report" (PS3.16 TID 10001, 10011)
RADIOPHARMACEUTICAL_DOSE_REPORT = "113500"  # DCM (PS3.16 TID 10021)
SIEMENS_SUMMARY = ("99SMS_RADSUM", "C-10")  # Siemens Arcadis Varic, OpenREM ``rdsr``

_IMAGES: dict[str, tuple[Importer, str]] = {
    _STORAGE + "1.2": (Importer.MG, "a mammography image for presentation"),
    _STORAGE + "1.2.1": (Importer.MG, "a mammography image for processing"),
    _STORAGE + "1": (Importer.DX, "a computed radiography image"),
    _STORAGE + "1.1": (Importer.DX, "a digital X-ray image for presentation"),
    _STORAGE + "1.1.1": (Importer.DX, "a digital X-ray image for processing"),
    _STORAGE + "128": (Importer.NM, "a PET image"),
    _STORAGE + "20": (Importer.NM, "a nuclear medicine image"),
}

# OpenREM takes the Study Time of these without a fallback, and fails where there is none.
_NEEDS_STUDY_TIME = frozenset({Importer.MG, Importer.DX, Importer.CTPHILIPS})

_CODE = re.compile(r"[A-Za-z0-9.:_-]{1,16}", re.ASCII)  # Code Value is an SH (PS3.3 section 8)

_TOMOSYNTHESIS = {
    _STORAGE + "13.1.3": "a breast tomosynthesis image",
    _STORAGE + "13.1.4": "a breast projection image for presentation",
    _STORAGE + "13.1.5": "a breast projection image for processing",
}


def route(header: Header) -> Import | Reject:
    """The importer that reads the object with this header, or why none does."""
    decision = _by_sop_class(header)
    return check_study_time(header, decision) if isinstance(decision, Import) else decision


def check_study_time(header: Header, decision: Import) -> Import | Reject:
    """The decision, unless its importer fails on objects without a Study Time."""
    if decision.importer in _NEEDS_STUDY_TIME and not header.study_time:
        return Reject(
            reason=Reason.NO_STUDY_TIME, because="it has no readable Study Time", rule=decision.rule
        )
    return decision


def _by_sop_class(header: Header) -> Import | Reject:
    uid = header.sop_class_uid
    if uid in (XRAY_DOSE_SR, ENHANCED_SR, RADIOPHARMACEUTICAL_DOSE_SR):
        return _structured_report(header)
    if uid in _IMAGES:
        importer, what = _IMAGES[uid]
        return Import(importer=importer, because=f"its SOP class says it is {what}")
    if uid == SECONDARY_CAPTURE:
        return _secondary_capture(header)
    if uid in _TOMOSYNTHESIS:
        return Reject(reason=Reason.TOMOSYNTHESIS, because=f"it is {_TOMOSYNTHESIS[uid]}")
    if uid.startswith(_STORAGE + "88."):
        return Reject(reason=Reason.NOT_A_DOSE_REPORT, because=f"its SOP class is {uid}")
    return Reject(reason=Reason.UNSUPPORTED_OBJECT, because=f"its SOP class is {uid}")


def _structured_report(header: Header) -> Import | Reject:
    """OpenREM looks at the document title's code, for Enhanced SR also at a vendor's."""
    titles = {
        XRAY_DOSE_SR: (XRAY_DOSE_REPORT, "an X-ray dose report"),
        ENHANCED_SR: (XRAY_DOSE_REPORT, "an X-ray dose report in an Enhanced SR"),
        RADIOPHARMACEUTICAL_DOSE_SR: (
            RADIOPHARMACEUTICAL_DOSE_REPORT,
            "a radiopharmaceutical dose report",
        ),
    }
    code, what = titles[header.sop_class_uid]
    if header.title_code == code:
        return Import(importer=Importer.RDSR, because=f"its title says it is {what}")
    if (
        header.sop_class_uid == ENHANCED_SR
        and (header.title_scheme, header.title_code) == SIEMENS_SUMMARY
    ):
        return Import(importer=Importer.RDSR, because="it is a Siemens radiation summary")
    # A code has no blanks; whatever else a sender put there might be about a patient.
    title = header.title_code if _CODE.fullmatch(header.title_code) else "missing or no code"
    return Reject(reason=Reason.NOT_A_DOSE_REPORT, because=f"its title code is {title}")


def _secondary_capture(header: Header) -> Import | Reject:
    if header.modality == "MG" and "ORIGINAL" in header.image_type:
        return Import(
            importer=Importer.MG, because="it is an original mammogram sent as secondary capture"
        )
    if header.manufacturer == "Philips" and header.series_description == "Dose Info":
        return Import(importer=Importer.CTPHILIPS, because="it is a Philips CT dose info image")
    return Reject(
        reason=Reason.UNSUPPORTED_SECONDARY_CAPTURE, because="it is another secondary capture"
    )


AFTER_ALL_STUDIES = "~"  # for what needs that they are there


def study_order(header: Header) -> str:
    """Sorts a backlog oldest study first: OpenREM's weekly sums take in earlier studies only."""
    day = header.study_date.replace(".", "")  # 1999.12.31 and 23:59:59: forms of old objects
    clock = header.study_time.replace(":", "")
    return day.ljust(8, "0") + clock.ljust(6, "0")
