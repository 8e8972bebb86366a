"""Our tests' own reading of DICOM, by the rules: neither pydicom's nor the product's.

pydicom passes over what it can't read, and the product skips what it need not know. This reader
does neither: each length, at each depth, must end where the next one begins. So it can say what
an object holds that was damaged, and whether that can be said at all.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEFLATED, _BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
# In implicit VR nothing but their tags tells sequences. Only of these are doses made.
_OF_DOSES = {0x0040A730, 0x0040A043, 0x0040A168, 0x0040A300, 0x004008EA, 0x0040030E, 0x00540016}
_MOST = 64 << 20  # bytes that are unpacked
_DEPTH = 120

# Of an irradiation event or administration its container, and the UID in it (PS3.16 TID 10003,
# 10013 and 10022).
_EVENTS = {"113706": "113769", "113819": "113769", "113502": "113503"}


class Unsound(Exception):
    """By the rules it can't be read."""


@dataclass(slots=True)
class Element:
    """An element or item, and where its parts lie."""

    tag: int
    at: int  # its head
    length_at: int
    length_format: str
    value_at: int
    vr: bytes = b""
    end: int = 0  # where the next one begins
    is_undefined: bool = False
    parent: "Element | None" = None
    inner: "list[Element]" = field(default_factory=list)  # items, or their elements

    def all(self) -> "Iterator[Element]":
        """It and all within it."""
        yield self
        for one in self.inner:
            yield from one.all()


@dataclass(slots=True)
class Read:
    """A whole object. Of an element that is there twice the last one counts, as for pydicom."""

    content: bytes  # what the places are in: unpacked, if it was deflated
    meta: list[Element]
    elements: list[Element]
    is_implicit: bool

    def all(self) -> Iterator[Element]:
        """The elements and items at all depths."""
        for element in self.elements:
            yield from element.all()

    def value(self, element: Element) -> bytes:
        """The bytes of a value."""
        return self.content[element.value_at : element.end]

    def find(self, tag: int, within: list[Element] | None = None) -> Element | None:
        """An element by its tag."""
        found = [one for one in (within or self.elements) if one.tag == tag]
        return found[-1] if found else None

    def text(self, tag: int, within: list[Element] | None = None) -> str:
        """A text without the blanks around it, "" where there is none."""
        element = self.find(tag, within) if within != [] else None
        return self.value(element).decode("latin-1").strip("\0 \t\n\r\f\v") if element else ""

    def items(self, tag: int, within: list[Element] | None = None) -> list[list[Element]]:
        """What is in each item of a sequence."""
        element = self.find(tag, within) if within != [] else None
        return [item.inner for item in element.inner] if element else []

    @property
    def sop_class(self) -> str:
        """Its SOP Class UID."""
        return self.text(0x00080016)

    @property
    def sop_instance(self) -> str:
        """Its SOP Instance UID."""
        return self.text(0x00080018)

    @property
    def study(self) -> str:
        """Its Study Instance UID."""
        return self.text(0x0020000D)

    def events(self) -> Counter[str]:
        """The UIDs of a report's irradiation events and administrations; "" for what is none."""
        found: Counter[str] = Counter()
        for item in self.items(0x0040A730):
            wanted = _EVENTS.get(self.concept(item))
            if wanted and self.text(0x0040A040, item) == "CONTAINER":
                uids = [
                    self.text(0x0040A124, inner) if uid.vr in (b"UI", b"") else ""
                    for inner in self.items(0x0040A730, item)
                    if self.concept(inner) == wanted and (uid := self.find(0x0040A124, inner))
                ]
                found[uids[0] if uids else ""] += 1
        return found

    def containers(self) -> int:
        """How many items may be events: to OpenREM a meaning is enough, whatever the type."""
        items = self.items(0x0040A730)
        return sum(self.find(0x0040A730, item) is not None for item in items if item)

    def concept(self, item: list[Element]) -> str:
        """The code of a content item's concept name."""
        names = self.items(0x0040A043, item)
        return self.text(0x00080100, names[0]) if names else ""

    def exposures(self) -> int:
        """The items of a Philips dose info that tell an acquisition type."""
        items = self.items(0x0040030E)
        return sum(self.find(0x00189302, item) is not None for item in items if item)


def read(content: bytes, *, deep: Collection[int] | None = None) -> Read:
    """Read a whole object; `Unsound` if the rules forbid it.

    Args:
        content: the file.
        deep: where not all must be sound that an element holds which tells its length, the
            tags of those at the top level in which all must be.
    """
    if content[128:132] != b"DICM":
        raise Unsound("no mark")
    reader = _Reader(content, deep)
    meta, at = [], 132
    while content[at : at + 2] == b"\2\0":
        meta.append(reader.element(at, None, "<", is_implicit=False))
        at = meta[-1].end
    syntax = next((reader.value(one) for one in meta if one.tag == 0x00020010), b"")
    name = syntax.decode("latin-1").rstrip("\0 ")
    if name == _DEFLATED:
        reader, at = _Reader(_unpacked(content[at:]), deep), 0
    is_implicit = not _is_vr(reader.content[at + 4 : at + 6])
    order = ">" if name == _BIG and not is_implicit else "<"
    elements = []
    while at < len(reader.content):
        elements.append(reader.element(at, None, order, is_implicit=is_implicit))
        at = elements[-1].end
    return Read(reader.content, meta, elements, is_implicit)


