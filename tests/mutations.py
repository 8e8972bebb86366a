"""Makes damaged and hostile DICOM files out of sound ones: the same ones each time.

Each mutant has UIDs of its own from before it was damaged, so that two of them are hardly ever
"the same object" to OpenREM.
"""

import io
import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread, dcmwrite
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from tests import objects, strict

SEED = 1895
HEAD_BYTES = 2048  # half of all damage is done here
ABSURD = (0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0x80000000, 0x00FFFFFF, 0xFFFF, 0xFFFD, 7, 1, 0)
VRS = b"AE AS AT CS DA DS DT FD FL IS LO OB OW PN SH SL SQ SS TM UI UL UN US UT ZZ ??".split()
CHARACTER_SETS = (
    *(b"ISO_IR 192", b"GB18030", b"\\ISO 2022 IR 87", b"ISO 2022 IR 6\\ISO 2022 IR 149"),
    *(b"ISO_IR 13", b"no such", b"\x1b$B", b"", b"ISO_IR 100\\" * 99),
)
TEXTS = (
    *(b"", b" ", b"\0\0", b"9" * 20, b"9" * 400, b"-", b"NaN", b"1e999", b"-1e-999", b"Infinity"),
    *(b"0", b"-1", b"1,5", b"1\\2\\3", b"\\" * 40, b"../../etc/passwd", b"\x1b[2J\x1b]0;x\x07"),
    *(b"\x1b$B$3$s\x1b(B", b"\xff\xfe\xfd", "Müller".encode(), b"a\r\nb", b"'; DROP TABLE x; --"),
    *(b"%s%n{0}", b"20240231", b"99999999", b"0000", b"250000", b"240000.999999", b"2024-01-01"),
)
UIDS = (
    *(b"", b"1." * 300, b"9" * 65, b"../../etc/passwd", b"/etc/passwd", b"..", b"1.2\\1.3"),
    *(b"1.2\0.3", b"1.2.\x1b[31m", b"1..2", b".1", b"1.2 ", b"x", b"\xb2.1", b"1.2.3\n"),
)
TRANSFER_SYNTAXES = (
    *(b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2"),
    *(b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.5", b"", b"1.2.3"),
)
UID_TAGS = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
EVENT_UID = 0x0040A124
PATIENT_ID = 0x00100020

_UNDEFINED = 0xFFFFFFFF
_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, _UNDEFINED)
_EMPTY_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
_ENDS = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
_PRIVATE = struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 4) + b"TEST"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A file, and what was done to make it."""

    kind: str
    content: bytes


# -- sound objects -----------------------------------------------------------------------------


class Sound:
    """An object to be damaged. It is read once; what is made of it has all in the same places."""

    def __init__(self, content: bytes, *, is_deflated: bool = False) -> None:
        """Read it; ``is_deflated``: what is made of it becomes so at last."""
        self.is_deflated = is_deflated
        self.read = found = strict.read(content)
        self.all = list(found.all())
        own = (0x00080018, 0x0020000D, EVENT_UID)
        uids = {found.value(one).rstrip(b"\0 ") for one in self.all if one.tag in own}
        # Room enough that no two are the same.
        self._uids = sorted(
            (uid for uid in uids if len(uid) > 12), key=lambda uid: (len(uid), uid), reverse=True
        )
        self._patient = found.find(PATIENT_ID)

    def fresh(self, chance: random.Random) -> bytes:
        """The same object with UIDs and a patient ID of its own, each as long as it was."""
        content = self.read.content
        for uid in self._uids:
            content = content.replace(uid, b"2.25." + _digits(len(uid) - 5, chance))
        if self._patient is not None:
            start, end = self._patient.value_at, self._patient.end
            content = content[:start] + _digits(end - start, chance) + content[end:]
        return encoded(content, DeflatedExplicitVRLittleEndian) if self.is_deflated else content


def sound(corpus: Iterable[bytes]) -> list[Sound]:
    """Objects of every kind: our samples, OpenREM's own, and other ways to write them."""
    ct, rf, dx, mg = (
        path.read_bytes()
        for path in (objects.CT_REPORT, objects.RF_REPORT, objects.DX_IMAGE, objects.MG_IMAGE)
    )
    small = small_report()
    contents = [ct, rf, dx, mg, small, with_undefined_lengths(ct), with_undefined_lengths(small)]
    contents += [encoded(small, ImplicitVRLittleEndian), encoded(dx, ImplicitVRLittleEndian)]
    contents += [encoded(small, ExplicitVRBigEndian)]
    return [*map(Sound, contents), Sound(dx, is_deflated=True), *map(Sound, corpus)]


