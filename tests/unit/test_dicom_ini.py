"""Conquest's dicom.ini: each form that loses objects is found, and told with its cure."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.commands import conquest
from ingest.config import Drop
from ingest.dicom_ini import DicomIni, Surroundings, lint, parse
from ingest.findings import Finding, Level
from ingest.model import Importer
from ingest.watch import is_passed_over

DOSE_SR = "1.2.840.10008.5.1.4.1.1.88.67"
DROPS = ("/dose/mammo", "/dose/dx", "/dose/sr")
AROUND = Surroundings(
    drops=DROPS,
    folders={"/dose/elsewhere": "/dose/elsewhere", "/link/sr": "/dose/sr"}
    | {drop: drop for drop in DROPS}
    | {"/dose/sr/below": "/dose/sr/below"},
    is_passed_over=is_passed_over,
)
MAMMO = ("ImportModality1 = MG", "ImportConverter1 = save to /dose/mammo/%o.dcm; destroy")
DX = ("ImportModality2 = DX", "ImportConverter2 = save to /dose/dx/%o.dcm; destroy")
SR_BLOCK = "{save to /dose/sr/%o.dcm; destroy}"
SR = f'ImportConverter4 = ifequal "%V0008,0016","{DOSE_SR}"; {SR_BLOCK}'
RENAMING = (
    f'ImportConverter4 = ifequal "%V0008,0016","{DOSE_SR}"; '
    "{save to /dose/sr/%o.part; lua \"if os.rename('/dose/sr/%o.part','/dose/sr/%o.dcm') "
    'then destroy() else reject() end";}'
)


def ini(*lines: str) -> DicomIni:
    return parse("\n".join(("[sscscp]", "MicroPACS = sscscp", *lines)) + "\n")


def troubles(*lines: str, around: Surroundings | None = AROUND) -> list[Finding]:
    found = lint(ini(*lines), around)
    return [one for one in found if one.level in {Level.WARNING, Level.ERROR}]


def the_one(found: Sequence[Finding]) -> Finding:
    assert len(found) == 1, found
    assert found[0].why
    assert found[0].next
    return found[0]


# -- what is right ---------------------------------------------------------------------------------


def test_the_lines_that_work_are_found_sound() -> None:
    found = lint(ini(*MAMMO, *DX, SR), AROUND)

    assert [one.level for one in found] == [Level.OK]
    assert "3 import converters" in found[0].what


@pytest.mark.parametrize("plain", [True, False])
def test_the_lines_that_we_print_ourselves_are_found_sound(plain: bool) -> None:
    drops = tuple(
        Drop(path=Path(path), name=expect.value, expect=(expect,))
        for path, expect in zip(
            DROPS, (Importer.MG, Importer.CTPHILIPS, Importer.RDSR), strict=True
        )
    )

    assert [one.level for one in lint(ini(*conquest.lines(drops, plain=plain)), AROUND)] == [
        Level.OK
    ]


def test_what_is_read_is_all_there() -> None:
    mammo, report = ini(*MAMMO, "; a comment", "# another", RENAMING).converters

    assert (mammo.number, mammo.line, mammo.modality, mammo.modality_line) == (1, 4, "MG", 3)
    assert (mammo.sop_class, mammo.folder, mammo.file) == ("", "/dose/mammo", "%o.dcm")
    assert (report.number, report.line, report.modality, report.modality_line) == (4, 7, None, 0)
    assert (report.sop_class, report.folder, report.file) == (DOSE_SR, "/dose/sr", "%o.part")
    assert mammo.destroys
    assert report.destroys


def test_lines_are_read_as_conquest_reads_them() -> None:
    modality = "importmodality7\t=\tMG  \r\n"
    found = parse(f"[SSCSCP]\r\n{modality}IMPORTCONVERTER7='save to /a b/%o.dcm; destroy'\r\n")

    (converter,) = found.converters
    assert (converter.number, converter.modality, converter.folder) == (7, "MG", "/a b")


def test_a_path_need_not_be_text() -> None:
    folder = b"/dose/\xff".decode("utf-8", "surrogateescape")

    (converter,) = ini(f"ImportConverter1 = save to {folder}/%o.dcm; destroy").converters

    assert converter.folder == folder


def test_a_folder_is_known_by_a_link_to_it() -> None:
    assert troubles(SR.replace("/dose/sr", "/link/sr")) == []


@given(st.text(alphabet="Import[]Converter12=;{}\"' %\n/ifequal,sdy", max_size=300))
def test_whatever_is_in_the_file_it_is_read(text: str) -> None:
    assert all(one.what for one in lint(parse("[sscscp]\n" + text), AROUND))


# -- each form that loses objects ------------------------------------------------------------------

RIGHT_SR = f'ImportConverter4 = ifequal "%V0008,0016","{DOSE_SR}"; {SR_BLOCK}'
RIGHT_MG = "ImportConverter1 = save to /dose/mammo/%o.dcm; destroy"


@pytest.mark.parametrize(
    ("lines", "where", "what", "why", "next_step"),
    [
        pytest.param(
            (f"ImportConverter4 = ifequal %V0008,0016,{DOSE_SR}; {SR_BLOCK}",),
            "line 3: ImportConverter4",
            "without double quotes",
            "every object that Conquest receives is destroyed",
            RIGHT_SR,
            id="ifequal without quotes",
        ),
        pytest.param(
            (f"ImportConverter4 = ifequal “%V0008,0016”,“{DOSE_SR}”; {SR_BLOCK}",),
            "line 3: ImportConverter4",
            "without double quotes",
            "every object that Conquest receives is destroyed",
            RIGHT_SR,
            id="ifequal with typographic quotes",
        ),
        pytest.param(
            (SR.replace(SR_BLOCK, "save to /dose/sr/%o.dcm; destroy"),),
            "line 3: ImportConverter4",
            "without braces",
            "every object that Conquest receives is destroyed",
            RIGHT_SR,
            id="ifequal without braces",
        ),
        pytest.param(
            (SR.replace(SR_BLOCK, "{destroy; save to /dose/sr/%o.dcm}"),),
            "line 3: ImportConverter4",
            "destroy comes before save to",
            f"objects of SOP class {DOSE_SR} are lost",
            RIGHT_SR,
            id="destroy first",
        ),
        pytest.param(
            (SR.replace(SR_BLOCK, "{nop; save to /dose/sr/%o.dcm}"),),
            "line 3: ImportConverter4",
            "save to stands last",
            "files are called %o.dcm}",
            RIGHT_SR.replace("destroy", "nop"),
            id="save last",
        ),
        pytest.param(
            (MAMMO[0], 'ImportConverter1 = save to "/dose/mammo/%o.dcm"; destroy'),
            "line 4: ImportConverter1",
            "in quotes",
            "saves nothing: all MG objects are lost",
            RIGHT_MG,
            id="a quoted path",
        ),
        pytest.param(
            ("ImportModality99 = MG", MAMMO[1].replace("1", "99", 1)),
            "line 4: ImportConverter99",
            "above 98",
            "never runs it: all MG objects never come",
            RIGHT_MG,
            id="number 99",
        ),
        pytest.param(
            (MAMMO[0].replace("MG", "MG,SR"), MAMMO[1]),
            "line 3: ImportModality1",
            "is a list: MG,SR",
            "never run ImportConverter1 (line 4)",
            "one converter for each of MG, SR",
            id="a list of modalities",
        ),
        pytest.param(
            ("ImportModality4 =", SR),
            "line 3: ImportModality4",
            "is empty",
            "never run ImportConverter4 (line 4)",
            "remove the line",
            id="an empty modality",
        ),
        pytest.param(
            (MAMMO[0], f"ImportConverter1 = save to /{'d' * 490}/%o.dcm; destroy; nop"),
            "line 4: the value of ImportConverter1",
            "more than 512",
            "cuts it there",
            "a shorter path",
            id="more than 512 bytes",
        ),
        pytest.param(
            (*MAMMO, "ImportConverter1 = save to /dose/dx/%o.dcm; destroy"),
            "line 5: ImportConverter1",
            "twice (first in line 4)",
            "the first wins",
            "ImportConverter2 = save to /dose/dx/%o.dcm; destroy",
            id="a number twice",
        ),
        pytest.param(
            (MAMMO[0], " " + MAMMO[1]),
            "line 4: ImportConverter1",
            "is indented",
            "ignores lines that begin with a blank",
            RIGHT_MG,
            id="an indented line",
        ),
        pytest.param(
            ("\t" + MAMMO[0], *MAMMO[1:]),
            "line 3: ImportModality1",
            "is indented",
            "ImportConverter1 (line 4) runs on every object that Conquest receives, not on MG",
            MAMMO[0],
            id="an indented modality",
        ),
        pytest.param(
            (*MAMMO[:1], RIGHT_MG.replace("1", "01", 1)),
            "line 4: ImportConverter01",
            "begins with 0",
            "Conquest looks for ImportConverter1",
            RIGHT_MG,
            id="a number with a zero in front",
        ),
        pytest.param(
            (f'ImportConverter4 = ifequal "%V0008,0016","{DOSE_SR}"; {SR_BLOCK[:-1]}',),
            "line 3: ImportConverter4",
            "without its other half",
            "may be lost",
            RIGHT_SR,
            id="an open brace",
        ),
        pytest.param(
            (MAMMO[0], MAMMO[1].replace("%o", "mammo")),
            "line 4: ImportConverter1",
            "under one name: mammo.dcm",
            "overwrites the one before",
            RIGHT_MG,
            id="one name for all",
        ),
        pytest.param(
            (MAMMO[0], MAMMO[1].replace("%o.dcm", "%o.part")),
            "line 4: ImportConverter1",
            "a name that is left alone: %o.part",
            "never imports them",
            RIGHT_MG,
            id="a passing name that is not renamed",
        ),
        pytest.param(
            (MAMMO[0], MAMMO[1].replace("/dose/mammo", "/dose/mamo")),
            "line 4: ImportConverter1",
            "/dose/mamo, which does not exist",
            "all MG objects are lost, although the sender hears of success",
            "/dose/mammo",
            id="a folder that does not exist",
        ),
        pytest.param(
            (RENAMING.replace("/dose/sr", "/dose/sR"),),
            "line 3: ImportConverter4",
            "/dose/sR, which does not exist",
            "it refuses objects of SOP class",
            "/dose/sr",
            id="a folder that does not exist, but the sender hears of it",
        ),
        pytest.param(
            (SR.replace("/dose/sr", "/dose/sr/below"),),
            "line 3: ImportConverter4",
            "a sub-folder of a drop folder",
            "removes it once it is empty",
            "a [[drop]] of its own",
            id="a sub-folder of a drop folder",
        ),
    ],
)
def test_a_form_that_loses_objects_is_an_error(
    lines: tuple[str, ...], where: str, what: str, why: str, next_step: str
) -> None:
    found = troubles(*lines)
    if next_step == "a shorter path":  # such a long folder does not exist either
        found = [one for one in found if "does not exist" not in one.what]
    if "indented" in what and where == "line 3: ImportModality1":  # and that follows from it
        found = [one for one in found if one.level is Level.ERROR]

    one = the_one(found)

    assert one.level is Level.ERROR
    assert where in one.what
    assert what in one.what
    assert why in one.why
    assert next_step in one.next


def pasted(remedy: str) -> list[str]:
    """The lines of dicom.ini in a remedy, as somebody would copy them."""
    return re.findall(r"Import\w+ = .*", remedy)


@pytest.mark.parametrize(
    "line",
    [
        f"ImportConverter4 = ifequal %V0008,0016,{DOSE_SR}; {SR_BLOCK}",
        f"ImportConverter4 = ifmatch %V0008,0016,{DOSE_SR}; {SR_BLOCK}",
        SR.replace(SR_BLOCK, "{destroy; save to /dose/sr/%o.dcm}"),
        SR.replace(SR_BLOCK, "save to /dose/sr/%o.dcm; destroy"),
        SR.replace(SR_BLOCK, "{nop; save to /dose/sr/%o.dcm}"),
        f'{MAMMO[0]}\nImportConverter1 = save to "/dose/mammo/%o.dcm"; destroy',
        'ImportConverter3 = ifequal "%VModality","MG"; save to /dose/mammo/%o.dcm; destroy',
        'ImportConverter3 = ifnotequal "%m","MG"; save to /dose/mammo/%o.dcm; destroy',
        'ImportConverter3 = ifnotmatch "%m","M*"; {destroy; save to /dose/mammo/%o.dcm}',
        f"ImportModality99 = SR\n{SR.replace('r4', 'r99')}",
    ],
)
def test_what_is_said_to_be_right_is_right(line: str) -> None:
    """Whoever copies the remedy's lines has no finding any more, and it is for the same objects."""
    lines = pasted(the_one(troubles(line)).next)

    assert lines
    assert troubles(*lines) == []
    (before,), (after,) = ini(line).converters, ini(*lines).converters
    assert (after.modality, after.sop_class) == (before.modality, before.sop_class)
    assert after.destroys == before.destroys
    assert re.findall(r"if\w+", after.text) == re.findall(r"if\w+", before.text)


