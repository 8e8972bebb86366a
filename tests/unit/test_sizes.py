"""`ingest.sizes` and its proof: only rows that can be right, and never a word of a value."""

import csv
import io
import os
import string
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest import sizes
from ingest.errors import Changed, Reason
from ingest.model import Shortfall, Sizes, SizesFacts, SizesOfOne, SizesWanted, Structure
from ingest.verify import Proof, verify_sizes
from tests.objects import CT_REPORT
from tests.strategies import a_snapshot

WANTED = SizesWanted(id_title="Größe Nr", height_title="Height", weight_title="Weight")
TITLES = "Größe Nr,Height,Weight\n"
MARK = "XQZMARK"
# A test that writes a file for each example may share its folder among them.
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

Looked = Callable[[str | bytes], Structure]


@pytest.fixture
def looked(tmp_path: Path) -> Looked:
    """What a look at this content finds."""

    def look(content: str | bytes) -> Structure:
        path = tmp_path / "table"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return sizes.look(bytes(path), WANTED).structure

    return look


def plain(folder: Path, content: str | bytes) -> list[list[str]]:
    """The rows of the plain copy that is handed to OpenREM."""
    path, copy = folder / "table", folder / "copy"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = sizes.look(bytes(path), WANTED)
    assert found.structure.is_complete, found
    count = sizes.write_plain(bytes(path), bytes(copy), WANTED, found.snapshot)
    rows = list(csv.reader(copy.read_text(encoding="utf-8").splitlines()))
    assert count == found.rows == len(rows)
    assert copy.stat().st_mode & 0o777 == 0o600
    return rows


# -- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_tables_as_systems_write_them(
    tmp_path: Path, separator: str, encoding: str, newline: str
) -> None:
    number = "1,5" if separator != "," else "1.5"
    rows = [
        ("Name", "Weight ", "Größe Nr", "Height"),
        ("Müller", "80", "A 1", "180"),
        ("x", number, '"A2"', ""),
        ("", "", "", ""),
    ]
    text = newline.join(separator.join(row) for row in rows)
    assert plain(tmp_path, text.encode(encoding)) == [["A 1", "180", "80"], ["A2", "", "1.5"]]


def test_what_is_quoted_may_hold_separators_quotes_and_lines(tmp_path: Path) -> None:
    text = '\n"Größe Nr";"Height";"Weight";"a;b"\n"A1";"180,5";"80";"one\ntwo ""three"""\n'
    assert plain(tmp_path, text) == [["A1", "180.5", "80"]]


def test_rows_without_sizes_say_nothing(tmp_path: Path) -> None:
    assert plain(tmp_path, TITLES + "A1,,\n,,\n\nA2,170,\n") == [["A2", "170", ""]]
    assert plain(tmp_path, TITLES + ",,\nA1,,\n") == []


def test_titles_alone_are_not_a_table_yet(tmp_path: Path) -> None:
    """Its rows may come later; else it is quarantined as empty."""
    path = tmp_path / "table"
    path.write_text(TITLES)
    found = sizes.look(bytes(path), WANTED)
    assert not found.structure.is_complete
    assert found.structure.can_improve
    assert found.structure.problem is Reason.EMPTY


# -- what is not -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("A1,170 cm,70", "row 3: the height is no number"),
        ("A1,170,1.234.5", "row 3: the weight is no number"),
        ("A1,nan,70", "row 3: the height is no number"),
        ("A1,-170,70", "row 3: the height is no number"),
        ("A1,1e2,70", "row 3: the height is no number"),
        ("A1,\u0661\u0667\u0660,70", "row 3: the height is no number"),
        ("A1,1.75,70", "row 3: the height is not more than 3 cm"),
        ("A1,0,70", "row 3: the height is not more than 3 cm"),
        ("A1,301,70", "row 3: the height is more than 300 cm"),
        ("A1,170,0", "row 3: the weight is not more than 0 kg"),
        ("A1,170,701", "row 3: the weight is more than 700 kg"),
        (",170,70", "row 3: sizes without an id"),
        (f"{'9' * 65},170,70", "row 3: the id can't be one"),
        ("A1,170", "row 3: fewer fields than there are titles"),
        ("A1,170,70,x", "row 3: more fields than there are titles"),
        ('"A1"x,170,70', "row 3: its quotation marks"),
        ('"A\n1",170,70', "row 3: the id can't be one"),
    ],
)
def test_a_row_that_cannot_be_right_is_told_by_its_number(
    looked: Looked, row: str, told: str
) -> None:
    found = looked(f"{TITLES}A0,180,80\n{row}\nA2,160,60\n")
    assert (found.is_complete, found.can_improve) == (False, False)
    assert (found.problem, found.detail) == (Reason.BAD_ROWS, told)


