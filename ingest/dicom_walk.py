"""The walk over a DICOM object's lengths: does it end exactly where its file ends?

A reader such as pydicom takes a file that was cut in the middle of a dose report without
complaint, and what is missing is then missing from the dose. But an object tells how long it
is: each element, item and fragment begins with its length (PS3.5 sections 7.1, 7.5 and A.4).
The walk hops from length to length and never looks at a value. Three rules keep it cheap and
safe with whatever is in the file:

* What has a defined length is skipped, nested or not; only sequences, items and encapsulated
  pixels of undefined length are entered. The state is where what is open must end. But of what
  OpenREM takes doses from, nothing is skipped unseen: there each length, at each depth, must
  end where the next begins. pydicom takes one that doesn't for the end, and the events behind
  it would be missing from the dose.
* Bytes come through a sliding window (`ingest.dicom_bytes`): memory does not grow with the file.
* Depth, number of elements and inflated bytes have limits; no real object comes near them.

A walk that can't go on raises `Broken`, which says whether more bytes could still cure it.
Zeros up to the end of the file count as bytes that are yet to come: some senders (Windows
Explorer through Samba) give a file its final size first and fill it afterwards.

Read `_Walk.data_set` first; `walk`, at the end, is the way in.
"""

import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from struct import Struct
from typing import NamedTuple

from ingest.dicom_bytes import (
    HEAD_BYTES,
    SHORT_HEAD_BYTES,
    Broken,
    File,
    Inflated,
    Source,
    Window,
)
from ingest.errors import Reason

MAX_DEPTH = 60  # sequences within sequences
MAX_ELEMENTS = 2_000_000  # the longest real dose report that we know has over 200,000
MAX_META_ELEMENTS = 200
MAX_VALUE_BYTES = 16 * 2**10  # a wanted element that is longer than this is not kept

CONTENT_SEQUENCE = 0x0040_A730  # where the substance of a report begins
_EXPOSURES = 0x0040_030E  # Exposure Dose Sequence, of Philips' dose infos
_RADIOPHARMACEUTICALS = 0x0054_0016
_DOSES = frozenset({CONTENT_SEQUENCE, _EXPOSURES, _RADIOPHARMACEUTICALS})
# Sequences within a report's content (PS3.3 section C.17.3). In implicit VR only their tag tells.
_NESTED = _DOSES | {0x0040_A043, 0x0040_A168, 0x0040_A300, 0x0040_08EA, 0x0040_A504, 0x0008_1199}

# Pixel Data, of whole or floating numbers. OpenREM's files are read up to there and no further.
_FIRST_PIXELS, _LAST_PIXELS = 0x7FE0_0008, 0x7FE0_0010

_PREAMBLE_BYTES = 128
_MARK = b"DICM"
_META_AT = _PREAMBLE_BYTES + len(_MARK)
_META_GROUP = b"\2\0"  # little endian, whatever the transfer syntax
_TRANSFER_SYNTAX = 0x0002_0010
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_BIG_ENDIAN = b"1.2.840.10008.1.2.2"

_FIRST_GROUP = 0x0004  # lower groups are commands, file meta information, or forbidden
_DELIMITERS = 0xFFFE  # the group of items and delimiters: without a VR in any transfer syntax
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
_UNDEFINED = 0xFFFF_FFFF
_NEVER = sys.maxsize  # an end that only a delimiter tells of
_NOT_UNDEFINED = "undefined length where none may be"
_LEADS_OUT = "a length that leads out of what it is in"
# The end of an item has no length (PS3.5 section 7.5). pydicom would skip as much as it says, and
# with it the next events; at the end of a sequence it doesn't.
_NO_END = "a delimiter of something else, or with a length"

# PS3.5 section 7.1.2: the VRs with a 16-bit length, and those with a 32-bit length.
_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_MAY_HOLD_ITEMS = frozenset({b"SQ", b"UN", b""})  # the last one: in implicit VR
_PIXELS = frozenset({b"OB", b"OW"})  # whose undefined length holds fragments