def test_the_lines_of_a_remedy_are_lines() -> None:
    one = the_one(troubles(MAMMO[0], MAMMO[1].replace("%o", "mammo")))

    assert one.next.splitlines()[1:] == [*MAMMO]


@pytest.mark.parametrize(
    "text",
    [
        "ifnotequal %V0008,0016,1.2.3; {save to /dose/sr/%o.dcm; destroy}",
        "ifequal %m,MG; {save to /dose/mammo/%o.dcm; destroy}",
        'ifequal "%m","MG"; {save to /dose/mammo/%o.dcm; nop}; else; save to "/dose/sr/%o.dcm"',
        'ifequal "%m","MG"; {save to "/dose/mammo/%o.dcm"; forward to PACS; destroy}',
        'ifequal "%m","MG"; {save to "/dose/mammo/%o.dcm"; save to /dose/sr/%o.dcm; destroy}',
        'ifequal "%m","MG"; {nop}; save to "/dose/mammo/%o.dcm"; destroy',
        'ifequal "%m","MG"; {ifequal "%o","1"; {save to "/dose/mammo/%o.dcm"; destroy}}',
    ],
)
def test_where_the_right_form_is_in_doubt_there_is_none_to_copy(text: str) -> None:
    one = the_one(troubles(f"ImportConverter4 = {text}"))

    assert one.next
    assert pasted(one.next) == []


