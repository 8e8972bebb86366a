"""`ingest.dicom` and `ingest.dicom_walk`: whole objects are seen as whole, and nothing else is."""

import fcntl
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import count, pairwise
from pathlib import Path
from typing import NoReturn

import pydicom
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ingest import dicom_walk
from ingest.dicom import Look, _Values, look, open_regular
from ingest.errors import FileProblem, Reason
from ingest.leases import has_writer
from ingest.model import Header, Snapshot
from tests import mutations, strict

DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
DX_IMAGE = "1.2.840.10008.5.1.4.1.1.1.1"
DOSE_SR = "1.2.840.10008.5.1.4.1.1.88.67"
ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"

HEAD = bytes(128) + b"DICM"
UNDEFINED = 0xFFFFFFFF
ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED)
ITEM_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
IMPLICIT_NEST = struct.pack("<HHL", 0x0040, 0xA730, UNDEFINED) + ITEM
OPEN_SEQUENCE = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, UNDEFINED)

CUT_FILES = (
    "CT-ESR-GE_Optima.dcm",
    "CT-RDSR-SpectrumDynamics.dcm",  # implicit VR
    "DX-Im-DRGEM.dcm",
    "DX-RDSR-Canon_CXDI.dcm",
    "MG-Im-GE-SenDS-scaled.dcm",
    "MG-Im-Hologic-PropProj.dcm",
    "MG-RDSR-Giotto-DBT.dcm",  # big endian
    "NM-NmIm-Siemens-s1-1.dcm",
    "NM-PetIm-GE.dcm",
    "RF-RDSR-GE.dcm",
)
CHANCE = random.Random(20)  # noqa: S311 - chance that repeats itself
LONGEST = "RF-Pat-Orientation-Modifier-Missing.dcm"


# -- builders ------------------------------------------------------------------------------------


def an_element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """An element in explicit VR little endian; its length may lie."""
    value += b" " * (len(value) % 2)
    length = len(value) if length is None else length
    form = "<HH2sHL" if vr in {b"OB", b"OW", b"SQ", b"UN", b"UT"} else "<HH2sH"
    numbers = (0, length) if form.endswith("L") else (length,)
    return struct.pack(form, tag >> 16, tag & 0xFFFF, vr, *numbers) + value