def test_many_bad_rows_are_told_in_short(looked: Looked) -> None:
    found = looked(TITLES + "A1,x,0\n" * 500)
    assert found.detail == (
        "rows 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 490 more: the height is no number; "
        "rows 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 490 more: the weight is not more than 0 kg"
    )
    two = looked(TITLES + "A1,x,70\nA2,y,70\n")
    assert two.detail == "rows 2 and 3: the height is no number"


@pytest.mark.parametrize(
    ("titles", "told"),
    [
        ("Accession;Height;Weight\n", '"Größe Nr"'),
        ("Größe Nr;height;Gewicht\n", '"Height", "Weight"'),
        ("Größe Nr;Height;Weight;Height\n", '"Height"'),
        (f"{MARK};{MARK};{MARK}\n", '"Größe Nr", "Height", "Weight"'),
        (f'"{MARK};{MARK}\n', '"Größe Nr", "Height", "Weight"'),
    ],
)
def test_columns_found_wanting_are_named_by_the_configuration(
    looked: Looked, titles: str, told: str
) -> None:
    """A table without titles has values in its place: they are never told."""
    found = looked(f"{titles}A1;180;80\n")
    assert (found.problem, found.detail) == (
        Reason.COLUMN_MISSING,
        f"missing, or there twice: {told}",
    )


def test_a_table_cut_anywhere_never_passes_for_another_one(looked: Looked, tmp_path: Path) -> None:
    """What is whole so far has whole rows only; what is cut within a row waits for the rest."""
    whole = (TITLES + 'A1,180,80\nA2,"170","70"\nA3,160,60\n').encode()
    rows = plain(tmp_path, whole)
    for length in range(1, len(whole)):
        found = looked(whole[:length])
        if found.is_complete:
            some = plain(tmp_path, whole[:length])
            # But for the digits of the very last field, which only the time can tell of.
            assert all(one in rows for one in some[:-1]), length
            assert not some or some[-1][:2] in [one[:2] for one in rows], length
        else:
            assert found.can_improve, (length, found)


def test_a_number_that_may_be_half_of_one_is_waited_for_longer(tmp_path: Path) -> None:
    path = tmp_path / "table"
    for end, times in (("", sizes.OPEN_QUIET_TIMES), ("\n", sizes.QUIET_TIMES)):
        path.write_text(f"{TITLES}A1,170,7{end}", encoding="utf-8")
        assert sizes.look(bytes(path), WANTED).quiet_times == times


@pytest.mark.parametrize(
    "content", [b"\0" * 400, b"\x89PNG\r\n\x1a\n" * 40, "ä,b".encode("utf-16")]
)
def test_what_is_no_text_is_no_table(looked: Looked, content: bytes) -> None:
    found = looked(content)
    assert found.problem is Reason.NOT_A_TABLE
    assert found.can_improve == (len(content) < 132)  # it may yet become an object


def test_an_object_is_an_object_in_such_a_folder_too(tmp_path: Path) -> None:
    found = sizes.look_into(bytes(CT_REPORT), WANTED)
    assert not isinstance(found, sizes.Look)
    assert found.header is not None
    (tmp_path / "empty").touch()
    assert sizes.look_into(bytes(tmp_path / "empty"), WANTED).structure.problem is Reason.EMPTY
    (tmp_path / "text").write_text("x", encoding="utf-8")
    assert isinstance(sizes.look_into(bytes(tmp_path / "text"), WANTED), sizes.Look)
    assert not isinstance(sizes.look_into(bytes(tmp_path / "text"), None), sizes.Look)


# -- bounds ----------------------------------------------------------------------------------------