@pytest.mark.parametrize(
    ("condition", "sop_class"),
    [
        (f'ifequal "%V0008,0016","{DOSE_SR}"', DOSE_SR),
        (f'IfMatch "%V0008,0016","{DOSE_SR}"', DOSE_SR),
        (f'ifnotequal "%V0008,0016","{DOSE_SR}"', ""),
        (f'ifnotmatch "%V0008,0016","{DOSE_SR}"', ""),
        ('ifmatch "%V0008,0016","1.2.840.10008.5.1.4.1.1.88*"', ""),
        ('ifmatch "%V0008,0016","*1.1.88.67"', ""),
        (f'ifequal "%m","SR"; {{nop}}; ifequal "%V0008,0016","{DOSE_SR}"', ""),
    ],
)
def test_a_sop_class_is_asked_for_only_where_it_is(condition: str, sop_class: str) -> None:
    (converter,) = ini(f"ImportConverter4 = {condition}; {SR_BLOCK}").converters

    assert converter.sop_class == sop_class


def test_a_line_in_another_section_counts_for_nothing() -> None:
    one = the_one([*lint(parse("\n".join(("[sscscp]", "[lua]", MAMMO[1]))), None)])

    assert one.level is Level.ERROR
    assert "line 3: ImportConverter1 stands outside of section [sscscp]" in one.what


