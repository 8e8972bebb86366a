"""`ingest.config`: what is right loads, and what is wrong is one line that says what to do."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import pytest

from ingest import config, parts
from ingest.config import Settings, find_file, load
from ingest.errors import ConfigError
from ingest.model import OF_OBJECTS, Importer, SizesWanted

SAMPLE = """
state_dir = "/var/lib/openrem-ingest"

[openrem]
python  = "/var/dose/veopenrem3/bin/python"
importer = "worker"
workers = 2
env = { }

[[drop]]
path = "/var/dose/dosedata/mammo"
expect = ["mg"]
after = "delete"
watch = "auto"

[[drop]]
path = "/var/dose/dosedata/dx"
expect = ["dx"]
after = "archive"
archive = "/var/dose/archive"

[[drop]]
path = "/var/dose/dosedata/sr"
expect = ["rdsr"]

[settle]
quiet = 2.0
incomplete_after = 3600

[retry]
attempts = 8
initial = 5.0
maximum = 900.0

[quarantine]
path = "/var/dose/dosedata/failed"
"""
LEAST = '[openrem]\npython = "/x/python"\n'
DROP = LEAST + '[[drop]]\npath = "/d/a"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "openrem-ingest.toml"


def loaded(file: Path, text: str) -> Settings:
    file.write_text(text, encoding="utf-8")
    return load(file)


def refusal(file: Path, text: str) -> str:
    """The one line that the user reads, less the file's name."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    words = str(caught.value)
    assert words.startswith(f"{file}: ")
    assert len(words.splitlines()) == 1
    return words.removeprefix(f"{file}: ")


# -- what is right -------------------------------------------------------------------------------


def test_the_configuration_of_the_design_loads(file: Path) -> None:
    settings = loaded(file, SAMPLE)

    assert settings.state_dir == Path("/var/lib/openrem-ingest")
    assert settings.ledger_path == Path("/var/lib/openrem-ingest/ledger.sqlite")
    assert [drop.name for drop in settings.drop] == ["mammo", "dx", "sr"]
    assert [drop.expect for drop in settings.drop] == [
        (Importer.MG,),
        (Importer.DX,),
        (Importer.RDSR,),
    ]
    assert [drop.after for drop in settings.drop] == ["delete", "archive", "delete"]
    assert settings.quarantine_path == Path("/var/dose/dosedata/failed")
    assert settings.settle.incomplete_after == 3600.0


def test_what_is_not_said_is_that_of_the_design(file: Path) -> None:
    least, sample = loaded(file, LEAST), loaded(file, SAMPLE)

    assert least.settle == sample.settle
    assert least.retry == sample.retry
    assert least.openrem.workers == sample.openrem.workers
    assert least.drop == ()
    assert least.quarantine_path is None


def test_refused_files_go_beside_the_first_drop_folder(file: Path) -> None:
    assert loaded(file, DROP).quarantine_path == Path("/d/failed")


def test_settings_do_not_change(file: Path) -> None:
    settings = loaded(file, SAMPLE)

    with pytest.raises(ValueError, match="frozen"):
        settings.retry.attempts = 9


