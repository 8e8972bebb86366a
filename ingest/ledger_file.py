"""The ledger's SQLite file: opening it, its schema, and transactions.

WAL mode, one connection guarded by a lock. What is deleted is overwritten, because paths may
hold a patient's name.
"""

import contextlib
import fcntl
import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from ingest.errors import LedgerError, Trouble

BUSY_TIMEOUT_S = 5.0
Connection = sqlite3.Connection

# The schema is the list of its upgrades; `user_version` counts those applied.
_UPGRADES = (
    """
    CREATE TABLE job (
        id INTEGER PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,   -- of the path
        drop_name TEXT NOT NULL,
        path BLOB,                     -- only while the job is live
        device INTEGER NOT NULL, inode INTEGER NOT NULL,
        size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
        state TEXT NOT NULL,
        header TEXT, study_uid TEXT, sop_uid TEXT, study_order TEXT NOT NULL DEFAULT '',
        importer TEXT,
        claim TEXT NOT NULL DEFAULT '',
        attempts INTEGER NOT NULL DEFAULT 0, deaths INTEGER NOT NULL DEFAULT 0,
        not_before REAL NOT NULL DEFAULT 0,
        reason TEXT, detail TEXT NOT NULL DEFAULT '',
        updated REAL NOT NULL
    );
    CREATE INDEX job_turn ON job (drop_name, state, study_order, id);
    CREATE INDEX job_due ON job (drop_name, state, not_before);
    CREATE INDEX job_sop ON job (sop_uid);
    CREATE TABLE event (
        at REAL NOT NULL,
        job INTEGER NOT NULL,
        drop_name TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT, detail TEXT NOT NULL DEFAULT '',
        sop_uid TEXT, study_uid TEXT, importer TEXT
    );
    CREATE INDEX event_at ON event (at);
    CREATE INDEX event_sop ON event (sop_uid);
    CREATE TABLE folder (path BLOB PRIMARY KEY, emptied_at REAL NOT NULL);
    CREATE TABLE standing (digest BLOB PRIMARY KEY);
    CREATE TABLE service (key TEXT PRIMARY KEY, value TEXT NOT NULL, at REAL NOT NULL);
    """,
    # 2: history is asked by study and by file, and kept for a time only
    """
    CREATE INDEX event_study ON event (study_uid);
    CREATE INDEX event_job ON event (job);
    CREATE INDEX job_ended ON job (updated) WHERE path IS NULL;
    ALTER TABLE standing ADD COLUMN at REAL NOT NULL DEFAULT 0;
    UPDATE standing SET at = CAST(strftime('%s', 'now') AS REAL)
    """,
    # 3: what rules took out is counted; versions before that know neither the states nor reasons
    """
    CREATE INDEX event_ruled ON event (at) WHERE state = 'IGNORED'
    """,
)

# What SQLite calls it (its primary result codes), and what it is to a user.
_TROUBLES = {
    sqlite3.SQLITE_BUSY: Trouble.LOCKED,
    sqlite3.SQLITE_LOCKED: Trouble.LOCKED,
    sqlite3.SQLITE_CORRUPT: Trouble.DAMAGED,
    sqlite3.SQLITE_NOTADB: Trouble.DAMAGED,
    sqlite3.SQLITE_ERROR: Trouble.DAMAGED,  # a table of ours is missing, for example
    sqlite3.SQLITE_READONLY: Trouble.CLOSED,
    sqlite3.SQLITE_CANTOPEN: Trouble.CLOSED,
    sqlite3.SQLITE_PERM: Trouble.CLOSED,
    sqlite3.SQLITE_AUTH: Trouble.CLOSED,
    sqlite3.SQLITE_FULL: Trouble.FULL,
}
_WORDS = {
    Trouble.LOCKED: f"is locked by another program for more than {BUSY_TIMEOUT_S:g} seconds",
    Trouble.DAMAGED: "is damaged",
    Trouble.CLOSED: "may not be opened or written by this user",
    Trouble.FULL: "can't be written, because its disk is full",
    Trouble.DISK: "can't be read or written",
}
_REMEDIES = {
    Trouble.LOCKED: "end whatever has it open, such as a backup or a database viewer; all goes on "
    "by itself then",
    Trouble.DAMAGED: "stop openrem-ingest, move the ledger away with its -wal and -shm files, and "
    "start it again: that loses history and nothing else, because the folders are the queue",
    Trouble.CLOSED: "run this as the user that the service runs as, and check the owner and the "
    "rights of state_dir; nothing is lost",
    Trouble.FULL: "free space on it; nothing is lost, all goes on by itself then",
    Trouble.DISK: "check the disk and the rights of state_dir; nothing is lost, all goes on by "
    "itself once it works",
}


def digest(path: bytes) -> bytes:
    """What stays of a path once its file has left."""
    return hashlib.blake2b(path, digest_size=16).digest()


