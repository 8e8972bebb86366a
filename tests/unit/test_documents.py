"""The README tells of everything that a user can meet."""

import json
import re
import shlex
from pathlib import Path

import click
import pytest

from ingest import cli
from ingest.config import Settings, load
from ingest.errors import Reason
from ingest.model import TRANSITIONS, State

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
EXIT_CODES = {0: "all well", 1: "failed", 2: "configuration", 3: "reached"}
COMMANDS = sorted(cli.cli.commands)


@pytest.fixture(scope="module")
def readme() -> str:
    return README.read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """The code blocks of these languages."""
    return [
        body
        for language, body in re.findall(
            r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL
        )
        if language in languages
    ]


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.code)
def test_every_reason_is_told_of(readme: str, reason: Reason) -> None:
    row = f"| `{reason.code}` | {reason.why} | {reason.next_step} |"
    assert row in readme


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_told_of(readme: str, command: str) -> None:
    assert f"openrem-ingest {command}" in readme


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_told_of(readme: str, command: str) -> None:
    for parameter in cli.cli.commands[command].params:
        if isinstance(parameter, click.Option):
            assert any(option in readme for option in parameter.opts), parameter.opts


@pytest.mark.parametrize(("code", "words"), EXIT_CODES.items())
def test_every_exit_code_is_told_of(readme: str, code: int, words: str) -> None:
    lines = [line for line in readme.splitlines() if re.search(rf"\b{code}\b", line)]

    assert any(words in line for line in lines)
    assert f"{code} " in (cli.__doc__ or "")


def test_no_command_is_told_of_that_does_not_exist(readme: str) -> None:
    told = set(
        re.findall(
            r"openrem-ingest (?:-c \S+ )?([a-z]+)\b",
            "\n".join(blocks(readme, "", "sh", "bash", "console", "shell")),
        )
    )

    assert told <= set(COMMANDS)


def test_every_command_line_shown_is_one_that_is_understood(readme: str) -> None:
    for block in blocks(readme, "sh", "bash", "console", "shell"):
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] != ["openrem-ingest"] or len(words) < 2 or words[1] not in COMMANDS:
                continue
            command = cli.cli.commands[words[1]]
            known = {option for one in command.params for option in (*one.opts, "--help", "-h")}
            used = {word.partition("=")[0] for word in words[2:] if word.startswith("-")}
            assert used <= known, line


def test_the_configuration_shown_is_one_that_loads(readme: str, tmp_path: Path) -> None:
    shown = [block for block in blocks(readme, "toml") if "[openrem]" in block]
    assert shown
    for number, block in enumerate(shown):
        (tmp_path / f"{number}.toml").write_text(block, encoding="utf-8")
        load(tmp_path / f"{number}.toml")


def test_every_key_of_the_configuration_is_told_of(readme: str) -> None:
    schema = json.dumps(Settings.model_json_schema())
    keys = {
        key
        for table in (json.loads(schema), *json.loads(schema)["$defs"].values())
        for key in table.get("properties", {})
    }

    made_by_the_demo = {"demo_site"}
    assert {key for key in keys if key not in readme} <= made_by_the_demo


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_every_state_that_status_shows_is_one_of_the_table(state: State) -> None:
    assert state in TRANSITIONS


def test_what_shows_a_fault_is_there(readme: str) -> None:
    """Each test that the table of faults names, and each file of tests."""
    table = readme.partition("## What it withstands")[2].partition("\n## ")[0]
    files: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        files[path.name] = files.get(path.name, "") + path.read_text(encoding="utf-8")
    named = 0
    for row in table.splitlines():
        file = ""
        for name in re.findall(r"`((?:[a-z/]*test_\w+\.py)?(?:::\w+)?)`", row):
            path, _, test = name.partition("::")
            file = path.rpartition("/")[2] or file
            assert file in files, name
            if test:
                assert re.search(rf"^(def {test}\(|{test} = )", files[file], re.MULTILINE), name
            named += bool(name)
    assert named > 50