class Syntax(NamedTuple):
    """How the heads of elements are written (PS3.5 annex A)."""

    is_implicit: bool
    is_little: bool


_IMPLICIT = Syntax(is_implicit=True, is_little=True)
_EXPLICIT = Syntax(is_implicit=False, is_little=True)
_BIG = Syntax(is_implicit=False, is_little=False)

# Tag, VR (none in implicit VR) and length. After some VRs there is a 32-bit length instead.
_UNPACK_HEAD = {
    _IMPLICIT: Struct("<HH0sL").unpack_from,
    _EXPLICIT: Struct("<HH2sH").unpack_from,
    _BIG: Struct(">HH2sH").unpack_from,
}
# By "is little endian": that length; and the head of an item, which has no VR in any syntax.
_UNPACK_LENGTH = {True: Struct("<L").unpack_from, False: Struct(">L").unpack_from}
_UNPACK_ITEM = {True: Struct("<HHL").unpack_from, False: Struct(">HHL").unpack_from}


@dataclass(slots=True)
class Walked:
    """What the walk met at the top level of an object that ends where it should."""

    syntax: Syntax
    # The wanted elements, with their heads; empty if longer than `MAX_VALUE_BYTES`.
    elements: dict[int, bytes] = field(default_factory=dict, repr=False)
    highest: int = 0  # the highest tag


# -- the walk --------------------------------------------------------------------------------


class _Element(NamedTuple):
    tag: int
    vr: bytes  # empty in implicit VR
    value_at: int
    length: int


