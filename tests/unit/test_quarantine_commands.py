"""`ingest.commands.failures`: which files are meant, and what is said of each."""

import io
import json
import os
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingest import cli, dispose, files, quarantine
from ingest.claim import Claim, new_id, take
from ingest.dispose import Why, why_of
from ingest.errors import Reason
from ingest.history import History, Query
from ingest.ledger import Ledger
from ingest.model import Snapshot, State
from tests.strategies import a_header

NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str


@dataclass(slots=True, kw_only=True)
class Desk:
    """A configuration with two drop folders, and the commands."""

    root: Path
    capsys: pytest.CaptureFixture[str]

    def __post_init__(self) -> None:
        """Make it."""
        for name in ("sr", "dx"):
            (self.root / name).mkdir()
        self.configure("sr", "dx")

    def configure(self, *drops: str) -> None:
        """Write the configuration for these drop folders; "name=folder" renames one."""
        lines = [f'state_dir = "{self.root}/state"', '[openrem]\npython = "/usr/bin/python3"']
        lines += [f'[quarantine]\npath = "{self.root}/failed"']
        for drop in drops:
            name, _, folder = drop.partition("=")
            lines += [f'[[drop]]\nname = "{name}"\npath = "{self.root}/{folder or name}"']
        (self.root / "c.toml").write_text("\n".join(lines))

    def refuse(
        self,
        place: str,
        reason: Reason = Reason.TRUNCATED,
        *,
        drop: str = "sr",
        days: float = 0,
        station: str = "",
    ) -> str:
        """Have a file in quarantine; its id."""
        root = os.fsencode((self.root / drop).resolve())
        claimed = Claim(id=new_id(1), root=root, place=os.fsencode(place))
        os.makedirs(os.path.dirname(claimed.original), exist_ok=True)
        with open(claimed.original, "wb") as file:
            file.write(place.encode())
        expected = files.snapshot(claimed.original)
        take(claimed, expected)
        into = os.fsencode(self.root.resolve() / "failed" / drop)
        why = Why(
            reason=reason,
            detail="",
            drop=drop,
            job=1,
            header=a_header(station=station),
            at=NOW - timedelta(days=days),
            root=root,
            path=claimed.original,
            snapshot=expected,
        )
        found = dispose.quarantine(claimed, expected, into, why)
        return quarantine.id_of(drop, os.path.relpath(found, into))

    def says(self, *arguments: str) -> Said:
        """Give a command."""
        self.capsys.readouterr()
        code = cli._outcome(["-c", str(self.root / "c.toml"), *arguments])
        out, err = self.capsys.readouterr()
        assert "Traceback" not in err
        return Said(code=code, out=out, err=err)

    def listed(self, *options: str) -> list[str]:
        """The ids that `failures` lists."""
        said = self.says("failures", "--json", *options)
        assert (said.code, said.err) == (0, "")
        return [json.loads(line)["id"] for line in said.out.splitlines()]

    def states(self) -> list[State]:
        """What the ledger tells."""
        with closing(Ledger(self.root / "state" / "ledger.sqlite")) as ledger:
            return [event.state for event in History(ledger).find(Query())]


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(root=tmp_path, capsys=capsys)


# -- failures ------------------------------------------------------------------------------------


def test_an_empty_quarantine_is_no_failure(desk: Desk) -> None:
    assert desk.says("failures") == Said(code=0, out="Nothing in quarantine.\n", err="")
    assert desk.listed() == []
    assert not (desk.root / "state").exists()


def test_each_filter_narrows_the_list(desk: Desk) -> None:
    old = desk.refuse("old", days=10, station="CT1")
    empty = desk.refuse("empty", Reason.EMPTY, station="CT2")
    dx = desk.refuse("a/dx", drop="dx")

    assert desk.listed() == [dx, empty, old]
    assert desk.listed("--reason", "empty") == [empty]
    assert desk.listed("--reason", "empty", "--reason", "truncated") == [dx, empty, old]
    assert desk.listed("--folder", "dx") == [dx]
    assert desk.listed("--station", "CT1") == [old]
    assert desk.listed("--since", "9d") == [dx, empty]
    assert desk.listed("--until", "9d") == [old]
    assert desk.listed("--until", "9d", "--folder", "dx") == []


