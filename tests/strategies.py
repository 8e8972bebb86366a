"""Hypothesis strategies for what the tests share: headers, awkward file names, snapshots, facts."""

import string
from dataclasses import replace

from hypothesis import strategies as st

from ingest.errors import Reason
from ingest.model import (
    Facts,
    FileContent,
    Header,
    Snapshot,
    Structure,
    StudyHeld,
)

STORAGE = "1.2.840.10008.5.1.4.1.1."
TAILS = (
    *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "2", "7", "13.1.3", "13.1.4", "13.1.5"),
    *("20", "88.11", "88.22", "88.59", "88.67", "88.68", "88.71", "128", "128.1", "481.3"),
)

AWKWARD_NAMES = (
    b"a b.dcm",
    b"[1].dcm",
    b'it\'s "it".dcm',
    b"two\nlines.dcm",
    b"-rf",
    b"--help",
    b"*",
    b"?.dcm",
    b"$(reboot).dcm",
    b"%o.dcm",
    b"\\",
    b"\xff\xfe.dcm",  # no UTF-8
    "Müller.dcm".encode("latin-1"),
    "Müller.dcm".encode(),
    b".dcm",
    b"..dcm",
    b"~",
    b"a.b.c",
    b"no ending",
    b"x" * 255,
    b"y" * 251 + b".dcm",
    b"z." + b"z" * 253,  # nearly all of it looks like an ending
    b"\xe2\x80\xae.dcm",  # writes from right to left
    b"\x1b[31mred.dcm",
)

_bytes = st.binary(min_size=1, max_size=255).map(
    lambda name: name.replace(b"/", b"-").replace(b"\0", b"0")
)
names = (st.sampled_from(AWKWARD_NAMES) | _bytes).filter(
    lambda name: name not in {b".", b"..", b".ingest"}
)

uids = st.from_regex(
    r"[0-2](\.(0|[1-9][0-9]{0,8})){4,6}", fullmatch=True, alphabet=string.printable
)
sop_classes = st.sampled_from([STORAGE + tail for tail in TAILS]) | uids | st.text(max_size=64)
texts = st.text(max_size=20)
manufacturers = st.sampled_from(("Philips", "philips", "Philips ", "Philips Medical Systems", ""))

headers = st.builds(
    Header,
    sop_class_uid=sop_classes,
    sop_instance_uid=uids,
    study_uid=uids,
    series_uid=uids | st.just(""),
    modality=st.sampled_from(("MG", "DX", "CR", "CT", "SR", "NM", "PT", "XX", "")) | texts,
    manufacturer=manufacturers | texts,
    model=texts,
    station=texts,
    series_description=st.sampled_from(("Dose Info", "dose info", "")) | texts,
    image_type=st.lists(st.sampled_from(("ORIGINAL", "DERIVED", "PRIMARY", "")), max_size=4).map(
        tuple
    ),
    title_code=st.sampled_from(("113701", "113500", "C-10", "121181", "")) | texts,
    title_scheme=st.sampled_from(("DCM", "99SMS_RADSUM", "")) | texts,
    study_date=st.sampled_from(("20240102", "2024.01.02", "")),
    study_time=st.sampled_from(("123456", "12:34:56", "123456.789", "")),
)

# From 1970 (and before) until long after the year 2262, where 64 bits of nanoseconds end.
times_ns = st.integers(min_value=-(10**18), max_value=2 * 10**19)
snapshots = st.builds(
    Snapshot,
    device=st.integers(0, 2**64 - 1),
    inode=st.integers(0, 2**64 - 1),
    size=st.integers(0, 2**63 - 1),
    mtime_ns=times_ns,
    ctime_ns=times_ns,
)
structures = st.builds(
    Structure,
    is_dicom=st.booleans(),
    is_complete=st.booleans(),
    problem=st.none() | st.sampled_from(Reason),
    detail=texts,
    can_improve=st.booleans(),
)

doses = st.tuples(*[st.none() | st.sampled_from((0.0, 7.2, 196.01))] * 2)
studies = st.builds(
    StudyHeld,
    has_sop=st.booleans(),
    objects=st.integers(0, 3),
    number_of_events=st.none() | st.integers(0, 5),
    event_rows=st.integers(0, 5),
    event_uids=st.lists(st.none() | st.sampled_from(("1.2.3", "1.2.4", "1.2.5"))).map(tuple),
    has_event_at_same_time=st.booleans(),
    has_other_exposure=st.booleans(),
    patient_rows=st.integers(0, 2),
    has_ct_dose=st.booleans(),
    is_from_dose_screen=st.booleans(),
    ct_doses=st.lists(doses, max_size=5).map(tuple),
    has_radiopharmaceutical_dose=st.booleans(),
    has_pet_series=st.booleans(),
    has_other_administration=st.booleans(),
)


def a_header(**changes: object) -> Header:
    """The header of an ordinary digital X-ray image, with these changes."""
    plain = Header(
        sop_class_uid=STORAGE + "1.1",
        sop_instance_uid="1.2.3.4.5.1",
        study_uid="1.2.3.4.5",
        modality="DX",
        manufacturer="Maker",
        study_date="20240102",
        study_time="123456",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def a_snapshot(**changes: int) -> Snapshot:
    """The snapshot of an ordinary file, with these changes."""
    plain = Snapshot(device=1, inode=2, size=3, mtime_ns=10**18, ctime_ns=10**18)
    return replace(plain, **changes)


def a_study(**changes: object) -> StudyHeld:
    """A study row that was written to its end and holds nothing, with these changes."""
    plain = StudyHeld(
        has_sop=True,
        objects=1,
        number_of_events=0,
        event_rows=0,
        event_uids=(),
        has_event_at_same_time=False,
        has_other_exposure=False,
        patient_rows=1,
        has_ct_dose=False,
        is_from_dose_screen=False,
        ct_doses=(),
        has_radiopharmaceutical_dose=False,
        has_pet_series=False,
        has_other_administration=False,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def facts_of(header: Header, *held: StudyHeld, **changes: object) -> Facts:
    """The facts on the object with this header, held in these study rows."""
    content = FileContent(
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        study_uid=header.study_uid,
        event_uids=(),
        exposures=(),
    )
    exposures = {key: changes.pop(key) for key in ("event_uids", "exposures") if key in changes}
    content = replace(content, **exposures)  # type: ignore[arg-type]
    return replace(Facts(content=content, studies=held), **changes)  # type: ignore[arg-type]