class _Walk:
    """One walk. What it finds is in ``walked``; what it is inside of, in ``_ends``."""

    def __init__(self, source: Source, syntax: Syntax, wanted: Collection[int] = ()) -> None:
        self.window = Window(source)
        self.walked = Walked(syntax)
        self._source = source
        self._wanted = wanted
        self._count = 0
        self._ends: list[int] = []  # of the sequences and items that are open, by turns
        self._have_doses: set[int] = set()

    def data_set(self, offset: int) -> None:
        """Walk over the top level, to exactly the end of the source."""
        walked, is_behind_pixels = self.walked, False
        while not self._is_end(offset):
            element = self.element(offset, walked.syntax)
            group = element.tag >> 16
            if group < _FIRST_GROUP or group >= _DELIMITERS:
                raise self._bad(offset, "no data set has such a group")
            if is_behind_pixels and element.tag < _FIRST_PIXELS:
                raise self._bad(offset, "an element behind the pixels")
            if element.tag in self.walked.elements or element.tag in self._have_doses:
                raise self._bad(offset, "an element that may be there once is there again")
            if element.tag in self._wanted:
                offset = self._keep(element, offset)
            elif element.tag in _DOSES and element.vr in _MAY_HOLD_ITEMS:
                self._have_doses.add(element.tag)
                offset = self._doses(element)
            else:
                offset = self._end_of(element)
            walked.highest = max(walked.highest, element.tag)
            is_behind_pixels |= _FIRST_PIXELS <= element.tag <= _LAST_PIXELS

    def _keep(self, element: _Element, start: int) -> int:
        """Copy an element that begins at ``start``; return where it ends."""
        # The source can't go back: what may be kept is copied before the end is known.
        most = min(element.value_at + element.length - start, MAX_VALUE_BYTES)
        copy = self.window.copy(start, most)
        end = self._end_of(element)
        self.walked.elements[element.tag] = copy[: end - start] if end - start <= most else b""
        return end

    def element(self, offset: int, syntax: Syntax) -> _Element:
        """Read the head of an element (PS3.5 sections 7.1.2 and 7.1.3)."""
        index = self._head(offset)
        self._count += 1
        data = self.window.data
        group, number, vr, length = _UNPACK_HEAD[syntax](data, index)
        if vr in _SHORT or syntax.is_implicit:
            return _Element(group << 16 | number, vr, offset + 8, length)
        if vr in _LONG:
            (length,) = _UNPACK_LENGTH[syntax.is_little](data, index + 8)
            return _Element(group << 16 | number, vr, offset + 12, length)
        raise self._bad(offset, "no such VR")

    def _is_end(self, offset: int) -> bool:
        self.window.at(offset)  # an inflated source knows its end only once it is there
        if offset > self._source.end:
            raise self._cut(offset)
        return offset == self._source.end

    def _end_of(self, element: _Element) -> int:
        """Where a top-level element ends; through its items, where it doesn't say."""
        if element.length != _UNDEFINED:
            return element.value_at + element.length
        if element.vr in _PIXELS:
            return self._fragments(element.value_at, self.walked.syntax)
        if element.vr not in _MAY_HOLD_ITEMS:
            raise self._bad(element.value_at, _NOT_UNDEFINED)
        return self._through(element, is_checked=False)

    def _doses(self, element: _Element) -> int:
        """Walk over all that is in a top-level sequence; return where it ends."""
        if element.length != _UNDEFINED and element.value_at + element.length > self._source.end:
            raise self._cut(element.value_at + element.length)
        return self._through(element, is_checked=True)

    def _through(self, element: _Element, *, is_checked: bool) -> int:
        """Walk through the items of a top-level element; return where it ends.

        With ``is_checked``, each length must be right, at each depth. Else what has a length is
        skipped.
        """
        offset = element.value_at
        self._ends = [_NEVER if element.length == _UNDEFINED else offset + element.length]
        return self._inside(offset, _within(element.vr, self.walked.syntax), is_checked)

    # Nearly all of the time is spent here. So one loop keeps the window in local variables (one
    # with a method for each kind of step takes three times as long), and the check of `_count`
    # is left to `_head`, which is called at least once a window. At each turn it leaves what has
    # ended, slides the window, skips a short element, or reads what else begins; that is skipped
    # or entered at the end of the turn.
    def _inside(self, offset: int, syntax: Syntax, is_checked: bool) -> int:  # noqa: C901, FBT001, PLR0912, PLR0915
        """Walk on from the start of the innermost that is open; return where it ends."""
        window, ends, count = self.window, self._ends, 0
        unpack, unpack_length = _UNPACK_HEAD[syntax], _UNPACK_LENGTH[syntax.is_little]
        # A real Philips object has group 2 in its items; what has no VR may just as well be noise.
        first = _FIRST_GROUP if syntax.is_implicit else is_checked
        in_item, outside = not len(ends) & 1, len(ends) - 1
        data, base = window.data, window.base
        index, last, end = offset - base, len(data) - HEAD_BYTES, ends[-1] - base
        while True:
            if index >= end:
                if index > end:
                    raise self._bad(base + index, _LEADS_OUT)
                ends.pop()
                if len(ends) == outside:
                    self._count += count
                    return base + index
                in_item, end = not in_item, ends[-1] - base
                continue
            if index > last:
                self._count, count = self._count + count, 0
                end += base
                index, data, base = self._head(base + index), window.data, window.base
                last, end = len(data) - HEAD_BYTES, end - base
            group, number, vr, length = unpack(data, index)
            count += 1
            if vr in _SHORT and in_item and first <= group != _DELIMITERS:
                index += 8 + length
                continue
            if group == _DELIMITERS:
                if vr:
                    (length,) = unpack_length(data, index + 4)
                index += 8
                if in_item or number != _ITEM:
                    if end + base != _NEVER or not _is_end_of(in_item, number, length):
                        raise self._bad(base + index - 8, _NO_END)
                    ends[-1], end = base + index, index
                    continue
                is_entered = is_checked or length == _UNDEFINED
                inner = self._of_item(base + index, length, syntax) if is_entered else syntax
            elif in_item and group >= first:
                if vr:
                    if vr not in _LONG:
                        raise self._bad(base + index, "no such VR")
                    (length,) = unpack_length(data, index + 8)
                    index += 4
                index += 8
                is_entered = length == _UNDEFINED or (
                    is_checked
                    and (vr == b"SQ" or (vr in _MAY_HOLD_ITEMS and group << 16 | number in _NESTED))
                )
                if is_entered and vr not in _MAY_HOLD_ITEMS:
                    if is_checked or vr not in _PIXELS:
                        raise self._bad(base + index, _NOT_UNDEFINED)
                    index = self._fragments(base + index, syntax) - base
                    continue
                inner = _within(vr, syntax)
            else:
                raise self._bad(base + index, "neither an item nor an element")
            if not is_entered:
                index += length
                continue
            self._enter(base + index, length)
            if inner is syntax:
                in_item, end = not in_item, ends[-1] - base
            else:
                index = self._inside(base + index, inner, is_checked) - base

    def _of_item(self, offset: int, length: int, syntax: Syntax) -> Syntax:
        """How an item is written whose first head is at ``offset``.

        Within explicit VR an item may be in implicit VR: those of UN must be (PS3.5 section
        6.2.2), and yet a real Hologic image has explicit ones there. So the item's first head
        tells, as it does for pydicom: a VR is two capital letters.
        """
        if syntax is not _EXPLICIT or not length:
            return syntax
        index = self._head(offset)
        return syntax if _is_vr(self.window.data[index + 4 : index + 6]) else _IMPLICIT

    def _enter(self, offset: int, length: int) -> None:
        """Note that a sequence or an item begins at ``offset``."""
        end = _NEVER if length == _UNDEFINED else offset + length
        if self._ends[-1] < end != _NEVER:
            raise self._bad(offset, _LEADS_OUT)
        self._ends.append(end)
        if len(self._ends) > 2 * MAX_DEPTH:  # a sequence and its item are two
            raise Broken(Reason.TOO_COMPLEX, f"nested deeper than {MAX_DEPTH} sequences")

    def _fragments(self, offset: int, syntax: Syntax) -> int:
        """Walk over the fragments of encapsulated pixels to their end (PS3.5 section A.4)."""
        unpack = _UNPACK_ITEM[syntax.is_little]
        self._ends.append(_NEVER)
        while True:
            index = self._head(offset)  # may replace the window's data
            group, number, length = unpack(self.window.data, index)
            self._count += 1
            if group == _DELIMITERS and number == _SEQUENCE_END:
                self._ends.pop()
                return offset + 8
            if group != _DELIMITERS or number != _ITEM or length == _UNDEFINED:
                raise self._bad(offset, "neither a fragment nor the end of the pixels")
            offset += 8 + length

    def _head(self, offset: int) -> int:
        """The index of the head at ``offset``, which must be there."""
        if self._count > MAX_ELEMENTS:
            raise Broken(Reason.TOO_COMPLEX, f"more than {MAX_ELEMENTS} elements")
        index = self.window.at(offset)
        if not self.window.has_head(index):
            raise self._cut(offset + SHORT_HEAD_BYTES)
        return index

    def _cut(self, expected: int) -> Broken:
        end = self._source.end
        rest = self._source.read(expected - SHORT_HEAD_BYTES, SHORT_HEAD_BYTES)
        if rest and not rest.strip(b"\0") and not self._is_inside():
            return self._bad(expected - SHORT_HEAD_BYTES, "padding")
        return Broken(
            Reason.TRUNCATED,
            f"ends at byte {end} of at least {expected} expected",
            can_improve=True,
        )

    def _is_inside(self) -> bool:
        return bool(self._ends)

    def _bad(self, offset: int, what: str) -> Broken:
        """Rules are broken at ``offset``: behind a whole object, within it, or not written yet."""
        is_behind = not self._is_inside() and self.walked.highest >= CONTENT_SEQUENCE
        if self._source.is_blank(offset):
            problem = Reason.TRAILING_DATA if is_behind else Reason.TRUNCATED
            return Broken(problem, f"nothing but zeros from byte {offset} on", can_improve=True)
        problem = Reason.TRAILING_DATA if is_behind else Reason.MALFORMED
        return Broken(problem, f"{what}, at byte {offset}")


