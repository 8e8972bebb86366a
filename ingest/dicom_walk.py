"""The walk over a DICOM object's lengths: does it end exactly where its file ends?

A reader such as pydicom takes a file that was cut in the middle of a dose report without
complaint, and what is missing is then missing from the dose. But an object tells how long it
is: each element, item and fragment begins with its length (PS3.5 sections 7.1, 7.5 and A.4).
The walk hops from length to length and never looks at a value. Three rules keep it cheap and
safe with whatever is in the file:

* What has a defined length is skipped, nested or not; only sequences, items and encapsulated
  pixels of undefined length are entered. The state is the stack of what is open. But of what
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

from collections.abc import Collection
from dataclasses import dataclass, field
from struct import Struct
from typing import NamedTuple, Protocol

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
_MAY_FOLLOW = ({_ITEM_END}, {_ITEM, _SEQUENCE_END})  # which of them in an item, in a sequence
_UNDEFINED = 0xFFFF_FFFF
_LEADS_OUT = "a length that leads out of what it is in"
# The end of an item has no length (PS3.5 section 7.5). pydicom would skip as much as it says, and
# with it the next events; at the end of a sequence it doesn't.
_NO_END = "a delimiter of something else, or with a length"

# PS3.5 section 7.1.2: the VRs with a 16-bit length, and those with a 32-bit length.
_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_MAY_HOLD_ITEMS = frozenset({b"SQ", b"UN", b""})  # the last one: in implicit VR


class Syntax(NamedTuple):
    """How the heads of elements are written (PS3.5 annex A)."""

    is_implicit: bool
    is_little: bool


_IMPLICIT = Syntax(is_implicit=True, is_little=True)
_EXPLICIT = Syntax(is_implicit=False, is_little=True)
_BIG = Syntax(is_implicit=False, is_little=False)

# Tag and 32-bit length; tag, VR and 16-bit length; 32-bit length. By "is little endian".
_UNPACK_IMPLICIT = {True: Struct("<HHL").unpack_from, False: Struct(">HHL").unpack_from}
_UNPACK_EXPLICIT = {True: Struct("<HH2sH").unpack_from, False: Struct(">HH2sH").unpack_from}
_UNPACK_LENGTH = {True: Struct("<L").unpack_from, False: Struct(">L").unpack_from}


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


class _Level(NamedTuple):
    """A sequence or item that is open, where each length is checked."""

    end: int | None  # None: a delimiter tells
    is_sequence: bool
    syntax: Syntax


class _Step(Protocol):
    """A method of `_Walk` that walks on in what lies on top of the stack; returns how far."""

    def __call__(self, walk: "_Walk", offset: int, syntax: Syntax, /) -> int: ...


class _Walk:
    """One walk. What it finds is in ``walked``; what it is inside of, on the stack."""

    def __init__(self, source: Source, syntax: Syntax, wanted: Collection[int] = ()) -> None:
        self.window = Window(source)
        self.walked = Walked(syntax)
        self._source = source
        self._wanted = wanted
        self._count = 0
        self._stack: list[tuple[_Step, Syntax]] = []
        self._levels: list[_Level] = []
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
        data, is_little = self.window.data, syntax.is_little
        if syntax.is_implicit:
            group, number, length = _UNPACK_IMPLICIT[is_little](data, index)
            return _Element(group << 16 | number, b"", offset + 8, length)
        group, number, vr, length = _UNPACK_EXPLICIT[is_little](data, index)
        if vr in _SHORT:
            return _Element(group << 16 | number, vr, offset + 8, length)
        if vr in _LONG:
            (length,) = _UNPACK_LENGTH[is_little](data, index + 8)
            return _Element(group << 16 | number, vr, offset + 12, length)
        raise self._bad(offset, "no such VR")

    def _is_end(self, offset: int) -> bool:
        self.window.at(offset)  # an inflated source knows its end only once it is there
        if offset > self._source.end:
            raise self._cut(offset)
        return offset == self._source.end

    def _end_of(self, element: _Element) -> int:
        """Where a top-level element ends; through its items, where it doesn't say."""
        offset = element.value_at
        if element.length != _UNDEFINED:
            return offset + element.length
        self._stack = [self._content(element.vr, self.walked.syntax, offset)]
        while self._stack:
            step, syntax = self._stack[-1]
            offset = step(self, offset, syntax)
        return offset

    def _content(self, vr: bytes, syntax: Syntax, offset: int) -> tuple[_Step, Syntax]:
        """What an undefined length holds, by its VR (PS3.5 sections 6.2.2, 7.5 and A.4)."""
        if vr in {b"OB", b"OW"}:
            return _Walk._fragments, syntax
        if syntax.is_implicit or (vr == b"UN" and not syntax.is_little):
            return _Walk._implicit_items, _IMPLICIT  # UN is always in little endian
        if vr in {b"SQ", b"UN"}:
            return _Walk._items, syntax
        raise self._bad(offset, "undefined length where none may be")

    def _doses(self, element: _Element) -> int:
        """Walk over all that is in a top-level sequence; return where it ends."""
        offset, level = self._opened(element, self.walked.syntax)
        if level.end is not None and level.end > self._source.end:
            raise self._cut(level.end)
        self._levels = [level]
        while self._levels:
            level = self._levels[-1]
            if offset == level.end:
                self._levels.pop()
            elif level.end is not None and offset > level.end:
                raise self._bad(offset, _LEADS_OUT)
            else:
                offset = self._step_in(offset, level)
        return offset

    def _step_in(self, offset: int, level: _Level) -> int:
        """Enter, skip or leave what begins here; return where to go on."""
        index = self._head(offset)  # may replace the window's data
        group, number, length = _UNPACK_IMPLICIT[level.syntax.is_little](self.window.data, index)
        if group == _DELIMITERS:
            self._count += 1
            return self._delimiter(offset + 8, number, length, level)
        # A real Philips object has group 2 in its items; what has no VR may just as well be noise.
        first = _FIRST_GROUP if level.syntax.is_implicit else 1
        if level.is_sequence or group < first:
            raise self._bad(offset, "neither an item nor an element")
        element = self.element(offset, level.syntax)
        is_sequence = element.vr == b"SQ" or (
            element.vr in _MAY_HOLD_ITEMS and element.tag in _NESTED
        )
        if element.length != _UNDEFINED and not is_sequence:
            return element.value_at + element.length
        if element.vr not in _MAY_HOLD_ITEMS:
            raise self._bad(offset, "undefined length where none may be")
        offset, inner = self._opened(element, level.syntax)
        self._enter(inner, offset)
        return offset

    def _delimiter(self, offset: int, number: int, length: int, level: _Level) -> int:
        """Enter the item that begins before ``offset``, or leave what ends there."""
        if number == _ITEM and level.is_sequence:
            syntax = level.syntax
            if length and syntax.is_little and not self._is_explicit(offset):
                syntax = _IMPLICIT
            item = _Level(_end(offset, length), is_sequence=False, syntax=syntax)
            self._enter(item, offset)
            return offset
        if level.end is None and (
            number == _SEQUENCE_END if level.is_sequence else number == _ITEM_END and not length
        ):
            self._levels.pop()
            return offset
        raise self._bad(offset - 8, _NO_END)

    def _opened(self, element: _Element, syntax: Syntax) -> tuple[int, _Level]:
        if element.vr == b"UN" and not syntax.is_little:
            syntax = _IMPLICIT  # UN is always in little endian
        end = _end(element.value_at, element.length)
        return element.value_at, _Level(end, is_sequence=True, syntax=syntax)

    def _enter(self, level: _Level, offset: int) -> None:
        outer = self._levels[-1]
        if level.end is not None and outer.end is not None and level.end > outer.end:
            raise self._bad(offset, _LEADS_OUT)
        self._levels.append(level)
        if len(self._levels) > 2 * MAX_DEPTH:
            raise _too_deep()

    def _is_explicit(self, offset: int) -> bool:
        index = self._head(offset)
        return _is_vr(self.window.data[index + 4 : index + 6])

    # The three methods below take nearly all of the time. So they go as far as they can, keep
    # the window in local variables, and leave the check of `_count` to `_head`, which is called
    # at least once a window.

    def _items(self, offset: int, syntax: Syntax) -> int:
        """Walk over items in explicit VR until one has to be entered, or the sequence ends."""
        data, base, unpack = self.window.data, self.window.base, _UNPACK_IMPLICIT[syntax.is_little]
        index, last = offset - base, len(data) - HEAD_BYTES
        while True:
            if index > last:
                index, base = self._head(base + index), self.window.base
                data = self.window.data
                last = len(data) - HEAD_BYTES
            group, number, length = unpack(data, index)
            self._count += 1
            index += 8
            if group != _DELIMITERS or number not in {_ITEM, _SEQUENCE_END}:
                raise self._bad(base + index - 8, "neither an item nor the end of the sequence")
            if number == _SEQUENCE_END:
                self._stack.pop()
                return base + index
            if length == _UNDEFINED:
                self._open_item(base + index, syntax)
                return base + index
            index += length

    def _implicit(self, offset: int, depth: int) -> int:
        """Walk over all that is nested here, to the end of what begins at this depth.

        In implicit VR every head is a tag and a length, and nothing nested is explicit. So one
        loop does for items and elements: at odd depths it is in a sequence, at even ones in an
        item.
        """
        floor = depth - 1
        data, base, unpack = self.window.data, self.window.base, _UNPACK_IMPLICIT[True]
        index, last = offset - base, len(data) - HEAD_BYTES
        while depth > floor:
            if index > last:
                index, base = self._head(base + index), self.window.base
                data = self.window.data
                last = len(data) - HEAD_BYTES
            group, number, length = unpack(data, index)
            self._count += 1
            if group != _DELIMITERS:
                if depth & 1 or group < _FIRST_GROUP:
                    raise self._bad(base + index, "neither an item nor an element")
            elif number not in _MAY_FOLLOW[depth & 1] or (number == _ITEM_END and length):
                raise self._bad(base + index, _NO_END)
            elif number != _ITEM:
                depth, length = depth - 1, 0
            index += 8
            if length == _UNDEFINED:
                self._check_depth(depth - floor)
                depth += 1
            else:
                index += length
        self._stack.pop()
        return base + index

    def _implicit_items(self, offset: int, _: Syntax) -> int:
        return self._implicit(offset, depth=1)

    def _implicit_item(self, offset: int, _: Syntax) -> int:
        return self._implicit(offset, depth=2)

    def _explicit(self, offset: int, syntax: Syntax) -> int:
        """Walk over an explicit item's elements until one has to be entered, or the item ends."""
        data, base, unpack = self.window.data, self.window.base, _UNPACK_EXPLICIT[syntax.is_little]
        index, last = offset - base, len(data) - HEAD_BYTES
        while True:
            if index > last:
                index, base = self._head(base + index), self.window.base
                data = self.window.data
                last = len(data) - HEAD_BYTES
            group, number, vr, length = unpack(data, index)
            self._count += 1
            index += 8
            if group == _DELIMITERS:
                return self._end_item(base + index, number)
            if vr in _SHORT:
                index += length
            else:
                length = self._long(data, index, vr, syntax)
                index += 4
                if length == _UNDEFINED:
                    self._stack.append(self._content(vr, syntax, base + index))
                    return base + index
                index += length

    def _long(self, data: bytes, index: int, vr: bytes, syntax: Syntax) -> int:
        if vr not in _LONG:
            raise self._bad(self.window.base + index - 8, "no such VR")
        length: int = _UNPACK_LENGTH[syntax.is_little](data, index)[0]
        return length

    def _fragments(self, offset: int, syntax: Syntax) -> int:
        """Walk over the fragments of encapsulated pixels to their end (PS3.5 section A.4)."""
        unpack = _UNPACK_IMPLICIT[syntax.is_little]
        while True:
            index = self._head(offset)  # may replace the window's data
            group, number, length = unpack(self.window.data, index)
            self._count += 1
            if group == _DELIMITERS and number == _SEQUENCE_END:
                self._stack.pop()
                return offset + 8
            if group != _DELIMITERS or number != _ITEM or length == _UNDEFINED:
                raise self._bad(offset, "neither a fragment nor the end of the pixels")
            offset += 8 + length

    def _open_item(self, offset: int, syntax: Syntax) -> None:
        """Enter an item of undefined length.

        Within explicit VR an item may be in implicit VR: those of UN must be (PS3.5 section
        6.2.2), and yet a real Hologic image has explicit ones there. So the item's first head
        tells, as it does for pydicom: a VR is two capital letters.
        """
        self._check_depth(1)
        if syntax.is_little and not self._is_explicit(offset):
            self._stack.append((_Walk._implicit_item, _IMPLICIT))
        else:
            self._stack.append((_Walk._explicit, syntax))

    def _check_depth(self, more: int) -> None:
        """See that so many levels more than the stack shows are not too many."""
        if len(self._stack) + more > 2 * MAX_DEPTH:  # a sequence and its item are two
            raise _too_deep()

    def _end_item(self, offset: int, number: int) -> int:
        index = offset - self.window.base
        if number != _ITEM_END or any(self.window.data[index - 4 : index]):
            raise self._bad(offset - 8, _NO_END)
        self._stack.pop()
        return offset

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
        return bool(self._stack or self._levels)

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


def _end(offset: int, length: int) -> int | None:
    return None if length == _UNDEFINED else offset + length


def _too_deep() -> Broken:
    return Broken(Reason.TOO_COMPLEX, f"nested deeper than {MAX_DEPTH} sequences")


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
