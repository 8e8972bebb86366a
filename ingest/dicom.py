"""Looks at one file without touching it: is it a whole DICOM object, and what is its header?

`look` opens a file once, walks over its lengths (`ingest.dicom_walk`), and hands pydicom only
copies of the few header elements that the walk came past. Whatever else is in the file, pydicom
never sees it: by itself it would take 14 seconds and 660 MB for a million empty items, and 8 GB
for 4 MB of deflated zeros. There is no opinion here on what is to be done with a file.
"""

import errno
import logging
import os
import re
import stat
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pydicom.config
from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue

from ingest.dicom_bytes import Broken
from ingest.dicom_walk import CONTENT_SEQUENCE, Walked, walk
from ingest.errors import FileProblem, Reason
from ingest.model import Header, Snapshot, Structure

# pydicom quotes odd values in warnings and log lines. They may be a patient's, and under
# `-W error` they would make a readable object unreadable. These are set once and for the whole
# process, because `warnings.catch_warnings` does not work with threads.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

MAX_TEXT = 64  # characters; as long as an LO may be (PS3.5 section 6.2)
MAX_VALUES = 16

# Stands for the text of an element that is there and can't be read, or is too long to be kept:
# it is not empty, and is like nothing that a rule may ask for.
UNTOLD = "\N{REPLACEMENT CHARACTER}" * MAX_TEXT

