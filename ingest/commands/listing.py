"""Lists every file that was not imported: a few are kept for the screen, all go to a file.

Memory grows with the number of reasons, not with that of files. The file has paths, which may
hold a patient's name: so it is made only where the screen can't show all (or where the user asks
for it), for its owner's eyes only, and deleted after a while.
"""

import contextlib
import csv
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingest import files, log
from ingest.errors import ConfigError, FileProblem, Reason
from ingest.ledger_file import give_to_owner_of
from ingest.model import GATHERED, Job, State

EXAMPLES = 3  # of each reason on the screen
KEEP_DAYS = 30
COLUMNS = ("path", "reason", "why", "detail", "next", "sop_instance_uid", "study_uid")
_HEAD = ",".join(COLUMNS)
_FOLDER = "imports"
_OURS = re.compile(r"[0-9]{8}T[0-9]{6}Z(-[0-9]+)?\.csv")
_PRIVATE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A file, or a folder, of which nothing was imported."""

    path: bytes
    reason: Reason
    detail: str = ""
    sop_uid: str = ""
    study_uid: str = ""

    @property
    def line(self) -> str:
        """Which, why, and what next."""
        return f"{log.shown(self.path)}: {self.reason.sentence(self.detail)}"


class Listing:
    """All failures of one run."""

    def __init__(
        self, folder: Path | None = None, *, began: float = 0.0, file: Path | None = None
    ) -> None:
        """Nothing is written yet.

        Args:
            folder: the state folder; None: nothing is ever written.
            began: when the run did (seconds since the epoch), for the file's name.
            file: what the user named instead; it is written even if there is nothing to list.
        """
        self.counts: Counter[Reason] = Counter()
        self.examples: dict[Reason, list[Failure]] = {}
        self.path: Path | None = None  # of the file, once it is there
        self.trouble = ""  # why it could not be written
        self._state = folder
        self._began = began
        self._file = file
        self._writer: Any = None
        self._open = contextlib.ExitStack()

    def add(self, failure: Failure) -> None:
        """List one more."""
        self.counts[failure.reason] += 1
        examples = self.examples.setdefault(failure.reason, [])
        if self._writer is not None:
            self._write([failure])
        if len(examples) < EXAMPLES:
            examples.append(failure)
        elif self._writer is None:
            self._begin()
            self._write([failure])

    def close(self) -> None:
        """Have all of it on the disk."""
        if self._file is not None and self._writer is None:
            self._begin()
        try:
            self._open.close()
        except OSError as error:
            self._failed(error)

    def _begin(self) -> None:
        """Open the file, with what was kept for the screen so far."""
        if self._state is None or self.trouble:
            return
        try:
            self.path, descriptor = self._opened(self._state)
        except (OSError, ConfigError) as error:
            self._failed(error)
            return
        # A path is bytes: written as they are, whatever they mean.
        file = os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="")
        self._writer = csv.writer(self._open.enter_context(file), lineterminator="\n")
        self._writer.writerow(COLUMNS)
        self._write(one for examples in self.examples.values() for one in examples)

    def _opened(self, state: Path) -> tuple[Path, int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        if self._file is not None:
            check_file(self._file)  # once more: the run may have taken hours
            descriptor = os.open(self._file, flags | os.O_TRUNC, _PRIVATE)
            os.fchmod(descriptor, _PRIVATE)
            return self._file, descriptor
        folder = state / _FOLDER
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
            give_to_owner_of(state, folder)
        name = f"{datetime.fromtimestamp(self._began, UTC):%Y%m%dT%H%M%SZ}"
        number = 1
        while True:
            path = folder / (f"{name}.csv" if number == 1 else f"{name}-{number}.csv")
            try:
                descriptor = os.open(path, flags | os.O_EXCL, _PRIVATE)
            except FileExistsError:
                number += 1
                continue
            give_to_owner_of(state, path)
            return path, descriptor

    def _write(self, failures: Iterable[Failure]) -> None:
        if self._writer is None:
            return
        try:
            self._writer.writerows(
                (
                    os.fsdecode(one.path),
                    one.reason.code,
                    one.reason.why,
                    one.detail,
                    one.reason.next_step,
                    one.sop_uid,
                    one.study_uid,
                )
                for one in failures
            )
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError | ConfigError) -> None:
        words = error.strerror if isinstance(error, OSError) else str(error)
        self.trouble = words or type(error).__name__
        self._writer = None


def check_file(file: Path) -> None:
    """Make sure that a list may be written there.

    Raises:
        ConfigError: something that is no such list is there, or nothing can be.
    """
    try:
        status = os.lstat(file)
    except FileNotFoundError:
        folder = file.absolute().parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(
                f"--failures: {folder} isn't there, or may not be written. Next: make that "
                "folder, or name another file"
            ) from None
        return
    except OSError as error:
        raise ConfigError(
            f"--failures: {file} can't be looked at ({error.strerror}). Next: name another file"
        ) from error
    if not stat.S_ISREG(status.st_mode) or not _is_a_list(file):
        raise ConfigError(
            f"--failures: {file} is there already, and no list of failures. Next: name another "
            "file, or move that one away"
        )


def _is_a_list(file: Path) -> bool:
    try:
        with files.open_regular(os.fsencode(file)) as reading:
            return reading.read(len(_HEAD) + 1) == _HEAD.encode() + b"\n"
    except OSError:
        return False


def forget_old(state: Path, now: float) -> None:
    """Delete the lists of imports that were long ago."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(os.fsencode(state / _FOLDER)):
            if _OURS.fullmatch(os.fsdecode(entry.name)):
                with contextlib.suppress(OSError, FileProblem):
                    found = files.snapshot(entry.path)
                    if now - found.mtime_ns / 1e9 > KEEP_DAYS * 86400.0:
                        files.remove(entry.path, found)


def of_job(job: Job) -> Failure:
    """Why a file that is still on its journey is where it is."""
    return Failure(
        path=job.path,
        reason=job.reason or _why_it_waits(job),
        detail=job.detail,
        sop_uid=job.header.sop_instance_uid if job.header else "",
        study_uid=job.header.study_uid if job.header else "",
    )


def _why_it_waits(job: Job) -> Reason:
    if job.state is State.SEEN:
        return Reason.INCOMPLETE
    return Reason.GATHERING if job.importer in GATHERED else Reason.BUSY
