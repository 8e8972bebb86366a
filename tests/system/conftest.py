"""A set-up of drop folders before a real OpenREM, for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.openrem.site import Site
from tests.system.harness import Ground


@pytest.fixture
def ground(tmp_path: Path, site: Site, database: str) -> Iterator[Ground]:
    """Three drop folders, a configuration, and a fresh OpenREM; nothing runs yet."""
    made = Ground(root=tmp_path, site=site, database=database)
    yield made
    made.end()
