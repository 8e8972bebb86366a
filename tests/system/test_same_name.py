"""Whatever is sent again into the file that is being imported is imported, too, or stays."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.system.harness import Ground, Moments, files_below, image, until

MOMENTS = ("asked", "read", "committed")  # of an import
COUNT = 20


@dataclass(frozen=True, slots=True)
class _Sender:
    """One who has kept a way to his file, whatever it is called by then."""

    descriptor: int

    def opens(self) -> int:
        """Open it for writing."""
        return os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDWR)

    def writes(self, content: bytes, *, hides_it: bool) -> None:
        """Write another object over it; if he hides it, the file's times tell nothing."""
        before = os.fstat(self.descriptor)
        writing = self.opens()
        os.truncate(writing, 0)
        os.write(writing, content)
        os.close(writing)
        if hides_it:
            os.utime(self.descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))


@contextmanager
def _sent(ground: Ground, name: str, content: bytes) -> Iterator[_Sender]:
    """Send a file, and keep a way to it."""
    outside = ground.root / "outside.dcm"
    outside.write_bytes(content)
    descriptor = os.open(outside, os.O_RDONLY)
    try:
        outside.rename(ground.drop("dx") / name)
        yield _Sender(descriptor)
    finally:
        os.close(descriptor)


def _like(content: bytes) -> bytes:
    """Another object of the same size."""
    while len(other := image()) != len(content):
        pass
    return other


@pytest.mark.parametrize("hides_it", [False, True], ids=["plainly", "hidden"])
@pytest.mark.parametrize("after", ["delete", "archive", "keep"])
def test_what_is_written_into_a_file_that_is_being_imported_is_imported_too(
    ground: Ground, after: str, hides_it: bool
) -> None:
    """Of another size and time, or of the same: nothing is disposed of that OpenREM has not."""
    ground.after = after
    moments = Moments(ground)
    service = ground.service().ready()
    last: list[bytes] = []
    for moment in MOMENTS:
        first = image()
        second = _like(first) if hides_it else image(ImageComments="another one")
        with moments.hold(moment) as here, _sent(ground, f"{moment}.dcm", first) as sender:
            here()
            sender.writes(second, hides_it=hides_it)
        service.imports(second)
        assert ground.holds(second)
        assert ground.holds(first) == (moment != "asked")
        last.append(second)
    if after == "keep":
        until(lambda: ground.folder_status("dx")["done_today"] == 3, "all are done")
    else:
        until(ground.is_empty, "all are gone")
    service.stop()
    kept = {"delete": ground.failed, "archive": ground.archive, "keep": ground.drop("dx")}[after]
    contents = {(kept / os.fsdecode(name)).read_bytes() for name in files_below(kept)}
    assert contents == (set() if after == "delete" else set(last))
    assert ground.quarantined() == {}
    assert ground.events() == 5


@pytest.mark.parametrize("after", ["delete", "archive"])
def test_a_file_that_somebody_opened_to_write_is_not_disposed_of(
    ground: Ground, after: str
) -> None:
    """Although he has not written yet; once he has, that is imported."""
    ground.after = after
    moments = Moments(ground)
    service = ground.service().ready()
    first, second = image(), image()
    with moments.hold("committed") as here, _sent(ground, "a.dcm", first) as sender:
        here()
        writing = sender.opens()
    until(lambda: ground.files()["dx"] == [b"a.dcm"], "it is put back")
    service.runs_for(3)
    assert ground.files()["dx"] == [b"a.dcm"]
    assert files_below(ground.archive) == []
    os.truncate(writing, 0)
    os.write(writing, second)
    os.close(writing)
    until(ground.is_empty, "it is imported")
    service.stop()
    assert ground.holds(first)
    assert ground.holds(second)
    assert ground.quarantined() == {}


def test_the_same_objects_in_two_folders_at_once_are_counted_once(ground: Ground) -> None:
    both = [image() for _ in range(COUNT)]
    service = ground.service().ready()
    for number, content in enumerate(both):  # in turn, so that they meet in the queue
        ground.put("dx", f"{number}.dcm", content)
        ground.put("mammo", f"{number}.dcm", content)
    until(ground.is_empty, "all are gone")
    service.stop()
    outcomes = [line["outcome"] for line in service.events() if line["event"] == "file.imported"]
    assert sorted(outcomes) == ["already there"] * COUNT + ["imported"] * COUNT
    assert not service.has_said("file.will-retry")
    assert ground.quarantined() == {}
    assert ground.events() == COUNT
    assert all(ground.holds(content) for content in both)
