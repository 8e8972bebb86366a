"""Two services on one OpenREM: what both bring at once is there once, and completely."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingest.openrem.site import Site
from tests.system.harness import Ground, another_database, image, new_uid, report, study_uid, until

PAIRS = 1000 if os.environ.get("OPENREM_INGEST_DEEP") else 100

Pair = tuple[bytes, bytes]


@pytest.fixture
def grounds(tmp_path: Path, site: Site, database: str) -> Iterator[tuple[Ground, Ground]]:
    """Two set-ups with folders and ledgers of their own, and one OpenREM behind them."""
    pair = [Ground(root=tmp_path / name, site=site, database=database) for name in ("one", "two")]
    yield pair[0], pair[1]
    for ground in pair:
        ground.end()


def two_images_of_one_study() -> Pair:
    """The first of a new study, and the second."""
    study = new_uid()
    return image(study=study), image(study=study)


def the_same_report() -> Pair:
    """One object, twice."""
    content = report()
    return content, content


@pytest.mark.parametrize("a_pair", [two_images_of_one_study, the_same_report])
def test_what_two_services_bring_at_once_is_there_once(
    grounds: tuple[Ground, Ground], tmp_path: Path, a_pair: Callable[[], Pair]
) -> None:
    """Each study is held as it is where one service brings both of its objects."""
    one, two = grounds
    pairs = [a_pair() for _ in range(PAIRS)]
    name = "dx" if a_pair is two_images_of_one_study else "sr"
    services = [ground.service().ready() for ground in grounds]
    for number, (first, second) in enumerate(pairs):
        one.put(name, f"{number}.dcm", first)
        two.put(name, f"{number}.dcm", second)
    until(lambda: one.is_empty() and two.is_empty(), "all are imported", deadline_s=2 * PAIRS)
    for service in services:
        service.stop()
        assert not service.has_said("file.will-retry")
    assert one.quarantined() == two.quarantined() == {}

    with another_database(one.site, f"{one.database}_calm") as database:
        calm = Ground(root=tmp_path / "calm", site=one.site, database=database)
        for number, content in enumerate(a_pair()):
            calm.put(name, f"{number}.dcm", content)
        assert calm.says("run", "--once").code == 0
        ((_, *as_it_should_be),) = calm.held()
    held = one.held()
    assert {study for study, *_ in held} == {study_uid(first) for first, _ in pairs}
    assert [rest for _, *rest in held] == [as_it_should_be] * PAIRS
