"""What the commands say, on which channel, and with which exit code."""

import json
import os
from pathlib import Path

import pytest

from tests.system.harness import Ground, Said, image, sample

DROPS = ("dx", "mammo", "sr")
KEYS = [
    "path",
    "decision",
    "importer",
    "reason",
    "rule",
    "because",
    "next",
    "complete",
    "afterwards",
    "drop",
    "what",
    "sop_class_uid",
    "sop_instance_uid",
    "modality",
    "station",
    "openrem",
]


@pytest.mark.timeout(120)
def test_classify_answers_for_every_file_and_touches_nothing(
    ground: Ground, corpus: dict[str, Path]
) -> None:
    """One JSON object a file, of OpenREM's own samples and of whatever else; no OpenREM needed."""
    ground.config.rename(ground.root / "elsewhere.toml")
    folder = ground.root / "files"
    folder.mkdir()
    for name, path in corpus.items():
        (folder / name).write_bytes(path.read_bytes())
    (folder / "empty").touch()
    (folder / "notes.txt").write_bytes(sample("sr/notes.txt"))
    (folder / "cut.dcm").write_bytes(sample("sr/truncated-dose-report.dcm"))
    (folder / "link").symlink_to("empty")
    os.mkfifo(folder / "pipe")
    awkward = os.path.join(os.fsencode(folder), b"new\nline \xff.dcm")
    with open(awkward, "wb") as file:
        file.write(image())
    before = _picture(folder)
    said = ground.says("classify", "--json", folder, config=False)
    assert said.code == 0
    assert said.err.startswith("openrem-ingest: no configuration found")
    answers = {os.path.basename(line["path"]): line for line in said.lines}
    assert all(list(line) == KEYS for line in said.lines)
    assert len(said.lines) == len(corpus) + 6
    assert {os.fsencode(line["path"]) for line in said.lines} >= {awkward}
    reasons = {name: answers[name]["reason"] for name in ("notes.txt", "link", "pipe")}
    assert reasons == {"notes.txt": "not-dicom", "link": "not-a-file", "pipe": "not-a-file"}
    importers = {line["importer"] for line in said.lines if line["decision"] == "import"}
    assert importers == {"rdsr", "mg", "dx", "nm", "ctphilips"}
    assert all(line["because"] for line in said.lines)
    assert _picture(folder) == before
    words = ground.says("classify", folder, config=False)
    assert words.code == 0
    told = [line for line in words.out.splitlines() if not line.startswith(" ")]
    assert len(told) == len(said.lines)
    assert words.out.count("    decision: ") == len(said.lines)
    for whole in (line for line in said.lines if line["decision"] == "import"):
        assert whole["complete"].startswith("yes: it ends where its own lengths say it should")
        assert whole["what"]
    assert answers["cut.dcm"]["complete"].startswith("no: ")
    assert "waits to become whole" in answers["cut.dcm"]["afterwards"]

    summary = ground.says("classify", "--summary", "--json", folder, config=False)
    assert summary.code == 0
    counted = {
        (line["decision"], line["by"], line["what"]): line["files"] for line in summary.lines
    }
    assert sum(counted.values()) == len(said.lines)
    assert counted["reject", "not-dicom", ""] == 1
    assert sum(count for key, count in counted.items() if key[0] == "import") == len(corpus)
    table = ground.says("classify", "--summary", folder, config=False)
    assert f" {len(said.lines)} " in table.out
    assert _picture(folder) == before


def test_classify_tells_of_rules_folders_and_what_openrem_has(ground: Ground) -> None:
    """Without touching anything, though the folders are drop folders."""
    ground.tables = """
        [[rule]]
        name = "room 9"
        match = { StationName = "sample-*", drop = "dx" }
        then = "keep"
        into = "/nowhere/physics"
    """
    ground.configure()
    imported = ground.root / "imported.dcm"
    imported.write_bytes(image("mammo"))
    assert ground.says("import", imported).code == 0
    ground.put("dx", "x.dcm", image())
    ground.put("mammo", "x.dcm", imported.read_bytes())
    ground.put("sr", "new.dcm", image())
    ground.put("sr", "writing.dcm", image())
    before = [_picture(ground.drop(name)) for name in ("dx", "mammo", "sr")]
    with (ground.drop("sr") / "writing.dcm").open("rb+"):
        said = ground.says(
            "classify", "--json", "--ask-openrem", *(ground.drop(name) for name in DROPS)
        )
    assert (said.code, said.err) == (0, ""), said
    told = {os.path.relpath(line["path"], ground.drop("dx").parent): line for line in said.lines}
    by_rule = told["dx/x.dcm"]
    assert (by_rule["decision"], by_rule["rule"], by_rule["openrem"]) == ("keep", "room 9", None)
    assert "/nowhere/physics" in by_rule["afterwards"]
    assert told["mammo/x.dcm"]["openrem"].startswith("has it already: ")
    assert told["sr/new.dcm"]["openrem"] == "does not have it"
    assert told["sr/new.dcm"]["afterwards"] == "it is deleted, once OpenREM provably holds it"
    assert told["sr/writing.dcm"]["complete"] == "not yet: somebody has it open for writing"
    assert {line["drop"] for line in said.lines} == set(DROPS)
    assert [_picture(ground.drop(name)) for name in ("dx", "mammo", "sr")] == before
    assert ground.number("SELECT count(*) FROM remapp_objectuidsprocessed") == 1
    wrong = ground.says("classify", "--summary", "--ask-openrem", ground.drop("sr"))
    assert wrong.code == 2


