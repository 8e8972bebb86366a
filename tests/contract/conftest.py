"""Databases for contract tests."""

import secrets
from collections.abc import Iterator

import pytest

from ingest.openrem.site import Site, create_database, drop_database


@pytest.fixture
def second_database(site: Site, database: str) -> Iterator[str]:
    """Another fresh database, to compare with."""
    name = f"{database}_{secrets.token_hex(2)}"
    create_database(site, name)
    yield name
    drop_database(site, name)