def test_the_table_has_a_line_for_each_and_the_next_step_for_each_reason(desk: Desk) -> None:
    ids = [desk.refuse("one"), desk.refuse("new\nline \x1b[31m.dcm", Reason.EMPTY)]

    said = desk.says("failures")

    lines = said.out.splitlines()
    assert lines[0].split() == ["ID", "When", "Folder", "Station", "Reason", "File"]
    assert {line.split()[0] for line in lines[1:3]} == set(ids)
    assert "new\\nline \\x1b[31m.dcm" in said.out
    assert Reason.EMPTY.next_step in said.out
    assert Reason.TRUNCATED.next_step.split(";")[0] in said.out


def test_json_has_all_that_was_written_with_the_reason(desk: Desk) -> None:
    one = desk.refuse("a/b.dcm", station="CT1")
    (answer,) = map(json.loads, desk.says("failures", "--json").out.splitlines())

    with open(why_of(os.fsencode(answer["path"])), "rb") as file:
        why = json.load(file)
    kept = why.keys() - {"trace", "size", "mtime_ns", "version"}  # for ourselves
    assert {key: answer[key] for key in kept} == {key: why[key] for key in kept}
    assert answer.keys() - kept == {"id", "path"}
    assert answer["id"] == one


@pytest.mark.parametrize(
    "arguments", [("--reason", "nonsense"), ("--since", "sometime"), ("--nonsense",)]
)
def test_a_wrong_filter_is_wrong_usage(desk: Desk, arguments: tuple[str, ...]) -> None:
    for command in ("failures", "retry", "discard"):
        assert desk.says(command, *arguments).code == 2


# -- retry ---------------------------------------------------------------------------------------


def test_retry_takes_the_beginning_of_an_id(desk: Desk) -> None:
    one, other = desk.refuse("one"), desk.refuse("other")

    said = desk.says("retry", one[:4].upper())

    assert said == Said(code=0, out="1 file moved back.\n", err="")
    assert (desk.root / "sr" / "one").exists()
    assert desk.listed() == [other]
    assert desk.states() == [State.RETURNED]


def test_retry_takes_filters_and_all(desk: Desk) -> None:
    for number in range(5):
        desk.refuse(f"{number}", Reason.EMPTY if number % 2 else Reason.TRUNCATED)

    assert desk.says("retry", "--reason", "empty").out == "2 files moved back.\n"
    assert desk.says("retry", "--all").out == "3 files moved back.\n"
    assert desk.says("retry", "--all") == Said(
        code=0, out="Nothing in quarantine matches.\n", err=""
    )
    assert sorted(os.listdir(desk.root / "sr")) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say which"),
        (("abcdef", "--all"), "not both"),
        (("abcdef", "--reason", "empty"), "not both"),
        (("abc",), "is no ID"),
        (("../../etc",), "is no ID"),
        (("ffffffffffff",), "is not in quarantine"),
    ],
)
@pytest.mark.parametrize("command", ["retry", "discard"])
def test_who_does_not_say_which_is_told_how(
    desk: Desk, command: str, arguments: tuple[str, ...], words: str
) -> None:
    desk.refuse("one")
    options = ("--yes",) if command == "discard" else ()

    said = desk.says(command, *arguments, *options)

    assert said.code == 2
    assert words in said.err
    assert len(desk.listed()) == 1


def test_a_beginning_that_two_ids_share_is_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.refuse("one")
    desk.refuse("other")
    real = quarantine.id_of
    monkeypatch.setattr(quarantine, "id_of", lambda drop, place: "abcd" + real(drop, place)[4:])

    said = desk.says("retry", "abcd")

    assert said.code == 2
    assert "more than one ID" in said.err