def _is_vr(two: bytes) -> bool:
    return two.isalpha() and two.isupper()


def _is_end_of(in_item: bool, number: int, length: int) -> bool:  # noqa: FBT001 - in a loop
    """Does this delimiter end an item, or else a sequence?"""
    return number == _ITEM_END and not length if in_item else number == _SEQUENCE_END


def _within(vr: bytes, syntax: Syntax) -> Syntax:
    """How the items of such an element are written."""
    return _IMPLICIT if vr == b"UN" and not syntax.is_little else syntax  # PS3.5 section 6.2.2


# -- before the data set ---------------------------------------------------------------------


def _check_mark(file: File) -> None:
    """Look at preamble and mark (PS3.10 section 7.1).

    The preamble is zeros, or the head of a TIFF file for those who read the object as that. A
    file that ends within it may still grow into an object only if it begins like one.
    """
    head = file.read(0, _META_AT)
    preamble, mark = head[:_PREAMBLE_BYTES], head[_PREAMBLE_BYTES:]
    if mark == _MARK:
        return
    if not head:
        raise Broken(Reason.EMPTY, "", can_improve=True, is_dicom=False)
    may_begin = not preamble.strip(b"\0") or any(
        tiff.startswith(preamble[:4]) for tiff in (b"II*\0", b"MM\0*")
    )
    if len(head) < _META_AT and may_begin and _MARK.startswith(mark):
        detail = f"ends at byte {len(head)} of at least {_META_AT} expected"
        raise Broken(Reason.TRUNCATED, detail, can_improve=True, is_dicom=False)
    is_half = may_begin and _MARK.startswith(mark.rstrip(b"\0"))
    blank = is_half and (len(head) < _META_AT or file.is_blank(_META_AT - HEAD_BYTES))
    raise Broken(Reason.NOT_DICOM, "", can_improve=blank, is_dicom=False)


