"""`ingest.converters`: folders that Conquest saves to become drop folders, or it is told why."""

import pytest

from ingest.converters import FromConquest, carry
from ingest.dicom_ini import parse
from ingest.model import Importer
from tests.strategies import STORAGE

# As OpenREM's documentation has its users write them, on Windows and on Linux.
DOSE_SR = f'ifequal "%V0008,0016","{STORAGE}88.67"'
CAPTURE = f'ifequal "%V0008,0016","{STORAGE}7"'
WINDOWS = rf"""
[sscscp]
MicroPACS        = sscscp
ImportConverter0 = {DOSE_SR}; {{save to C:\dose\sr\%o.dcm; system C:\openrem-rdsr.bat %o; destroy}}
ImportModality1  = MG
ImportConverter1 = save to C:\dose\mammo\%o.dcm; system C:\openrem-mam.bat %o; destroy
"""
LINUX = f"""
[sscscp]
ImportModality1  = MG
ImportConverter1 = save to /dose/mammo/%o.dcm; system /opt/openrem-mam.sh %o.dcm; destroy
ImportModality2  = DX
ImportConverter2 = save to /dose/dx/%o.dcm; destroy
ImportModality3  = CR
ImportConverter3 = save to /dose/dx/%o.dcm; destroy
ImportConverter4 = {DOSE_SR}; {{save to /dose/sr/%o.dcm; destroy}}
ImportModality5  = CT
ImportConverter5 = {CAPTURE}; {{save to /dose/sr/%o.dcm; destroy}}
"""


def carried(text: str) -> FromConquest:
    return carry(parse(text), folder="/dose/new")


def drops(found: FromConquest) -> dict[str, tuple[Importer, ...]]:
    return {drop.path: drop.expect for drop in found.carried.drops}


def one(commands: str, modality: str = "") -> FromConquest:
    """Of a dicom.ini with one converter."""
    asked = f"ImportModality1 = {modality}\n" if modality else ""
    return carried(f"[sscscp]\n{asked}ImportConverter1 = {commands}\n")


def test_each_folder_is_a_drop_folder_that_expects_what_is_saved_there() -> None:
    found = carried(LINUX)

    assert drops(found) == {
        "/dose/mammo": (Importer.MG,),
        "/dose/dx": (Importer.DX,),
        "/dose/sr": (Importer.RDSR, Importer.CTPHILIPS),
    }
    assert [drop.why for drop in found.carried.drops][1] == (
        "ImportConverter2 of dicom.ini saves here. ImportConverter3 of dicom.ini saves here."
    )


def test_a_call_of_openrems_import_must_go() -> None:
    """Else each object is imported twice."""
    found = carried(LINUX)

    (lost,) = found.carried.lost
    assert "dicom.ini line 4: ImportConverter1 calls OpenREM's import" in lost.what
    assert "system /opt/openrem-mam.sh" in lost.what
    assert "twice" in lost.why
    assert [(one.converter.number, one.drop.path) for one in found.replaced] == [(1, "/dose/mammo")]


def test_folders_of_windows_are_to_be_filled_in() -> None:
    found = carried(WINDOWS)

    assert drops(found) == {
        "/dose/new/sr": (Importer.RDSR,),
        "/dose/new/mammo": (Importer.MG,),
    }
    assert [one.converter.number for one in found.replaced] == [0, 1]
    words = [lost.what for lost in found.carried.lost]
    assert len(words) == 4
    assert r"saves to C:\dose\sr\%o.dcm" in words[0]
    assert r"system C:\openrem-rdsr.bat" in words[1]
    assert all(lost.next for lost in found.carried.lost)


@pytest.mark.parametrize(
    ("modality", "importers"),
    [
        ("MG", (Importer.MG,)),
        ("mg", (Importer.MG,)),
        ("DX", (Importer.DX,)),
        ("CR", (Importer.DX,)),
        ("PX", (Importer.DX,)),
        ("NM", (Importer.NM,)),
        ("PT", (Importer.NM,)),
        ("SR", (Importer.RDSR,)),
        ("US", ()),
        ("", ()),
    ],
)
def test_what_is_expected_by_the_modality(modality: str, importers: tuple[Importer, ...]) -> None:
    assert drops(one("save to /d/%o.dcm; destroy", modality)) == {"/d": importers}


