"""`ingest.dispose`: only what was proven goes, and what is refused keeps its reason beside it."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given

from ingest import claim, dispose, files
from ingest.claim import Claim
from ingest.dispose import Why, why_of
from ingest.errors import Changed, Reason
from ingest.ledger_file import digest
from ingest.model import Snapshot
from ingest.verify import Proof
from tests.crash import Crash, Steps, crash_points
from tests.strategies import AWKWARD_NAMES, a_header, a_snapshot, names

CONTENT = b"an object" * 100
TODAY = date(2024, 1, 2)
WHY = Why(
    job=7,
    reason=Reason.TRUNCATED,
    detail="at byte 900",
    drop="sr",
    header=a_header(),
    at=datetime(2024, 1, 2, 3, 4, 5, 678, UTC),
    root=b"/drops/sr",
    path=b"/drops/sr/file.dcm",
    snapshot=a_snapshot(),
)


class Place:
    """A drop folder with one claimed file, and somewhere to put it."""

    def __init__(self, folder: bytes, place: bytes = b"file.dcm") -> None:
        self.root = folder + b"/drop"
        self.into = folder + b"/into"
        os.makedirs(os.path.dirname(os.path.join(self.root, place)), exist_ok=True)
        os.makedirs(self.into, exist_ok=True)
        self.claimed = Claim(id=claim.new_id(1), root=self.root, place=place)
        self.send(CONTENT)
        self.expected = files.snapshot(self.claimed.original)
        claim.take(self.claimed, self.expected)
        self.expected = files.snapshot(self.claimed.path)  # the rename has moved its ctime

    def send(self, content: bytes) -> None:
        """Write the file into the drop folder, as its sender does."""
        with open(self.claimed.original, "wb") as file:
            file.write(content)

    @property
    def proof(self) -> Proof:
        """The proof of the claimed version."""
        return a_proof(self.expected)

    def held(self) -> list[bytes]:
        """Where the object lies now."""
        places = [self.claimed.original, self.claimed.path]
        for base, _folders, found in os.walk(self.into):
            places += [os.path.join(base, name) for name in found]
        return [
            path
            for path in places
            if os.path.lexists(path) and not path.endswith((b".json", b".part"))
        ]


def a_proof(snapshot: Snapshot) -> Proof:
    """As `verify` makes one."""
    return Proof(
        snapshot=snapshot,
        sop_instance_uid="1.2.3",
        study_uid="1.2",
        already=False,
        evidence="3 events stored",
    )


@pytest.fixture
def folder(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path)


def content_of(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def everything_below(folder: bytes) -> list[bytes]:
    return sorted(
        os.path.relpath(os.path.join(base, name), folder)
        for base, _folders, found in os.walk(folder)
        for name in found
    )


# -- what goes, and what stays -------------------------------------------------------------------


def test_what_was_proven_is_deleted_and_leaves_nothing(folder: bytes) -> None:
    place = Place(folder)
    files.link_aside(place.claimed.path, place.claimed.alias)

    dispose.delete(place.claimed, place.proof)

    assert os.listdir(place.root) == []


def test_what_was_proven_is_archived_by_day(folder: bytes) -> None:
    place = Place(folder, b"study/file.dcm")

    found = dispose.archive(place.claimed, place.proof, place.into, TODAY)

    assert found == place.into + b"/2024-01-02/study/file.dcm"
    assert content_of(found) == CONTENT
    assert os.listdir(place.root) == [b"study"]
    assert everything_below(place.into) == [b"2024-01-02/study/file.dcm"]


def test_what_is_refused_lies_in_quarantine_with_its_reason(folder: bytes) -> None:
    place = Place(folder, b"study/file.dcm")

    found = dispose.quarantine(place.claimed, place.expected, place.into, WHY)

    assert found == place.into + b"/study/file.dcm"
    assert content_of(found) == CONTENT
    assert everything_below(place.into) == [b"study/file.dcm", b"study/file.dcm.why.json"]
    assert content_of(why_of(found)).decode() == WHY.to_json()
    assert os.listdir(place.root) == [b"study"]


def _delete(place: Place) -> bytes:
    dispose.delete(place.claimed, place.proof)
    return b""


Dispose = Callable[[Place], bytes]
DISPOSALS: dict[str, Dispose] = {
    "delete": _delete,
    "archive": lambda place: dispose.archive(place.claimed, place.proof, place.into, TODAY),
    "quarantine": lambda place: dispose.quarantine(place.claimed, place.expected, place.into, WHY),
}
disposals = pytest.mark.parametrize("act", DISPOSALS.values(), ids=DISPOSALS)


def _delete_local(place: Place) -> bytes:
    dispose.delete(place.claimed, place.proof, local=True)
    return b""


PROVEN_LOCAL: dict[str, Dispose] = {
    "delete": _delete_local,
    "archive": lambda place: dispose.archive(
        place.claimed, place.proof, place.into, TODAY, local=True
    ),
}
LOCAL: dict[str, Dispose] = {
    **PROVEN_LOCAL,
    "quarantine": lambda place: dispose.quarantine(
        place.claimed, place.expected, place.into, WHY, local=True
    ),
}


@pytest.mark.parametrize("act", LOCAL.values(), ids=LOCAL)
def test_what_somebody_has_open_for_writing_stays(folder: bytes, act: Dispose) -> None:
    place = Place(folder)
    with open(place.claimed.path, "r+b"), pytest.raises(Changed, match="open for writing"):
        act(place)
    assert place.held() == [place.claimed.path]
    assert everything_below(place.into) == []
    act(place)
    assert not os.path.lexists(place.claimed.path)


@pytest.mark.parametrize("act", PROVEN_LOCAL.values(), ids=PROVEN_LOCAL)
def test_what_was_written_over_stays_although_size_and_time_are_as_before(
    folder: bytes, act: Dispose
) -> None:
    place = Place(folder)
    before = os.stat(place.claimed.path)
    with open(place.claimed.path, "r+b") as file:
        file.write(CONTENT[::-1])
    os.utime(place.claimed.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Changed):
        act(place)
    assert content_of(place.claimed.path) == CONTENT[::-1]


@pytest.mark.parametrize("act", LOCAL.values(), ids=LOCAL)
def test_what_is_gone_before_it_is_disposed_of_is_told_as_gone(folder: bytes, act: Dispose) -> None:
    place = Place(folder)
    os.unlink(place.claimed.path)
    with pytest.raises(Changed, match="it is gone"):
        act(place)


def test_a_reason_does_not_stay_without_its_file(
    folder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was room for it on the disk, but none for the file."""
    place = Place(folder)

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "move", full)
    with pytest.raises(OSError, match="No space"):
        dispose.quarantine(place.claimed, place.expected, place.into, WHY)
    assert everything_below(place.into) == []


