"""A set-up of drop folders before a real OpenREM, for each test; and a backlog for them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.openrem.site import Site
from tests.system.backlog import Objects, drop, mixed
from tests.system.harness import Ground, another_database


@pytest.fixture
def ground(tmp_path: Path, site: Site, database: str) -> Iterator[Ground]:
    """Three drop folders, a configuration, and a fresh OpenREM; nothing runs yet."""
    made = Ground(root=tmp_path, site=site, database=database)
    yield made
    made.end()


@pytest.fixture(scope="session")
def objects(corpus: dict[str, Path]) -> Objects:
    """A mixed backlog."""
    return mixed(corpus)


@pytest.fixture(scope="session")
def as_it_should_be(
    site: Site, objects: Objects, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, ...]]:
    """What an OpenREM holds after an import of the same objects that nothing disturbed."""
    with another_database(site, f"test_{os.getpid()}_reference") as database:
        calm = Ground(root=tmp_path_factory.mktemp("calm"), site=site, database=database)
        drop(calm, objects)
        said = calm.says("run", "--once")
        assert said.code == 0, said
        return calm.held()


@pytest.fixture
def backlog(ground: Ground, objects: Objects) -> Objects:
    """The same in this test's drop folders."""
    drop(ground, objects)
    return objects
