"""Reads a table of patients' heights and weights (CSV): is it whole, and can its rows be right?

OpenREM's own importer of such tables stops at the first number that it can't read, with all rows
before it written. So each row is judged here before anything is handed over, and what is handed
over is a plain copy: one form of numbers, one separator, one encoding, three columns.

The values are patients'. None of them is ever told, not even in the text of an exception: what is
wrong is told by the numbers of rows, counted as a spreadsheet does, the titles being row 1.
"""

import codecs
import csv
import io
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TextIO

from ingest import dicom, files
from ingest.errors import Changed, Reason
from ingest.model import SizesWanted, Snapshot, Structure

# As long as an object must have been still: a table does not tell where it ends; and a number
# with nothing behind it may be half of one.
QUIET_TIMES = 5.0
OPEN_QUIET_TIMES = 30.0

MAX_BYTES = 32 << 20
MAX_ROWS = 10_000  # OpenREM imports nothing else meanwhile
MAX_RECORD = 1 << 16  # characters of one row
MAX_ID = 64  # characters, as a UID may have
MAX_TOLD = 10  # numbers of rows

SMALLEST_CM = 3.0  # less than that is a height in metres
TALLEST_CM = 300.0
HEAVIEST_KG = 700.0

_SEPARATORS = ",;\t"
_DICOM_PREFIX = 132  # bytes; until there it may yet become an object
_CHUNK = 1 << 20
_NO_TEXT = bytes(set(range(0x20)) - set(b"\t\n\r")) + b"\x7f"
_NUMBER = re.compile(r"\d{1,4}([.,]\d{1,4})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at a table found."""

    snapshot: Snapshot  # of the very descriptor that was read
    structure: Structure
    rows: int = 0  # that have sizes
    quiet_times: float = QUIET_TIMES


@dataclass(frozen=True, slots=True, repr=False)
class Row:
    """The sizes of one row, as OpenREM's importer takes them. Nothing of it is ever shown."""

    study: str
    height: str  # cm, or empty
    weight: str  # kg, or empty


class Unusable(Exception):
    """The table can't be imported as it is."""

    def __init__(self, problem: Reason, detail: str = "", *, can_improve: bool = False) -> None:
        """Keep what `Structure` needs."""
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.can_improve = can_improve


def look_into(
    path: bytes, wanted: SizesWanted | None, keywords: Collection[str] = ()
) -> dicom.Look | Look:
    """Look at a file in a folder that may have tables. Content decides: an object is no table.

    Raises:
        As `dicom.look`.
    """
    found = dicom.look(path, keywords)
    if wanted is None or found.structure.is_dicom or found.problem is Reason.EMPTY:
        return found
    return look(path, wanted)


def look(path: bytes, wanted: SizesWanted) -> Look:
    """Look at a table once, through one descriptor, reading only.

    Bad content never raises: it is what the look found.

    Raises:
        FileProblem: see `dicom.open_regular`.
        OSError: a real error of the file system, among them that the file is gone.
    """
    descriptor = dicom.open_regular(path)
    try:
        snapshot = Snapshot.of(os.fstat(descriptor))
        rows = 0
        try:
            for _row in _rows(descriptor, snapshot.size, wanted):
                rows += 1
            _check_unchanged(descriptor, snapshot)
        except Unusable as unusable:
            return Look(snapshot=snapshot, structure=_not_whole(unusable))
        structure = Structure(is_dicom=False, is_complete=True)
        is_ended = os.pread(descriptor, 1, snapshot.size - 1) in (b"\n", b"\r")
        return Look(
            snapshot=snapshot,
            structure=structure,
            rows=rows,
            quiet_times=QUIET_TIMES if is_ended else OPEN_QUIET_TIMES,
        )
    finally:
        os.close(descriptor)


def write_plain(path: bytes, copy: bytes, wanted: SizesWanted, expected: Snapshot) -> int:
    """Write a table's rows with sizes as OpenREM's process reads them: id, height, weight.

    Returns:
        How many they are.

    Raises:
        Changed: it is no longer the version of the table that was looked at.
        OSError: it can't be read, or the copy not be written.
    """
    descriptor = dicom.open_regular(path)
    try:
        count = 0
        with _own_file(copy) as writing:
            writer = csv.writer(writing)
            try:
                for row in _rows(descriptor, expected.size, wanted):
                    writer.writerow((row.study, row.height, row.weight))
                    count += 1
                _check_unchanged(descriptor, expected)
            except Unusable as unusable:  # or the columns are others since it was looked at
                raise Changed(unusable.problem.code) from None
        return count
    finally:
        os.close(descriptor)


@contextmanager
def _own_file(path: bytes) -> Iterator[TextIO]:
    """A new file, for us and OpenREM's process alone; none where not all could be written."""
    files.unlink_alias(path)  # a crash of ours left it
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(path, flags, 0o600), "w", encoding="utf-8", newline="") as file:
            yield file
    except BaseException:
        with suppress(OSError):
            files.unlink_alias(path)
        raise