def small_report() -> bytes:
    """A dose report of one event that OpenREM imports, with hardly more than it needs."""
    report = _opened(objects.CT_REPORT.read_bytes())
    event = objects.events(report)[0]
    report.ContentSequence = [
        item for item in report.ContentSequence if item is event or "UID" in item
    ]
    event.ContentSequence = [
        item for item in event.ContentSequence if item.ValueType in ("UIDREF", "CONTAINER")
    ]
    for container in event.ContentSequence:
        if "ContentSequence" in container:
            container.ContentSequence = container.ContentSequence[:2]
    return _bytes_of(report)


def encoded(content: bytes, syntax: str) -> bytes:
    """The same object in another transfer syntax."""
    dataset = _opened(content)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = io.BytesIO()
    is_implicit = syntax == ImplicitVRLittleEndian
    is_little = syntax != ExplicitVRBigEndian
    dcmwrite(buffer, dataset, implicit_vr=is_implicit, little_endian=is_little)
    return buffer.getvalue()


def with_undefined_lengths(content: bytes) -> bytes:
    """The same object, with sequences and items that end by a delimiter."""
    dataset = _opened(content)

    def open_up(_: Dataset, element: DataElement) -> None:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True

    dataset.walk(open_up)
    return _bytes_of(dataset)


def _opened(content: bytes) -> FileDataset:
    return dcmread(io.BytesIO(content))


def _bytes_of(dataset: FileDataset) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset)
    return buffer.getvalue()


def _digits(number: int, chance: random.Random) -> bytes:
    return bytes(chance.choices(b"123456789", k=number))


# -- cuts ----------------------------------------------------------------------------------------


def cuts(report: bytes) -> list[Mutant]:
    """The report cut at each of its bytes."""
    return [Mutant("cut", report[:size]) for size in range(len(report))]


# -- hostile ones --------------------------------------------------------------------------------


