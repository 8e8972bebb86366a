"""The shape of the code: what may import what, and who alone may remove, prove and print."""

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import ingest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ingest"
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
MAX_CODE_LINES = 500
TOO_LONG = {"openrem/worker.py"}  # it is to be sent to a container as it is
REMOVING = frozenset(
    {"unlink", "rename", "renames", "rmdir", "rmtree", "removedirs", "move", "truncate"}
)
# Who removes or renames files of its own making, none of them a user's.
OWN_FILES = {
    "files.py",  # the one place for users' files
    "openrem/postgres.py",  # the database of a private OpenREM
    "openrem/site.py",  # the same OpenREM's folder
}
MAY_PRINT = {"openrem/worker.py"}  # it speaks lines

modules = pytest.mark.parametrize("name", MODULES)


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def calls(name: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree(name)) if isinstance(node, ast.Call))


def removes(call: ast.Call) -> bool:
    """Does it remove or rename a file? A text's or a date's `replace` does not."""
    if not isinstance(call.func, ast.Attribute):
        return False
    receiver = call.func.value
    is_ours = isinstance(receiver, ast.Name) and receiver.id == "files"
    match call.func.attr:
        case "replace":
            is_path = len(call.args) == 1 and not call.keywords
            return is_path or (isinstance(receiver, ast.Name) and receiver.id == "os")
        case "remove":
            return not is_ours
        case name:
            return name in REMOVING and not is_ours


def code_lines(path: Path) -> int:
    """Lines that hold code: no comments, docstrings or empty lines."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            words = node.body[0]
            lines.difference_update(range(words.lineno, (words.end_lineno or 0) + 1))
    return len(lines)


def layers() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = settings["tool"]["importlinter"]["contracts"][0]
    return [str(layer) for layer in contract["layers"]]


# -- who imports whom ----------------------------------------------------------------------------


def test_no_module_imports_one_above_or_beside_it() -> None:
    result = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_has_a_layer() -> None:
    placed = {name.strip() for layer in layers() for name in re.split(r"[|:]", layer)}

    top = {name.partition("/")[0].removesuffix(".py") for name in MODULES} - {"__init__"}
    assert placed == top


def test_the_story_names_each_stage_in_the_order_of_the_journey() -> None:
    """The docstring of the package is where a newcomer begins."""
    words = ingest.__doc__ or ""
    journey = re.findall(r"^ {4}(\w+) .* {2,}(\S.*)$", words, flags=re.MULTILINE)

    assert [step for step, _modules in journey] == [
        *("watch", "settle", "decide", "claim", "import", "verify", "dispose", "record")
    ]
    named = {name.strip().rstrip("/") for _step, names in journey for name in names.split(",")}
    stages = {
        name.strip()
        for layer in layers()
        if "dispose" in layer or "settle" in layer
        for name in re.split(r"[|:]", layer)
    }
    # The policy is a part of how the engine acts on a failure, not a step of its own.
    assert stages - named == {"policy"}
    for name in named:
        assert (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()
    for name in ("engine.py", "service.py", "cli.py"):
        assert name in words
        assert name in MODULES


# -- one writer for each thing -------------------------------------------------------------------


@modules
def test_only_one_module_removes_or_renames_files(name: str) -> None:
    found = [ast.unparse(call) for call in calls(name) if removes(call)]

    if name not in OWN_FILES:
        assert found == []


def test_who_is_allowed_to_still_does(subtests: pytest.Subtests) -> None:
    """An exception that nobody needs any more has to be taken back."""
    for name in OWN_FILES:
        with subtests.test(name):
            assert any(removes(call) for call in calls(name))


@modules
def test_only_verify_makes_a_proof(name: str) -> None:
    made = [
        call
        for call in calls(name)
        if (isinstance(call.func, ast.Name) and call.func.id == "Proof")
        or (isinstance(call.func, ast.Attribute) and call.func.attr == "Proof")
    ]

    assert bool(made) == (name == "verify.py")


@modules
def test_only_the_ledger_speaks_to_its_database(name: str) -> None:
    imported = {
        alias.name
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Import)
        for alias in node.names
    }

    assert ("sqlite3" in imported) == (name in {"ledger.py", "ledger_file.py"})


@modules
def test_nothing_is_printed_past_the_command_line(name: str) -> None:
    found = [
        call for call in calls(name) if isinstance(call.func, ast.Name) and call.func.id == "print"
    ]

    assert name in MAY_PRINT or found == []


@pytest.mark.parametrize(
    "name", ["settle.py", "rules.py", "verify.py", "policy.py", "model.py", "errors.py"]
)
def test_who_decides_does_nothing(name: str) -> None:
    """No file, no clock, no environment: `os.stat_result` is only a type."""
    used = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    doing = {use for use in used if use.split(".")[0] in {"os", "time", "datetime", "open"}}

    assert doing <= {"os.stat_result"}


# -- form ----------------------------------------------------------------------------------------


@modules
def test_a_module_says_its_one_reason_first(name: str) -> None:
    words = ast.get_docstring(tree(name)) or ""

    first = words.partition("\n")[0]
    assert first
    assert len(first) <= 100
    assert words.split("\n\n")[0].rstrip().endswith((".", ":", "?"))


@modules
def test_a_module_can_be_read_in_one_go(name: str) -> None:
    assert (code_lines(MODULES[name]) > MAX_CODE_LINES) == (name in TOO_LONG)


def test_the_tests_of_the_shape_see_what_they_look_for() -> None:
    def is_found(words: str) -> bool:
        (statement,) = ast.parse(words).body
        assert isinstance(statement, ast.Expr)
        assert isinstance(statement.value, ast.Call)
        return removes(statement.value)

    for bad in (
        "os.unlink(p)",
        "p.unlink()",
        "os.replace(a, b)",
        "p.replace(q)",
        "p.rename(q)",
        "shutil.rmtree(p)",
        "os.remove(p)",
        "shutil.move(a, b)",
    ):
        assert is_found(bad), bad
    for good in ("s.replace('a', 'b')", "t.replace(hour=0)", "files.remove(p, s)", "print(1)"):
        assert not is_found(good), good