def _read_meta(file: File) -> tuple[int, bytes]:
    """Where the file meta information ends, and its Transfer Syntax UID (PS3.10 section 7.1).

    The next group tells where it ends: the length in (0002,0000) is wrong in some files.
    """
    walk = _Walk(file, _EXPLICIT)
    offset, transfer_syntax = _META_AT, b""
    for _ in range(MAX_META_ELEMENTS):
        group = walk.window.copy(offset, len(_META_GROUP))
        if len(group) == len(_META_GROUP) and group != _META_GROUP:
            break
        element = walk.element(offset, _EXPLICIT)
        offset = element.value_at + element.length
        if element.tag == _TRANSFER_SYNTAX:
            transfer_syntax = walk.window.copy(element.value_at, min(element.length, 64))
    else:
        raise Broken(Reason.TOO_COMPLEX, f"more than {MAX_META_ELEMENTS} file meta elements")
    if offset == _META_AT:
        blank = file.is_blank(offset)
        raise Broken(Reason.MALFORMED, "no file meta information", can_improve=blank)
    return offset, transfer_syntax.rstrip(b"\0 ")


def _syntax(transfer_syntax: bytes, head: bytes) -> Syntax:
    """How the data set is written.

    Explicit or implicit is told by its first element and not by the transfer syntax: that is
    wrong in some files, and pydicom (so OpenREM) reads them this way.
    """
    if not _is_vr(head[4:6]):
        return _IMPLICIT
    return _BIG if transfer_syntax == _BIG_ENDIAN else _EXPLICIT


def walk(descriptor: int, size: int, wanted: Collection[int]) -> Walked:
    """Walk over an open file of ``size`` bytes; keep its ``wanted`` top-level elements.

    Raises:
        Broken: it does not end where it should, or is no DICOM object.
    """
    file = File(descriptor, size)
    _check_mark(file)
    start, transfer_syntax = _read_meta(file)
    source: Source = file
    if transfer_syntax == _DEFLATED:
        source, start = Inflated(file, start), 0
    syntax = _syntax(transfer_syntax, source.read(start, SHORT_HEAD_BYTES))
    journey = _Walk(source, syntax, wanted)
    journey.data_set(start)
    return journey.walked