def rewritten(path: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(b"!")
    os.utime(path, ns=(1, 1))


def another_inode(path: bytes) -> None:
    before = os.stat(path)
    os.rename(path, path + b".old")
    with open(path, "wb") as file:
        file.write(CONTENT)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    os.unlink(path + b".old")


@disposals
@pytest.mark.parametrize("change", [rewritten, another_inode])
def test_another_version_than_was_judged_is_never_disposed_of(
    folder: bytes, act: Dispose, change: Callable[[bytes], None]
) -> None:
    """No reason without a file either."""
    place = Place(folder)
    change(place.claimed.path)
    before = content_of(place.claimed.path)

    with pytest.raises(Changed):
        act(place)

    assert content_of(place.claimed.path) == before
    assert everything_below(place.into) == []


@disposals
def test_what_is_gone_is_changed(folder: bytes, act: Dispose) -> None:
    place = Place(folder)
    os.unlink(place.claimed.path)

    with pytest.raises(Changed):
        act(place)


@disposals
def test_a_newer_file_at_the_place_is_not_touched(folder: bytes, act: Dispose) -> None:
    place = Place(folder)
    place.send(b"newer")

    act(place)

    assert content_of(place.claimed.original) == b"newer"


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act", [DISPOSALS["archive"], DISPOSALS["quarantine"]], ids=["archive", "quarantine"]
)
@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_files_of_one_name_lie_side_by_side(folder: bytes, act: Dispose, name: bytes) -> None:
    found = [act(Place(folder, name)) for _ in range(3)]

    assert len(set(found)) == 3
    for path in found:
        assert content_of(path) == CONTENT
        assert len(os.path.basename(path)) <= 255
    assert os.path.basename(found[0]) == name
    if act is DISPOSALS["quarantine"]:
        reasons = {why_of(path) for path in found}
        assert len(reasons) == 3
        assert all(json.loads(content_of(path))["reason"] == "truncated" for path in reasons)


