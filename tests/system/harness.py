"""Real processes on real folders: a set-up of drop folders, the service, and what became of it.

Nothing here waits for a time: it waits for a condition, and gives up at a deadline. Each process
that is started is ended by its own handle.
"""

import io
import itertools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import UID

from ingest.dispose import why_of
from ingest.openrem.postgres import PORT
from ingest.openrem.site import Site, create_database, drop_database, query

SAMPLES = Path(__file__).resolve().parents[2] / "sample_data"
EXPECT = {"mammo": "mg", "dx": "dx", "sr": "rdsr"}
DEADLINE_S = 90.0  # for what takes a few seconds on an idle machine
END_S = 10.0  # the service promises to end within it
_POLL_S = 0.05

# Who may do everything can't be refused anything: root gives up those rights before it becomes
# the service. Run before the program, with the rights' numbers (capability(7)) as arguments.
_WITHOUT_RIGHTS = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for number in (1, 2, 3, 4, 28):
    if libc.prctl(24, number, 0, 0, 0):
        sys.exit("can't give up a right")
os.execv(sys.argv[1], sys.argv[1:])
"""


def until(condition: Callable[[], object], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Wait until the condition holds; fail with ``what`` if it does not in time."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        threading.Event().wait(_POLL_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its stdout as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def checked(text: str) -> str:
    """Whatever happens, nobody ever sees a traceback."""
    assert "Traceback" not in text, text
    return text


@dataclass(slots=True)
class Service:
    """A running `openrem-ingest run`."""

    process: subprocess.Popen[bytes]
    log_file: Path

    def log(self) -> str:
        """All of its stderr so far."""
        return checked(self.log_file.read_text(encoding="utf-8", errors="replace"))

    def events(self) -> list[dict[str, Any]]:
        """Its log so far, less a line that is just being written."""
        return [json.loads(line) for line in self.log().splitlines() if line.endswith("}")]

    def has_said(self, event: str) -> bool:
        """Whether the log has this event."""
        return any(line["event"] == event for line in self.events())

    def ready(self) -> Self:
        """Wait until OpenREM has answered it."""
        until(lambda: self.has_said("openrem.ready") or self.has_ended(), "the service is ready")
        return self

    def started(self) -> Self:
        """Wait until it can be told to stop."""
        until(lambda: self.has_said("service.started") or self.has_ended(), "it has started")
        return self

    def imports_something(self) -> None:
        """Wait until it has imported a file."""
        until(lambda: self.has_said("file.imported"), "a file is imported")

    def imports(self, content: bytes) -> None:
        """Wait until it has dealt with this object to the end."""
        uid = sop_uid(content)
        until(
            lambda: any(
                line["event"] == "file.imported" and line["sop_instance_uid"] == uid
                for line in self.events()
            ),
            "the object is imported",
        )

    def has_ended(self) -> bool:
        """Whether it ended by itself."""
        return self.process.poll() is not None

    def runs_for(self, seconds: float) -> None:
        """Let it run for a moment, or less if it ends; to choose when a signal comes."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def workers(self) -> list[int]:
        """The processes of OpenREM that it has now."""
        pid = self.process.pid
        return [int(child) for child in _children(pid)]

    def stop(self, number: int = signal.SIGTERM) -> str:
        """End it as systemd does; it has to comply in time, with exit code 0. Its log."""
        if not self.has_ended():
            self.process.send_signal(number)
        code = self.process.wait(END_S)
        assert code == 0, (code, self.log())
        return self.log()

    def kill(self) -> str:
        """End it without a chance to put anything in order. Its log."""
        self.process.kill()
        self.process.wait()
        return self.log()


def _children(pid: int) -> list[str]:
    found: list[str] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                found += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    return found


