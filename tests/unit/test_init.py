"""`init`: what it writes loads, what it can't carry over it tells, and it overwrites nothing."""

import os
import shlex
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest import cli, config, setup_file
from ingest.commands import init
from ingest.dicom_ini import lint, parse
from ingest.model import Importer
from ingest.setup import NewDrop, NewRule, Setup
from tests.unit.test_converters import LINUX, WINDOWS

SCRIPT = """
local python_executable = '/opt/openrem/bin/python'
local use_physics_filtering = true
local physics_to_keep_folder = '/dose/physics/'
local physics_to_keep = {'physics', 'QA-test'}
local manufacturers_to_ignore = {'Faxitron [X]'}
local model_names_to_ignore = {}
local station_names_to_ignore = {os.getenv('STATIONS')}
local software_versions_to_ignore = {}
local device_serial_numbers_to_ignore = {}
local use_toshiba_ct_extractor = false
"""


@dataclass
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str


class Place:
    """A machine with nothing on it: all is below one folder."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capsys = capsys
        self.output = root / "etc" / "config.toml"
        self.drops = root / "dosedata"

    def file(self, name: str, text: str) -> Path:
        """A file of that name."""
        (self.root / name).write_text(text, encoding="utf-8")
        return self.root / name

    def run(self, *arguments: object) -> Said:
        """The command with these arguments."""
        self._capsys.readouterr()
        code = cli._outcome(["init", *map(str, arguments)])
        found = self._capsys.readouterr()
        return Said(code, found.out, found.err)

    def init(self, *arguments: object) -> Said:
        """The same, with all that it makes below the folder."""
        return self.run("--dir", self.drops, "-o", self.output, *arguments)

    def settings(self) -> config.Settings:
        """What was written."""
        return config.load(self.output)

    def refused(self, *arguments: object) -> str:
        """The one line of a run that made nothing."""
        before = sorted(self.root.rglob("*"))
        said = self.init(*arguments)
        assert (said.code, said.out) == (2, "")
        assert sorted(self.root.rglob("*")) == before
        assert len(said.err.splitlines()) == 1
        assert "Next: " in said.err
        return said.err


@pytest.fixture
def place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Place:
    monkeypatch.setattr(init, "WELL_KNOWN", (tmp_path / "known" / "python",))
    monkeypatch.delenv(config.VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, capsys)


# -- from nothing ----------------------------------------------------------------------------------


def test_a_configuration_that_loads_and_its_folders(place: Place) -> None:
    said = place.init()

    assert said.code == 0
    settings = place.settings()
    assert {drop.name: drop.expect for drop in settings.drop} == {
        "mammo": (Importer.MG,),
        "dx": (Importer.DX,),
        "sr": (Importer.RDSR, Importer.CTPHILIPS),
        "nm": (Importer.NM,),
    }
    assert all(drop.path.is_dir() for drop in settings.drop)
    assert settings.quarantine_path == place.drops / "failed"
    assert settings.rule == ()
    assert settings.state_dir == config.Settings.model_fields["state_dir"].get_default(
        call_default_factory=True
    )
    assert str(place.output) in said.out
    for drop in settings.drop:
        assert str(drop.path) in said.out


def test_openrems_interpreter_is_the_one_given(place: Place) -> None:
    python = place.file("python", "")
    said = place.init("--openrem-python", python)

    assert place.settings().openrem.python == python
    assert "to be filled in (" not in said.out


def test_openrems_interpreter_is_found_where_its_documentation_has_it(place: Place) -> None:
    known = init.WELL_KNOWN[0]
    known.parent.mkdir()
    known.touch()
    said = place.init()

    assert place.settings().openrem.python == known
    assert "to be filled in (" not in said.out


def test_an_interpreter_that_is_not_found_is_to_be_filled_in(place: Place) -> None:
    said = place.init()

    text = place.output.read_text()
    assert str(place.settings().openrem.python) == init.UNKNOWN_PYTHON
    assert "FILL IN" in text
    assert "OpenREM's interpreter was not found" in said.out
    assert "fill in python" in said.out


def test_a_file_that_is_there_is_never_overwritten(place: Place) -> None:
    place.output.parent.mkdir()
    place.output.write_text("mine")

    assert "is there already" in place.refused()
    assert place.output.read_text() == "mine"
    assert not place.drops.exists()


def test_a_link_to_nowhere_is_not_overwritten_either(place: Place) -> None:
    place.output.parent.mkdir()
    place.output.symlink_to(place.root / "elsewhere")

    assert "is there already" in place.refused()


def test_no_file_beside_it_is_overwritten(place: Place) -> None:
    """Not even one that looks as if it was left by something that broke off."""
    place.output.parent.mkdir()
    mine = place.output.with_name(place.output.name + ".part")
    mine.write_text("mine")

    assert place.init().code == 0
    assert mine.read_text() == "mine"
    assert sorted(place.output.parent.iterdir()) == sorted([place.output, mine])


def test_folders_that_are_there_stay_as_they_are(place: Place) -> None:
    mine = place.drops / "mammo"
    mine.mkdir(parents=True)
    mine.chmod(0o750)
    (mine / "a.dcm").touch()

    assert place.init().code == 0
    assert stat.S_IMODE(mine.stat().st_mode) == 0o750
    assert (mine / "a.dcm").exists()


def test_where_a_folder_can_t_be_made_no_configuration_is_written(place: Place) -> None:
    place.drops.mkdir()
    (place.drops / "dx").touch()
    said = place.init()

    assert said.code == 2
    assert "can't be made" in said.err
    assert not place.output.exists()


def test_the_file_is_the_one_that_is_looked_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own, or the service's for root; another if it is named."""
    own = init.default_file
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert own() == place.root / "home/.config/openrem-ingest/config.toml"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert own() == Path("/etc/openrem-ingest/config.toml")
    monkeypatch.setenv(config.VARIABLE, str(place.root / "named.toml"))
    assert own() == place.root / "named.toml"

    said = place.run("--dir", place.drops)
    assert said.code == 0
    assert config.find_file(None) == place.root / "named.toml"
    assert f"openrem-ingest -c {place.root / 'named.toml'} doctor" in said.out


