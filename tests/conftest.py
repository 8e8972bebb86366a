"""What many tests need: a private OpenREM, a fresh database in it, and OpenREM's own samples."""

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

from ingest.openrem.site import (
    Site,
    SiteError,
    build,
    create_database,
    drop_database,
    open_site,
    query,
    running,
)

# dev: quick. ci: the same examples each time, and more of them. deep: by hand, before a release
# (pytest --hypothesis-profile=deep).
settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=5000, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

_FIRST_SITE = Path(
    os.environ.get("OPENREM_INGEST_TEST_SITE") or Path(__file__).parents[1] / ".test-site"
).absolute()
_NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
# Some tests stop PostgreSQL: each process that runs tests has one of its own.
_SITE = _FIRST_SITE.with_name(f"{_FIRST_SITE.name}-{_NUMBER}") if _NUMBER else _FIRST_SITE


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the site before the first test that needs it: a test's time limit is too short."""
    needed = any("site" in getattr(item, "fixturenames", ()) for item in session.items)
    if not needed or session.config.option.collectonly:
        return
    try:
        build(_FIRST_SITE, session.config.get_terminal_writer().line, durable=False)
        if _SITE != _FIRST_SITE:
            _share_installation()
            build(_SITE, session.config.get_terminal_writer().line, durable=False)
    except SiteError as error:
        raise pytest.UsageError(str(error)) from error


def _share_installation() -> None:
    """Have the further sites use the first one's OpenREM: only the database is their own."""
    _SITE.mkdir(exist_ok=True)
    (_SITE / "openrem-site").touch()
    with suppress(FileExistsError):
        (_SITE / "openrem").symlink_to(_FIRST_SITE / "openrem")


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A private OpenREM whose PostgreSQL is up; developers keep it between their runs."""
    built = open_site(_SITE)
    with running(built):
        _drop_leftovers(built)
        yield built


@pytest.fixture
def database(site: Site) -> Iterator[str]:
    """The name of a database like that of a freshly installed OpenREM."""
    name = f"test_{os.getpid()}_{secrets.token_hex(4)}"
    create_database(site, name)
    yield name
    drop_database(site, name)


@pytest.fixture(scope="session")
def corpus(site: Site) -> dict[str, Path]:
    """The 65 objects of OpenREM's own tests by file name; to be copied, not to be written to."""
    folder = site.package / "remapp" / "tests" / "test_files"
    files = {path.name: path for path in sorted(folder.glob("*.dcm"))}
    assert len(files) == 65
    return files


def _drop_leftovers(site: Site) -> None:
    # A test run that was killed leaves its databases behind.
    for (name,) in query(site, "SELECT datname FROM pg_database WHERE datname ~ '^test_[0-9]+_'"):
        if not Path(f"/proc/{name.split('_')[1]}").exists():
            drop_database(site, name)
