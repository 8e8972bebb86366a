"""Quarantine and history with the real service: refused, tried again, deleted, told of."""

import json
import os
import pty
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ingest.dispose import why_of
from ingest.quarantine import id_of
from tests.system.harness import Ground, Service, image, report, sop_uid, study_uid, until


def _failures(ground: Ground, *options: str) -> list[dict[str, Any]]:
    said = ground.says("failures", "--json", *options)
    assert (said.code, said.err) == (0, ""), said
    return said.lines


def _quarantined(service: Service) -> int:
    return sum(line["event"] == "file.quarantined" for line in service.events())


def _is_quarantined(ground: Ground, count: int) -> None:
    until(lambda: len(ground.quarantined()) == count, f"{count} are refused")


def test_what_was_refused_is_listed_tried_again_and_deleted(ground: Ground) -> None:
    """With the service running, from the log's id to the last word of `history`."""
    whole = report()
    ground.put("sr", "cut report.dcm", whole[:-40])
    ground.put("dx", "sub/notes.txt", b"no object")
    service = ground.service().ready()
    _is_quarantined(ground, 2)
    until(lambda: _quarantined(service) == 2, "it is told")

    listed = {one["reason"]: one for one in _failures(ground)}
    assert listed.keys() == {"truncated", "not-dicom"}
    cut = listed["truncated"]
    assert cut["path"] == str(ground.failed / "sr" / "cut report.dcm")
    assert (cut["drop"], cut["folder"]) == ("sr", str(ground.drop("sr")))
    logged = {line["quarantine_id"] for line in service.events() if "quarantine_id" in line}
    assert logged == {one["id"] for one in listed.values()}
    table = ground.says("failures", "--reason", "truncated").out
    assert cut["id"] in table
    assert "notes.txt" not in table

    # The rest of it has come: it is whole now, in quarantine.
    Path(cut["path"]).write_bytes(whole)
    said = ground.says("retry", cut["id"][:6])
    assert (said.code, said.out) == (0, "1 file moved back.\n"), said
    service.imports(whole)
    said = ground.says("discard", listed["not-dicom"]["id"], "--yes")
    assert (said.code, said.out) == (0, "1 file deleted.\n"), said
    assert _failures(ground) == []
    assert not list(ground.failed.rglob("*.*"))
    assert ground.is_empty()
    service.stop()

    told = ground.says("history", ground.drop("sr") / "cut report.dcm", "--json").lines
    assert [line["state"] for line in told] == [
        *("seen", "rejected", "quarantined"),
        *("returned", "seen", "ready", "claimed", "proven", "done"),
    ]
    assert told[-1]["sop_instance_uid"] == sop_uid(whole)
    told = ground.says("history", ground.drop("dx") / "sub" / "notes.txt", "--json").lines
    assert [line["state"] for line in told][-3:] == ["rejected", "quarantined", "discarded"]
    assert told[-1]["detail"] == "by hand"
    today = ground.folder_status("dx")
    assert today["waiting_to_be_complete"] == today["waiting_for_import"] == today["in_hand"] == 0


