"""The OpenREM and the PostgreSQL that are measured, and what they hold."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingest.openrem.site import Site, build, open_site, query, running
from tests.system.harness import another_database

_ROOT = Path(__file__).resolve().parents[2]
_SITE = Path(os.environ.get("OPENREM_INGEST_BENCH_SITE") or _ROOT / ".bench-site").absolute()
_INSTALLED = _ROOT / ".test-site" / "openrem"  # by the tests, whose PostgreSQL never syncs

_HELD = """
SELECT (SELECT count(*) FROM remapp_generalstudymoduleattr),
       (SELECT count(*) FROM remapp_irradeventxraydata)
     + (SELECT count(*) FROM remapp_ctirradiationeventdata)
     + (SELECT count(*) FROM remapp_radiopharmaceuticaladministrationeventdata),
       (SELECT count(*) - count(DISTINCT to_jsonb(one) - 'id')
        FROM remapp_uniqueequipmentnames AS one)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """How much OpenREM holds."""

    studies: int
    events: int
    double_scanners: int  # on each of them every further import fails

    def since(self, before: "Rows") -> "Rows":
        """What has come since then."""
        return Rows(
            studies=self.studies - before.studies,
            events=self.events - before.events,
            double_scanners=self.double_scanners - before.double_scanners,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one run takes place."""

    site: Site
    database: str  # freshly made
    folder: Path  # empty, and on the disk that is measured

    def rows(self) -> Rows:
        """What its OpenREM holds now."""
        studies, events, double = query(self.site, _HELD, self.database)[0]
        return Rows(studies=int(studies), events=int(events), double_scanners=int(double))


@contextmanager
def a_site(progress: Callable[[str], None]) -> Iterator[Site]:
    """A private OpenREM whose PostgreSQL syncs like a site's; kept for the next time."""
    if (_INSTALLED / "installed").exists() and not _SITE.exists():
        _SITE.mkdir()
        (_SITE / "openrem-site").touch()
        (_SITE / "openrem").symlink_to(_INSTALLED.resolve())
    build(_SITE, progress, durable=True)
    site = open_site(_SITE)
    with running(site):
        yield site


@contextmanager
def a_place(site: Site, folder: Path) -> Iterator[Place]:
    """A place with a fresh database."""
    folder.mkdir(parents=True)
    with another_database(site, f"bench_{os.getpid()}") as database:
        yield Place(site=site, database=database, folder=folder)


def corpus_of(site: Site) -> list[Path]:
    """The objects of OpenREM's own tests."""
    return sorted((site.package / "remapp" / "tests" / "test_files").glob("*.dcm"))