def hostile(folder: Path, many: int = 1_000_000) -> Iterator[Mutant]:
    """What somebody would make who wants a reader to fall over.

    Args:
        folder: for what is made on the way.
        many: how many items or elements are countless.
    """
    chance = random.Random(SEED)  # noqa: S311 - chance that repeats itself
    yield from _nested(chance)
    yield from _countless(chance, many)
    bomb = objects.deflated(objects.DX_IMAGE, folder / "bomb", 1 << 30).read_bytes()
    yield Mutant("a deflated bomb", bomb)
    yield Mutant("a deflated bomb, cut", bomb[: len(bomb) // 8])
    for vr in (b"OB", b"SQ", b"UN", b"UT", b"OW"):
        for length in ABSURD:
            element = _PRIVATE + _private(vr, length) + bytes(40)
            yield Mutant("an absurd length", _image_with(chance, element))
    for length in ABSURD[-5:]:
        lying = struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", length)
        yield Mutant("an absurd short length", _image_with(chance, lying))
    for mark in (_ENDS[:8], _ENDS[8:], _EMPTY_ITEM):
        yield Mutant("a stray delimiter", _image_with(chance, mark))
    one, other = _image_with(chance), _image_with(chance)
    yield Mutant("two files", one + other)
    yield Mutant("two data sets", one + other[strict.read(other).elements[0].at :])
    yield Mutant("zeros behind", _image_with(chance) + bytes(100_000))
    yield Mutant("text behind", _image_with(chance) + b"and more\r\n")
    yield Mutant("nothing", b"")
    yield Mutant("only a head", bytes(128) + b"DICM")
    yield Mutant("only zeros", bytes(50_000))


def _nested(chance: random.Random) -> Iterator[Mutant]:
    opening = _private(b"SQ", _UNDEFINED) + _ITEM
    implicit = struct.pack("<HHL", 0x0009, 0x1010, _UNDEFINED) + _ITEM
    for depth in (300, 10_000, 100_000):
        forms = {
            "nested": opening * depth + _ENDS * depth,
            "nested without end": opening * depth,
            "nested in UN": _private(b"UN", _UNDEFINED) + _ITEM + implicit * depth,
            "nested by lengths": _telescope(depth),
        }
        for kind, nested in forms.items():
            yield Mutant(kind, _image_with(chance, _PRIVATE + nested))
        yield Mutant("nested content", report_with(chance, nested_content(depth // 20)))
    half = struct.pack("<HHLHH2sH4s", 0xFFFE, 0xE000, 12, 0x0018, 0x9306, b"FD", 4, b"half")
    for depth in (5, 15, 50):
        yield Mutant("nested bad value", report_with(chance, nested_content(depth, half)))


def _countless(chance: random.Random, many: int) -> Iterator[Mutant]:
    items = _EMPTY_ITEM * many
    for vr in (b"SQ", b"UN"):
        sequence = _PRIVATE + _private(vr, _UNDEFINED) + items + _ENDS[8:]
        yield Mutant("countless items", _image_with(chance, sequence))
    yield Mutant("countless items as content", report_with(chance, items))
    heads = (
        struct.pack("<HH2sH", 0x0009, 0x1000 + number % 0xEF00, b"LO", 0) for number in range(many)
    )
    yield Mutant("countless elements", _image_with(chance, _PRIVATE + b"".join(heads)))


def _private(vr: bytes, length: int) -> bytes:
    return struct.pack("<HH2sHL", 0x0009, 0x1010, vr, 0, length)


def _image_with(chance: random.Random, inner: bytes = b"") -> bytes:
    """A sound image with this in the place of a private element."""
    image = Sound(objects.DX_IMAGE.read_bytes())
    content = image.fresh(chance)
    at = next(one.at for one in image.read.elements if one.tag > 0x0009FFFF)
    return content[:at] + inner + content[at:]


def _telescope(depth: int) -> bytes:
    """Sequences within sequences that tell their lengths: a sequence's and an item's are 20."""
    return b"".join(
        _private(b"SQ", inner + 8) + struct.pack("<HHL", 0xFFFE, 0xE000, inner)
        for inner in range((depth - 1) * 20, -1, -20)
    )


def report_with(chance: random.Random, items: bytes) -> bytes:
    """A small report with more items in its content."""
    report = Sound(small_report())
    sequence = report.read.find(0x0040A730)
    assert sequence is not None
    return _spliced(report.fresh(chance), sequence.end, sequence.end, items, sequence)


def nested_content(depth: int, content: bytes = b"") -> bytes:
    """A content item in a content item, and so on, each with its length."""
    for _ in range(depth):
        sequence = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, len(content)) + content
        content = struct.pack("<HHL", 0xFFFE, 0xE000, len(sequence)) + sequence
    return content


# -- damaged ones --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Patient:
    """What a damage is done to."""

    sound: Sound
    content: bytes
    other: Sound
    chance: random.Random

    def place(self) -> int:
        """Somewhere; every second time in the header."""
        most = len(self.content)
        return self.chance.randrange(min(most, HEAD_BYTES) if self.chance.random() < 0.5 else most)

    def some(self, most: int = 64) -> bytes:
        """A few bytes of any value."""
        return self.chance.randbytes(self.chance.randint(1, most))

    def element(self) -> strict.Element:
        """One of its elements or items; every third time one at the top level."""
        is_top = self.chance.random() < 0.3
        return self.chance.choice(self.sound.read.elements if is_top else self.sound.all)

    def value(self) -> strict.Element:
        """One of its elements that has a value of its own."""
        return self.chance.choice(
            [one for one in self.sound.all if not one.inner and one.end > one.value_at]
        )


def _overwritten(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def _spliced(
    content: bytes, start: int, end: int, new: bytes, within: strict.Element | None
) -> bytes:
    """Put something else there, and correct the lengths of all that it lies in."""
    changed = bytearray(content)
    more = len(new) - (end - start)
    while within is not None:
        if not within.is_undefined:
            (length,) = struct.unpack_from(within.length_format, content, within.length_at)
            most = (1 << 8 * struct.calcsize(within.length_format)) - 1
            struct.pack_into(
                within.length_format, changed, within.length_at, min(length + more, most)
            )
        within = within.parent
    changed[start:end] = new
    return bytes(changed)


def _with_value(content: bytes, element: strict.Element, value: bytes) -> bytes:
    """Another value in an element, with all lengths right."""
    value += b" " * (len(value) % 2)
    return _spliced(content, element.value_at, element.end, value, element)


def _flip_bits(patient: _Patient) -> bytes:
    content = bytearray(patient.content)
    for _ in range(patient.chance.choice((1, 1, 1, 2, 5))):
        content[patient.place()] ^= 1 << patient.chance.randrange(8)
    return bytes(content)


def _flip_bytes(patient: _Patient) -> bytes:
    content = bytearray(patient.content)
    for _ in range(patient.chance.choice((1, 1, 1, 3, 20))):
        content[patient.place()] = patient.chance.randrange(256)
    return bytes(content)


def _overwrite(patient: _Patient) -> bytes:
    return _overwritten(patient.content, patient.place(), patient.some())


def _insert(patient: _Patient) -> bytes:
    at = patient.place()
    return patient.content[:at] + patient.some() + patient.content[at:]


def _delete(patient: _Patient) -> bytes:
    at = patient.place()
    return patient.content[:at] + patient.content[at + patient.chance.randint(1, 64) :]


def _cut(patient: _Patient) -> bytes:
    return patient.content[: patient.place()]


def _never_filled(patient: _Patient) -> bytes:
    at = patient.place()
    return patient.content[:at] + bytes(len(patient.content) - at)


def _absurd_length(patient: _Patient) -> bytes:
    element = patient.element()
    length = patient.chance.choice((*ABSURD, patient.chance.randrange(1 << 16)))
    size = struct.calcsize(element.length_format)
    new = struct.pack(element.length_format, length & (1 << 8 * size) - 1)
    return _overwritten(patient.content, element.length_at, new)


def _length_off_by_a_little(patient: _Patient) -> bytes:
    element = patient.element()
    (length,) = struct.unpack_from(element.length_format, patient.content, element.length_at)
    size = struct.calcsize(element.length_format)
    off = length + patient.chance.choice((-20, -8, -2, -1, 1, 2, 8, 20))
    new = struct.pack(element.length_format, off & (1 << 8 * size) - 1)
    return _overwritten(patient.content, element.length_at, new)


def _wrong_vr(patient: _Patient) -> bytes:
    at = patient.element().at + 4
    return _overwritten(patient.content, at, patient.chance.choice(VRS))


def _wrong_tag(patient: _Patient) -> bytes:
    element, other = patient.element(), patient.element()
    tag = patient.content[other.at : other.at + 4]
    return _overwritten(patient.content, element.at, tag)


def _a_delimiter(patient: _Patient) -> bytes:
    mark = patient.chance.choice((b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0", b"\xfe\xff\0\xe0"))
    return _overwritten(patient.content, patient.element().at, mark)


def _random_value(patient: _Patient) -> bytes:
    value = patient.value()
    new = patient.chance.randbytes(value.end - value.value_at)
    return _overwritten(patient.content, value.value_at, new)


def _other_digits(patient: _Patient) -> bytes:
    """Numbers, codes, times and UIDs with other digits: as sound as before, to a reader."""
    content = bytearray(patient.content)
    for _ in range(patient.chance.choice((1, 1, 3, 10))):
        value = patient.value()
        places = [at for at in range(value.value_at, value.end) if 0x30 <= content[at] <= 0x39]
        if places:
            content[patient.chance.choice(places)] = patient.chance.choice(b"0123456789")
    return bytes(content)


def _other_text(patient: _Patient) -> bytes:
    text = patient.chance.choice((*TEXTS, patient.some(200)))
    return _with_value(patient.content, patient.value(), text)


def _other_text_at_the_top(patient: _Patient) -> bytes:
    found = patient.sound.read
    values = [one for one in found.elements if not one.inner and one.end > one.value_at]
    values = [one for one in values if one.tag not in UID_TAGS]
    text = patient.chance.choice((*TEXTS, patient.some(200)))
    return _with_value(patient.content, patient.chance.choice(values), text)


def _without(patient: _Patient) -> bytes:
    element = patient.element()
    return _spliced(patient.content, element.at, element.end, b"", element.parent)


def _without_value(patient: _Patient) -> bytes:
    return _with_value(patient.content, patient.element(), b"")


def _doubled(patient: _Patient) -> bytes:
    element = patient.element()
    copy = patient.content[element.at : element.end]
    return _spliced(patient.content, element.end, element.end, copy, element.parent)


def _odd_uid(patient: _Patient) -> bytes:
    uids = [one for one in patient.sound.all if one.tag in (*UID_TAGS, EVENT_UID)]
    return _with_value(patient.content, patient.chance.choice(uids), patient.chance.choice(UIDS))


def _control_sequences(patient: _Patient) -> bytes:
    found = patient.sound.read
    tag = patient.chance.choice((0x00080060, 0x00080070, 0x00081010, 0x00081090))
    element = found.find(tag) or patient.value()
    return _with_value(patient.content, element, b"\x1b[2J\x1b]0;x\x07\r\n\x9b1m"[:16])


def _character_set(patient: _Patient) -> bytes:
    """Another character set, with its element made where there is none."""
    found = patient.sound.read
    name = patient.chance.choice(CHARACTER_SETS)
    element = found.find(0x00080005)
    if element is not None:
        return _with_value(patient.content, element, name)
    at = found.elements[0].at
    name += b" " * (len(name) % 2)
    new = struct.pack("<HH2sH", 0x0008, 0x0005, b"CS", len(name)) + name
    return patient.content[:at] + new + patient.content[at:]


def _other_transfer_syntax(patient: _Patient) -> bytes:
    found = patient.sound.read
    element = next(one for one in found.meta if one.tag == 0x00020010)
    syntax = patient.chance.choice(TRANSFER_SYNTAXES)
    syntax += b"\0" * (len(syntax) % 2)
    return _spliced(patient.content, element.value_at, element.end, syntax, element)


def _mixture(patient: _Patient) -> bytes:
    """The head of one and the tail of another, at any place."""
    at = patient.place()
    return patient.content[:at] + patient.other.fresh(patient.chance)[at:]


def _mixture_at_a_border(patient: _Patient) -> bytes:
    """The same where an element of either begins."""
    one, two = (patient.chance.choice(of.read.elements) for of in (patient.sound, patient.other))
    return patient.content[: one.at] + patient.other.fresh(patient.chance)[two.at :]


_ANYWHERE = (_flip_bits, _flip_bytes, _overwrite, _insert, _delete, _cut, _never_filled, _mixture)
_BY_STRUCTURE = (
    *(_absurd_length, _length_off_by_a_little, _wrong_vr, _wrong_tag, _a_delimiter),
    *(_random_value, _other_digits, _other_text, _other_text_at_the_top, _without),
    *(_without_value, _doubled, _odd_uid, _control_sequences, _character_set),
    *(_other_transfer_syntax, _mixture_at_a_border),
)


def damaged(objects_: Sequence[Sound], seed: int = SEED) -> Iterator[Mutant]:
    """Mutants without end: each kind of damage in turn, each to another of the sound objects."""
    plain = [one for one in objects_ if not one.is_deflated]
    number = 0
    while True:
        for damage in (*_ANYWHERE, *_BY_STRUCTURE):
            chance = random.Random(f"{seed}-{number}")  # noqa: S311 - chance that repeats itself
            number += 1
            usable = objects_ if damage in _ANYWHERE else plain
            one, other = chance.choices(usable, k=2)
            content = one.fresh(chance)
            mutant = damage(_Patient(one, content, other, chance))
            if mutant != content:
                yield Mutant(damage.__name__.strip("_").replace("_", " "), mutant)
