"""openrem-ingest as a user runs it: files in a drop folder, until they are proven and deleted."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import meter
from tests.bench.mixes import Work
from tests.bench.place import Place
from tests.bench.runner import Runner
from tests.system.harness import Service, files_below

_HANDFUL = 6
FOLDERS = ("drop", "state", "failed")


@dataclass(slots=True, kw_only=True)
class Drop:
    """A drop folder with a running service."""

    folder: Path
    state: Path
    quarantine: Path
    service: Service
    workers: int

    def warm(self, work: Sequence[Work]) -> None:
        """See `Running`: until all its workers have been needed."""
        for at in range(0, len(work), _HANDFUL):
            self.feed(work[at : at + _HANDFUL])
            if len(self.service.workers()) == self.workers:
                return
        raise RuntimeError("not all workers were needed: more must be fed to warm them")

    def feed(self, work: Sequence[Work]) -> None:
        """See `Running`: until all are deleted."""
        for one in work:
            os.rename(one.path, self.folder / one.path.name)
        meter.wait_for(lambda: self.service.has_ended() or self._is_empty(), "all are imported")
        if self.service.has_ended():
            raise RuntimeError(self.service.log())

    def cpu_s(self) -> float:
        """See `Running`."""
        return meter.cpu_s(self.service.process.pid)

    def failed(self) -> int:
        """See `Running`."""
        return sum(not name.endswith(b".why.json") for name in files_below(self.quarantine))

    def _is_empty(self) -> bool:
        return not files_below(self.folder)


def with_workers(workers: int) -> Runner:
    """Name the service with so many workers."""

    @contextmanager
    def started(place: Place) -> Iterator[Drop]:
        with a_service(place, workers=workers) as drop:
            drop.service.ready()
            yield drop

    name = "openrem-ingest, 1 worker" if workers == 1 else f"openrem-ingest, {workers} workers"
    return Runner(name=name, started=started)


def configure(place: Place, *, workers: int, interpreter: str = "") -> Path:
    """Write a configuration as README has it, and make its drop folder. See `a_service`."""
    folder, state, quarantine = (place.folder / name for name in FOLDERS)
    folder.mkdir(exist_ok=True)
    config = place.folder / "openrem-ingest.toml"
    environment = place.site.environment(place.database)
    lines = [
        f'state_dir = "{state}"',
        f'[openrem]\npython = "{interpreter or place.site.python}"\nworkers = {workers}',
        "[openrem.env]",
        *(f"{key} = {json.dumps(value)}" for key, value in environment.items()),
        f'[[drop]]\npath = "{folder}"',
        f'[quarantine]\npath = "{quarantine}"',
    ]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return config


@contextmanager
def a_service(place: Place, *, workers: int, interpreter: str = "") -> Iterator[Drop]:
    """Start it with a configuration as README has it. No longer than inside.

    Args:
        place: where.
        workers: how many.
        interpreter: OpenREM's, if it isn't the real one.
    """
    config = configure(place, workers=workers, interpreter=interpreter)
    folder, state, quarantine = (place.folder / name for name in FOLDERS)
    log = place.folder / "run.stderr"
    with log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "ingest", "run", "--config", config],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
    service = Service(process, log)
    try:
        service.started()
        yield Drop(
            folder=folder, state=state, quarantine=quarantine, service=service, workers=workers
        )
        service.stop()
    finally:
        if not service.has_ended():
            service.kill()