@dataclass(slots=True, kw_only=True)
class Ground:
    """Drop folders with their configuration, and the OpenREM behind them."""

    root: Path
    site: Site
    database: str
    after: str = "delete"
    incomplete_after: float = 4.0
    env: dict[str, str] = field(default_factory=dict)  # OpenREM's, if not the usual
    python: Path | None = None  # OpenREM's interpreter, if not the usual
    openrem: str = ""  # further lines of [openrem]
    retry: str = ""  # further lines of [retry]
    tables: str = ""  # further tables of the configuration
    services: list[Service] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the folders and the configuration."""
        for name in EXPECT:
            self.drop(name).mkdir(parents=True, exist_ok=True)
        self.configure()

    # -- folders -----------------------------------------------------------------------------

    def drop(self, name: str) -> Path:
        """A drop folder."""
        return self.root / "dosedata" / name

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.root / "state"

    @property
    def config(self) -> Path:
        """The configuration's file."""
        return self.root / "openrem-ingest.toml"

    @property
    def failed(self) -> Path:
        """The quarantine."""
        return self.root / "dosedata" / "failed"

    @property
    def archive(self) -> Path:
        """Where imported files go with after = "archive"."""
        return self.root / "archive"

    def configure(self) -> None:
        """Write the configuration."""
        env = self.env or self.site.environment(self.database)
        lines = [
            f'state_dir = "{self.state}"',
            "[settle]",
            f"quiet = 0.5\nincomplete_after = {self.incomplete_after}\ntidy_after = 1.0",
            "[sweep]\nquick = 0.5\nfull = 5.0",
            f"[retry]\ninitial = 0.2\nmaximum = 2.0\n{self.retry}",
            f'[quarantine]\npath = "{self.failed}"',
            self.tables,
            f'[openrem]\npython = "{self.python or self.site.python}"',
            self.openrem,
            "[openrem.env]",
            *(f"{key} = {json.dumps(value)}" for key, value in env.items()),
        ]
        for name, expect in EXPECT.items():
            lines += [f'[[drop]]\npath = "{self.drop(name)}"\nexpect = ["{expect}"]']
            lines += [f'after = "{self.after}"\narchive = "{self.archive}"']
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def put(self, name: str, file: str | bytes, content: bytes) -> bytes:
        """Put a file into a drop folder, as a sender does that writes in place. Its path."""
        path = os.path.join(os.fsencode(self.drop(name)), os.fsencode(file))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as writing:
            writing.write(content)
        return path

    def files(self) -> dict[str, list[bytes]]:
        """All that is no folder below each drop folder, claims included."""
        return {name: files_below(self.drop(name)) for name in EXPECT}

    def is_empty(self) -> bool:
        """Whether the drop folders hold no file, nor a claim."""
        return not any(self.files().values())

    def wait_for_fewer(self, name: str, most: int) -> None:
        """Wait until a drop folder has fewer files than that."""
        until(lambda: len(self.files()[name]) < most, f"fewer than {most} in {name}")

    def folders(self) -> list[Path]:
        """All folders below the drop folders."""
        return [path for path in self.root.glob("dosedata/[mds]*/**/*") if path.is_dir()]

    def is_tidy(self) -> bool:
        """Whether nothing of ours is left in the drop folders."""
        return not any((self.drop(name) / ".ingest").exists() for name in EXPECT)

    def quarantined_files(self) -> list[bytes]:
        """The files in quarantine, relative to it; not what is still being written beside them."""
        endings = (b".why.json", b".part")
        return [name for name in files_below(self.failed) if not name.endswith(endings)]

    def quarantined(self) -> dict[bytes, str]:
        """The same, with the reason written beside each."""
        return {name: self.why(name)["reason"] for name in self.quarantined_files()}

    def why(self, name: bytes) -> dict[str, Any]:
        """What is written beside a quarantined file."""
        path = os.path.join(os.fsencode(self.failed), name)
        with open(why_of(path), "rb") as file:
            answer: dict[str, Any] = json.load(file)
        assert answer["why"], answer
        assert answer["next"], answer
        return answer

    def patch_openrem(self, code: str) -> None:
        """Have OpenREM's interpreter run this before anything else; before the service starts."""
        patches = self.root / "patches"
        patches.mkdir(exist_ok=True)
        (patches / "sitecustomize.py").write_text(code, encoding="utf-8")
        self.env = {**self.site.environment(self.database), "PYTHONPATH": str(patches)}
        self.configure()

    # -- the program -------------------------------------------------------------------------

    def service(self, *, weak: bool = False, first: str = "") -> Service:
        """Start `run`.

        Args:
            weak: without the rights that only root has.
            first: what its interpreter runs before anything else.
        """
        log = self.root / f"run-{len(self.services)}.stderr"
        with log.open("wb") as err:
            process = subprocess.Popen(
                self._argv(("run",), weak=weak, first=first),
                cwd=self.root,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
            )
        service = Service(process, log)
        self.services.append(service)
        return service

    def says(
        self,
        *arguments: str | bytes | Path,
        weak: bool = False,
        config: bool = True,
        deadline_s: float = DEADLINE_S,
    ) -> Said:
        """Run a command to its end."""
        done = subprocess.run(
            self._argv(arguments, weak=weak, config=config),
            cwd=self.root,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=deadline_s,
            check=False,
        )
        out, err = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
        return Said(code=done.returncode, out=checked(out), err=checked(err))

    def demo(self, folder: Path) -> Said:
        """Run the demo, which may take minutes."""
        return self.says("demo", "--dir", folder, config=False, deadline_s=600)

    def starts(self, *arguments: str | bytes | Path, first: str = "") -> subprocess.Popen[bytes]:
        """Start a command; ``first`` is what its interpreter runs before anything else."""
        return subprocess.Popen(
            self._argv(arguments, first=first),
            cwd=self.root,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _argv(
        self,
        arguments: Sequence[str | bytes | Path],
        *,
        weak: bool = False,
        config: bool = True,
        first: str = "",
    ) -> list[str | bytes | Path]:
        program: list[str | bytes | Path] = [sys.executable, "-m", "ingest"]
        if first:
            program[1:] = ["-c", f"{first}\nfrom ingest.cli import main\nmain()"]
        if weak and os.geteuid() == 0:
            program = [sys.executable, "-c", _WITHOUT_RIGHTS, *program]
        if config:
            program += ["--config", self.config]
        return [*program, *arguments]

    def status(self, *, code: int = 0) -> dict[str, Any]:
        """What `status --json` says."""
        said = self.says("status", "--json")
        assert said.code == code, said
        (answer,) = said.lines
        return answer

    def status_reachable(self) -> bool:
        """Whether `status` calls OpenREM reachable."""
        return self.says("status", "--json").code == 0

    def folder_status(self, name: str, *, code: int = 0) -> dict[str, Any]:
        """The same of one drop folder."""
        drops = {drop["drop"]: drop for drop in self.status(code=code)["drops"]}
        answer: dict[str, Any] = drops[name]
        return answer

    def end(self) -> None:
        """End what still runs, and look through all logs."""
        for service in self.services:
            if not service.has_ended():
                service.kill()
            service.log()

    # -- OpenREM -----------------------------------------------------------------------------

    def query(self, sql: str) -> list[tuple[str, ...]]:
        """Ask OpenREM's database."""
        return query(self.site, sql, self.database)

    def number(self, sql: str) -> int:
        """The one number that a query gives."""
        return int(self.query(sql)[0][0])

    def events(self) -> int:
        """How many projection events OpenREM holds."""
        return self.number("SELECT count(*) FROM remapp_irradeventxraydata")

    def held(self) -> list[tuple[str, ...]]:
        """Each study with the number of its events, counted and as recorded."""
        return self.query(HELD)

    def holds(self, content: bytes) -> bool:
        """Whether OpenREM has recorded this object."""
        return bool(
            self.query(
                "SELECT 1 FROM remapp_objectuidsprocessed "
                f"WHERE sop_instance_uid = '{sop_uid(content)}'"
            )
        )

    def recorded(self) -> set[str]:
        """The UIDs of all studies and objects that OpenREM has recorded."""
        return {
            uid
            for (uid,) in self.query(
                "SELECT study_instance_uid FROM remapp_generalstudymoduleattr "
                "UNION SELECT sop_instance_uid FROM remapp_objectuidsprocessed"
            )
        }

    def double_scanners(self) -> int:
        """How many scanners have another row: OpenREM fails on everything that they send."""
        return self.number(
            "SELECT count(*) - count(DISTINCT to_jsonb(one) - 'id') "
            "FROM remapp_uniqueequipmentnames AS one"
        )

    # -- the ledger --------------------------------------------------------------------------

    def history(self, content: bytes) -> list[str]:
        """The states of an object since it was read, in order."""
        sql = "SELECT state FROM event WHERE sop_uid = ? ORDER BY rowid"
        return [str(state) for (state,) in self.ledger(sql, sop_uid(content))]

    def ledger(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        """Ask the ledger."""
        with closing(sqlite3.connect(self.state / "ledger.sqlite")) as connection:
            return connection.execute(sql, values).fetchall()


# Runs in OpenREM's interpreter before anything else: an import can be held at some moments.
_HOLDS = """
import json, os, sys, time
loads, dumps, sleep = json.loads, json.dumps, time.sleep
def hold(moment):
    mark = os.path.join({folder!r}, moment)
    if os.path.exists(mark):
        open(mark + " here", "w").close()
        while os.path.exists(mark):
            sleep(0.02)
def asked(line, *args, **kwargs):
    request = loads(line, *args, **kwargs)
    if isinstance(request, dict) and request.get("op") in ("import", "import-study"):
        hold("asked")
        openrem = sys.modules["__main__"].OpenREM
        plain = openrem._in_one_transaction
        def when_read(*args):
            openrem._in_one_transaction = plain
            hold("read")
            return plain(*args)
        openrem._in_one_transaction = when_read
    return request
def answered(answer, *args, **kwargs):
    if "studies" in answer:
        hold("committed")
    return dumps(answer, *args, **kwargs)
json.loads, json.dumps = asked, answered
"""


class Moments:
    """Holds imports: once OpenREM is ``asked``, has ``read`` the file, or has ``committed``."""

    def __init__(self, ground: Ground) -> None:
        """Before the service starts."""
        self._folder = ground.root / "moments"
        self._folder.mkdir()
        ground.patch_openrem(_HOLDS.format(folder=str(self._folder)))

    @contextmanager
    def hold(self, moment: str) -> Iterator[Callable[[], None]]:
        """Hold the next import at this moment until the end; gives what waits for it."""
        mark, here = self._folder / moment, self._folder / f"{moment} here"
        here.unlink(missing_ok=True)
        mark.touch()
        try:
            yield lambda: until(here.exists, f"an import is held: {moment}")
        finally:
            mark.unlink()


HELD = """
SELECT study.study_instance_uid, study.modality_type, study.number_of_events,
       (SELECT count(*) FROM remapp_irradeventxraydata AS event
        JOIN remapp_projectionxrayradiationdose AS dose
          ON event.projection_xray_radiation_dose_id = dose.id
        WHERE dose.general_study_module_attributes_id = study.id)
     + (SELECT count(*) FROM remapp_ctirradiationeventdata AS event
        JOIN remapp_ctradiationdose AS dose ON event.ct_radiation_dose_id = dose.id
        WHERE dose.general_study_module_attributes_id = study.id),
       (SELECT count(*) FROM remapp_patientmoduleattr AS patient
        WHERE patient.general_study_module_attributes_id = study.id),
       (SELECT count(DISTINCT sop_instance_uid) FROM remapp_objectuidsprocessed AS uids
        WHERE uids.general_study_module_attributes_id = study.id),
       round(study.total_dap, 8), round(study.total_dlp, 3), round(study.total_agd_left, 3),
       round(study.total_agd_right, 3)
FROM remapp_generalstudymoduleattr AS study ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
"""


def files_below(folder: Path | bytes) -> list[bytes]:
    """All that is no folder below a folder, relative to it; links are not followed."""
    root = os.fsencode(folder)
    return sorted(
        os.path.relpath(os.path.join(base, name), root)
        for base, folders, names in os.walk(root)
        for name in names + [link for link in folders if os.path.islink(os.path.join(base, link))]
    )


def _environment() -> dict[str, str]:
    """Ours, less what would change a command's answer; its tables get room in every line."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OPENREM_INGEST_") and name not in ("NO_COLOR", "FORCE_COLOR")
    }
    return {**kept, "COLUMNS": "200"}


@contextmanager
def another_database(site: Site, name: str) -> Iterator[str]:
    """A second OpenREM to compare with."""
    create_database(site, name)
    try:
        yield name
    finally:
        drop_database(site, name)


# -- objects ---------------------------------------------------------------------------------------

_number = itertools.count(1)


@cache
def sample(name: str) -> bytes:
    """A sample object's bytes."""
    return (SAMPLES / name).read_bytes()


def new_uid() -> str:
    """A UID that nobody has."""
    return f"2.25.{uuid.uuid4().int}"


def image(kind: str = "dx", *, study: str = "", **elements: str) -> bytes:
    """An image of its own: an own time of exposure, and an own study if none is given."""
    name = {"dx": "dx/dx-1.dcm", "mammo": "mammo/mammo-left.dcm"}[kind]
    return changed(sample(name), study=study, **elements)


def report(kind: str = "ct", *, study: str = "", **elements: str) -> bytes:
    """A dose report of its own study."""
    return changed(sample(f"sr/{kind}-dose-report.dcm"), study=study, **elements)


def changed(content: bytes, *, study: str = "", **elements: str) -> bytes:
    """An object with UIDs and times of its own, and with these elements."""
    dataset = dcmread(io.BytesIO(content))
    number = next(_number)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(new_uid())
    dataset.StudyInstanceUID = study or new_uid()
    if "AcquisitionTime" in dataset:
        minute, second = divmod(number, 60)
        hour, minute = divmod(minute, 60)
        clock = f"{hour % 24:02d}{minute:02d}{second:02d}.000000"
        dataset.AcquisitionTime = dataset.ContentTime = clock
    if "IrradiationEventUID" in dataset:
        dataset.IrradiationEventUID = new_uid()
    with warnings.catch_warnings(action="ignore"):  # some values are wrong on purpose
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        return written(dataset)


def written(dataset: Dataset) -> bytes:
    """An object's bytes."""
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


@cache
def sop_uid(content: bytes) -> str:
    """An object's SOP Instance UID."""
    return str(dcmread(io.BytesIO(content), stop_before_pixels=True).SOPInstanceUID)


@cache
def study_uid(content: bytes) -> str:
    """An object's Study Instance UID."""
    return str(dcmread(io.BytesIO(content), stop_before_pixels=True).StudyInstanceUID)


# -- the way to the database for a service with few rights -----------------------------------------


@contextmanager
def relay(site: Site) -> Iterator[Mapping[str, str]]:
    """Pass connections on to PostgreSQL, whose socket only its owner may reach.

    Gives what to change in OpenREM's environment.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        stop = threading.Event()
        thread = threading.Thread(target=_accept, args=(listening, site, stop))
        thread.start()
        port = listening.getsockname()[1]
        try:
            yield {"SQL_HOST": "127.0.0.1", "SQL_PORT": str(port)}
        finally:
            stop.set()
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                pass
            thread.join()


def _accept(listening: socket.socket, site: Site, stop: threading.Event) -> None:
    pumps: list[threading.Thread] = []
    while True:
        client, _ = listening.accept()
        if stop.is_set():
            client.close()
            break
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(site.server.socket_folder / f".s.PGSQL.{PORT}"))
        except OSError:
            client.close()
            server.close()
            continue
        pump = threading.Thread(target=_pump, args=(client, server))
        pump.start()
        pumps.append(pump)
    for pump in pumps:
        pump.join()


def _pump(client: socket.socket, server: socket.socket) -> None:
    """Both ways until either side ends."""
    with client, server:
        back = threading.Thread(target=_flow, args=(server, client))
        back.start()
        _flow(client, server)
        back.join()


def _flow(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