def test_a_later_file_leaves_the_reason_of_the_earlier_alone(folder: bytes) -> None:
    found = {}
    for reason in (Reason.TRUNCATED, Reason.NOT_DICOM, Reason.EMPTY):
        place = Place(folder)
        why = replace(WHY, reason=reason)
        found[dispose.quarantine(place.claimed, place.expected, place.into, why)] = reason

    for path, reason in found.items():
        assert json.loads(content_of(why_of(path)))["reason"] == reason.code


def test_a_number_goes_before_the_ending(folder: bytes) -> None:
    """So that a file from quarantine is still seen as what it is."""
    for expected in (b"file.dcm", b"file~2.dcm", b"file~3.dcm"):
        place = Place(folder)
        found = dispose.quarantine(place.claimed, place.expected, place.into, WHY)
        assert os.path.basename(found) == expected


@pytest.mark.parametrize("obstacle", ["file", "link", "folder"])
def test_whatever_lies_at_the_name_stays(folder: bytes, obstacle: str) -> None:
    place = Place(folder)
    there = place.into + b"/file.dcm"
    match obstacle:
        case "file":
            rewritten_content = b"older"
            with open(there, "wb") as file:
                file.write(rewritten_content)
        case "link":
            os.symlink(b"nowhere", there)
        case _:
            os.mkdir(there)
    before = os.lstat(there)

    found = dispose.quarantine(place.claimed, place.expected, place.into, WHY)

    assert os.path.basename(found) == b"file~2.dcm"
    assert os.lstat(there).st_ino == before.st_ino


def test_a_file_in_the_place_of_a_sub_folder_is_in_nobodys_way(folder: bytes) -> None:
    first, second = Place(folder, b"study"), None
    assert dispose.quarantine(first.claimed, first.expected, first.into, WHY).endswith(b"/study")
    second = Place(folder, b"study/deeper/file.dcm")

    found = dispose.quarantine(second.claimed, second.expected, second.into, WHY)

    assert found == second.into + b"/file.dcm"
    assert content_of(found) == CONTENT
    assert content_of(second.into + b"/study") == CONTENT