def test_rows_have_a_limit(looked: Looked) -> None:
    row = "A1,170,70\n"
    assert looked(TITLES + row * sizes.MAX_ROWS).is_complete
    found = looked(TITLES + row * (sizes.MAX_ROWS + 1))
    assert (found.problem, found.can_improve) == (Reason.TOO_MANY_ROWS, False)
    assert found.detail == "more than 10000 rows with sizes"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x" * (30 << 20), Reason.COLUMN_MISSING),
        (TITLES.encode() + b"A1,170,70," + b"y" * (30 << 20), Reason.BAD_ROWS),
        (TITLES.encode() + b"A1,170,70" + b',"a\n"' * (5 << 20), Reason.BAD_ROWS),
        (TITLES.encode() + b'"' + b"z\n" * (15 << 20), Reason.BAD_ROWS),
        (b"x" * ((32 << 20) + 1), Reason.TOO_MANY_ROWS),
    ],
    ids=["one line", "one row", "one row of many lines", "an open quotation", "a large file"],
)
def test_memory_does_not_grow_with_the_file(looked: Looked, content: bytes, reason: Reason) -> None:
    tracemalloc.start()
    try:
        found = looked(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.problem is reason
    assert peak < 8 << 20


# -- privacy ---------------------------------------------------------------------------------------

_cells = st.sampled_from([MARK, "180", "80", "1,75", "", '"', f'"{MARK}', f"{MARK}\n{MARK}", "ä"])
_lines = st.lists(st.lists(_cells, max_size=5), max_size=5)


@SHARED
@given(
    lines=_lines,
    separator=st.sampled_from(",;\t"),
    has_titles=st.booleans(),
    encoding=st.sampled_from(["utf-8", "latin-1", "utf-16"]),
    cut=st.integers(0, 3),
)
def test_no_value_is_ever_told(
    tmp_path: Path,
    lines: list[list[str]],
    separator: str,
    has_titles: bool,
    encoding: str,
    cut: int,
) -> None:
    text = "\n".join(separator.join(line) for line in lines)
    titles = TITLES.replace(",", separator) if has_titles else ""
    data = (titles + text).encode(encoding)
    path = tmp_path / "table"
    path.write_bytes(data[: len(data) - cut])
    found = sizes.look(bytes(path), WANTED)
    assert MARK not in repr(found)
    if found.structure.is_complete:
        sizes.write_plain(bytes(path), bytes(tmp_path / "copy"), WANTED, found.snapshot)
        return
    assert found.structure.problem is not None
    with pytest.raises(Changed) as caught:
        sizes.write_plain(bytes(path), bytes(tmp_path / "copy"), WANTED, found.snapshot)
    assert MARK not in repr(caught.value) + str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert not os.path.exists(tmp_path / "copy")


def test_text_that_turns_into_another_while_it_is_read_is_looked_at_again(
    looked: Looked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "_encoding_of", lambda *_: "utf-8")
    found = looked(f"{TITLES}Ä1,170,70\n".encode("latin-1"))
    assert (found.problem, found.can_improve) == (Reason.CHANGED, True)


def test_a_row_shows_nothing_of_itself() -> None:
    assert MARK not in repr(sizes.Row(MARK, MARK, MARK))


@SHARED
@given(data=st.binary(max_size=300) | st.text(string.printable, max_size=300).map(str.encode))
def test_a_look_at_whatever_lies_there_never_raises(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "table"
    path.write_bytes(data)
    assert sizes.look(bytes(path), WANTED).structure.problem
    path.write_bytes(TITLES.encode() + data)
    sizes.look(bytes(path), WANTED)


_ids = st.text(string.ascii_letters + "äß;,\"' \t-", min_size=1, max_size=9).filter(
    lambda one: one == one.strip() and "\t" not in one
)
_numbers = st.decimals(4, 300, places=2).map(str)


@SHARED
@given(
    rows=st.lists(st.tuples(_ids, _numbers, _numbers), min_size=1, max_size=9),
    separator=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_what_a_spreadsheet_writes_is_what_is_handed_over(
    tmp_path: Path, rows: list[tuple[str, str, str]], separator: str, quoting: int
) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=separator, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(WANTED.titles)
    writer.writerows(rows)
    assert plain(tmp_path, buffer.getvalue()) == [list(row) for row in rows]


# -- what is handed over ---------------------------------------------------------------------------


def test_a_table_that_changed_is_not_handed_over(tmp_path: Path) -> None:
    path, copy = tmp_path / "table", tmp_path / "copy"
    path.write_text(TITLES + "A1,170,70\n", encoding="utf-8")
    found = sizes.look(bytes(path), WANTED)
    copy.write_text("of a crash", encoding="utf-8")
    path.write_text(TITLES + "A1,170,71\n\n", encoding="utf-8")
    with pytest.raises(Changed):
        sizes.write_plain(bytes(path), bytes(copy), WANTED, found.snapshot)
    snapshot = sizes.look(bytes(path), WANTED).snapshot
    other = replace(WANTED, id_title="Another")  # the configuration is another one since
    with pytest.raises(Changed):
        sizes.write_plain(bytes(path), bytes(copy), other, snapshot)
    assert sizes.write_plain(bytes(path), bytes(copy), WANTED, snapshot) == 1


# -- the proof -------------------------------------------------------------------------------------

BEFORE, NOW = (None, None), (170.0, 70.0)
ONE = SizesOfOne(rows=2, heights=(170.0,), weights=(70.0, 71.0), found=1, studies=((BEFORE, NOW),))
NONE = SizesOfOne(rows=3, heights=(170.0,), weights=(), found=0, studies=())
WAITS = replace(WANTED, wait_s=10.0)
OVER = replace(WANTED, overwrite=True)


def verdict(*of: SizesOfOne, wanted: SizesWanted = WANTED, rows: int = -1) -> Proof | Shortfall:
    count = sum(one.rows for one in of) if rows < 0 else rows
    return verify_sizes(a_snapshot(), count, wanted, SizesFacts(of=of, already=False))


def reason(found: Proof | Shortfall) -> Reason | None:
    return found.reason if isinstance(found, Shortfall) else None


def held(before: Sizes, now: Sizes) -> SizesOfOne:
    return replace(ONE, studies=((before, now),))


def test_rows_that_are_held_are_a_proof_and_the_others_are_counted() -> None:
    found = verdict(ONE, NONE)
    assert isinstance(found, Proof)
    assert (found.rows, found.unmatched) == (2, 3)
    assert found.evidence == "2 rows held, 3 without a study in OpenREM"
    alone = verdict(replace(ONE, rows=1))
    assert isinstance(alone, Proof)
    assert alone.evidence == "1 row held"
    nothing = verdict()
    assert isinstance(nothing, Proof)
    assert nothing.evidence == "0 rows held"


def test_none_of_the_rows_matching_is_no_proof() -> None:
    assert reason(verdict(NONE)) is Reason.NO_ROW_MATCHES


def test_rows_may_wait_for_their_studies() -> None:
    assert reason(verdict(ONE, NONE, wanted=WAITS)) is Reason.UNMATCHED_ROWS
    assert reason(verdict(NONE, wanted=WAITS)) is Reason.UNMATCHED_ROWS
    assert isinstance(verdict(ONE, wanted=WAITS), Proof)


@pytest.mark.parametrize(
    "one",
    [
        held(BEFORE, (None, 70.0)),
        held(BEFORE, (170.0, None)),
        held(BEFORE, (170.0, 0.0)),
        held(BEFORE, (170.001, 70.0)),
        held(BEFORE, (170.0, 71.0)),  # of two rows the first counts
        held((180.0, None), (None, 70.0)),
        held((180.0, None), (181.0, 70.0)),
        replace(ONE, studies=((BEFORE, NOW), (BEFORE, BEFORE)), found=2),
        replace(ONE, studies=((BEFORE, BEFORE), (BEFORE, NOW)), found=1),
        replace(ONE, studies=(), found=1),  # it went after the import
        replace(ONE, found=2),
    ],
)
def test_a_size_that_is_not_there_is_never_proven(one: SizesOfOne) -> None:
    assert reason(verdict(one)) is Reason.NOT_HELD
    assert reason(verdict(replace(ONE, rows=5), one, NONE)) is Reason.NOT_HELD


def test_what_was_there_before_may_stay_unless_it_is_to_be_overwritten() -> None:
    before = held((180.0, 80.0), (180.0, 80.0))
    assert isinstance(verdict(before), Proof)
    assert reason(verdict(before, wanted=OVER)) is Reason.NOT_HELD
    assert reason(verdict(ONE, wanted=OVER)) is Reason.NOT_HELD
    last = held((180.0, 80.0), (170.0, 71.0))
    assert isinstance(verdict(last, wanted=OVER), Proof)


def test_another_number_of_rows_is_another_table() -> None:
    assert reason(verdict(ONE, rows=3)) is Reason.CHANGED