def test_the_next_steps_name_the_file_unless_every_user_finds_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's user has another home, and another environment."""
    site = place.root / "site.toml"
    monkeypatch.setattr(init, "SITE_FILE", site)
    said = place.run("-o", site, "--dir", place.drops)
    assert "sudo -u www-data openrem-ingest doctor" in said.out
    assert "sudo -u www-data openrem-ingest run" in said.out

    assert f"sudo -u www-data openrem-ingest -c {place.output} doctor" in place.init().out
    own = place.root / "home/.config/openrem-ingest/config.toml"
    said = place.run("-o", own, "--dir", place.drops)
    assert config.find_file(None) == own
    assert f"openrem-ingest -c {own} doctor" in said.out
    said = place.run("-c", place.root / "other.toml", "--dir", place.drops)
    assert (place.root / "other.toml").is_file()
    assert f"-c {place.root / 'other.toml'} run" in said.out


def commands_of(said: Said) -> list[list[str]]:
    """The commands to copy, as a shell takes them."""
    lines = [line.strip() for line in said.out.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("sudo ")]


def test_rights_are_added_and_no_folder_changes_its_owner(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what was there, nobody knows who else writes to it."""
    state = place.root / "it's here"
    monkeypatch.setattr(init, "_state_dir", lambda _python: str(state))
    there = place.drops / "mammo"
    there.mkdir(parents=True)
    state.mkdir()
    said = place.init()

    drops = [str(drop.path) for drop in place.settings().drop]
    failed = str(place.drops / "failed")
    assert commands_of(said) == [
        ["setfacl", "-m", "u:www-data:rwx", *drops],
        ["setfacl", "-d", "-m", "u:www-data:rwX", *drops],
        ["setfacl", "-m", "u:www-data:rwx", str(state)],
        ["setfacl", "-d", "-m", "u:www-data:rwX", str(state)],
        ["install", "-d", "-o", "www-data", failed],
        ["setfacl", "-m", "u:SENDER:rwx", *drops],
        ["setfacl", "-d", "-m", "u:SENDER:rwX", *drops],
    ]
    assert "chown" not in said.out
    assert "objects are lost without a word" in said.out


# -- from OpenREM's script for Orthanc -------------------------------------------------------------


def test_the_scripts_lists_become_rules(place: Place) -> None:
    said = place.init("--from-lua", place.file("openrem.lua", SCRIPT))

    settings = place.settings()
    assert said.code == 0
    assert [(rule.then, dict(rule.match)) for rule in settings.rule] == [
        ("keep", {"PatientName": ("*physics*",)}),
        ("keep", {"PatientID": ("*physics*",)}),
        ("ignore", {"Manufacturer": ("Faxitron [[]X]",)}),
    ]
    assert {(rule.into, rule.zip) for rule in settings.rule[:2]} == {(Path("/dose/physics"), True)}
    assert settings.openrem.python == Path("/opt/openrem/bin/python")


def test_what_is_not_carried_over_is_told_and_written_down(place: Place) -> None:
    said = place.init("--from-lua", place.file("openrem.lua", SCRIPT))

    text = place.output.read_text()
    for words in (
        "there is no /opt/openrem/bin/python on this machine",
        "physics_to_keep (line 5): 'QA-test' is not carried over",
        "line 8 of the script is an expression or a call, not a plain value, and has to do with",
        "the script has no function OnStoredInstance",
    ):
        assert f"- {words}" in said.out
        assert f"# - {words}" in text
    assert "take OpenREM's script out of Orthanc" in said.out


def test_the_interpreter_given_comes_before_that_of_the_script(place: Place) -> None:
    python = place.file("python", "")
    place.init("--from-lua", place.file("s.lua", SCRIPT), "--openrem-python", python)

    assert place.settings().openrem.python == python


def test_a_script_of_windows_has_its_paths_filled_in(place: Place) -> None:
    script = SCRIPT.replace("/opt/openrem/bin/python", r"E:\\venv\\Scripts\\python.exe").replace(
        "/dose/physics/", r"E:\\orthanc\\physics\\"
    )
    said = place.init("--from-lua", place.file("s.lua", script))

    settings = place.settings()
    assert str(settings.openrem.python) == init.UNKNOWN_PYTHON
    assert settings.rule[0].into == place.drops / "physics"
    assert r"E:\\venv\\Scripts\\python.exe" in said.out
    assert r"E:\\orthanc\\physics" in said.out


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("s.lua", "local a = 'x", "line 1: the text that begins here has no closing quote"),
        ("s.lua", None, "can't be read"),
    ],
)
def test_a_script_that_can_t_be_read_makes_nothing(
    place: Place, name: str, text: str | None, words: str
) -> None:
    path = place.file(name, text) if text is not None else place.root / name

    assert words in place.refused("--from-lua", path)


def test_a_physics_folder_that_is_a_drop_folder_makes_nothing(place: Place) -> None:
    script = SCRIPT.replace("/dose/physics/", str(place.drops / "dx"))

    assert "is a drop folder" in place.refused("--from-lua", place.file("s.lua", script))


# -- from Conquest's dicom.ini ---------------------------------------------------------------------


def test_the_folders_of_dicom_ini_become_drop_folders(place: Place) -> None:
    text = LINUX.replace("/dose/", f"{place.root}/conquest/")
    said = place.init("--from-conquest", place.file("dicom.ini", text))

    settings = place.settings()
    assert [str(drop.path.relative_to(place.root)) for drop in settings.drop] == [
        "conquest/mammo",
        "conquest/dx",
        "conquest/sr",
    ]
    assert all(drop.path.is_dir() for drop in settings.drop)
    assert settings.quarantine_path == place.root / "conquest/failed"
    assert not place.drops.exists()
    assert "calls OpenREM's import itself" in said.out
    assert "take out ImportConverter1 (" in said.out


@pytest.mark.parametrize("text", [LINUX, WINDOWS])
def test_the_lines_that_are_told_can_take_the_place_of_the_old_ones(
    place: Place, text: str
) -> None:
    """None has the number of a converter that stays, and all are as Conquest wants them."""
    text = text.replace("/dose/", f"{place.root}/conquest/")
    said = place.init("--from-conquest", place.file("dicom.ini", text))
    new = [line for line in said.out.splitlines() if line.startswith("Import")]
    gone = {one.number for one in parse(text).converters if "system" in one.text}
    kept = [
        line
        for line in text.splitlines()
        if not any(line.startswith((f"ImportConverter{n} ", f"ImportModality{n} ")) for n in gone)
    ]

    after = parse("\n".join([*kept, *new]))
    assert new
    assert not after.repeated
    assert "system" not in "".join(one.text for one in after.converters)
    assert {finding.level.value for finding in lint(after, None)} == {"ok"}
    paths = {str(drop.path) for drop in place.settings().drop}
    assert {one.folder for one in after.converters} == paths


def test_where_no_number_is_free_it_is_said(place: Place) -> None:
    """Rather than lines that would never run."""
    others = "".join(f"ImportConverter{number} = nop\n" for number in range(2, 99))
    text = LINUX.replace("/dose/", f"{place.root}/d/")
    text = "".join(line for line in text.splitlines(keepends=True) if line[15:16] not in {*"2345"})
    said = place.init("--from-conquest", place.file("dicom.ini", text + others))

    assert "# drop: too many for Conquest" in said.out
    assert "ImportConverter99" not in said.out


def test_what_lies_beside_the_file_stays(place: Place) -> None:
    place.output.parent.mkdir()
    beside = place.output.with_name("config.toml.part")
    beside.write_text("mine")

    assert place.init().code == 0
    assert beside.read_text() == "mine"
    assert sorted(place.output.parent.iterdir()) == [place.output, beside]


def test_a_converter_that_loses_objects_is_told_of(place: Place) -> None:
    text = f"[sscscp]\nImportModality1 = MG,DX\nImportConverter1 = save to {place.root}/a/%o.dcm\n"
    said = place.init("--from-conquest", place.file("dicom.ini", text))

    assert "ImportModality1 is a list: MG,DX" in said.out


def test_lines_to_copy_are_lines_of_their_own(place: Place) -> None:
    text = "[sscscp]\nImportModality1 = MG\nImportConverter1 = save to /d/one.dcm; destroy\n"
    text = text.replace("/d/one.dcm", f'"{place.root}/d/%o.dcm"')
    said = place.init("--from-conquest", place.file("dicom.ini", text))
    right = ("ImportModality1 = MG", f"ImportConverter1 = save to {place.root}/d/%o.dcm; destroy")

    assert {line.strip() for line in said.out.splitlines()} >= {*right}
    assert {line.strip("# ") for line in place.output.read_text().splitlines()} >= {*right}


def test_a_dicom_ini_that_saves_nothing_makes_nothing(place: Place) -> None:
    path = place.file("dicom.ini", "[sscscp]\nMicroPACS = sscscp\n")

    assert "no ImportConverter saves anything" in place.refused("--from-conquest", path)


def test_whatever_is_in_dicom_ini_the_terminal_takes_it(place: Place) -> None:
    """Bytes that are no text, and signs that would mean something to a terminal."""
    path = place.root / "dicom.ini"
    path.write_bytes(
        b"[sscscp]\nImportModality1 = MG\n"
        b"ImportConverter1 = save to /d/R\xf6ntgen\x1b[31m/%o.dcm; system openrem \x07\xf6; nop\n"
    )
    said = place.init("--from-conquest", path)

    assert (said.code, said.err) == (0, "")
    assert "/d/R\\udcf6ntgen\\x1b[31m/%o.dcm" in said.out
    assert all(line.isprintable() for line in said.out.splitlines())
    assert len(place.settings().drop) == 1


def test_a_path_that_is_no_text_makes_nothing(place: Place) -> None:
    for option in ("--dir", "--openrem-python"):
        words = place.refused(option, place.root / os.fsdecode(b"R\xf6ntgen\x1b"))
        assert "R\\udcf6ntgen\\x1b: has signs that are no text" in words
        assert option in words


def test_both_at_once(place: Place) -> None:
    text = LINUX.replace("/dose/", f"{place.root}/conquest/")
    ini = place.file("dicom.ini", text)
    said = place.init("--from-conquest", ini, "--from-lua", place.file("s.lua", SCRIPT))

    settings = place.settings()
    assert (said.code, len(settings.drop), len(settings.rule)) == (0, 3, 3)


# -- the file --------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
comments = texts | st.sampled_from(("", "a\nstate_dir = 1", "x # y", "\r[drop]"))
rules = st.lists(
    st.builds(
        NewRule,
        name=st.from_regex(r"[a-zé '\\#=\[\]]{1,30}", fullmatch=True).filter(str.strip),
        match=st.dictionaries(
            st.sampled_from(("PatientName", "StationName", "Modality", "Manufacturer")),
            st.lists(texts, min_size=1, max_size=5).map(tuple),
            min_size=1,
        ).map(lambda match: tuple(match.items())),
        then=st.sampled_from(("ignore", "quarantine", "import:dx")),
        why=comments,
    ),
    max_size=4,
    unique_by=lambda rule: rule.name,
)


@given(rules=rules, comment=comments, folder=texts)
@example(rules=[], comment="", folder='"')
def test_whatever_is_written_is_read_as_it_was(
    rules: list[NewRule], comment: str, folder: str
) -> None:
    path = "/d/" + folder.replace("/", "").replace("\0", "")
    written = Setup(
        state_dir="/state",
        python=f"/python{path}",
        python_note=comment,
        drops=(NewDrop(path=path, expect=(Importer.MG,), why=comment), NewDrop(path="/other")),
        rules=tuple(rules),
        quarantine="/failed",
        notes=(comment, comment),
    )
    text = setup_file.text_of(written)
    found = tomllib.loads(text)

    assert [drop["path"] for drop in found["drop"]] == [path, "/other"]
    assert found["openrem"]["python"] == written.python
    assert found["quarantine"] == {"path": "/failed"}
    assert [
        (one["name"], one["then"], sorted(one["match"].items())) for one in found.get("rule", [])
    ] == [
        (rule.name, rule.then, sorted((k, p[0] if len(p) == 1 else list(p)) for k, p in rule.match))
        for rule in rules
    ]
    assert config.Settings.model_validate(found | {"drop": []}).rule == tuple(
        config.Rule(name=rule.name, match=dict(rule.match), then=rule.then) for rule in rules
    )