def test_a_file_that_comes_to_the_name_meanwhile_is_not_replaced(
    folder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(folder)
    real = files.move_durably

    def late(source: bytes, target: bytes, expected: Snapshot, *, exact: bool) -> None:
        if target == place.into + b"/file.dcm":
            with open(target, "wb") as file:
                file.write(b"faster")
        real(source, target, expected, exact=exact)

    monkeypatch.setattr(files, "move_durably", late)

    found = dispose.quarantine(place.claimed, place.expected, place.into, WHY)

    assert os.path.basename(found) == b"file~2.dcm"
    assert content_of(place.into + b"/file.dcm") == b"faster"


@given(name=names)
def test_any_name_can_be_quarantined_twice(
    name: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = os.fsencode(tmp_path_factory.mktemp("place"))
    for _ in range(2):
        place = Place(folder, name)
        found = dispose.quarantine(place.claimed, place.expected, place.into, WHY)
        assert content_of(found) == CONTENT
        assert content_of(why_of(found)).decode() == WHY.to_json()


def test_two_long_names_have_two_reasons() -> None:
    left, right = b"/failed/" + b"x" * 254 + b"1", b"/failed/" + b"x" * 254 + b"2"

    assert why_of(left) != why_of(right)
    assert len(os.path.basename(why_of(left))) <= 255
    assert why_of(left).endswith(b".why.json")


# -- the reason ----------------------------------------------------------------------------------


def test_the_reason_says_all_that_a_person_needs() -> None:
    assert json.loads(WHY.to_json()) == {
        "reason": "truncated",
        "why": Reason.TRUNCATED.why,
        "detail": "at byte 900",
        "next": Reason.TRUNCATED.next_step,
        "drop": "sr",
        "folder": "/drops/sr",
        "job": 7,
        "trace": digest(b"/drops/sr/file.dcm").hex(),
        "size": 3,
        "mtime_ns": 10**18,
        "sop_class_uid": a_header().sop_class_uid,
        "sop_instance_uid": a_header().sop_instance_uid,
        "study_instance_uid": a_header().study_uid,
        "modality": "DX",
        "station": "",
        "time": "2024-01-02T03:04:05+00:00",
        "version": json.loads(WHY.to_json())["version"],
    }


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.code)
def test_of_a_file_that_could_not_be_read_there_are_no_uids(reason: Reason) -> None:
    why = Why(job=7, reason=reason, detail="", drop="sr", header=None, at=WHY.at)

    words = json.loads(why.to_json())

    assert words["reason"] == reason.code
    assert words["sop_instance_uid"] is None


# -- crashes -------------------------------------------------------------------------------------


@disposals
@pytest.mark.parametrize("across", [False, True])
def test_killed_at_any_step_no_object_is_lost(tmp_path: Path, act: Dispose, across: bool) -> None:
    """Until its proven removal the whole object lies somewhere, and starting again converges."""
    points = 0
    for number, after in crash_points():
        place = Place(os.fsencode(tmp_path / f"{number}-{after}"), b"study/file.dcm")
        apart = place.into if across else None
        steps = Steps(number, after=after)
        try:
            with steps.counted(apart=apart):
                act(place)
        except Crash:
            points += 1
        if number >= len(steps.taken):
            break
        if act is not DISPOSALS["delete"] or place.held():
            assert place.held()
            assert {content_of(path) for path in place.held()} == {CONTENT}
        else:
            assert "unlink" in steps.taken[: number + 1]  # the proven removal itself

        for claimed in claim.found(place.root):
            claim.release(claimed)
        assert not os.path.lexists(os.path.join(place.root, claim.FOLDER))
        if os.path.lexists(place.claimed.original):
            claim.take(place.claimed, place.expected)
            with Steps().counted(apart=apart):
                act(place)
        _converged(place, act)
    assert points >= 4


def _converged(place: Place, act: Dispose) -> None:
    assert everything_below(place.root) == []
    if act is DISPOSALS["delete"]:
        assert place.held() == []
        return
    assert {content_of(path) for path in place.held()} == {CONTENT}
    if act is not DISPOSALS["quarantine"]:
        assert len(place.held()) == 1, "the copy of the run that broke off is the one"
    if act is DISPOSALS["quarantine"]:
        for path in place.held():
            assert content_of(why_of(path)).decode() == WHY.to_json()


def test_the_reason_is_there_before_the_file_is(folder: bytes) -> None:
    """No crash leaves a file in quarantine that says nothing."""
    place = Place(folder)
    steps = Steps()

    with steps.counted():
        dispose.quarantine(place.claimed, place.expected, place.into, WHY)

    assert steps.taken.index("replace") < steps.taken.index("rename")