def test_a_path_may_begin_at_home_and_be_untidy(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")

    settings = loaded(file, LEAST.replace("/x/python", "~/x/../y//python"))

    assert settings.openrem.python == Path("/home/someone/y/python")


@pytest.mark.parametrize(
    ("drops", "names"),
    [
        (["/a/sr", "/b/sr", "/c/sr"], ["sr", "sr-2", "sr-3"]),
        (["/a/sr", "/b/sr-2", "/c/sr"], ["sr", "sr-2", "sr-3"]),
        (["/a/sr/", "/b/sr/."], ["sr", "sr-2"]),
    ],
)
def test_each_drop_folder_has_a_name_of_its_own(
    file: Path, drops: list[str], names: list[str]
) -> None:
    text = LEAST + "".join(f'[[drop]]\npath = "{path}"\n' for path in drops)

    assert [drop.name for drop in loaded(file, text).drop] == names


def test_a_name_that_is_given_is_kept(file: Path) -> None:
    assert loaded(file, DROP + 'name = "left"').drop[0].name == "left"


def test_state_belongs_to_the_machine_or_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert config._default_state_dir() == Path("/var/lib/openrem-ingest")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert config._default_state_dir() == Path(platformdirs.user_state_dir("openrem-ingest"))


def test_a_folder_may_have_tables_of_sizes(file: Path) -> None:
    settings = loaded(file, SIZES + "overwrite = true\nstudy_uid = true\n")
    (inbox,) = parts.inboxes_of(settings)
    assert inbox.sizes == SizesWanted(
        id_title="A",
        height_title="H",
        weight_title="W",
        by_study_uid=True,
        overwrite=True,
        wait_s=30 * 86400.0,
    )
    (plain,) = parts.inboxes_of(loaded(file, SIZES + 'unmatched = "accept"\n'))
    assert plain.sizes == SizesWanted(id_title="A", height_title="H", weight_title="W")
    (objects,) = parts.inboxes_of(loaded(file, DROP))
    assert objects.sizes is None


# -- what is wrong -------------------------------------------------------------------------------

COLUMNS = 'columns = { id = "A", height = "H", weight = "W" }\n'
SIZES = DROP + 'kind = "ptsizecsv"\n' + COLUMNS


@dataclass(frozen=True)
class Wrong:
    """A configuration with one mistake, and what its line must have."""

    text: str
    key: str
    words: str


WRONG = [
    Wrong("", "openrem", "is missing. Next: add it"),
    Wrong("[openrem]\n", "openrem.python", "is missing. Next: add it"),
    Wrong(LEAST + "[[drop]]\n", "drop[1].path", "is missing"),
    Wrong(LEAST + "pyhton = 1\n", "openrem.pyhton", "did you mean python?"),
    Wrong("statedir = 1\n" + LEAST, "statedir", "did you mean state_dir?"),
    Wrong(DROP + "afer = 1\n", "drop[1].afer", "did you mean after?"),
    Wrong(LEAST + "[settle]\nquite = 1\n", "settle.quite", "did you mean quiet?"),
    Wrong(LEAST + "[retry]\nzzz = 1\n", "retry.zzz", "remove it (possible here: attempts, initial"),
    Wrong(LEAST + "[qarantine]\n", "qarantine", "did you mean quarantine?"),
    Wrong(DROP + 'after = "remove"\n', "drop[1].after", "'remove' is not possible. Next: use "),
    Wrong(DROP + 'watch = "often"\n', "drop[1].watch", "Next: use 'auto', 'native' or 'poll'"),
    Wrong(DROP + 'expect = ["ct"]\n', "drop[1].expect[1]", "Next: use 'rdsr', 'mg', 'dx', 'nm'"),
    Wrong(DROP + 'expect = "mg"\n', "drop[1].expect", "but is 'mg'"),
    Wrong(DROP + 'after = "archive"\n', "drop[1]", "needs the key archive"),
    Wrong(DROP.replace("/d/a", "a"), "drop[1].path", "must be an absolute path"),
    Wrong(DROP.replace("/d/a", "~nobody-of-that-name/a"), "drop[1].path", "no such user"),
    Wrong(DROP.replace("/d/a", "/d/\\u0000"), "drop[1]", "must"),
    Wrong(DROP.replace("/d/a", "/"), "drop[1].name", "must be a plain name"),
    Wrong(DROP + 'name = "a/b"\n', "drop[1].name", "must be a plain name"),
    Wrong(DROP + 'name = ".."\n', "drop[1].name", "must be a plain name"),
    Wrong(DROP + 'name = "by hand 1"\n', "drop[1].name", "must not begin with"),
    Wrong(DROP + '[[drop]]\npath = "/d/b/../a"\n', "drop", "two drop folders have the same path"),
    Wrong(DROP + '[quarantine]\npath = "/d/a"\n', "quarantine.path", "is a drop folder"),
    Wrong(DROP.replace("/d/a", "/q/sr") + '[quarantine]\npath = "/q"\n', "quarantine.path", "is a"),
    Wrong(DROP.replace("/d/a", "/d/failed"), "quarantine.path", "is a drop folder"),
    Wrong('state_dir = "/d/a"\n' + DROP, "state_dir", "is a drop folder"),
    Wrong(DROP + 'after = "archive"\narchive = "/d/a"\n', "drop[1].archive", "is a drop folder"),
    Wrong(DROP + 'expect = ["ptsizecsv"]\n', "drop[1].expect[1]", "Next: use 'rdsr', 'mg', 'dx'"),
    Wrong(DROP + 'kind = "xlsx"\n', "drop[1].kind", "Next: use 'dicom' or 'ptsizecsv'"),
    Wrong(DROP + 'kind = "ptsizecsv"\n', "drop[1]", "needs the key columns: the titles of three"),
    Wrong(DROP + COLUMNS, "drop[1]", 'columns: goes only with kind = "ptsizecsv". Next: remove'),
    Wrong(DROP + "overwrite = true\n", "drop[1]", 'overwrite: goes only with kind = "ptsizecsv"'),
    Wrong(
        SIZES + 'unmatched = "accept"\nwait_days = 3\n',
        "drop[1]",
        'wait_days: goes only with unmatched = "wait"',
    ),
    Wrong(SIZES + 'unmatched = "no"\n', "drop[1].unmatched", "Next: use 'accept' or 'wait'"),
    Wrong(SIZES.replace('"W"', '"H"'), "drop[1].columns", "two have the same title"),
    Wrong(SIZES.replace('"W"', '" "'), "drop[1].columns.weight", "must be the title of a column"),
    Wrong(SIZES.replace(', weight = "W"', ""), "drop[1].columns.weight", "is missing. Next: add"),
    Wrong(SIZES.replace('"W"', '"W", x = 1'), "drop[1].columns.x", "possible here: height, id, we"),
    Wrong(LEAST + "workers = 0\n", "openrem.workers", "but is 0. Next: correct the value"),
    Wrong(LEAST + "workers = 99\n", "openrem.workers", "less than or equal to 16"),
    Wrong(LEAST + 'importer = "magic"\n', "openrem.importer", "is not possible. Next: use "),
    Wrong(LEAST + "env = { A = 1 }\n", "openrem.env.A", "must be text, but is 1"),
    Wrong(LEAST + "[settle]\nquiet = 0\n", "settle.quiet", "greater than 0"),
    Wrong(LEAST + "[settle]\nquiet = inf\n", "settle.quiet", "finite number"),
    Wrong(LEAST + "[settle]\nquiet = nan\n", "settle.quiet", "Next: correct the value"),
    Wrong(LEAST + '[settle]\nquiet = "soon"\n', "settle.quiet", "but is 'soon'"),
    Wrong(LEAST + "[retry]\nattempts = -1\n", "retry.attempts", "greater than 0"),
    Wrong(LEAST + "[retry]\nattempts = 1.5\n", "retry.attempts", "but is 1.5"),
    Wrong("drop = 5\n" + LEAST, "drop", "but is 5"),
    Wrong("drop = [5]\n" + LEAST, "drop[1]", "but is 5"),
    Wrong("openrem = 5\n", "openrem", "but is 5"),
    Wrong('"two\\nlines" = 1\n' + LEAST, "'two\\nlines'", "unknown key"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.text)
def test_a_mistake_is_one_line_with_its_key_and_its_remedy(file: Path, wrong: Wrong) -> None:
    words = refusal(file, wrong.text)

    assert words.startswith(wrong.key)
    assert wrong.words in words


def _tables(text: str) -> list[str]:
    return re.findall(r"^(\w+) *=", text, flags=re.MULTILINE)


@pytest.mark.parametrize("key", sorted(set(_tables(SAMPLE)) - {"env"}))
@pytest.mark.parametrize("value", ["-1", "'\\\\\"{'", "[]", "{ a = 1 }"])
def test_no_key_takes_nonsense(file: Path, key: str, value: str) -> None:
    """Neither a number below zero, nor a text of signs, a list, or a table."""
    if key == "expect" and value == "[]":
        return  # no hint
    text = re.sub(rf"(?m)^{key} *=.*$", lambda _: f"{key} = {value}", SAMPLE, count=1)

    words = refusal(file, text)

    assert key in words


@pytest.mark.parametrize(
    "text",
    ["path = /var", "[openrem", "a = 1\na = 2", LEAST + LEAST, "\x00", '[openrem]\npython = "\n"'],
)
def test_what_is_not_toml_is_told_with_its_line(file: Path, text: str) -> None:
    words = refusal(file, text)

    assert words.startswith("is not valid TOML (")
    assert words.endswith("Next: correct that line")


def test_what_is_not_utf_8_is_told(file: Path) -> None:
    file.write_bytes(b'state_dir = "/M\xfcller"')

    with pytest.raises(ConfigError, match="is not valid TOML"):
        load(file)


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, what: str) -> None:
    path = tmp_path if what == "folder" else tmp_path / "missing.toml"

    with pytest.raises(ConfigError, match=r"can't be read .* Next: check the path given with -c"):
        load(path)


# -- where it is looked for ----------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Where a configuration may be, in their order; none is there yet."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(config.VARIABLE, raising=False)
    return {
        "here": Path("openrem-ingest.toml"),
        "user": tmp_path / "home" / "openrem-ingest" / "config.toml",
    }


def test_the_one_given_goes_before_all(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(config.VARIABLE, "/from/environment.toml")
    places["here"].write_text("")

    assert find_file(Path("/given.toml")) == Path("/given.toml")
    assert find_file(None) == Path("/from/environment.toml")


def test_then_the_one_here_then_the_users(places: dict[str, Path]) -> None:
    places["user"].parent.mkdir(parents=True)
    places["user"].write_text("")
    assert find_file(None) == places["user"]

    places["here"].write_text("")
    assert find_file(None) == places["here"]


def test_without_any_all_places_are_named(places: dict[str, Path]) -> None:
    if os.path.exists("/etc/openrem-ingest/config.toml"):
        pytest.fail("this machine has a configuration of its own")

    with pytest.raises(ConfigError, match="no configuration found") as caught:
        find_file(None)

    words = str(caught.value)
    for place in (*map(str, places.values()), "/etc/openrem-ingest/config.toml", "-c FILE"):
        assert place in words
    assert "\n" not in words


def test_a_place_that_may_not_be_looked_into_has_none(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/" + "x" * 300)
    places["here"].unlink(missing_ok=True)

    with pytest.raises(ConfigError, match="no configuration found"):
        find_file(None)


# -- rules -----------------------------------------------------------------------------------------


def a_rule(**keys: str) -> str:
    """A configuration with one rule; the values as they are written."""
    given = {"name": '"r"', "match": '{ StationName = "x" }', "then": '"ignore"'} | keys
    return DROP + "[[rule]]\n" + "".join(f"{key} = {value}\n" for key, value in given.items())


def test_rules_keep_their_order(file: Path) -> None:
    second = a_rule(name='"s"', then='"keep"', into='"/p"', zip="true").removeprefix(DROP)
    settings = loaded(file, a_rule(match='{ KVP = ["1", "2"], drop = "a" }') + second)

    assert [rule.name for rule in settings.rule] == ["r", "s"]
    assert settings.rule[0].match == {"KVP": ("1", "2"), "drop": ("a",)}
    assert settings.rule[1].into == Path("/p")
    assert settings.rule[1].zip


@pytest.mark.parametrize("importer", OF_OBJECTS)
def test_a_rule_may_choose_each_importer(file: Path, importer: Importer) -> None:
    settings = loaded(file, a_rule(then=f'"import:{importer.value}"'))

    assert settings.rule[0].then == f"import:{importer.value}"


@pytest.mark.parametrize(
    ("keys", "key", "words"),
    [
        ({"match": '{ StatonName = "x" }'}, "rule[1].match.StatonName", "mean StationName?"),
        ({"match": '{ stationname = "x" }'}, "rule[1].match.stationname", "mean StationName?"),
        ({"match": '{ Drop = "x" }'}, "rule[1].match.Drop", "mean drop?"),
        ({"match": '{ ContentSequence = "x" }'}, "rule[1].match.ContentSequence", "no text"),
        ({"match": '{ PixelData = "x" }'}, "rule[1].match.PixelData", "no text"),
        ({"match": '{ MediaStorageSOPClassUID = "x" }'}, "MediaStorageSOPClassUID", "no keyword"),
        ({"match": "{ }"}, "rule[1].match", "empty"),
        ({"match": "{ KVP = 3 }"}, "rule[1].match.KVP", "must be a list"),
        ({"match": "{ KVP = [] }"}, "rule[1].match.KVP", "at least 1"),
        ({"then": '"delete"'}, "rule[1].then", "'ignore', 'keep', 'quarantine'"),
        ({"then": '"import:cd"'}, "rule[1].then", "rdsr"),
        ({"then": '"keep"'}, "rule[1]", "needs the key into"),
        ({"into": '"/p"'}, "rule[1]", "goes only with then"),
        ({"zip": "true"}, "rule[1]", "goes only with then"),
        ({"then": '"quarantine"', "archive": '"/p"'}, "rule[1]", "goes only with then"),
        ({"then": '"keep"', "into": '"p"'}, "rule[1].into", "absolute"),
        ({"then": '"keep"', "into": '"/d/a"'}, "rule[1].into", "is a drop folder"),
        ({"archive": '"/d/a"'}, "rule[1].archive", "is a drop folder"),
        ({"archive": '"/d/a/.ingest/x"'}, "rule[1].archive", "openrem-ingest's own"),
        ({"then": '"keep"', "into": '"/d/failed/a"'}, "rule[1].into", "where refused files go"),
        ({"archive": '"/p"', "mount": '"/q"'}, "rule[1]", "does not lie on /q"),
        ({"name": '""'}, "rule[1].name", "up to 100 characters"),
        ({"name": '"a\\"b"'}, "rule[1].name", 'without "'),
        ({"matches": '"x"'}, "rule[1].matches", "did you mean match?"),
    ],
)
def test_a_rule_that_is_wrong_says_what(
    file: Path, keys: dict[str, str], key: str, words: str
) -> None:
    said = refusal(file, a_rule(**keys))

    assert key in said
    assert words in said


def test_two_rules_of_one_name_could_not_be_told_apart(file: Path) -> None:
    assert "two rules are called 'r'" in refusal(file, a_rule() + a_rule().removeprefix(DROP))


def test_a_rule_needs_two_brackets(file: Path) -> None:
    assert "[[rule]]" in refusal(file, a_rule().replace("[[rule]]", "[rule]"))


@pytest.mark.parametrize("drop", ["/k/undated", "/k/2026-11-24/1.2.3"])
def test_no_drop_folder_lies_where_a_rule_moves_files_by_their_date(file: Path, drop: str) -> None:
    """They would be met there again, or be packed with what nobody has read yet."""
    said = refusal(file, a_rule(then='"keep"', into='"/k"').replace("/d/a", drop))
    assert "rule[1].into" in said
    file.write_text(a_rule(then='"keep"', into='"/k"').replace("/d/a", "/k/dx"))
    assert load(file).rule


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ('{ drop = "dxx" }', "did you mean"),
        ('{ drop = ["a", "b"] }', "nothing like 'b'"),
        ('{ importer = "rdrs" }', "did you mean 'rdsr'?"),
        ('{ sop_class = "Enhanced SR" }', "did you mean 'Enhanced SR Storage'?"),
    ],
)
def test_a_rule_that_could_never_match_is_told(file: Path, match: str, words: str) -> None:
    said = refusal(file, a_rule(match=match))

    assert "rule[1].match." in said
    assert words in said or "correct it" in said


@pytest.mark.parametrize(
    "match",
    [
        '{ drop = "A" }',
        '{ drop = "?" }',
        '{ importer = "none" }',
        '{ sop_class = "enhanced sr*" }',
        '{ sop_class = "1.2.840.113619.4.*" }',
    ],
)
def test_one_that_may_is_taken(file: Path, match: str) -> None:
    assert loaded(file, a_rule(match=match)).rule