def test_status_is_one_json_object_and_touches_nothing(ground: Ground) -> None:
    """Also before the service ever ran."""
    assert not ground.state.exists()
    status = ground.status()
    assert not ground.state.exists()
    assert list(status) == [
        *("service", "ledger", "openrem", "quarantine", "offline", "disks", "drops", "rules")
    ]
    assert status["service"] == "stopped"
    assert [drop["drop"] for drop in status["drops"]] == ["mammo", "dx", "sr"]
    assert all(drop["state"] == "watched" for drop in status["drops"])
    ground.drop("sr").rmdir()
    assert ground.folder_status("sr")["state"] == "offline"
    said = ground.says("status")
    assert said.code == 0
    assert "OFFLINE" in said.out


def test_conquest_prints_lines_for_each_folder(ground: Ground) -> None:
    """In both forms; numbered from 1, each from the first column."""
    for arguments in (("conquest",), ("conquest", "--plain")):
        said = ground.says(*arguments)
        assert (said.code, said.err) == (0, "")
        for name in ("mammo", "dx", "sr"):
            assert f"{ground.drop(name)}/%o" in said.out
        converters = [line for line in said.out.splitlines() if line.startswith("ImportConverter")]
        numbers = [line.split(" ")[0].removeprefix("ImportConverter") for line in converters]
        assert numbers == [str(number) for number in range(1, len(numbers) + 1)]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("quiet =", "quite =", "settle.quite"),
        ("quiet = 0.5", 'quiet = "long"', "settle.quiet"),
        ("[retry]", "[rettry]", "rettry"),
        ('after = "delete"', 'after = "shred"', "drop[1].after"),
        ("[openrem]\n", "[openrem]\nwrokers = 2\n", "openrem.wrokers"),
        ("[openrem]\n", "[openrem\n", "TOML"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(
    ground: Ground, old: str, new: str, named: str
) -> None:
    """It names the key and the remedy, and every command ends with 2."""
    text = ground.config.read_text()
    assert old in text
    ground.config.write_text(text.replace(old, new, 1))
    for command in (("run",), ("status", "--json"), ("import", "."), ("conquest",)):
        said = ground.says(*command)
        _is_one_line(said)
        assert named in said.err, said


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", "/nowhere/x.toml", "run"),
        ("no-such-command",),
        ("run", "--no-such-option"),
        ("import",),
        ("import", "/nowhere/x.dcm"),
        ("classify",),
        ("run",),
    ],
)
def test_wrong_usage_ends_with_2(ground: Ground, arguments: tuple[str, ...]) -> None:
    """It says what is wrong on stderr, and nothing on stdout."""
    ground.config.rename(ground.root / "elsewhere.toml")
    said = ground.says(*arguments, config=False)
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.strip()


def test_a_drop_folder_that_never_was_is_a_mistake(ground: Ground) -> None:
    """Likelier a typo than a share that is away."""
    ground.drop("sr").rmdir()
    said = ground.says("run")
    _is_one_line(said)
    assert str(ground.drop("sr")) in said.err


def test_help_and_version(ground: Ground) -> None:
    """All commands tell of themselves, without a configuration."""
    said = ground.says("--help", config=False)
    assert (said.code, said.err) == (0, "")
    for command in ("run", "import", "classify", "status", "conquest", "demo"):
        assert f"\n  {command} " in said.out
        of_it = ground.says(command, "--help", config=False)
        assert (of_it.code, of_it.err) == (0, "")
        assert "Usage: openrem-ingest" in of_it.out
    assert ground.says("--version", config=False).out.startswith("openrem-ingest")


def test_the_program_may_be_piped_into_one_that_ends(ground: Ground) -> None:
    """A closed stdout is no defect of ours: no traceback."""
    folder = ground.root / "files"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}.txt").touch()
    process = ground.starts("classify", "--json", folder)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()


def _is_one_line(said: Said) -> None:
    assert said.code == 2, said
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said
    assert "Next: " in said.err


def _picture(folder: Path) -> list[tuple[object, ...]]:
    return [
        (path, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        for path in sorted(folder.iterdir())
        for status in [path.lstat()]
    ]


@pytest.mark.parametrize("what", ["archive", "quarantine", "quarantine of a folder"])
def test_what_leaves_a_drop_folder_must_not_come_into_one(ground: Ground, what: str) -> None:
    """By a link: it would come and go for ever."""
    place = {
        "archive": ground.archive,
        "quarantine": ground.failed,
        "quarantine of a folder": ground.failed / "sr",
    }[what]
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(ground.drop("dx"))
    ground.put("sr", "a.dcm", b"no object")
    said = ground.says("run", "--once")
    assert (said.code, len(said.err.splitlines())) == (2, 1), said
    assert "leads to a drop folder" in said.err
    assert ground.files()["sr"] == [b"a.dcm"]
