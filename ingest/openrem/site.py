"""A private OpenREM with its own PostgreSQL, for the demo and for our tests.

Everything of a site is in its folder:

    openrem-site        says that the folder is ours, and which recipe it follows
    openrem/            OpenREM's Python environment; openrem/installed says that it is whole
    postgres/           the database server (see `postgres.py`)
    log/ media/ static/ OpenREM's own folders
    admin-password      of OpenREM's web pages; secret-key is Django's
    built               says that all steps are done

Each step of `build` leaves its mark last, so that a build that was killed goes on where it was.
The database `openrem_template` is migrated once, then closed to everybody; all others are copies.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from ingest.openrem.install import OPENREM, Step, install, run_step
from ingest.openrem.keeper import SiteError, StopMode, lock
from ingest.openrem.pages import serve
from ingest.openrem.postgres import PORT, Server, embedded

__all__ = [
    "ADMIN",
    "Site",
    "SiteError",
    "StopMode",
    "build",
    "create_database",
    "drop_database",
    "is_built",
    "open_site",
    "query",
    "running",
    "start_server",
    "stop_server",
    "web",
]

ADMIN: Final = "admin"  # logs in to OpenREM's web pages
_RECIPE = f"OpenREM {OPENREM}, recipe 1\n"
_ROLE = "openrem"
_DATABASE = "openrem"
_TEMPLATE = "openrem_template"

# Run by OpenREM's own interpreter. The first visit of OpenREM's home page would make some of
# these rows and groups; its importers want more of them. A new database has nothing to upgrade.
_SETTLE = """
import sys
sys.path.insert(0, sys.argv[1])
import django
django.setup()
from django.apps import apps
from django.contrib.auth.models import Group, User
from solo.models import SingletonModel
for model in apps.get_models():
    if issubclass(model, SingletonModel):
        model.get_solo()
models = apps.get_app_config("remapp")
models.get_model("UpgradeStatus").objects.update(from_0_9_1_summary_fields=True)
models.get_model("AdminTaskQuestions").objects.update(ask_revert_to_074_question=False)
admin = User.objects.create_superuser(sys.argv[2], password=sys.stdin.read())
for name in "viewgroup exportgroup admingroup pidgroup importsizegroup importqrgroup".split():
    admin.groups.add(Group.objects.create(name=name))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A private OpenREM; `open_site` and `build` give it."""

    root: Path

    @property
    def python(self) -> Path:
        """OpenREM's interpreter."""
        return self.root / "openrem" / "bin" / "python"

    @property
    def package(self) -> Path:
        """The folder of the installed package `openrem`."""
        libraries = (self.root / "openrem" / "lib").glob("python3.*/site-packages/openrem")
        package = next(libraries, None)
        if package is None:
            raise SiteError(f"{self.root} holds no installed OpenREM: build it again")
        return package

    @property
    def admin_password(self) -> str:
        """What `ADMIN` logs in with."""
        return (self.root / "admin-password").read_text(encoding="ascii")

    @property
    def server(self) -> Server:
        """The site's PostgreSQL."""
        return Server(folder=self.root / "postgres")

    def environment(self, database: str = _DATABASE) -> dict[str, str]:
        """What OpenREM's settings read from the environment, to be added to one's own."""
        return {
            "SQL_ENGINE": "django.db.backends.postgresql",
            "SQL_HOST": str(self.server.socket_folder),
            "SQL_PORT": str(PORT),
            "POSTGRES_DB": database,
            "POSTGRES_USER": _ROLE,
            "POSTGRES_PASSWORD": "not asked for",  # the socket's folder lets nobody else in
            "MEDIA_ROOT": str(self.root / "media"),
            "LOG_ROOT": str(self.root / "log"),
            "STATIC_ROOT": str(self.root / "static"),
            "SECRET_KEY": (self.root / "secret-key").read_text(encoding="ascii"),
            "DJANGO_ALLOWED_HOSTS": "127.0.0.1 localhost",
            "TIME_ZONE": "UTC",
            "DEBUG": "0",
            "DJANGO_SETTINGS_MODULE": "openremproject.settings",
        }


def is_built(root: Path) -> bool:
    """Whether `root` holds a finished site of this version's recipe."""
    mark = root / "built"
    return mark.exists() and mark.read_text() == _RECIPE


def open_site(root: Path) -> Site:
    """Give the finished site in `root`."""
    if not is_built(root):
        raise SiteError(f"{root} holds no finished private OpenREM: build one there first")
    if not os.access(root, os.W_OK) or root.stat().st_uid != os.geteuid():
        raise SiteError(f"{root} belongs to another user: build a private OpenREM elsewhere")
    return Site(root=root.resolve())


def build(root: Path, progress: Callable[[str], None], *, durable: bool = True) -> Site:
    """Build what is missing of the site in `root`; a finished one is left as it is.

    Args:
        root: A folder of ours, an empty one, or one to be made.
        progress: Called with a few words before each long step.
        durable: Whether the database survives a power failure; decided when it is first made.
    """
    try:
        if not is_built(root):
            embedded()  # complains now, not after minutes of installing
            _occupy(root)
            with lock(root / "build.lock") as held:
                # When we are killed, the step goes on; it keeps the lock from the next builder.
                step = partial(run_step, held=held)
                _build(Site(root=root.resolve()), progress, step, durable=durable)
    except OSError as error:
        raise SiteError(f"A private OpenREM can't be built in {root}: {error}") from error
    return open_site(root)