def test_a_file_without_the_section_is_another_file() -> None:
    one = the_one([*lint(parse("\n".join(MAMMO)), None)])

    assert one.level is Level.ERROR
    assert "no section [sscscp]" in one.what


# -- what is less bad ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ((MAMMO[1],), "asks for no modality and no SOP class"),
        ((SR.replace("/dose/sr", "/dose/elsewhere"),), "which is no drop folder"),
        ((SR.replace("/dose/sr", "sr"),), "a path without a leading /"),
        ((SR.replace("/dose/sr/%o", "x%o"),), "a path without a leading /"),
        ((SR.replace("/dose/sr", "/dose/sr/%m"),), "differs from object to object"),
        ((SR.replace("%o", "%p"),), "something else than %o"),
    ],
)
def test_what_is_likely_wrong_is_a_warning(lines: tuple[str, ...], what: str) -> None:
    one = the_one(troubles(*lines))

    assert one.level is Level.WARNING
    assert what in one.what


def test_a_converter_that_never_destroys_keeps_objects_twice() -> None:
    found = lint(ini(MAMMO[0], "ImportConverter1 = save to /dose/mammo/%o.dcm"), AROUND)

    assert [one.level for one in found if "stored twice" in one.why] == [Level.NOTE]
    assert all(one.level in {Level.OK, Level.NOTE} for one in found)


def test_a_drop_folder_that_no_converter_fills_is_worth_a_note() -> None:
    found = lint(ini(*MAMMO, *DX), AROUND)

    assert [one.what for one in found if one.level is Level.NOTE] == [
        "no import converter saves into the drop folder /dose/sr"
    ]


def test_a_modality_without_a_converter_is_worth_a_note() -> None:
    found = lint(ini(*MAMMO, "ImportModality7 = CT"), None)

    assert [one.what for one in found if one.level is Level.NOTE] == [
        "dicom.ini line 5: ImportModality7 has no ImportConverter7"
    ]


def test_a_single_command_needs_no_braces() -> None:
    assert troubles('ImportConverter3 = ifequal "%VModality","OT"; destroy') == []


def test_another_filter_is_one() -> None:
    assert troubles("ImportStationName1 = WS1", MAMMO[1]) == []


def test_without_a_configuration_the_forms_are_judged_all_the_same() -> None:
    assert troubles(SR.replace("/dose/sr", "/nowhere"), around=None) == []
    the_one(troubles(SR.replace(SR_BLOCK, "save to /x/%o.dcm; destroy"), around=None))