def test_what_is_moved_back_by_hand_is_new_work_each_time(ground: Ground) -> None:
    """Same name, inode and time as before; with its reason, and several times over."""
    path = ground.put("sr", "bad.dcm", b"no object")
    held = os.path.join(os.fsencode(ground.failed), b"sr", b"bad.dcm")
    first = os.lstat(path)
    service = ground.service().ready()
    for times in (1, 2, 3):
        until(lambda times=times: _quarantined(service) == times, "it is refused")  # type: ignore[misc]
        until(lambda: os.path.lexists(why_of(held)), "with its reason")
        status = os.lstat(held)
        assert (status.st_ino, status.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
        if times == 2:  # the reason goes along: it is no work
            os.rename(why_of(held), why_of(path))
        if times < 3:
            os.rename(held, path)
    until(lambda: not os.path.lexists(path), "it is refused again")
    assert [one["path"] for one in _failures(ground)] == [os.fsdecode(held)]

    good = image()
    with open(held, "wb") as file:
        file.write(good)
    os.rename(held, path)
    service.imports(good)
    service.stop()
    assert ground.events() == 1


def test_a_retry_counts_as_a_first_attempt_and_needs_no_service(ground: Ground) -> None:
    bad = image(StudyID="S" * 20)  # OpenREM's database can't hold that
    ground.put("dx", "a.dcm", bad)
    assert ground.says("run", "--once").code == 1
    (one,) = _failures(ground)
    assert one["reason"] == "bad-value"

    assert ground.says("retry", "--all").code == 0

    assert ground.files()["dx"] == [b"a.dcm"]
    assert ground.says("run", "--once").code == 1
    (again,) = _failures(ground, "--folder", "dx", "--since", "1h", "--station", one["station"])
    assert again["id"] == one["id"]
    assert ground.events() == 0
    once = ["seen", "ready", "claimed", "rejected", "quarantined"]
    for asked in (("--sop", sop_uid(bad)), ("--study", study_uid(bad)), (one["path"],)):
        told = ground.says("history", *asked, "--json").lines
        assert [line["state"] for line in told] == [*once, "returned", *once], asked
    words = ground.says("history", "--sop", sop_uid(bad)).out
    assert f"Now in quarantine: {one['path']} (ID {one['id']})" in words
    assert sop_uid(bad) in words
    nothing = ground.says("history", "--sop", "1.2.3")
    assert (nothing.code, nothing.out) == (1, "")
    assert "nothing is known of it" in nothing.err


def test_old_files_and_old_history_go_where_the_user_wants_it(ground: Ground) -> None:
    ground.put("sr", "old.txt", b"old")
    ground.put("sr", "new.txt", b"new")
    assert ground.says("run", "--once").code == 1
    old = os.path.join(os.fsencode(ground.failed), b"sr", b"old.txt")
    with open(why_of(old), "rb+") as file:
        said = json.load(file)
        said["time"] = "2001-02-03T04:05:06+00:00"
        file.seek(0)
        file.truncate()
        file.write(json.dumps(said).encode())
    a_person_s = ground.failed / "sr" / "mine.txt"
    a_person_s.write_text("mine")
    os.utime(a_person_s, (1, 1))
    _alter(ground, "UPDATE event SET at = 1000 WHERE state = 'SEEN'")
    config = ground.config.read_text()
    ground.config.write_text(
        config.replace("[quarantine]\n", "[quarantine]\nkeep_days = 30\n")
        + "[history]\nkeep_days = 30\n"
    )

    service = ground.service().ready()
    until(lambda: service.has_said("file.aged-out"), "the old one is deleted")
    until(lambda: not _count(ground, "event WHERE at = 1000"), "the old history is deleted")
    service.stop()

    (aged,) = [line for line in service.events() if line["event"] == "file.aged-out"]
    assert aged["quarantine_id"] == id_of("sr", b"old.txt")
    assert not os.path.lexists(old)
    assert not os.path.lexists(why_of(old))
    listed = {os.path.basename(one["path"]): one["reason"] for one in _failures(ground)}
    assert listed == {"new.txt": "not-dicom", "mine.txt": None}
    told = ground.says("history", ground.drop("sr") / "old.txt", "--json").lines
    assert told[-1]["state"] == "discarded"
    assert told[-1]["detail"] == "[quarantine] keep_days = 30"


def _alter(ground: Ground, sql: str) -> None:
    with closing(sqlite3.connect(ground.state / "ledger.sqlite")) as connection:
        connection.execute(sql)
        connection.commit()


def _count(ground: Ground, what: str) -> int:
    with closing(sqlite3.connect(ground.state / "ledger.sqlite")) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0])


def test_a_forgotten_file_of_a_kept_folder_is_asked_about_again(ground: Ground) -> None:
    """Once its history is too old: OpenREM has it already, and counts it once."""
    ground.after = "keep"
    ground.configure()
    content = image()
    ground.put("dx", "kept.dcm", content)
    assert ground.says("run", "--once").code == 0
    _alter(ground, "UPDATE event SET at = 1000")
    _alter(ground, "UPDATE job SET updated = 1000")
    assert ground.says("run", "--once").code == 0  # forgets it at its end
    assert _count(ground, "job") == 0

    said = ground.says("run", "--once")

    assert said.code == 0
    assert ground.events() == 1
    assert ground.files()["dx"] == [b"kept.dcm"]
    told = ground.says("history", "--study", study_uid(content), "--json").lines
    assert told[-1]["state"] == "done"


def test_discard_asks_at_a_terminal(ground: Ground) -> None:
    ground.put("sr", "x.txt", b"x")
    assert ground.says("run", "--once").code == 1
    for answer, left in ((b"n\n", 1), (b"y\n", 0)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            ground._argv(("discard", "--all")),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        os.close(theirs)
        os.write(ours, answer)
        _out, err = process.communicate(timeout=60)
        os.close(ours)
        assert process.returncode == 0, err
        assert b"x.txt" in err
        assert b"Delete 1 file for good?" in err
        assert len(_failures(ground)) == left


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_is_no_file_can_be_tried_again_and_deleted(ground: Ground, kind: str) -> None:
    path = ground.drop("dx") / "odd"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert ground.says("run", "--once").code == 1
    assert [one["reason"] for one in _failures(ground)] == ["not-a-file"]

    assert ground.says("retry", "--reason", "not-a-file").code == 0
    assert ground.files()["dx"] == [b"odd"]
    assert ground.says("run", "--once").code == 1
    assert ground.says("discard", "--all", "--yes").code == 0

    assert _failures(ground) == []
    assert ground.is_empty()


def test_who_lacks_the_rights_is_told_in_one_line_and_nothing_moves(ground: Ground) -> None:
    ground.put("sr", "x.txt", b"x")
    assert ground.says("run", "--once").code == 1
    folder = ground.failed / "sr"
    folder.chmod(0o555)
    try:
        for command in (("retry", "--all"), ("discard", "--all", "--yes")):
            said = ground.says(*command, weak=True)
            assert said.code == 1, said
            (line,) = said.err.splitlines()
            assert "Next: " in line
            assert "x.txt" in line
    finally:
        folder.chmod(0o755)
    assert len(_failures(ground)) == 1
    states = [line["state"] for line in ground.says("history", "--since", "1d", "--json").lines]
    assert states[-1] == "quarantined"  # what didn't happen is not told
