"""`conquest`: the lines printed are, character by character, those that were tried with it."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest.commands.conquest import conquest, lines
from ingest.config import Columns, Drop, Settings
from ingest.errors import ConfigError
from ingest.model import Importer

MAMMO = Drop(path=Path("/dose/mammo"), name="mammo", expect=(Importer.MG,))
DX = Drop(path=Path("/dose/dx"), name="dx", expect=(Importer.DX,))
SR = Drop(path=Path("/dose/sr"), name="sr", expect=(Importer.RDSR,))
DOSE_SR = "1.2.840.10008.5.1.4.1.1.88.67"


def without_numbers(line: str) -> str:
    return re.sub(r"^(Import(?:Modality|Converter))\d+", r"\1N", line)


def converters(found: list[str]) -> list[str]:
    return [line for line in found if line.startswith("ImportConverter")]


def test_the_plain_lines_are_the_tested_ones() -> None:
    found = lines((MAMMO, DX, SR), plain=True)

    assert found[:2] == [
        "ImportModality1 = MG",
        "ImportConverter1 = save to /dose/mammo/%o.dcm; destroy",
    ]
    assert found[2:6] == [
        "ImportModality2 = DX",
        "ImportConverter2 = save to /dose/dx/%o.dcm; destroy",
        "ImportModality3 = CR",
        "ImportConverter3 = save to /dose/dx/%o.dcm; destroy",
    ]
    assert (
        f'ImportConverterN = ifequal "%V0008,0016","{DOSE_SR}"; '
        "{save to /dose/sr/%o.dcm; destroy}"
    ) in map(without_numbers, found)


def test_a_folder_of_tables_gets_no_lines() -> None:
    """Not even under a name that has some for objects."""
    columns = Columns(id="A", height="H", weight="W")
    drop = Drop(path=Path("/dose/sr"), name="sr", kind="ptsizecsv", columns=columns)
    assert lines((drop,), plain=False) == []


def test_the_safer_line_is_the_tested_one() -> None:
    found = lines((SR,), plain=False)

    assert found[0] == (
        f'ImportConverter1 = ifequal "%V0008,0016","{DOSE_SR}"; '
        "{save to /dose/sr/%o.part; lua \"if os.rename('/dose/sr/%o.part','/dose/sr/%o.dcm') "
        'then destroy() else reject() end";}'
    )


def test_every_sop_class_of_a_kind_has_its_line() -> None:
    found = lines((MAMMO, DX, SR), plain=False)

    classes = re.findall(
        r'ifequal "%V0008,0016","1\.2\.840\.10008\.5\.1\.4\.1\.1\.([0-9.]+)"', "\n".join(found)
    )
    assert classes == ["1.2", "1.2.1", "1.1", "1.1.1", "1", "88.67", "88.22", "88.68"]


def test_numbers_that_are_taken_are_left_to_others() -> None:
    found = lines((MAMMO, SR), plain=True, taken={1, 3, 4})

    numbers = [re.sub(r"\D*(\d+) =.*", r"\1", line) for line in found]
    assert numbers == ["2", "2", "5", "6", "7"]
    assert list(map(without_numbers, found)) == list(
        map(without_numbers, lines((MAMMO, SR), plain=True))
    )


def test_no_line_has_a_number_that_never_runs() -> None:
    assert len(lines((MAMMO,), plain=True, taken=range(1, 98))) == 2
    with pytest.raises(ConfigError, match="above number 98"):
        lines((MAMMO,), plain=True, taken=range(1, 99))


@pytest.mark.parametrize("plain", [True, False])
def test_a_philips_dose_info_is_a_ct_secondary_capture(plain: bool) -> None:
    found = lines(
        (Drop(path=Path("/dose/ph"), name="ph", expect=(Importer.CTPHILIPS,)),), plain=plain
    )

    assert found[0] == "ImportModality1 = CT"
    assert '"1.2.840.10008.5.1.4.1.1.7"' in found[1]


@pytest.mark.parametrize(
    ("name", "modality"), [("mammo", "MG"), ("Mammo", "MG"), ("dx", "DX"), ("nm", "NM")]
)
def test_a_folder_without_a_hint_goes_by_its_name(name: str, modality: str) -> None:
    found = lines((Drop(path=Path("/dose") / name, name=name),), plain=True)

    assert found[0] == f"ImportModality1 = {modality}"


def test_a_folder_that_says_nothing_gets_a_hint_and_no_line() -> None:
    (only,) = lines((Drop(path=Path("/dose/inbox"), name="inbox"),), plain=True)

    assert only.startswith("# /dose/inbox: set expect")


@pytest.mark.parametrize("plain", [True, False])
def test_numbers_are_each_given_once_and_in_order(plain: bool) -> None:
    found = converters(lines((MAMMO, DX, SR), plain=plain))

    numbers = [int(line.split()[0].removeprefix("ImportConverter")) for line in found]
    assert numbers == list(range(1, len(found) + 1))


@pytest.mark.parametrize("plain", [True, False])
def test_no_form_that_loses_objects_in_silence_occurs(plain: bool) -> None:
    """No unquoted ifequal, no save that comes last, no quoted path, no indentation."""
    for line in lines((MAMMO, DX, SR), plain=plain):
        assert line == line.strip()
        action = line.partition(" = ")[2]
        assert 'save to "' not in action
        if "ifequal" in action:
            assert re.match(r'ifequal "%V0008,0016","[0-9.]+"; \{save to .*\}$', action)
        if "save to" in action:
            assert re.search(r"%o\.(dcm|part); ", action)


@pytest.mark.parametrize("bad", list("\"'\\;{}%\n\r"))
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("expect", [(Importer.MG,), ()])
def test_a_folder_whose_name_breaks_a_line_is_refused(
    bad: str, plain: bool, expect: tuple[Importer, ...]
) -> None:
    drop = Drop(path=Path(f"/dose/a{bad}b"), name="other", expect=expect)

    with pytest.raises(ConfigError, match="rename the folder") as caught:
        lines((drop,), plain=plain)
    assert "\n" not in str(caught.value)


def test_a_space_in_a_path_works_there() -> None:
    drop = Drop(path=Path("/dose/my mammo"), name="mammo", expect=(Importer.MG,))

    assert "save to /dose/my mammo/%o.dcm; destroy" in lines((drop,), plain=True)[1]


@given(
    folder=st.text(
        alphabet=st.characters(exclude_characters="\"'\\;{}%\n\r/\0", exclude_categories=["Cs"]),
        min_size=1,
        max_size=500,
    ),
    plain=st.booleans(),
)
@example(folder="ü" * 250, plain=True)
def test_a_value_is_never_longer_than_conquest_reads(folder: str, plain: bool) -> None:
    """It cuts what is longer than 512 characters, of which a letter like é is two to it."""
    drop = Drop(path=Path("/", folder), name="x", expect=(Importer.MG,))
    try:
        found = lines((drop,), plain=plain)
    except ConfigError as error:
        assert "too long" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert all(len(line.partition(" = ")[2].encode()) <= 512 for line in found)


def test_more_converters_than_conquest_runs_are_refused() -> None:
    drops = tuple(
        Drop(path=Path(f"/dose/{number}"), name=str(number), expect=(Importer.RDSR,))
        for number in range(33)
    )
    assert len(converters(lines(drops[:32], plain=True))) == 96

    with pytest.raises(ConfigError, match="above number 98"):
        lines(drops, plain=True)


def test_the_command_prints_where_they_go(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.model_validate(
        {"openrem": {"python": "/x"}, "drop": [{"path": "/dose/mammo"}]}
    )

    assert conquest(settings, plain=True) == 0

    out = capsys.readouterr().out.splitlines()
    assert "[sscscp]" in out[0]
    assert all(line.startswith("# ") for line in out[:2])
    assert out[2:] == lines(settings.drop, plain=True)
