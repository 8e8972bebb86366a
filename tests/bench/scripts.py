"""OpenREM's scripts, called for each file as Conquest does, with Redis and OpenREM's Huey."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingest.model import Importer
from ingest.openrem.site import query
from tests.bench import meter
from tests.bench.mixes import Work
from tests.bench.place import Place
from tests.bench.runner import Runner

REDIS = "redis-server"
_POLL_S = 0.2  # each look starts a psql
_SCRIPTS = {
    Importer.RDSR: "openrem_rdsr.py",
    Importer.MG: "openrem_mg.py",
    Importer.DX: "openrem_dx.py",
    Importer.NM: "openrem_nm.py",
    Importer.CTPHILIPS: "openrem_ctphilips.py",
}


def is_there() -> bool:
    """Whether Redis is installed here."""
    return shutil.which(REDIS) is not None


@dataclass(slots=True, kw_only=True)
class Huey:
    """OpenREM's consumers, and the way to its scripts."""

    place: Place
    environment: Mapping[str, str]
    failed_before: int = 0

    def warm(self, work: Sequence[Work]) -> None:
        """See `Running`."""
        self.feed(work[:6])
        self.failed_before = self._tasks("NOT completed_successfully")

    def feed(self, work: Sequence[Work]) -> None:
        """See `Running`: the scripts only queue the work, so it isn't done when they end."""
        enough = self._tasks("complete") + len(work)
        for one in work:
            subprocess.run(
                [
                    self.place.site.python,
                    self.place.site.python.with_name(_SCRIPTS[one.importer]),
                    one.path,
                ],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
            )
        meter.wait_for(
            lambda: self._tasks("complete") >= enough, "all tasks are over", poll_s=_POLL_S
        )

    def cpu_s(self) -> None:
        """See `Running`: all of it is OpenREM."""

    def failed(self) -> int:
        """See `Running`."""
        return self._tasks("NOT completed_successfully") - self.failed_before

    def _tasks(self, which: str) -> int:
        sql = f"SELECT count(*) FROM remapp_backgroundtask WHERE {which}"
        return int(query(self.place.site, sql, self.place.database)[0][0])


@contextmanager
def _started(place: Place) -> Iterator[Huey]:
    environment = {**os.environ, **place.site.environment(place.database)}
    with _redis(place.folder) as port:
        environment |= {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port)}
        command: list[str | Path] = [place.site.python, place.site.package / "manage.py"]
        with _process([*command, "run_huey"], place.folder / "huey.log", environment):
            yield Huey(place=place, environment=environment)


@contextmanager
def _redis(folder: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [REDIS, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    with _process(command, folder / "redis.log", os.environ):
        meter.wait_for(lambda: _answers(port), "Redis is up")
        yield port


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@contextmanager
def _process(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError(log.read_text(encoding="utf-8", errors="replace"))
    finally:
        process.terminate()
        process.wait()


SCRIPTS = Runner(name="OpenREM's scripts with Redis and Huey", started=_started)