def a_meta(transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    return HEAD + an_element(0x00020010, b"UI", transfer_syntax.encode())


def a_head(
    sop_class: str = DX_IMAGE,
    *,
    sop_instance: bytes = b"1.2.3.4",
    modality: bytes = b"DX",
    manufacturer: bytes = b"Maker",
    description: bytes = b"Mrs Miller's hip",
) -> bytes:
    return b"".join(
        (
            an_element(0x00080016, b"UI", sop_class.encode()),
            an_element(0x00080018, b"UI", sop_instance),
            an_element(0x00080060, b"CS", modality),
            an_element(0x00080070, b"LO", manufacturer),
            an_element(0x0008103E, b"LO", description),
            an_element(0x0020000D, b"UI", b"1.2.3"),
            an_element(0x0020000E, b"UI", b"1.2.3.5"),
        )
    )


PIXELS = an_element(0x7FE00010, b"OW", b"1234")
WHOLE = a_meta() + a_head() + PIXELS


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


Looker = Callable[[bytes], Look]


@pytest.fixture(scope="session")
def look_at(tmp_path_factory: pytest.TempPathFactory) -> Looker:
    """Looks at a file with this content."""
    path = tmp_path_factory.mktemp("dicom") / "object"

    def look_at_content(content: bytes) -> Look:
        path.write_bytes(content)
        return look(path)

    return look_at_content


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read of a file gave."""
    sizes: list[int] = []
    pread = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        data = pread(descriptor, size, offset)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counted)
    return sizes


def outcome(found: Look) -> tuple[Reason | None, bool]:
    """The problem, and whether more bytes may cure it."""
    assert found.problem == found.structure.problem
    assert found.header is None
    assert not found.structure.is_complete
    return found.problem, found.structure.can_improve


# -- whole objects -------------------------------------------------------------------------------


def test_every_real_object_is_whole_and_its_header_is_what_pydicom_reads(
    corpus: dict[str, Path],
) -> None:
    for name, path in corpus.items():
        found = look(path)
        assert found.structure.is_complete, name
        assert found.problem is None
        assert found.snapshot == Snapshot.of(path.stat())
        assert found.header == header_by_pydicom(path), name


def header_by_pydicom(path: Path) -> Header:
    data_set = pydicom.dcmread(path)

    def text(keyword: str, source: pydicom.Dataset = data_set) -> str:
        value = source.get(keyword)
        value = value[0] if isinstance(value, pydicom.multival.MultiValue) else value
        return str(value or "").strip()

    title = data_set.get("ConceptNameCodeSequence") or [pydicom.Dataset()]
    description = text("SeriesDescription")
    image_type = data_set.get("ImageType") or ()
    return Header(
        sop_class_uid=text("SOPClassUID"),
        sop_instance_uid=text("SOPInstanceUID"),
        study_uid=text("StudyInstanceUID"),
        series_uid=text("SeriesInstanceUID"),
        modality=text("Modality"),
        manufacturer=text("Manufacturer"),
        model=text("ManufacturerModelName"),
        station=text("StationName"),
        series_description=description if description == "Dose Info" else "",
        image_type=(image_type,) if isinstance(image_type, str) else tuple(image_type),
        title_code=text("CodeValue", title[0]),
        title_scheme=text("CodingSchemeDesignator", title[0]),
        study_date=text("StudyDate"),
        study_time=text("StudyTime"),
    )


def test_the_longest_report_is_read_once_and_in_large_pieces(
    corpus: dict[str, Path], reads: list[int]
) -> None:
    path = corpus[LONGEST]
    assert look(path).problem is None
    assert sum(reads) < path.stat().st_size * 1.05
    assert len(reads) < 30


def test_deflated_object_is_whole(look_at: Looker) -> None:
    content = a_head() + PIXELS
    packed = deflate(content)
    gzip_trailer = struct.pack("<LL", zlib.crc32(content), len(content))
    for padding in (b"", b"\0", gzip_trailer):  # PS3.5 section A.5; dicom3tools
        found = look_at(a_meta(DEFLATED) + packed + padding)
        assert found.problem is None
        assert found.header is not None
        assert found.header.study_uid == "1.2.3"


def test_deflated_object_larger_than_any_window_is_whole(look_at: Looker) -> None:
    noise = CHANCE.randbytes(700_001)
    content = a_head() + an_element(0x00291010, b"OB", noise) + PIXELS
    assert look_at(a_meta(DEFLATED) + deflate(content)).problem is None


def test_implicit_object_is_whole(tmp_path: Path, look_at: Looker) -> None:
    (tmp_path / "source").write_bytes(WHOLE)
    data_set = pydicom.dcmread(tmp_path / "source")
    data_set.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data_set.save_as(tmp_path / "target", implicit_vr=True, little_endian=True)
    found = look_at((tmp_path / "target").read_bytes())
    assert found.problem is None
    assert found.header is not None
    assert found.header.modality == "DX"


def test_unknown_vr_in_a_big_endian_object_is_little_endian(look_at: Looker) -> None:
    """PS3.5 section 6.2.2."""
    unknown = struct.pack(">HH2sHL", 0x0029, 0x1010, b"UN", 0, UNDEFINED)
    items = ITEM + struct.pack("<HHL", 0x0008, 0x0100, 2) + b"AB" + ITEM_END + SEQUENCE_END
    found = look_at(a_meta(ExplicitVRBigEndian) + unknown + items)
    assert found.problem is Reason.NO_UIDS


def test_data_in_another_vr_than_the_transfer_syntax_tells(
    corpus: dict[str, Path], look_at: Looker
) -> None:
    """As pydicom, and so OpenREM, reads it."""
    content = corpus["DX-Im-DRGEM.dcm"].read_bytes()
    implicit = b"1.2.840.10008.1.2\0"
    assert implicit in content
    explicit = content.replace(implicit, b"1.2.840.10008.1.2.1\0")
    explicit = explicit.replace(
        b"UI\x12\x00" + b"1.2.840.10008.1.2.1", b"UI\x14\x001.2.840.10008.1.2.1"
    )
    assert look_at(explicit).problem is None


def encapsulated(*fragments: bytes, end: bytes = SEQUENCE_END) -> bytes:
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, UNDEFINED)
    items = (struct.pack("<HHL", 0xFFFE, 0xE000, len(one)) + one for one in (b"", *fragments))
    return a_meta(JPEG_LOSSLESS) + a_head() + pixels + b"".join(items) + end


def test_encapsulated_pixels(look_at: Looker, reads: list[int]) -> None:
    content = encapsulated(*(bytes(100_000) for _ in range(20)))
    assert look_at(content).problem is None
    assert sum(reads) < 250_000, "fragments are skipped"
    assert outcome(look_at(content[:-8])) == (Reason.TRUNCATED, True)
    assert outcome(look_at(encapsulated(end=ITEM))) == (Reason.MALFORMED, False)


def test_unknown_vr_of_undefined_length_holds_implicit_elements(look_at: Looker) -> None:
    """PS3.5 section 6.2.2."""
    implicit = struct.pack("<HHL", 0x0008, 0x0100, 4) + b"CODE"
    items = ITEM + implicit + ITEM_END + SEQUENCE_END
    unknown = an_element(0x00291010, b"UN", items, length=UNDEFINED)
    assert look_at(a_meta() + a_head() + unknown + PIXELS).problem is None


def test_trailing_padding_element_is_legal(look_at: Looker) -> None:
    assert look_at(WHOLE + an_element(0xFFFCFFFC, b"OB", bytes(1000))).problem is None


# -- the header ----------------------------------------------------------------------------------


def test_header_holds_no_free_text_and_nothing_that_could_command_a_terminal(
    look_at: Looker,
) -> None:
    head = a_head(modality=b"D\x1b[2JX\n", manufacturer=b"M" * 500)
    found = look_at(a_meta() + head + PIXELS)
    assert found.header is not None
    assert found.header.series_description == ""
    assert found.header.modality == "D[2JX"
    assert found.header.manufacturer == "M" * 64


def test_dose_info_is_the_one_series_description_that_is_kept(look_at: Looker) -> None:
    found = look_at(a_meta() + a_head(description=b"Dose Info ") + PIXELS)
    assert found.header is not None
    assert found.header.series_description == "Dose Info"


@pytest.mark.parametrize(
    "uid",
    [b"", b"../../etc/passwd", b"1.2\x1b.3", b"1.2\\1.3", b"..", b"1." * 300, b"1.2.x", b"\xb2"],
)
def test_bad_uid_counts_as_missing(look_at: Looker, uid: bytes) -> None:
    found = look_at(a_meta() + a_head(sop_instance=uid) + PIXELS)
    assert found.structure.is_complete
    assert found.header is None
    assert found.problem is Reason.NO_UIDS
    assert found.detail == "SOP Instance UID missing or not valid"


def test_character_sets(look_at: Looker) -> None:
    """The right one is used; an unknown one or undecodable bytes cost no more than characters."""
    cases = {
        (b"ISO_IR 192", "Müller".encode()): "Müller",
        (b"ISO_IR 100", "Müller".encode("latin-1")): "Müller",
        (b"ISO_IR 192", b"M\xfcller"): "M\ufffdller",
        (b"no such", b"Maker"): "Maker",
    }
    for (name, manufacturer), expected in cases.items():
        charset = an_element(0x00080005, b"CS", name)
        found = look_at(a_meta() + charset + a_head(manufacturer=manufacturer) + PIXELS)
        assert found.header is not None
        assert found.header.manufacturer == expected


def test_element_that_pydicom_cannot_decode_is_malformed(look_at: Looker) -> None:
    """The title is no sequence but a number of three bytes."""
    title = an_element(0x0040A043, b"FD", b"123", length=3)[:-1]
    found = look_at(a_meta() + a_head() + title + PIXELS)
    assert found.problem is Reason.MALFORMED
    assert found.header is None


def test_real_input_error_is_raised(
    corpus: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> NoReturn:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(OSError, match="Input/output error"):
        look(corpus["DX-Im-DRGEM.dcm"])


def test_a_lack_of_memory_is_not_taken_for_a_bad_file(
    corpus: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(os, "pread", exhausted)
    with pytest.raises(MemoryError):
        look(corpus["DX-Im-DRGEM.dcm"])


def test_directory_of_a_medium_has_no_uids(look_at: Looker) -> None:
    """A DICOMDIR is whole, but nothing that could be imported."""
    found = look_at(a_meta() + an_element(0x00041130, b"CS", b"DISC"))
    assert found.problem is Reason.NO_UIDS


# -- cut objects ---------------------------------------------------------------------------------


def test_a_cut_object_is_never_whole(corpus: dict[str, Path], look_at: Looker) -> None:
    """But for cuts that fall exactly between two elements behind all that we may demand."""
    missed = total = 0
    for name in CUT_FILES:
        content = corpus[name].read_bytes()
        for size in CHANCE.sample(range(len(content)), 60):
            found = look_at(content[:size])
            total += 1
            if found.structure.is_complete:
                missed += 1
                continue
            problem, can_improve = outcome(found)
            assert problem in {Reason.TRUNCATED, Reason.EMPTY}, (name, size)
            assert can_improve, (name, size)
    assert missed <= total / 100


def test_all_cuts_of_a_dose_report_are_found(corpus: dict[str, Path], look_at: Looker) -> None:
    """Every single one: its content is its last element."""
    content = corpus["DX-RDSR-Canon_CXDI.dcm"].read_bytes()
    for size in range(len(content)):
        assert not look_at(content[:size]).structure.is_complete, size


def test_half_written_file_of_final_size_may_improve(
    corpus: dict[str, Path], look_at: Looker
) -> None:
    """A sender that gives the file its size first: the rest is zeros until it has been written."""
    for name in CUT_FILES:
        content = corpus[name].read_bytes()
        for written in [0, 64, 130, 140, *CHANCE.sample(range(len(content)), 20)]:
            found = look_at(content[:written] + bytes(len(content) - written))
            if not found.structure.is_complete:  # zeros within the last value can't be seen
                assert found.structure.can_improve, (name, written)


def test_half_written_deflated_file_may_improve(look_at: Looker) -> None:
    content = a_meta(DEFLATED) + deflate(a_head() + CHANCE.randbytes(50_000))
    found = look_at(content[:20_000] + bytes(30_000))
    assert not found.structure.is_complete
    assert found.structure.can_improve


def test_half_written_report_is_never_whole(corpus: dict[str, Path], look_at: Looker) -> None:
    """Its last element is all of its content; only in the very last value zeros can't be seen."""
    for name in ("DX-RDSR-Canon_CXDI.dcm", "CT-RDSR-SpectrumDynamics.dcm"):
        content = corpus[name].read_bytes()
        last = max(one.value_at for one in strict.read(content).all())
        for written in CHANCE.sample(range(last), 300):
            found = look_at(content[:written] + bytes(len(content) - written))
            assert not found.structure.is_complete, (name, written)
            assert found.structure.can_improve, (name, written)


def test_cut_deflated_object(look_at: Looker) -> None:
    content = a_meta(DEFLATED) + deflate(a_head() + PIXELS)
    for size in range(len(content)):
        problem, can_improve = outcome(look_at(content[:size]))
        assert can_improve, size
        assert problem in {Reason.TRUNCATED, Reason.EMPTY}


@pytest.mark.parametrize(
    ("content", "lacking"),
    [
        (a_head()[:-16], "its series"),
        (a_head(DOSE_SR), "its content"),
        (a_head(ENHANCED_SR), "its title"),
        (a_head() + an_element(0x00280010, b"US", b"\2\0"), "its pixels"),
        (an_element(0x00080016, b"UI", b"1.2"), "its series"),
    ],
)
def test_object_that_lacks_what_its_class_demands_is_cut(
    look_at: Looker, content: bytes, lacking: str
) -> None:
    found = look_at(a_meta() + content)
    assert outcome(found) == (Reason.TRUNCATED, True)
    assert found.detail == f"ends before {lacking}"


def test_enhanced_report_with_a_dose_title_needs_content(look_at: Looker) -> None:
    def titled(code: bytes) -> bytes:
        item = an_element(0x00080100, b"SH", code)
        items = ITEM + item + ITEM_END + SEQUENCE_END
        title = an_element(0x0040A043, b"SQ", items, length=UNDEFINED)
        return a_meta() + a_head(ENHANCED_SR) + title

    assert outcome(look_at(titled(b"113701"))) == (Reason.TRUNCATED, True)
    assert look_at(titled(b"18748-4")).problem is None


def test_detail_tells_how_much_is_missing(look_at: Looker) -> None:
    found = look_at(WHOLE[:-2])
    assert found.detail == f"ends at byte {len(WHOLE) - 2} of at least {len(WHOLE)} expected"


@pytest.mark.parametrize("behind", [b"\r\n\r\n\r\n\r\n\r\n", WHOLE, b"\x89PNG" * 100])
def test_bytes_behind_the_end(look_at: Looker, behind: bytes) -> None:
    assert outcome(look_at(WHOLE + behind)) == (Reason.TRAILING_DATA, False)


def test_bytes_behind_a_real_object(corpus: dict[str, Path], look_at: Looker) -> None:
    for path in corpus.values():
        for behind in (b"\n", b"garbage, more of it", bytes(512)):
            assert not look_at(path.read_bytes() + behind).structure.is_complete


@pytest.mark.parametrize("zeros", [1, 7, 8, 12, 13, 5000])
def test_zeros_behind_the_end_may_still_be_filled_in(look_at: Looker, zeros: int) -> None:
    assert outcome(look_at(WHOLE + bytes(zeros))) == (Reason.TRAILING_DATA, True)


def test_bytes_behind_deflated_data(look_at: Looker) -> None:
    content = a_meta(DEFLATED) + deflate(a_head() + PIXELS) + b"more"
    assert outcome(look_at(content)) == (Reason.TRAILING_DATA, False)


# -- what the doses are in -----------------------------------------------------------------------


@pytest.fixture(
    scope="session",
    params=["explicit", "undefined lengths", ImplicitVRLittleEndian, ExplicitVRBigEndian],
)
def small_report(request: pytest.FixtureRequest) -> bytes:
    """A dose report of one event in each way to write it."""
    report = mutations.small_report()
    if request.param == "explicit":
        return report
    if request.param == "undefined lengths":
        return mutations.with_undefined_lengths(report)
    return mutations.encoded(report, request.param)


def test_a_wrong_length_anywhere_within_a_dose_report_is_found(
    look_at: Looker, small_report: bytes
) -> None:
    """For pydicom it would be the end of the content: what lies behind it would be no dose."""
    assert look_at(small_report).problem is None
    content = strict.read(small_report).find(dicom_walk.CONTENT_SEQUENCE)
    assert content is not None
    missed = total = 0
    for element in content.all():
        form, at = element.length_format, element.length_at
        (length,) = struct.unpack_from(form, small_report, at)
        most = (1 << 8 * struct.calcsize(form)) - 1
        for wrong in (length + 2, length - 2, length + 100, 2, 7, most):
            lying = bytearray(small_report)
            struct.pack_into(form, lying, at, wrong & most)
            total += 1
            if look_at(bytes(lying)).structure.is_complete and wrong != length:
                strict.read(bytes(lying))  # by chance it ends where another element does
                missed += 1
    assert missed <= total / 100


def test_a_stray_delimiter_within_a_dose_report_is_found(
    look_at: Looker, small_report: bytes
) -> None:
    """It would be the end of the events to pydicom, wherever it is."""
    content = strict.read(small_report).find(dicom_walk.CONTENT_SEQUENCE)
    assert content is not None
    order = content.length_format[0]
    for mark in (0xE00D, 0xE0DD):
        delimiter = struct.pack(order + "HH", 0xFFFE, mark)
        for element in list(content.all())[1:]:
            stray = small_report[: element.at] + delimiter + small_report[element.at + 4 :]
            assert not look_at(stray).structure.is_complete, (element.at, mark)


def test_an_end_of_an_item_that_tells_a_length_is_none(
    look_at: Looker, small_report: bytes
) -> None:
    """As much as it says is skipped by pydicom, and with it the next events."""
    ends = 0
    for at, _ in enumerate(small_report):
        if small_report[at : at + 8] == ITEM_END:
            ends += 1
            lying = small_report[: at + 4] + b"\x10" + small_report[at + 5 :]
            assert not look_at(lying).structure.is_complete, at
    assert ends == 0 or ends > 20


@pytest.mark.parametrize("inner", [b"", an_element(0x00080100, b"SH", b"CODE")])
def test_the_same_elsewhere(look_at: Looker, inner: bytes) -> None:
    opening = an_element(0x00081032, b"SQ", ITEM + inner, length=UNDEFINED)
    for length, problem in ((0, None), (2, Reason.MALFORMED)):
        end = ITEM_END[:4] + struct.pack("<L", length)
        found = look_at(a_meta() + opening + end + SEQUENCE_END + a_head() + PIXELS)
        assert found.problem is problem


def test_the_exposures_of_a_dose_info_are_looked_through(
    corpus: dict[str, Path], look_at: Looker
) -> None:
    content = corpus["CT-SC-Philips_Brilliance16P.dcm"].read_bytes()
    exposures = strict.read(content).find(0x0040030E)
    assert exposures is not None
    for item in exposures.inner:
        lying = bytearray(content)
        struct.pack_into("<L", lying, item.length_at, item.end - item.value_at + 8)
        assert outcome(look_at(bytes(lying))) == (Reason.MALFORMED, False)


def test_one_data_set_behind_another_is_no_object(look_at: Looker) -> None:
    """To pydicom the second one is all there is."""
    assert outcome(look_at(WHOLE + a_head() + PIXELS)) == (Reason.TRAILING_DATA, False)
    assert outcome(look_at(a_meta() + a_head() + a_head())) == (Reason.MALFORMED, False)
    report = mutations.small_report()
    content = strict.read(report).find(dicom_walk.CONTENT_SEQUENCE)
    assert content is not None
    doubled = report + report[content.at : content.end]
    assert outcome(look_at(doubled)) == (Reason.TRAILING_DATA, False)


def test_nothing_but_vendors_elements_may_be_behind_the_pixels(look_at: Looker) -> None:
    """OpenREM's file is read up to the pixels: events behind them would be no events."""
    report = mutations.small_report()
    content = strict.read(report).find(dicom_walk.CONTENT_SEQUENCE)
    assert content is not None
    hidden = report[: content.at] + PIXELS + report[content.at :]
    assert outcome(look_at(hidden)) == (Reason.TRAILING_DATA, False)
    assert look_at(WHOLE + an_element(0x7FE11010, b"OB", b"more")).problem is None


@pytest.mark.parametrize("depth", [dicom_walk.MAX_DEPTH, 1500])
def test_content_nested_by_lengths_has_the_same_limit(look_at: Looker, depth: int) -> None:
    report = mutations.report_with(CHANCE, mutations.nested_content(depth))
    assert outcome(look_at(report)) == (Reason.TOO_COMPLEX, False)
    report = mutations.report_with(CHANCE, mutations.nested_content(dicom_walk.MAX_DEPTH - 1))
    assert look_at(report).problem is None


# -- other files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem", "can_improve"),
    [
        (b"", Reason.EMPTY, True),
        (b"\0", Reason.TRUNCATED, True),
        (HEAD[:130], Reason.TRUNCATED, True),
        (HEAD, Reason.TRUNCATED, True),
        (b"II", Reason.TRUNCATED, True),
        (b"MM\0*" + bytes(50), Reason.TRUNCATED, True),
        (bytes(130), Reason.NOT_DICOM, True),
        (bytes(5000), Reason.NOT_DICOM, True),
        (b"twenty bytes of text", Reason.NOT_DICOM, False),
        (b"text " * 100, Reason.NOT_DICOM, False),
        (b"PK\3\4" + bytes(500), Reason.NOT_DICOM, False),
        (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(500), Reason.NOT_DICOM, False),
        (bytes(128) + b"DOCX" + b"x" * 100, Reason.NOT_DICOM, False),
        (HEAD + b"garbage " * 50, Reason.MALFORMED, False),
        (HEAD[:64] + b"x" + HEAD[65:] + b"\2\0", Reason.TRUNCATED, True),
        (a_meta() + a_head() + b"\x29\0\x10\x10??\0\0\2\0\0\0xx", Reason.MALFORMED, False),
        (a_meta() + a_head() + an_element(0xFFFEE0DD, b"OB", b""), Reason.MALFORMED, False),
        (a_meta() + an_element(0x00291010, b"UT", b"", UNDEFINED), Reason.MALFORMED, False),
        (a_meta() + OPEN_SEQUENCE + PIXELS, Reason.MALFORMED, False),
        (a_meta() + OPEN_SEQUENCE + ITEM + SEQUENCE_END + b" " * 20, Reason.MALFORMED, False),
        (a_meta() + OPEN_SEQUENCE + ITEM_END + PIXELS, Reason.MALFORMED, False),
        (a_meta(DEFLATED) + b"\xff" * 5000, Reason.MALFORMED, False),
        (a_meta(DEFLATED) + deflate(a_head() + b"garbage garbage"), Reason.MALFORMED, False),
        (a_meta() + OPEN_SEQUENCE + ITEM + a_head() + b"garbage " * 9, Reason.MALFORMED, False),
        (a_meta() + OPEN_SEQUENCE + ITEM + a_head() + ITEM * 2, Reason.MALFORMED, False),
        (a_meta() + IMPLICIT_NEST + b"\2\0garbage " * 9, Reason.MALFORMED, False),
        (a_meta() + IMPLICIT_NEST + ITEM * 2, Reason.MALFORMED, False),
    ],
)
def test_what_is_no_whole_object(
    look_at: Looker, content: bytes, problem: Reason, *, can_improve: bool
) -> None:
    if content[64:65] == b"x":  # any preamble will do where the mark is there
        assert look_at(content).structure.is_dicom
    assert outcome(look_at(content)) == (problem, can_improve)