@pytest.mark.parametrize(
    ("tail", "modality", "importers"),
    [
        ("88.67", "", (Importer.RDSR,)),
        ("88.22", "", (Importer.RDSR,)),
        ("88.68", "", (Importer.RDSR,)),
        ("1.2", "", (Importer.MG,)),
        ("1.1.1", "", (Importer.DX,)),
        ("1.1", "MG", (Importer.DX,)),  # the SOP class says more than the modality
        ("20", "", (Importer.NM,)),
        ("128", "", (Importer.NM,)),
        ("7", "CT", (Importer.CTPHILIPS,)),
        ("7", "MG", (Importer.MG,)),
        ("2", "CT", ()),
        ("13.1.3", "MG", ()),
    ],
)
def test_what_is_expected_by_the_sop_class(
    tail: str, modality: str, importers: tuple[Importer, ...]
) -> None:
    commands = f'ifequal "%V0008,0016","{STORAGE}{tail}"; {{save to /d/%o.dcm; destroy}}'

    assert drops(one(commands, modality)) == {"/d": importers}


@pytest.mark.parametrize("word", ["ifnotequal", "ifnotmatch"])
def test_what_is_expected_is_not_what_is_left_out(word: str) -> None:
    commands = f'{word} "%V0008,0016","{STORAGE}88.67"; {{save to /d/%o.dcm; destroy}}'

    for modality in ("", "SR"):
        assert drops(one(commands, modality)) == {"/d": ()}


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        ("save to incoming/%o.dcm; destroy", "no whole path"),
        ("save to C:/dose/%o.dcm; destroy", "no whole path"),
        ("save to %o.dcm; destroy", "no whole path"),
        ("save to /dose/%i/%o.dcm; destroy", "sub-folders"),
        ("system openrem-mam.bat %f", "no folder"),
    ],
)
def test_a_folder_that_can_t_be_taken_over_has_another_in_its_place(
    commands: str, words: str
) -> None:
    found = one(commands, "MG")

    assert drops(found) == {"/dose/new/mammo": (Importer.MG,)}
    assert words in found.carried.lost[0].why
    assert [one.converter.number for one in found.replaced] == [1]


def test_what_has_no_place_of_its_own_goes_to_another() -> None:
    assert drops(one("save to C:/dose/%o.dcm; destroy", "XA")) == {"/dose/new/other": ()}


@pytest.mark.parametrize(
    "call",
    [
        "system /usr/local/bin/import_mammo.sh /dose/mammo/%o.dcm",
        "lua \"os.execute('import_mammo.sh %o')\"",
        "lua \"io.popen('import_mammo.sh %o')\"",
    ],
)
def test_any_call_of_a_program_may_be_one_of_openrems_import(call: str) -> None:
    """A batch file may have any name; the call is told of, and the converter stays."""
    found = one(f"save to /dose/mammo/%o.dcm; {call}; destroy", "MG")

    assert found.replaced == ()
    (lost,) = found.carried.lost
    assert call in lost.what
    assert "imported twice" in lost.why
    assert "if that program calls OpenREM's import, take the call out" in lost.next


def test_a_call_without_a_folder_is_told_of_and_makes_none() -> None:
    found = one("system /usr/local/bin/import_mammo.sh %f", "MG")

    assert found.carried.drops == ()
    assert "import_mammo.sh %f" in found.carried.lost[0].what


def test_a_folder_of_openrems_name_is_no_call_of_it() -> None:
    found = one("save to /home/openrem/mammo/%o.dcm; destroy", "MG")

    assert (found.carried.lost, found.replaced) == ((), ())


def test_converters_that_save_nothing_make_no_drop_folder() -> None:
    """They forward, or throw away."""
    for commands in ("destroy", "forward to PACS", "nop"):
        assert one(commands, "MG").carried.drops == ()
