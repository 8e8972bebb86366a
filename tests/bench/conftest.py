"""Where a test of the bench takes place."""

from pathlib import Path

import pytest

from ingest.openrem.site import Site
from tests.bench.place import Place


@pytest.fixture
def place(site: Site, database: str, tmp_path: Path) -> Place:
    """A fresh OpenREM of the tests."""
    return Place(site=site, database=database, folder=tmp_path)