class _Reader:
    def __init__(self, content: bytes, deep: Collection[int] | None) -> None:
        self.content = content
        self.deep = deep
        self.depth = 0

    def value(self, element: Element) -> bytes:
        return self.content[element.value_at : element.end]

    def number(self, form: str, at: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(form, self.content, at)
        except struct.error as error:
            raise Unsound("ends within a head") from error

    def element(self, at: int, parent: Element | None, order: str, *, is_implicit: bool) -> Element:
        """Read the element, item or delimiter that begins here."""
        group, number = self.number(order + "HH", at)
        tag = group << 16 | number
        form, length_at, vr = order + "L", at + 4, b""
        if not is_implicit and group != _ITEM >> 16:
            vr = self.content[at + 4 : at + 6]
            if vr not in _SHORT | _LONG:
                raise Unsound("no such VR")
            form, length_at = (order + "H", at + 6) if vr in _SHORT else (form, at + 8)
        (length,) = self.number(form, length_at)
        value_at = length_at + struct.calcsize(form)
        element = Element(tag, at, length_at, form, value_at, vr, value_at, parent=parent)
        element.is_undefined = length == _UNDEFINED and form[1] == "L"
        if tag == _ITEM_END and length:
            raise Unsound("an end that tells a length")
        if not element.is_undefined and tag != _SEQUENCE_END:
            element.end = value_at + length
            if element.end > len(self.content):
                raise Unsound("ends within a value")
        self.enter(element, order, is_implicit=is_implicit)
        return element

    def enter(self, element: Element, order: str, *, is_implicit: bool) -> None:
        """Read what is in it, if that is anything but a value."""
        self.depth += 1
        if self.depth > _DEPTH:
            raise Unsound("too deep")
        if element.tag == _ITEM:
            if not self.is_fragment(element) and self.is_wanted(element):
                first = self.content[element.value_at + 4 : element.value_at + 6]
                is_implicit = is_implicit or (order == "<" and not _is_vr(first))
                self.fill(element, _ITEM_END, order, is_implicit=is_implicit)
        elif self.is_to_be_entered(element, is_implicit=is_implicit):
            if element.vr == b"UN":
                order, is_implicit = "<", is_implicit or order == ">"
            self.fill(element, _SEQUENCE_END, order, is_implicit=is_implicit)
        self.depth -= 1

    def is_to_be_entered(self, element: Element, *, is_implicit: bool) -> bool:
        if element.is_undefined:
            return True
        if element.tag >> 16 == _ITEM >> 16 or not self.is_wanted(element):
            return False
        return _holds_items(element, is_implicit=is_implicit)

    def is_wanted(self, element: Element) -> bool:
        """Must all in it be sound? What tells no length must be walked through to its end."""
        top = element
        while top.parent is not None:
            top = top.parent
        return self.deep is None or top.tag in self.deep or element.is_undefined

    def is_fragment(self, item: Element) -> bool:
        return item.parent is not None and item.parent.vr in {b"OB", b"OW"}

    def fill(self, outer: Element, end_mark: int, order: str, *, is_implicit: bool) -> None:
        """Read elements or items up to the end, which must be where the length says."""
        at = outer.value_at
        while outer.is_undefined or at < outer.end:
            one = self.element(at, outer, order, is_implicit=is_implicit)
            at = one.end
            if one.tag == end_mark and outer.is_undefined:
                at = one.value_at
                break
            if (one.tag == _ITEM) != (end_mark == _SEQUENCE_END) or one.tag in (
                _ITEM_END,
                _SEQUENCE_END,
            ):
                raise Unsound("something else than what belongs here")
            outer.inner.append(one)
        if not outer.is_undefined and at != outer.end:
            raise Unsound("a length that leads out of what it is in")
        outer.end = at


def _holds_items(element: Element, *, is_implicit: bool) -> bool:
    if element.vr == b"SQ":
        return True
    if not is_implicit and element.vr != b"UN":
        return False
    return element.tag in _OF_DOSES


def _is_vr(two: bytes) -> bool:
    return two.isalpha() and two.isupper()


def _unpacked(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(packed, _MOST)
    except zlib.error as error:
        raise Unsound("can't be unpacked") from error
    if not unpacker.eof:
        raise Unsound("unpacks to too much, or not to its end")
    return content
