"""Calls OpenREM: the `OpenRem` protocol, and its implementation by the warm worker process."""

import json
import os
import select
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO, Any, Protocol

from ingest.errors import Kind, OpenRemUnreachable, Reason
from ingest.model import Done, Facts, Failed, FileContent, Importer, Outcome, StudyHeld, Vanished
from ingest.openrem.failures import reason_of

WORKER = Path(__file__).with_name("worker.py")
START_S = 120.0  # loading OpenREM takes half a second, on a cold and busy machine much longer
ASK_S = 60.0  # an answer that needs a few queries
LOCK_SHARE = 0.5  # of an import's time, for waiting for imports by others


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What is at the other end."""

    openrem: str  # its version
    database: str
    server: str  # PostgreSQL's version
    duplicate_scanners: int  # scanners with two rows, on which every import fails


class OpenRem(Protocol):
    """A way to have objects imported into OpenREM and to ask what it holds.

    Calls may be repeated without harm. A failed import has left nothing behind in OpenREM.
    One caller at a time.
    """

    def hello(self) -> Hello:
        """Check that OpenREM can take work. Raises `OpenRemUnreachable` if not."""

    def import_object(self, path: bytes, importer: Importer) -> Outcome:
        """Import one object. The file may be deleted by OpenREM: hand over an alias of it."""

    def prove(self, path: bytes, importer: Importer) -> Outcome:
        """Ask what OpenREM holds of an object, without importing it."""

    def close(self) -> None:
        """End it. An import that runs is undone."""


class Worker:
    """OpenREM by a warm process of its own interpreter (see worker.py).

    It is started when first needed, and again after it died, hung or lost its way.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, timeout_s: float
    ) -> None:
        """Prepare a worker; nothing is started yet.

        Args:
            command: OpenREM's interpreter and its arguments.
            environment: extra environment variables for it.
            timeout_s: the time for one import; then the worker is given up.
        """
        self._command = [*command, str(WORKER)]
        self._environment = {**_inherited(), **environment}
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._last_words: deque[str] = deque(maxlen=20)
        self._number = 0
        self._is_closed = False
        self._asking = threading.Lock()  # held while a request runs

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        process = self._process
        return process.pid if process is not None else None

    def hello(self) -> Hello:
        """See `OpenRem`."""
        answer = self._ask({"op": "hello"}, ASK_S)
        if answer is None:
            raise OpenRemUnreachable(Reason.WORKER_WONT_START, "no answer")
        if not answer["ok"]:
            reason = reason_of(answer["failure"])
            raise OpenRemUnreachable(*_as_outage(reason, answer["failure"]))
        if answer["vendor"] != "postgresql":
            raise OpenRemUnreachable(Reason.DATABASE_UNSUPPORTED, str(answer["vendor"]))
        if answer["read_only"]:
            raise OpenRemUnreachable(Reason.DATABASE_NOT_READY, "it is a read-only standby")
        if answer["patient_id_settings"] != 1:
            raise OpenRemUnreachable(Reason.SETTINGS_MISSING)
        return Hello(
            openrem=answer["openrem"],
            database=answer["database"],
            server=answer["server"],
            duplicate_scanners=answer["duplicate_scanners"],
        )

    def import_object(self, path: bytes, importer: Importer) -> Outcome:
        """See `OpenRem`."""
        request = {
            "op": "import",
            "importer": importer.value,
            "path": os.fsdecode(path),
            "lock_wait_s": self._timeout_s * LOCK_SHARE,
        }
        return self._outcome(request, self._timeout_s)

    def prove(self, path: bytes, importer: Importer) -> Outcome:
        """See `OpenRem`."""
        request = {"op": "prove", "importer": importer.value, "path": os.fsdecode(path)}
        return self._outcome(request, ASK_S)

    def close(self) -> None:
        """See `OpenRem`. May be called from another thread to break off a running request."""
        self._is_closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._asking:
            self._reap()

    def _outcome(self, request: dict[str, Any], timeout_s: float) -> Outcome:
        answer = self._ask(request, timeout_s)
        if answer is None:
            return Vanished(detail="no answer")
        if answer["ok"]:
            return Done(facts=_facts(answer))
        failure = answer["failure"]
        return Failed(reason=reason_of(failure), detail=detail_of(failure))

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
        """The answer, or None if none came; then the worker is gone."""
        with self._asking:
            return self._ask_alone(request, timeout_s)

    def _ask_alone(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
        process = self._started()
        self._number += 1
        request["id"] = self._number
        assert process.stdin is not None  # noqa: S101 - opened as a pipe
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            self._reap()
            return None
        answer = self._read(process, timeout_s)
        if answer is None or answer.get("id") != self._number:
            self._reap()
            return None
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._reap()
        if self._is_closed:
            raise OpenRemUnreachable(Reason.WORKER_WONT_START, "it was ended")
        self._process = self._start()
        self._end_if_closed(self._process)
        greeting = self._read(self._process, START_S)
        if greeting is not None and greeting["ok"]:
            self._last_words = deque(maxlen=0)  # from now on it may print of patients
            return self._process
        self._reap()
        detail = detail_of(greeting["failure"]) if greeting else self._why_it_ended()
        raise OpenRemUnreachable(Reason.WORKER_WONT_START, detail)

    def _end_if_closed(self, process: subprocess.Popen[bytes]) -> None:
        """It was closed in the very moment of its start, and nobody else would end it."""
        if self._is_closed:
            process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(  # noqa: S603 - the command is the user's own
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                # Ctrl-C on a terminal is for us: we let the import in hand end.
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            detail = f"{self._command[0]}: {error.strerror}"
            raise OpenRemUnreachable(Reason.WORKER_WONT_START, detail) from error
        self._last_words = deque(maxlen=20)
        assert process.stderr is not None  # noqa: S101 - opened as a pipe
        threading.Thread(
            target=self._drain,
            args=(process.stderr,),
            name="worker-stderr",
            daemon=True,
        ).start()
        return process

    def _read(self, process: subprocess.Popen[bytes], timeout_s: float) -> dict[str, Any] | None:
        assert process.stdout is not None  # noqa: S101 - opened as a pipe
        line = _read_line(process.stdout, timeout_s)
        try:
            answer = json.loads(line) if line else None
        except ValueError:
            return None
        return answer if isinstance(answer, dict) and "ok" in answer else None

    def _drain(self, pipe: IO[bytes]) -> None:
        """Read what OpenREM prints, and keep none of it past the start: it may name patients."""
        with pipe:
            for line in pipe:
                self._last_words.append(line.decode("utf-8", "replace").rstrip())

    def _why_it_ended(self) -> str:
        """The type of the exception that ended it; its text may hold anything, so not that."""
        for line in reversed(self._last_words):
            name = line.partition(":")[0].strip()
            if name.isascii() and name.replace(".", "").replace("_", "").isalnum():
                return name
        return "it ended without a word"

    def _reap(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # a broken pipe notices on closing what it could not write
        self._process = None


def _inherited() -> dict[str, str]:
    """Our own environment, less what would lead OpenREM's interpreter to our packages."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("PYTHON") and key not in ("VIRTUAL_ENV", "DJANGO_SETTINGS_MODULE")
    }


def _read_line(pipe: IO[bytes], timeout_s: float) -> bytes:
    """One line from a pipe, b"" if it ends or the time is up first."""
    deadline = monotonic() + timeout_s
    descriptor = pipe.fileno()
    line = b""
    while not line.endswith(b"\n"):
        left = deadline - monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return b""
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return b""
        line += chunk
    return line


def detail_of(failure: Mapping[str, Any]) -> str:
    """What may be told of a failure: type, SQLSTATE, and its words where no file is involved."""
    kind = str(failure["exception"]).rpartition(".")[2]
    state = f" {failure['sqlstate']}" if failure["sqlstate"] else ""
    return (
        f"{kind}{state}: {failure['text']}"
        if failure.get("text")
        else (f"{kind}{state} in {failure['at']}")
    )


def _as_outage(reason: Reason, failure: Mapping[str, Any]) -> tuple[Reason, str]:
    """Whatever stops a greeting is OpenREM's trouble, not a file's."""
    outage = reason if reason.kind is Kind.OUTAGE else Reason.DATABASE_NOT_READY
    return outage, detail_of(failure)


def _facts(answer: Mapping[str, Any]) -> Facts:
    content = dict(answer["content"])
    content["event_uids"] = tuple(content["event_uids"])
    return Facts(
        content=FileContent(**content),
        studies=tuple(
            StudyHeld(**{**study, "event_uids": tuple(study["event_uids"])})
            for study in answer["studies"]
        ),
        already=answer.get("already", True),
        refused=answer.get("refused", False),
        warnings=tuple(answer.get("warnings", ())),
    )