# -- hostile objects -----------------------------------------------------------------------------


def test_deflate_bomb_costs_little(look_at: Looker, reads: list[int]) -> None:
    """1 MB that unpacks to 1 GB; its element claims all of it, so that it must be unpacked."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = packer.compress(a_head() + struct.pack("<HH2sHL", 0x29, 0x1010, b"OB", 0, 2**30))
    megabyte = bytes(2**20)
    bomb += b"".join(packer.compress(megabyte) for _ in range(1024)) + packer.flush()
    assert len(bomb) < 1_100_000
    tracemalloc.start()
    try:
        found = look_at(a_meta(DEFLATED) + bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outcome(found) == (Reason.TOO_COMPLEX, False)
    assert peak < 2 * len(bomb) + 4 * 2**20
    assert sum(reads) < len(bomb) / 3, "and it is not even read to its end"


@pytest.mark.parametrize(
    ("transfer_syntax", "nest"),
    [(ExplicitVRLittleEndian, OPEN_SEQUENCE + ITEM), (ImplicitVRLittleEndian, IMPLICIT_NEST)],
)
def test_nesting_has_a_limit(look_at: Looker, transfer_syntax: str, nest: bytes) -> None:
    def nested(depth: int) -> bytes:
        return a_meta(transfer_syntax) + nest * depth + (ITEM_END + SEQUENCE_END) * depth

    assert look_at(nested(dicom_walk.MAX_DEPTH)).problem is Reason.NO_UIDS
    assert outcome(look_at(nested(dicom_walk.MAX_DEPTH + 1))) == (Reason.TOO_COMPLEX, False)
    assert outcome(look_at(nested(10_000))) == (Reason.TOO_COMPLEX, False)


def test_a_million_empty_items_never_reach_pydicom(look_at: Looker) -> None:
    """By itself it would take 14 seconds and 660 MB for them."""
    empty = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    private = an_element(0x00291010, b"SQ", empty * 1_000_000 + SEQUENCE_END, length=UNDEFINED)
    title = an_element(0x0040A043, b"SQ", empty * 100_000)
    content = a_meta() + a_head() + private + title + PIXELS
    tracemalloc.start()
    try:
        found = look_at(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.problem is None
    assert peak < 2 * 2**20


def test_number_of_elements_has_a_limit(look_at: Looker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_walk, "MAX_ELEMENTS", 50_000)
    for vr, inner in ((b"SQ", b"\xfe\xff\0\xe0\0\0\0\0"), (b"UN", b"\xfe\xff\0\xe0\0\0\0\0")):
        items = an_element(0x00291010, vr, inner * 90_000 + SEQUENCE_END, length=UNDEFINED)
        assert outcome(look_at(a_meta() + items)) == (Reason.TOO_COMPLEX, False)
    many = an_element(0x00291010, b"LO", b"") * 60_000
    assert outcome(look_at(a_meta() + many)) == (Reason.TOO_COMPLEX, False)


def test_file_meta_information_has_a_limit(look_at: Looker) -> None:
    content = HEAD + an_element(0x00020102, b"OB", b"") * 1000
    assert outcome(look_at(content)) == (Reason.TOO_COMPLEX, False)


def test_declared_length_of_4_gigabytes(look_at: Looker) -> None:
    huge = an_element(0x00291010, b"OB", b"x", length=0xFFFFFFFE)
    assert outcome(look_at(a_meta() + a_head() + huge)) == (Reason.TRUNCATED, True)


def test_3_gigabytes_before_the_pixels_are_skipped(tmp_path: Path, reads: list[int]) -> None:
    path = tmp_path / "sparse"
    length = 3 * 2**30
    start = a_meta() + a_head() + struct.pack("<HH2sHL", 0x29, 0x1010, b"OB", 0, length)
    with path.open("wb") as file:
        file.write(start)
        file.seek(length, os.SEEK_CUR)
        file.write(PIXELS)
    assert look(path).problem is None
    assert sum(reads) < 200_000


def test_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "object"
    path.write_bytes(WHOLE)
    pread = os.pread

    def pread_and_append(descriptor: int, size: int, offset: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"more")
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread_and_append)
    found = look(path)
    assert outcome(found) == (Reason.CHANGED, True)
    assert found.snapshot.size == len(WHOLE)


def test_file_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "object"
    path.write_bytes(a_meta() + a_head() + an_element(0x00291010, b"OB", bytes(200_000)) + PIXELS)
    pread, calls = os.pread, count()

    def truncate_and_pread(descriptor: int, size: int, offset: int) -> bytes:
        if next(calls) == 2:
            os.truncate(path, 150)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", truncate_and_pread)
    assert outcome(look(path)) == (Reason.CHANGED, True)


def test_a_short_read_is_carried_on(look_at: Looker, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 7), offset))
    assert look_at(WHOLE).problem is None


# -- what is no ordinary file --------------------------------------------------------------------


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be opened in this test."""

    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail("it was opened")

    monkeypatch.setattr(os, "open", refuse)


