"""Calls OpenREM: the `OpenRem` protocol, and its implementation by the warm worker process."""

import json
import os
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ingest.errors import Kind, OpenRemUnreachable, Reason
from ingest.model import (
    Done,
    Facts,
    Failed,
    FileContent,
    Importer,
    Outcome,
    Recordable,
    SizesDone,
    SizesFacts,
    SizesWanted,
    StudyDone,
    StudyHeld,
    StudyOutcome,
    Vanished,
)
from ingest.openrem import answers
from ingest.openrem.answers import (
    Answer,
    Examined,
    Failure,
    Greeted,
    Held,
    NoAnswer,
    NotOk,
    Ready,
    Recorded,
    Sized,
    StudyHeldOf,
)
from ingest.openrem.child import Child, Lost
from ingest.openrem.failures import reason_of, words_of

WORKER = Path(__file__).with_name("worker.py")
START_S = 120.0  # loading OpenREM takes half a second, on a cold and busy machine much longer
ASK_S = 60.0  # an answer that needs a few queries
LOCK_SHARE = 0.5  # of an import's time, for waiting for imports by others
_EXCEPTION = re.compile(r"([A-Za-z_][A-Za-z0-9_.]{0,99})(?::|\Z)")  # last line of a traceback
LIFE = 1000  # imports, then another process takes its place: what leaks in OpenREM has an end


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

    def import_sizes(self, path: bytes, wanted: SizesWanted) -> Outcome:
        """Import a plain table of heights and weights (see `ingest.sizes.write_plain`)."""

    def import_study(self, folder: bytes, importer: Importer) -> StudyOutcome:
        """Import the images of one study, which are all that lies in this folder of ours."""

    def recorded(self, objects: Sequence[Recordable]) -> Collection[Recordable]:
        """Those that OpenREM has dealt with before; none where it does not say.

        Raises:
            OpenRemUnreachable: it can't be started.
        """

    def prove(self, path: bytes, importer: Importer) -> Outcome:
        """Ask what OpenREM holds of an object, without importing it."""

    def close(self) -> None:
        """End it. An import that runs is undone."""