# PS3.5 section 6.2: the VRs of texts, those of them that have one value, and those of numbers.
_TEXTS = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM"}
    | {"UC", "UI", "UR", "UT"}
)
_ONE_TEXT = frozenset({"LT", "ST", "UR", "UT"})
# Of these pydicom makes nothing but a text divided by backslashes.
_PLAIN = frozenset({"CS", "DA", "LO", "SH", "TM", "UI"})
_NUMBERS = frozenset({"AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
_LINES, _NAME_PARTS = frozenset(b"\\\t\n\f\r"), frozenset(b"\\^=")  # section 6.1.2.5.3
_ESCAPE = b"\x1b"  # begins a change of the character set within a text

_CHARACTER_SET = 0x0008_0005
_IMAGE_TYPE = 0x0008_0008
_SOP_CLASS = 0x0008_0016
_SOP_INSTANCE = 0x0008_0018
_STUDY_DATE = 0x0008_0020
_STUDY_TIME = 0x0008_0030
_MODALITY = 0x0008_0060
_MANUFACTURER = 0x0008_0070
_CODE_VALUE = 0x0008_0100
_CODE_SCHEME = 0x0008_0102
_STATION = 0x0008_1010
_SERIES_DESCRIPTION = 0x0008_103E
_MODEL = 0x0008_1090
_STUDY = 0x0020_000D
_SERIES = 0x0020_000E
_ROWS = 0x0028_0010
_TITLE = 0x0040_A043
_PIXELS = 0x7E00_0000  # Pixel Data is (7FE0,0010); vendors' substitutes for it begin here
_DIRECTORY_GROUP = 0x0004  # of a DICOMDIR, which is no object and has no UIDs

_DECODED = frozenset(
    {_IMAGE_TYPE, _SOP_CLASS, _SOP_INSTANCE, _STUDY_DATE, _STUDY_TIME, _MODALITY}
    | {_MANUFACTURER, _STATION, _SERIES_DESCRIPTION, _MODEL, _STUDY, _SERIES, _TITLE}
)
_WANTED = _DECODED | {_CHARACTER_SET, _ROWS}

_STORAGE = "1.2.840.10008.5.1.4.1.1."  # root of the Storage SOP Classes (PS3.4 annex B.5)
_DOSE_REPORTS = frozenset(_STORAGE + tail for tail in ("88.67", "88.68"))
_ENHANCED_SR = _STORAGE + "88.22"
_DOSE_TITLES = frozenset({"113701", "113500", "C-10"})
# The images that OpenREM reads: CR, DX, mammography, secondary capture, NM, PET.
_IMAGES = frozenset(
    _STORAGE + tail for tail in ("1", "1.1", "1.1.1", "1.2", "1.2.1", "7", "20", "128")
)

# A value is never a path of its own: it begins with a digit, and has no slash.
_UID = re.compile(r"[0-9][0-9.]{0,63}")
_DATE = re.compile(r"\d{8}|\d{4}\.\d\d\.\d\d", re.ASCII)
_TIME = re.compile(r"\d\d(:?\d\d(:?\d\d(\.\d{1,6})?)?)?", re.ASCII)
_DOSE_INFO = "Dose Info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at a file found."""

    snapshot: Snapshot  # of the very descriptor that was read
    structure: Structure
    header: Header | None  # of a complete object with the UIDs that a proof needs
    problem: Reason | None  # why it can't go on as it is now; None when all is well
    detail: str = ""  # without patient data
    # What the user's rules ask for, by keyword: never told, never stored.
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)


def open_regular(path: bytes | str | Path) -> int:
    """Open an ordinary file for reading; the caller closes the descriptor.

    Nothing else is ever opened or followed: to open a FIFO waits for a writer, to open a device
    can rewind a tape, and a symbolic link may lead to what the sender has no right to.

    Raises:
        FileProblem: not an ordinary file (`NOT_A_FILE`), or no right to read it (`UNREADABLE`).
        FileNotFoundError: it is gone.
        BlockingIOError: a file server holds a write lease on it (an oplock): try later.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        _check_regular(os.lstat(path))
        descriptor = os.open(path, flags)
    except PermissionError as error:
        raise FileProblem(Reason.UNREADABLE) from error
    except OSError as error:
        # It was an ordinary file a moment ago and is now a link (ELOOP) or a socket (ENXIO).
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise FileProblem(Reason.NOT_A_FILE) from error
        raise
    try:
        _check_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileProblem(Reason.NOT_A_FILE)


def look(path: bytes | str | Path, keywords: Collection[str] = ()) -> Look:
    """Look at a file once, through one descriptor, reading only.

    Bad content never raises: it is what the look found.

    Args:
        path: the file.
        keywords: of further elements (PS3.6) whose values are wanted, as text.

    Raises:
        FileProblem: see `open_regular`.
        OSError: a real error of the file system, among them that the file is gone.
        MemoryError: there is not enough for any file.
    """
    descriptor = open_regular(path)
    try:
        snapshot = Snapshot.of(os.fstat(descriptor))
        found = _examine(descriptor, snapshot, keywords)
        if Snapshot.of(os.fstat(descriptor)) != snapshot:
            return _incomplete(snapshot, Broken(Reason.CHANGED, "", can_improve=True))
        return found
    finally:
        os.close(descriptor)


def _examine(descriptor: int, snapshot: Snapshot, keywords: Collection[str]) -> Look:
    tags = {keyword: tag_for_keyword(keyword) or 0 for keyword in keywords}
    try:
        walked = walk(descriptor, snapshot.size, _WANTED | set(tags.values()))
        header = _read_header(walked)
        _check_reach(walked, header)
    except Broken as broken:
        return _incomplete(snapshot, broken)
    except Exception as error:
        # pydicom has raised seven kinds of exception on damaged headers, RecursionError and an
        # OSError without a number among them. Only a numbered one is the file system's; and a
        # lack of memory says nothing about the file.
        if isinstance(error, MemoryError) or (
            isinstance(error, OSError) and error.errno is not None
        ):
            raise
        name = type(error).__name__
        return _incomplete(snapshot, Broken(Reason.MALFORMED, f"{name} in its header"))
    return _complete(snapshot, header, {word: _texts(walked, tags[word]) for word in tags})


def _complete(snapshot: Snapshot, header: Header, values: Mapping[str, tuple[str, ...]]) -> Look:
    uids = {
        "SOP Class": header.sop_class_uid,
        "SOP Instance": header.sop_instance_uid,
        "Study Instance": header.study_uid,
    }
    missing = [name for name, uid in uids.items() if not uid]
    return Look(
        snapshot=snapshot,
        structure=Structure(is_dicom=True, is_complete=True),
        header=None if missing else header,
        problem=Reason.NO_UIDS if missing else None,
        detail=f"{missing[0]} UID missing or not valid" if missing else "",
        values=values,
    )


def _incomplete(snapshot: Snapshot, broken: Broken) -> Look:
    structure = Structure(
        is_dicom=broken.is_dicom,
        is_complete=False,
        problem=broken.problem,
        detail=broken.detail,
        can_improve=broken.can_improve,
    )
    return Look(
        snapshot=snapshot,
        structure=structure,
        header=None,
        problem=broken.problem,
        detail=broken.detail,
    )


def _check_reach(walked: Walked, header: Header) -> None:
    """See that an object which ends on an element's border isn't cut there.

    Elements come in the order of their tags (PS3.5 section 7.1): one that is missing may yet
    come as long as nothing behind it has. We demand what each of the 65 objects in OpenREM's
    own tests has. Three images there had their Pixel Data taken out, but a vendor's group is
    left behind its place; so an image that tells its Rows must reach the first such group. Of
    reports, dose reports must have content; an Enhanced SR without a dose title need not.
    """
    if walked.highest >> 16 == _DIRECTORY_GROUP:
        return
    demands = [(_SERIES, "its series")]
    if header.sop_class_uid == _ENHANCED_SR:
        demands.append((_TITLE, "its title"))
    if header.sop_class_uid in _DOSE_REPORTS or (
        header.sop_class_uid == _ENHANCED_SR and header.title_code in _DOSE_TITLES
    ):
        demands.append((CONTENT_SEQUENCE, "its content"))
    if header.sop_class_uid in _IMAGES and _ROWS in walked.elements:
        demands.append((_PIXELS, "its pixels"))
    for tag, what in demands:
        if walked.highest < tag:
            raise Broken(Reason.TRUNCATED, f"ends before {what}", can_improve=True)


def _read_header(walked: Walked) -> Header:
    """Decode the elements that the walk has copied."""
    raw = b"".join(walked.elements[tag] for tag in _DECODED & walked.elements.keys())
    data_set = read_dataset(BytesIO(raw), walked.syntax.is_implicit, walked.syntax.is_little)
    values = _Values(data_set, walked.elements.get(_CHARACTER_SET, b""))
    title = data_set[_TITLE].value if _TITLE in data_set else None
    title_values = _Values(title[0] if title else Dataset(), b"")
    description = values.first(_SERIES_DESCRIPTION)
    return Header(
        sop_class_uid=values.matching(_SOP_CLASS, _UID),
        sop_instance_uid=values.matching(_SOP_INSTANCE, _UID),
        study_uid=values.matching(_STUDY, _UID),
        series_uid=values.matching(_SERIES, _UID),
        modality=values.first(_MODALITY),
        manufacturer=values.first(_MANUFACTURER),
        model=values.first(_MODEL),
        station=values.first(_STATION),
        # Free text, in which people write names. OpenREM asks only for this one value.
        series_description=description if description == _DOSE_INFO else "",
        image_type=values.all(_IMAGE_TYPE),
        title_code=title_values.first(_CODE_VALUE),
        title_scheme=title_values.first(_CODE_SCHEME),
        study_date=values.matching(_STUDY_DATE, _DATE),
        study_time=values.matching(_STUDY_TIME, _TIME),
    )


def _texts(walked: Walked, tag: int) -> tuple[str, ...]:
    """The values of one element, as rules compare them; `UNTOLD` where it can't be read."""
    if tag not in walked.elements:
        return ()
    try:
        raw, syntax = BytesIO(walked.elements[tag]), walked.syntax
        data_set = read_dataset(raw, syntax.is_implicit, syntax.is_little)
        found = _all_texts(data_set, tag, _terms(walked.elements.get(_CHARACTER_SET, b"")))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - see _examine; that is no reason to refuse the object
        return (UNTOLD,)
    return tuple(one.rstrip("\0 ").strip() for one in found)


def _all_texts(data_set: Dataset, tag: int, terms: list[str]) -> list[str]:
    element = data_set.get_item(tag)
    vr = str(element.VR)
    if vr not in _TEXTS | _NUMBERS:  # implicit, unknown, or not what it should be
        vr = dictionary_VR(tag)[:2]
    if vr not in _TEXTS:
        value = data_set[tag].value
        return [str(one) for one in (value if isinstance(value, MultiValue) else [value])]
    # Decoded before it is divided: half of a Chinese or Japanese character may be a backslash.
    delimiters = set(_NAME_PARTS if vr == "PN" else _LINES)
    text = decode_bytes(element.value or b"", convert_encodings(terms), delimiters)
    values = [text] if vr in _ONE_TEXT else text.split("\\")
    return [one.rstrip("\0 =") for one in values] if vr == "PN" else values


def _terms(character_set: bytes) -> list[str]:
    """The defined terms of a Specific Character Set; of what nobody has defined, the default's."""
    value = character_set[12 if character_set[4:6] == b"UN" else 8 :]
    terms = [term.strip(b" \0").decode("ascii", "replace") for term in value.split(b"\\")]
    return [term if term in python_encoding else "" for term in terms]


class _Values:
    """The values of a data set as short texts that are safe to print.

    The data set was read without its Specific Character Set, so pydicom has decoded everything
    as Latin-1, which can't fail. The right decoding is done here, where an unknown character
    set or undecodable bytes cost a few characters, and neither a warning nor the object.
    """

    def __init__(self, data_set: Dataset, character_set: bytes) -> None:
        self._data_set = data_set
        self._encoding = python_encoding[_terms(character_set)[0]]

    def all(self, tag: int) -> tuple[str, ...]:
        """All values of an element. Nothing in them breaks out of a log line or a terminal."""
        printable = ("".join(filter(str.isprintable, one)) for one in self._decoded(tag))
        return tuple(one.strip()[:MAX_TEXT] for one in printable)

    def first(self, tag: int) -> str:
        """The first value, or nothing."""
        return next(iter(self.all(tag)), "")

    def matching(self, tag: int, pattern: re.Pattern[str]) -> str:
        """The only value, if all of it is of this form as it was sent; or nothing."""
        values = self._decoded(tag)
        return values[0] if len(values) == 1 and pattern.fullmatch(values[0]) else ""

    def _decoded(self, tag: int) -> list[str]:
        if tag not in self._data_set:
            return []
        plain = self._plain(tag)
        if plain is not None:
            return [self._decode(one) for one in plain]
        value = self._data_set[tag].value
        if value is None:
            return []
        values = value[:MAX_VALUES] if isinstance(value, MultiValue) else [value]
        return [self._decode(str(one).rstrip("\0 ")) for one in values]

    def _plain(self, tag: int) -> list[str] | None:
        """What pydicom would make of a plain text, in a tenth of its time; None of any other."""
        element = self._data_set.get_item(tag)
        raw, vr = element.value, element.VR or dictionary_VR(tag)
        if vr not in _PLAIN or not isinstance(raw, bytes) or not raw or _ESCAPE in raw:
            return None
        values = raw.decode("latin-1").rstrip("\0 ").split("\\")[:MAX_VALUES]
        if vr == "UI":
            values = [one.strip() for one in values]
        return [one.rstrip("\0 ") for one in values]

    def _decode(self, text: str) -> str:
        return text.encode("latin-1", "replace").decode(self._encoding, "replace")