@pytest.fixture
def oddities(tmp_path: Path) -> Iterator[list[Path]]:
    """A link, a dangling link, a FIFO, a socket, a folder and a device."""
    target = tmp_path / "target"
    target.write_bytes(WHOLE)
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        names = ("link", "dangling", "fifo", "socket", "")
        yield [*(tmp_path / name for name in names), Path("/dev/null")]


@pytest.mark.usefixtures("unopened")
def test_only_ordinary_files_are_opened(oddities: list[Path]) -> None:
    for path in oddities:
        with pytest.raises(FileProblem) as caught:
            look(path)
        assert caught.value.reason is Reason.NOT_A_FILE, path
        with pytest.raises(FileProblem):
            has_writer(path, local=True)


def test_what_turned_into_something_else_after_the_first_look(
    oddities: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = os.lstat(__file__)
    monkeypatch.setattr(os, "lstat", lambda _: ordinary)
    for path in oddities:
        with pytest.raises(FileProblem) as caught:
            look(path)
        assert caught.value.reason is Reason.NOT_A_FILE, path


def test_vanished_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        look(tmp_path / "nothing")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played, because root may read everything."""
    path = tmp_path / "object"
    path.write_bytes(WHOLE)

    def forbidden(*_: object) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(FileProblem) as caught:
        look(path)
    assert caught.value.reason is Reason.UNREADABLE


def test_no_descriptor_is_left_open(corpus: dict[str, Path], oddities: list[Path]) -> None:
    before = os.listdir("/proc/self/fd")
    look(corpus["DX-Im-DRGEM.dcm"])
    has_writer(oddities[0].with_name("target"), local=True)
    for path in oddities:
        with pytest.raises(FileProblem):
            look(path)
    assert os.listdir("/proc/self/fd") == before


def test_names_may_be_bytes(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9 [1]\n*"
    with open(name, "wb") as file:
        file.write(WHOLE)
    assert look(name).problem is None
    os.close(open_regular(name))


# -- who else has it open ------------------------------------------------------------------------


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file that another process holds open in a mode, until the test ends."""
    holders: list[subprocess.Popen[bytes]] = []

    def hold(mode: str) -> Path:
        path = tmp_path / f"held-{mode}"
        path.write_bytes(WHOLE)
        code = "import sys; f = open(sys.argv[1], sys.argv[2]); print(flush=True); input()"
        holder = subprocess.Popen(
            [sys.executable, "-c", code, path, mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        return path

    yield hold
    for holder in holders:
        holder.communicate(b"\n")


def test_a_writer_is_seen_as_long_as_it_holds_the_file(held: Callable[[str], Path]) -> None:
    for mode in ("ab", "r+b"):
        assert has_writer(held(mode), local=True) is True
    assert has_writer(held("rb"), local=True) is False


def test_no_writer(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(WHOLE)
    assert has_writer(path, local=True) is False
    with path.open("ab"):
        assert has_writer(path, local=True) is True
    assert has_writer(path, local=True) is False


def test_remote_file_systems_are_not_asked(tmp_path: Path) -> None:
    assert has_writer(tmp_path / "nothing", local=False) is None


@pytest.mark.parametrize("error", [PermissionError(13, "not the owner"), OSError(22, "no leases")])
def test_without_a_lease_it_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    path = tmp_path / "object"
    path.write_bytes(WHOLE)

    def refuse(_: int, command: int, __: int) -> int:
        if command == fcntl.F_SETLEASE:
            raise error
        return 0

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert has_writer(path, local=True) is None


def test_a_write_lease_of_a_file_server_is_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "object"
    path.write_bytes(WHOLE)

    def leased(*_: object) -> NoReturn:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "open", leased)
    assert has_writer(path, local=True) is True


def test_being_asked_to_give_up_the_lease_does_not_kill_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody opens the file for writing while the lease is held: SIGIO would end this test."""
    path = tmp_path / "object"
    path.write_bytes(WHOLE)
    call, refused = fcntl.fcntl, []
    assert signal.getsignal(signal.SIGIO) is signal.SIG_DFL

    def open_before_dropping(descriptor: int, command: int, argument: int) -> int:
        if argument == fcntl.F_UNLCK:
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except BlockingIOError as error:
                refused.append(error)
        return call(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", open_before_dropping)
    assert has_writer(path, local=True) is False
    assert refused, "the lease was held, and had to be broken"


# -- whatever comes ------------------------------------------------------------------------------


def is_sound(found: Look) -> None:
    """What holds of every look."""
    assert (found.header is None) == (found.problem is not None)
    assert found.structure.is_complete or found.problem is found.structure.problem
    for text in (found.detail, repr(found.header)):
        assert text.isprintable()


@given(content=st.binary(max_size=500))
@example(content=HEAD)
def test_no_content_makes_it_raise(look_at: Looker, content: bytes) -> None:
    is_sound(look_at(content))


@given(
    content=st.binary(max_size=300),
    transfer_syntax=st.sampled_from(
        [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DEFLATED]
    ),
    head=st.sampled_from([b"", a_head(), a_head(DOSE_SR) + OPEN_SEQUENCE, deflate(a_head())]),
)
def test_no_content_behind_a_sound_head_makes_it_raise(
    look_at: Looker, content: bytes, transfer_syntax: str, head: bytes
) -> None:
    is_sound(look_at(a_meta(transfer_syntax) + head + content))


@given(data=st.data())
def test_no_damage_to_a_real_object_makes_it_raise(
    corpus: dict[str, Path], look_at: Looker, data: st.DataObject
) -> None:
    content = bytearray(corpus[data.draw(st.sampled_from(CUT_FILES))].read_bytes()[:20_000])
    places = st.integers(0, min(len(content), 3000) - 1)
    for place, value in data.draw(st.dictionaries(places, st.integers(0, 255))).items():
        content[place] = value
    is_sound(look_at(bytes(content)))


@given(data=st.data())
def test_a_cut_within_an_element_is_always_found(look_at: Looker, data: st.DataObject) -> None:
    """Elements of any size; only at their borders can a cut hide, and not before the series."""
    values = data.draw(st.lists(st.binary(max_size=80).map(lambda value: value * 2), max_size=6))
    pieces = [an_element(0x00291000 + at, b"OB", value) for at, value in enumerate(values)]
    borders = [len(a_meta() + a_head())]
    for piece in [*pieces, PIXELS]:
        borders.append(borders[-1] + len(piece))
    content = a_meta() + a_head() + b"".join(pieces) + PIXELS
    assert look_at(content).problem is None
    start, end = data.draw(st.sampled_from(list(pairwise(borders))))
    cut = data.draw(st.integers(start + 1, end - 1))
    assert outcome(look_at(content[:cut])) == (Reason.TRUNCATED, True)


class _ByPydicom(_Values):
    """Has pydicom decode all texts."""

    def _plain(self, _tag: int) -> list[str] | None:
        return None


_PIECES = (
    b"\\",
    b" ",
    b"\0",
    b"\x1b$B",
    b"A",
    b"1.2",
    b"\xe9",
    b"\n",
    b"\xa0",
    b"\x85",
    b"2026",
    b"^",
)


@pytest.mark.filterwarnings("ignore")  # of pydicom, on character sets
@given(
    pieces=st.lists(st.sampled_from(_PIECES), max_size=40),
    vr=st.sampled_from([b"CS", b"DA", b"LO", b"PN", b"SH", b"ST", b"TM", b"UI", None]),
    tag=st.sampled_from([0x00080008, 0x00080018, 0x00080020, 0x00081010, 0x0020000D]),
    character_set=st.sampled_from([b"", an_element(0x00080005, b"CS", b"ISO_IR 192")]),
)
@example(pieces=[b"1.2", b"\xa0", b"\0", b"\\", b"1.2"], vr=None, tag=0x0020000D, character_set=b"")
@example(pieces=[b"1.2", b"\xa0", b"\0"], vr=None, tag=0x0020000D, character_set=b"")
def test_plain_texts_are_what_pydicom_makes_of_them(
    pieces: list[bytes], vr: bytes | None, tag: int, character_set: bytes
) -> None:
    value, is_little = b"".join(pieces), True
    if vr is None:
        element = struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value
    else:
        element = an_element(tag, vr, value)

    def texts(kind: type[_Values]) -> tuple[tuple[str, ...], str]:
        values = kind(read_dataset(BytesIO(element), vr is None, is_little), character_set)
        return values.all(tag), values.matching(tag, re.compile(".*", re.DOTALL))

    assert texts(_Values) == texts(_ByPydicom)