class Worker:
    """OpenREM by a warm process of its own interpreter (see worker.py).

    It is started when first needed, and again after it died, hung, ran out of memory, lost its
    way, or did its share of imports.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        timeout_s: float,
        memory_mib: int = 0,
        without: Collection[str] = (),
    ) -> None:
        """Prepare a worker; nothing is started yet.

        Args:
            command: OpenREM's interpreter and its arguments.
            environment: extra environment variables for it.
            timeout_s: the time for one import; then the worker is given up.
            memory_mib: the memory that it may take, 0: as much as there is.
            without: the savings (see savings.py) that it shall do without.
        """
        self._command = [*command, str(WORKER), str(memory_mib), *without]
        self._environment = {**_inherited(), **environment}
        self._timeout_s = timeout_s
        self._child: Child | None = None
        self._number = 0
        self._imports = 0  # by this process
        self._is_closed = False
        self._asking = threading.Lock()  # held while a request runs

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        child = self._child
        return child.pid if child is not None else None

    def hello(self) -> Hello:
        """See `OpenRem`."""
        answer = self._ask_after_health({"op": "hello"}, Greeted)
        if answer.vendor != "postgresql":
            raise OpenRemUnreachable(Reason.DATABASE_UNSUPPORTED, answer.vendor)
        if answer.read_only:
            raise OpenRemUnreachable(Reason.DATABASE_NOT_READY, "it is read-only")
        if answer.patient_id_settings != 1:
            raise OpenRemUnreachable(Reason.SETTINGS_MISSING)
        return Hello(
            openrem=answer.openrem,
            database=answer.database,
            server=answer.server,
            duplicate_scanners=answer.duplicate_scanners,
        )

    def examine(self) -> Examined:
        """What `doctor` judges. Raises `OpenRemUnreachable` if OpenREM or its database is away."""
        return self._ask_after_health({"op": "doctor"}, Examined)

    def import_object(self, path: bytes, importer: Importer) -> Outcome:
        """See `OpenRem`."""
        request = {
            "op": "import",
            "importer": importer.value,
            "path": os.fsdecode(path),
            "lock_wait_s": self._timeout_s * LOCK_SHARE,
        }
        return self._outcome(request)

    def import_sizes(self, path: bytes, wanted: SizesWanted) -> Outcome:
        """See `OpenRem`."""
        request = {
            "op": "sizes",
            "path": os.fsdecode(path),
            "titles": wanted.titles,
            "by_study_uid": wanted.by_study_uid,
            "overwrite": wanted.overwrite,
            "lock_wait_s": self._timeout_s * LOCK_SHARE,
        }
        answer = self._imported(request, Sized)
        if isinstance(answer, Failed | Vanished):
            return answer
        return SizesDone(
            facts=SizesFacts(of=answer.of, already=answer.already, warnings=answer.warnings)
        )

    def import_study(self, folder: bytes, importer: Importer) -> StudyOutcome:
        """See `OpenRem`."""
        request = {
            "op": "import-study",
            "importer": importer.value,
            "path": os.fsdecode(folder),
            "lock_wait_s": self._timeout_s * LOCK_SHARE,
        }
        answer = self._imported(request, StudyHeldOf)
        if isinstance(answer, Failed | Vanished):
            return answer
        return StudyDone(facts=_facts_of(answer))

    def recorded(self, objects: Sequence[Recordable]) -> Collection[Recordable]:
        """See `OpenRem`."""
        asked = [(one.importer.value, one.study_uid, one.sop_instance_uid) for one in objects]
        try:
            answer = self._ask({"op": "recorded", "objects": asked}, Recorded, ASK_S)
        except Lost:
            return ()
        if isinstance(answer, NotOk) or len(answer.recorded) != len(objects):
            return ()
        both = zip(objects, answer.recorded, strict=True)
        return frozenset(one for one, is_recorded in both if is_recorded)

    def prove(self, path: bytes, importer: Importer) -> Outcome:
        """See `OpenRem`."""
        request = {"op": "prove", "importer": importer.value, "path": os.fsdecode(path)}
        return self._outcome(request)

    def close(self) -> None:
        """See `OpenRem`. May be called from another thread to break off a running request."""
        self._is_closed = True
        child = self._child
        if child is not None:
            child.kill()
        with self._asking:
            self._end()

    def _ask_after_health(self, request: dict[str, Any], kind: type[Answer]) -> Answer:
        try:
            answer = self._ask(request, kind, ASK_S)
        except Lost as lost:
            raise OpenRemUnreachable(Reason.WORKER_WONT_START, str(lost)) from lost
        if isinstance(answer, NotOk):
            raise OpenRemUnreachable(*_as_outage(answer.failure))
        return answer

    def _outcome(self, request: dict[str, Any]) -> Outcome:
        answer = self._imported(request, Held)
        if isinstance(answer, Failed | Vanished):
            return answer
        facts = Facts(
            content=answer.content,
            studies=answer.studies,
            already=answer.already,
            refused=answer.refused,
            warnings=answer.warnings,
        )
        return Done(facts=facts)

    def _imported(self, request: dict[str, Any], kind: type[Answer]) -> Answer | Failed | Vanished:
        """What came of the import of a file, a study or a table, or of the proof of one."""
        try:
            answer = self._ask(request, kind, self._timeout_s)
        except Lost as lost:
            return Vanished(detail=str(lost))
        if isinstance(answer, NotOk):
            return Failed(reason=reason_of(answer.failure), detail=detail_of(answer.failure))
        return answer

    def _ask(self, request: dict[str, Any], kind: type[Answer], timeout_s: float) -> Answer | NotOk:
        """The answer. Raises `Lost` if none came; then the process is gone."""
        with self._asking:
            child = self._started()
            self._number += 1
            self._imports += request["op"] in ("import", "sizes", "import-study")
            line = json.dumps({**request, "id": self._number}).encode() + b"\n"
            try:
                answer = answers.read(child.ask(line, timeout_s), kind, self._number)
            except (Lost, NoAnswer) as lost:
                self._end()
                raise Lost(str(lost)) from lost
            if isinstance(answer, NotOk) and answer.failure.out_of_memory:
                self._end()  # who knows what else it could not do
            return answer

    def _started(self) -> Child:
        child = self._child
        if child is not None and self._imports < LIFE and child.is_fit():
            return child
        self._end()
        if self._is_closed:
            raise OpenRemUnreachable(Reason.WORKER_WONT_START, "it was ended")
        child = self._child = self._start()
        self._imports = 0
        self._kill_if_closed(child)
        try:
            greeting = answers.read(child.greeting(START_S), Ready, 0)
        except (Lost, NoAnswer) as lost:
            detail = _exception_in(child.last_words()) or str(lost)
            self._end()
            raise OpenRemUnreachable(Reason.WORKER_WONT_START, detail) from lost
        if isinstance(greeting, NotOk):
            self._end()
            raise OpenRemUnreachable(Reason.WORKER_WONT_START, detail_of(greeting.failure))
        child.keep_no_words()
        return child

    def _kill_if_closed(self, child: Child) -> None:
        """It was closed in the very moment of its start, and nobody else would end it."""
        if self._is_closed:
            child.kill()

    def _start(self) -> Child:
        try:
            return Child(self._command, self._environment)
        except OSError as error:
            detail = f"{self._command[0]}: {error.strerror}"
            raise OpenRemUnreachable(Reason.WORKER_WONT_START, detail) from error

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


def _facts_of(answer: StudyHeldOf) -> dict[str, Facts]:
    """What the answer on a study says of each of its images."""
    views: dict[tuple[bool, ...], tuple[StudyHeld, ...]] = {}  # there are thousands of images
    found: dict[str, Facts] = {}
    known = set(answer.before)  # and of two copies of one image, the second is known, too
    for name, image in answer.images.items():
        uid = image.sop_instance_uid
        has_it = tuple(uid in recorded for recorded in answer.recorded)
        if has_it not in views:
            pairs = zip(answer.studies, has_it, strict=True)
            views[has_it] = tuple(replace(study, has_sop=has) for study, has in pairs)
        found[name] = Facts(
            content=FileContent(
                sop_class_uid=image.sop_class_uid,
                sop_instance_uid=uid,
                study_uid=image.study_uid,
                event_uids=answer.event_uids,
                exposures=(),
            ),
            studies=views[has_it],
            already=uid in known,
            warnings=answer.warnings,
        )
        known.add(uid)
    return found


def _exception_in(words: Sequence[str]) -> str:
    """The type of the exception that ended it; its text may hold anything, so not that."""
    if not any(line.startswith("Traceback (") for line in words):
        return ""
    for line in reversed(words):
        if found := _EXCEPTION.match(line):
            return found[1]
    return ""


def _inherited() -> dict[str, str]:
    """Our own environment, less what would lead OpenREM's interpreter to our packages."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("PYTHON") and key not in ("VIRTUAL_ENV", "DJANGO_SETTINGS_MODULE")
    }


def detail_of(failure: Failure) -> str:
    """What may be told of a failure: type, SQLSTATE, and its words where no file is involved."""
    kind = failure.exception.rpartition(".")[2]
    state = f" {failure.sqlstate}" if failure.sqlstate else ""
    told = f"{kind}{state}: {failure.text}" if failure.text else f"{kind}{state} in {failure.at}"
    words = words_of(failure.sqlstate)
    return f"{words}; {told}" if words else told


def _as_outage(failure: Failure) -> tuple[Reason, str]:
    """Whatever stops a greeting is OpenREM's trouble, not a file's."""
    reason = reason_of(failure)
    if reason is Reason.OUT_OF_MEMORY:
        reason = Reason.WORKER_WONT_START
    elif reason.kind is not Kind.OUTAGE:
        reason = Reason.DATABASE_NOT_READY
    return reason, detail_of(failure)