def _build(site: Site, progress: Callable[[str], None], step: Step, *, durable: bool) -> None:
    _make_folders(site.root)
    install(site.root / "openrem", progress, step)
    progress("making the database")
    site.server.create(durable=durable)
    with running(site):
        _make_databases(site, progress, step)
    (site.root / "built").write_text(_RECIPE)


@contextmanager
def running(site: Site) -> Iterator[None]:
    """Be a user of the site's PostgreSQL: up inside, and down once its last user is gone."""
    with site.server.used():
        yield


def start_server(site: Site) -> None:
    """End an outage made by `stop_server`."""
    site.server.start()


def stop_server(site: Site, mode: StopMode = "fast") -> None:
    """Make an outage: stop PostgreSQL though it has users. A new user would start it again."""
    site.server.stop(mode)


def create_database(site: Site, name: str) -> None:
    """Make a database like that of a freshly installed OpenREM."""
    site.server.sql(
        f"CREATE DATABASE {_identifier(name)} TEMPLATE {_TEMPLATE} OWNER {_ROLE}", "postgres"
    )


def drop_database(site: Site, name: str) -> None:
    """Remove a database, whoever is connected to it; none of that name is fine."""
    site.server.sql(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)", "postgres")


def query(site: Site, sql: str, database: str = _DATABASE) -> list[tuple[str, ...]]:
    """Run SQL as superuser; rows as text, NULL as ""."""
    return site.server.sql(sql, database)


@contextmanager
def web(site: Site, port: int = 0, database: str = _DATABASE) -> Iterator[str]:
    """Serve OpenREM's own web pages on 127.0.0.1 and give their URL; for users of `running`.

    Args:
        site: Whose pages.
        port: 0 takes a free one.
        database: Whose content.
    """
    environment = _own_environment(site, database)
    with serve(site.python, site.package, environment, port) as url:
        yield url


def _occupy(root: Path) -> None:
    """Make sure that `root` is ours before anything is written there."""
    mark = root / "openrem-site"
    root.mkdir(parents=True, exist_ok=True)
    if not mark.exists() and any(root.iterdir()):
        raise SiteError(f"{root} has other content: name an empty or new folder")
    if mark.exists() and mark.read_text() not in {"", _RECIPE}:
        raise SiteError(f"{root} was made by another version: remove it or name a new folder")
    mark.write_text(_RECIPE)


def _make_folders(root: Path) -> None:
    for folder in ("postgres", "log", "media", "static"):
        (root / folder).mkdir(exist_ok=True)
    for secret in ("admin-password", "secret-key"):
        (root / secret).touch(mode=0o600)
        if not (root / secret).read_text():  # new, or killed just here
            (root / secret).write_text(secrets.token_urlsafe(18))


def _make_databases(site: Site, progress: Callable[[str], None], step: Step) -> None:
    rows = query(site, "SELECT datname, datistemplate FROM pg_database", "postgres")
    finished = {name: is_template == "t" for name, is_template in rows}
    if not finished.get(_TEMPLATE):
        _make_template(site, progress, step)
    if _DATABASE not in finished:
        create_database(site, _DATABASE)


def _make_template(site: Site, progress: Callable[[str], None], step: Step) -> None:
    progress("making OpenREM's tables")
    sql = site.server.sql
    if not sql("SELECT 1 FROM pg_roles WHERE rolname = 'openrem'", "postgres"):
        sql(f"CREATE ROLE {_ROLE} LOGIN", "postgres")
    # A killed build may have left half of each. OpenREM's wheel has no first migration: every
    # installation writes its own.
    drop_database(site, _TEMPLATE)
    (site.package / "remapp" / "migrations" / "0001_initial.py").unlink(missing_ok=True)
    sql(f"CREATE DATABASE {_TEMPLATE} OWNER {_ROLE}", "postgres")
    openrem = partial(
        step, "Setting up OpenREM's database", environment=_own_environment(site, _TEMPLATE)
    )
    manage = (site.python, site.package / "manage.py")
    openrem((*manage, "makemigrations", "remapp"))
    openrem((*manage, "migrate"))
    progress("writing OpenREM's settings and its admin login")
    openrem((*manage, "loaddata", "openskin_safelist.json"))
    openrem((site.python, "-c", _SETTLE, site.package, ADMIN), said_to_it=site.admin_password)
    sql(f"ALTER DATABASE {_TEMPLATE} ALLOW_CONNECTIONS false IS_TEMPLATE true", "postgres")


def _own_environment(site: Site, database: str) -> dict[str, str]:
    # A PYTHONPATH or PGOPTIONS meant for something else would lead OpenREM astray.
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PG"))}
    return {**kept, **site.environment(database)}


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise SiteError(f"{name!r} can't be a database's name: use a-z, 0-9 and _")
    return name