def test_one_wrong_id_stops_all_before_anything_is_touched(desk: Desk) -> None:
    one = desk.refuse("one")

    assert desk.says("retry", one, "ffffffffffff").code == 2

    assert desk.listed() == [one]


def test_a_drop_folder_that_is_away_or_not_configured_is_told(desk: Desk) -> None:
    desk.refuse("one")
    desk.refuse("two", drop="dx")
    (desk.root / "sr").rmdir()
    desk.configure("sr")

    said = desk.says("retry", "--all")

    assert said.code == 1
    assert len(said.err.splitlines()) == 2
    assert "is offline: the folder does not exist. Next: make it" in said.err
    assert "dx is not configured any more. Next: " in said.err
    assert len(desk.listed()) == 2
    assert not (desk.root / "sr").exists()
    assert desk.says("failures").code == 0


def test_a_drop_folder_of_another_name_by_now_is_found_by_its_path(desk: Desk) -> None:
    desk.refuse("one")
    desk.configure("reports=sr", "sr=dx")

    assert desk.says("retry", "--all").code == 0

    assert os.listdir(desk.root / "sr") == ["one"]


def test_what_a_person_put_there_is_touched_by_its_id_only(desk: Desk) -> None:
    desk.refuse("ours")
    (desk.root / "failed" / "sr" / "mine").write_text("mine")

    assert desk.says("discard", "--all", "--yes").out == "1 file deleted.\n"
    (mine,) = desk.listed()
    assert desk.says("retry", mine).code == 0

    assert (desk.root / "sr" / "mine").read_text() == "mine"


# -- discard -------------------------------------------------------------------------------------


def test_without_a_terminal_discard_wants_yes(desk: Desk) -> None:
    one = desk.refuse("one")

    said = desk.says("discard", one)

    assert said.code == 2
    assert "--yes" in said.err
    assert desk.listed() == [one]


class Terminal(io.StringIO):
    """Somebody who answers."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 30), ("\n", 30)])
def test_discard_shows_what_and_asks(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    for number in range(30):
        desk.refuse(f"{number}")
    monkeypatch.setattr("sys.stdin", Terminal(answer))

    said = desk.says("discard", "--all")

    assert said.code == 0
    assert "Delete 30 files for good?" in said.err
    assert "... and 10 more" in said.err
    assert len(desk.listed()) == left
    assert desk.states() == [State.DISCARDED] * (30 - left)


def test_what_came_after_the_question_is_not_deleted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.refuse("old")
    late: list[str] = []

    class Slow(Terminal):
        def readline(self, *_size: object) -> str:  # type: ignore[override]
            late.append(desk.refuse("new"))
            return "y\n"

    monkeypatch.setattr("sys.stdin", Slow())

    assert desk.says("discard", "--all").code == 0

    assert desk.listed() == late


def test_a_ledger_that_cannot_be_used_stops_both(desk: Desk) -> None:
    desk.refuse("one")
    (desk.root / "state").mkdir()
    (desk.root / "state" / "ledger.sqlite").write_bytes(b"no database" * 100)

    for command in (("retry", "--all"), ("discard", "--all", "--yes")):
        said = desk.says(*command)
        assert said.code == 2
        assert "is damaged" in said.err
        assert len(said.err.splitlines()) == 1
    assert len(desk.listed()) == 1


def test_one_that_cannot_be_moved_does_not_stop_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        desk.refuse(name)
    real = files.move_durably

    def closed(source: bytes, target: bytes, expected: Snapshot) -> None:
        if target.endswith(b"/b"):
            raise PermissionError(13, "Permission denied")
        real(source, target, expected)

    monkeypatch.setattr(files, "move_durably", closed)

    said = desk.says("retry", "--all")

    assert said.code == 1
    assert said.out == "2 files moved back.\n"
    (line,) = said.err.splitlines()
    assert "/b: Permission denied" in line
    assert len(desk.listed()) == 1
    assert desk.states() == [State.RETURNED] * 2
