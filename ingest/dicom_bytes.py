"""The bytes of a DICOM object for the walk over its lengths: forward only, in bounded memory.

They come through a sliding window, from the file or unpacked from its deflated part. Not by
``mmap``: a writer that truncates the file under us would then kill the process with SIGBUS.
"""

import os
import sys
import zlib
from typing import Protocol

from ingest.errors import Reason

MAX_INFLATED_BYTES = 256 * 2**20  # several times the largest mammogram
HEAD_BYTES = 12  # the longest head of an element: tag, VR, two reserved bytes, length
SHORT_HEAD_BYTES = 8  # the shortest

_PAD = bytes(HEAD_BYTES - SHORT_HEAD_BYTES)
_WINDOW_BYTES = 64 * 2**10
_MAX_WINDOW_BYTES = 256 * 2**10
_JUMP_WINDOW_BYTES = 4 * 2**10  # behind a skipped value there is often just one more head
_TAIL_BYTES = 4 * 2**10


class Broken(Exception):
    """The walk can't go on. Only `ingest.dicom` sees this."""

    def __init__(
        self, problem: Reason, detail: str, *, can_improve: bool = False, is_dicom: bool = True
    ) -> None:
        """Keep what `ingest.model.Structure` needs."""
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.can_improve = can_improve
        self.is_dicom = is_dicom


class Source(Protocol):
    """Bytes to walk over, forward only. ``end`` is right once a read has come short."""

    end: int

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset`` on, fewer only at the end."""

    def is_blank(self, offset: int) -> bool:
        """Whether everything from about ``offset`` on looks as if it is yet to be written."""


class File:
    """The bytes of an open file, as many as it had when it was looked at."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.end = size
        self._descriptor = descriptor

    def read(self, offset: int, size: int) -> bytes:
        """Read at a place; a file that shrank under us comes short."""
        size = min(size, self.end - offset)
        data = os.pread(self._descriptor, size, offset) if size > 0 else b""
        while 0 < len(data) < size:  # a signal or a network file system may cut a read short
            more = os.pread(self._descriptor, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def is_blank(self, offset: int) -> bool:
        """Zeros behind ``offset`` and at the very end. One head may be half written."""
        if self.end - offset > HEAD_BYTES:
            offset += HEAD_BYTES
        rest = self.read(offset, _TAIL_BYTES)
        tail = self.read(max(offset, self.end - _TAIL_BYTES), _TAIL_BYTES)
        return bool(rest) and not rest.strip(b"\0") and not tail.strip(b"\0")


class Inflated:
    """The bytes of a deflated data set (PS3.5 section A.5), unpacked piece by piece."""

    def __init__(self, file: File, start: int) -> None:
        self.end = sys.maxsize  # unknown yet
        self._file = file
        self._next = start  # in the file
        self._packed = b""
        self._unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        self._held = b""
        self._base = 0  # where `_held` begins

    def read(self, offset: int, size: int) -> bytes:
        """Unpack up to there, forgetting what lies before ``offset``."""
        while self._base + len(self._held) < min(offset + size, self.end):
            drop = min(offset - self._base, len(self._held))
            self._held = self._held[drop:]
            self._base += drop
            self._held += self._unpack()
        return self._held[max(0, offset - self._base) :][:size]

    def is_blank(self, offset: int) -> bool:
        """Not to be seen from inside: a stream that is not whole fails to unpack before that."""
        del offset
        return False

    def _unpack(self) -> bytes:
        is_last = not self._packed and not self._fill()
        try:
            data = self._unpacker.decompress(self._packed, _MAX_WINDOW_BYTES)
        except zlib.error as error:
            blank = self._file.is_blank(max(0, self._file.end - _TAIL_BYTES))
            raise Broken(
                Reason.MALFORMED, "its deflated data can't be unpacked", can_improve=blank
            ) from error
        self._packed = self._unpacker.unconsumed_tail
        total = self._base + len(self._held) + len(data)
        if total > MAX_INFLATED_BYTES:
            raise Broken(Reason.TOO_COMPLEX, f"unpacks to more than {MAX_INFLATED_BYTES} bytes")
        if self._unpacker.eof:
            self._finish(total)
        elif is_last and not data:
            raise Broken(Reason.TRUNCATED, "its deflated data break off", can_improve=True)
        return data

    def _fill(self) -> bool:
        self._packed = self._file.read(self._next, _WINDOW_BYTES)
        self._next += len(self._packed)
        return bool(self._packed)

    def _finish(self, total: int) -> None:
        self.end = total
        left = self._unpacker.unused_data + self._file.read(self._next, _TAIL_BYTES)
        # dicom3tools leaves gzip's trailer: a checksum, and the unpacked size (RFC 1952).
        if left[4:8] == total.to_bytes(4, "little"):
            left = left[8:]
        if left not in {b"", b"\0"}:  # one zero makes an odd length even
            raise Broken(Reason.TRAILING_DATA, "bytes follow its deflated data")


class Window:
    """A view that slides forward over a source. ``data[0]`` is the byte at ``base``."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.data = b""
        self.base = 0
        self._step = _WINDOW_BYTES // 2

    def at(self, offset: int, need: int = HEAD_BYTES) -> int:
        """The index of ``offset`` in ``data``, with ``need`` bytes from there if they exist.

        At the end of the source four zeros are added, so that a last head of eight bytes can be
        unpacked like any other. (Should it be one of twelve, its value begins behind the end,
        and so it is found to be cut.)
        """
        index = offset - self.base
        if index + need <= len(self.data):
            return index
        is_jump = bool(self.data) and index > len(self.data)
        self._step = _JUMP_WINDOW_BYTES if is_jump else min(2 * self._step, _MAX_WINDOW_BYTES)
        size = max(need, self._step)
        self.data = self.source.read(offset, size)
        self.base = offset
        if len(self.data) < size:
            self.data += _PAD
        return 0

    def has_head(self, index: int) -> bool:
        """Whether there is room for a head at ``index``, as `at` returned it."""
        return len(self.data) - index >= HEAD_BYTES

    def copy(self, offset: int, size: int) -> bytes:
        """The bytes themselves, without added zeros."""
        index = self.at(offset, size)
        return self.data[index : index + min(size, self.source.end - offset)]