def _check_unchanged(descriptor: int, snapshot: Snapshot) -> None:
    if Snapshot.of(os.fstat(descriptor)) != snapshot:
        raise Unusable(Reason.CHANGED, can_improve=True)


def _not_whole(unusable: Unusable) -> Structure:
    return Structure(
        is_dicom=False,
        is_complete=False,
        problem=unusable.problem,
        detail=unusable.detail,
        can_improve=unusable.can_improve,
    )


# -- from bytes to rows ---------------------------------------------------------------------------


def _rows(descriptor: int, size: int, wanted: SizesWanted) -> Iterator[Row]:
    """All rows that have sizes; at the end `Unusable` if there was one that can't be right."""
    if size > MAX_BYTES:
        raise Unusable(Reason.TOO_MANY_ROWS, f"more than {MAX_BYTES >> 20} MiB")
    text = io.TextIOWrapper(
        io.BufferedReader(io.FileIO(descriptor, closefd=False)),
        encoding=_encoding_of(descriptor, size),
        newline="",
    )
    try:
        yield from _Table(text, wanted).rows()
    except UnicodeDecodeError:  # it quotes what it could not read, so nothing of it is told
        raise Unusable(Reason.CHANGED, can_improve=True) from None
    finally:
        text.detach()


def _encoding_of(descriptor: int, size: int) -> str:
    """UTF-8 if it is that throughout, else Latin-1. `Unusable` if it is no text."""
    decoder: codecs.IncrementalDecoder = codecs.getincrementaldecoder("utf-8")()
    encoding = "utf-8-sig"
    at = 0
    while chunk := os.pread(descriptor, _CHUNK, at):
        at += len(chunk)
        if at > size:
            raise Unusable(Reason.CHANGED, can_improve=True)
        if len(chunk.translate(None, _NO_TEXT)) < len(chunk):
            raise Unusable(Reason.NOT_A_TABLE, can_improve=size < _DICOM_PREFIX)
        try:
            decoder.decode(chunk, final=at == size)
        except UnicodeDecodeError:
            encoding, decoder = "latin-1", codecs.getincrementaldecoder("latin-1")()
    return encoding


class _Lines:
    """The lines of a text, one row's share of them bounded."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._taken = 0
        self._all = 0
        self.ends_with_newline = False

    def next_row(self) -> None:
        """What comes now is another row's."""
        self._taken = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_RECORD + 1)
        if not line:
            raise StopIteration
        self._taken += len(line)
        self._all += len(line)
        self.ends_with_newline = line.endswith(("\n", "\r"))
        if self._taken > MAX_RECORD or self._all > MAX_BYTES:  # it may grow while it is read
            raise _TooLong
        return line


class _TooLong(Exception):
    """A row that no table has."""