def stored(number: int) -> int | bytes:
    """SQLite's integers have 64 bits with a sign; inodes are larger, times after 2262 as well."""
    return number if -1 << 63 <= number < 1 << 63 else b"%d" % number


def trouble_with(path: Path, error: sqlite3.Error) -> LedgerError:
    """What SQLite's error means to a user: one line."""
    # Errors of the module itself, such as a closed connection, have no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF
    trouble = _TROUBLES.get(code, Trouble.DISK)
    return LedgerError(
        f"the ledger {path} {_WORDS[trouble]} ({error}). Next: {_REMEDIES[trouble]}", trouble
    )


class LedgerFile:
    """The file, opened. Thread-safe."""

    def __init__(
        self, path: Path, *, read_only: bool = False, leave_no_trace: bool = False
    ) -> None:
        """Open the ledger at ``path``, making or upgrading it unless ``read_only``.

        Args:
            path: the file.
            read_only: for those who only ask. SQLite leaves its -wal and -shm files beside it.
            leave_no_trace: it doesn't. Only for a look at a ledger that nobody writes to.

        Raises:
            LedgerError: it can't be opened, is damaged, or is from a newer version.
        """
        self.path = path
        self._lock = threading.RLock()
        self._is_durable: bool | None = None  # as the connection is set
        self.is_new = not read_only and not os.path.lexists(path)
        _check_place(path, read_only=read_only)
        try:
            with contextlib.nullcontext() if read_only else _one_at_a_time(path.parent):
                self._connection = _connect(path, read_only=read_only, at_rest=leave_no_trace)
                try:
                    self._check_version()
                    if not read_only:
                        self._connection.execute("PRAGMA journal_mode = WAL")
                        self._connection.execute("PRAGMA secure_delete = ON")
                        self._upgrade()
                    self._place = os.stat(path)
                except BaseException:
                    self._connection.close()
                    raise
                if self.is_new:
                    give_to_owner_of(path.parent, path)
        except sqlite3.Error as error:
            raise trouble_with(path, error) from error

    def clear_traces(self) -> None:
        """Empty the write-ahead log: what was deleted (paths of files that left) stays there."""
        with self._lock, contextlib.suppress(sqlite3.Error):  # a reader may hold it: next time
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def check_place(self) -> LedgerError | None:
        """What is wrong if the file was removed or replaced under us: we would not notice."""
        try:
            if os.path.samestat(self._place, os.stat(self.path)):
                return None
        except FileNotFoundError:
            pass
        except OSError:  # not for us to see just now
            return None
        return LedgerError(
            f"the ledger {self.path} was moved away or replaced while it was in use. Next: start "
            "openrem-ingest again; history may be lost, and nothing else",
            Trouble.MISSING,
        )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _check_version(self) -> None:
        if self._version() > len(_UPGRADES):
            raise LedgerError(
                f"the ledger {self.path} was written by a newer openrem-ingest. "
                "Next: upgrade this one, or choose another state_dir",
                Trouble.NEWER,
            )

    def _upgrade(self) -> None:
        if self._version() == len(_UPGRADES):
            return
        with self.writing() as connection:
            for upgrade in _UPGRADES[self._version() :]:
                for statement in upgrade.split(";"):  # executescript would commit in between
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(_UPGRADES)}")

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    @contextlib.contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction, on the disk at its end if ``durable``. Raises `LedgerError`."""
        with self._lock:
            connection = self._connection
            try:
                if durable is not self._is_durable:
                    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                    self._is_durable = durable
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:  # SQLite itself undoes what a full disk broke
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise trouble_with(self.path, error) from error

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """What a query finds. Raises `LedgerError`."""
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise trouble_with(self.path, error) from error


def _check_place(path: Path, *, read_only: bool) -> None:
    if read_only:
        try:
            path.stat()
        except OSError as error:
            raise LedgerError(
                f"there is no ledger at {path} yet, or it can't be reached ({error.strerror}). "
                "Next: start the service, or check state_dir and its rights",
                Trouble.MISSING,
            ) from error
    else:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"the folder {path.parent} can't be made ({error.strerror}). "
                "Next: correct state_dir in the configuration, or its parent's rights",
                Trouble.CLOSED,
            ) from error


def give_to_owner_of(folder: Path, path: Path) -> None:
    """What root makes in the state folder by a command must be the service's user's."""
    if os.geteuid() == 0:
        owner = folder.stat()
        with contextlib.suppress(OSError):
            os.chown(path, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let those who make, upgrade or switch to WAL wait for each other.

    The service and a command may do so at the same moment, and SQLite's own waiting does not
    cover the switch to WAL: it says "database is locked" at once.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _connect(path: Path, *, read_only: bool, at_rest: bool) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    # What is in a write-ahead log would not be seen as immutable: somebody writes, or did.
    if at_rest and not os.path.lexists(f"{path}-wal"):
        mode += "&immutable=1"
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