@dataclass(slots=True)
class _Faults:
    """What is wrong with which rows, by their numbers."""

    rows: dict[str, list[int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, what: str, number: int) -> None:
        """Note it; memory does not grow with the number of rows."""
        self.counts[what] = self.counts.get(what, 0) + 1
        told = self.rows.setdefault(what, [])
        if len(told) < MAX_TOLD:
            told.append(number)

    def __str__(self) -> str:
        return "; ".join(
            f"{_numbers(told, self.counts[what])}: {what}" for what, told in self.rows.items()
        )


def _numbers(told: list[int], count: int) -> str:
    if count == 1:
        return f"row {told[0]}"
    if count > len(told):
        return f"rows {', '.join(map(str, told))} and {count - len(told)} more"
    return f"rows {', '.join(map(str, told[:-1]))} and {told[-1]}"


class _Table:
    """A table being read."""

    def __init__(self, text: TextIO, wanted: SizesWanted) -> None:
        self._text = text
        self._wanted = wanted
        self._number = 0  # of the row in hand
        self._lines = _Lines(text)
        self._faults = _Faults()

    def rows(self) -> Iterator[Row]:
        """See `_rows`."""
        records = self._records(self._separator())
        titles = next(records)
        places = [titles.index(title) for title in self._wanted.titles]
        count, cut, any_row = 0, 0, False
        for record in records:
            cut, any_row = 0, True
            if len(record) < len(titles):
                cut = self._number
                self._faults.add("fewer fields than there are titles", self._number)
            elif any(record[len(titles) :]):
                self._faults.add("more fields than there are titles", self._number)
            elif (row := self._row(record, places)) is not None:
                count += 1
                if count > MAX_ROWS:
                    raise Unusable(Reason.TOO_MANY_ROWS, f"more than {MAX_ROWS} rows with sizes")
                yield row
        if not any_row:  # the titles may have come first
            raise Unusable(Reason.EMPTY, "no row below the titles", can_improve=True)
        if self._faults.counts:
            raise Unusable(Reason.BAD_ROWS, str(self._faults), can_improve=bool(cut))

    def _separator(self) -> str:
        """That by which the first line has all titles. `Unusable` if by none it does."""
        wrong = []
        for separator in _SEPARATORS:
            try:
                titles = next(self._records(separator), [])
            except Unusable:  # its quotation marks make sense with another one
                titles = []
            wrong.append([one for one in self._wanted.titles if titles.count(one) != 1])
            if not wrong[-1]:
                return separator
        least = ", ".join(f'"{one}"' for one in min(wrong, key=len))
        raise Unusable(
            Reason.COLUMN_MISSING,
            f"missing, or there twice: {least}",
            can_improve=not self._lines.ends_with_newline,
        )

    def _records(self, separator: str) -> Iterator[list[str]]:
        """All rows that are not empty, from that of the titles on."""
        self._text.seek(0)
        self._number = 0
        self._faults = _Faults()
        self._lines = _Lines(self._text)
        reader = csv.reader(self._lines, delimiter=separator, strict=True)
        while True:
            self._lines.next_row()
            try:
                record = next(reader, None)
            except _TooLong:
                raise self._broken("too long") from None
            except csv.Error as error:  # what is quoted may go on in what comes yet
                is_open = "end of data" in str(error)
                raise self._broken("its quotation marks", can_improve=is_open) from None
            if record is None:
                return
            self._number += 1
            record = [value.strip() for value in record]
            if any(record):
                yield record

    def _broken(self, what: str, *, can_improve: bool = False) -> Unusable:
        """What ends the reading: behind it, no row is where it seems to be."""
        self._faults.add(what, self._number + 1)
        return Unusable(Reason.BAD_ROWS, str(self._faults), can_improve=can_improve)

    def _row(self, record: list[str], places: list[int]) -> Row | None:
        """The row, None if it has no sizes or can't be right."""
        study, height, weight = (record[place] for place in places)
        if not height and not weight:
            return None
        faults = [
            *_faults_of_id(study),
            *_faults_of("height", height, SMALLEST_CM, TALLEST_CM, "cm"),
            *_faults_of("weight", weight, 0.0, HEAVIEST_KG, "kg"),
        ]
        for fault in faults:
            self._faults.add(fault, self._number)
        if faults:
            return None
        return Row(study, height.replace(",", "."), weight.replace(",", "."))


def _faults_of_id(study: str) -> list[str]:
    if not study:
        return ["sizes without an id"]
    if len(study) > MAX_ID or not study.isprintable():
        return ["the id can't be one"]
    return []


def _faults_of(what: str, value: str, more_than: float, most: float, unit: str) -> list[str]:
    if not value:
        return []
    if not _NUMBER.fullmatch(value):
        return [f"the {what} is no number"]
    number = float(value.replace(",", "."))
    if number <= more_than:
        return [f"the {what} is not more than {more_than:g} {unit}"]
    if number > most:
        return [f"the {what} is more than {most:g} {unit}"]
    return []
