"""OpenREM's extractor functions alone, called in a loop: without queue, start-up or sleeps.

Nothing in OpenREM is faster, and nothing in it is safe: it proves nothing, a stop leaves
half a study behind, and two processes spoil each other's rows.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tests.contract
from tests.bench.mixes import Work
from tests.bench.place import Place
from tests.bench.runner import Runner

_SIDE = Path(tests.contract.__file__ or "").with_name("openrem_side.py")


@dataclass(slots=True, kw_only=True)
class Loops:
    """Processes of OpenREM's interpreter, each with a part of the files."""

    processes: list[subprocess.Popen[str]]
    failures: list[int] = field(default_factory=list)

    def warm(self, work: Sequence[Work]) -> None:
        """See `Running`: one after the other, so that they don't spoil each other's rows yet."""
        count = len(self.processes)
        for number in range(count):
            self._tell(number, work[number::count])
            self._hear(number)

    def feed(self, work: Sequence[Work]) -> None:
        """See `Running`."""
        count = len(self.processes)
        for number in range(count):
            self._tell(number, work[number::count])
        self.failures += [self._hear(number) for number in range(count)]

    def cpu_s(self) -> None:
        """See `Running`: all of it is OpenREM."""

    def failed(self) -> int:
        """See `Running`."""
        return sum(self.failures)

    def _tell(self, number: int, work: Sequence[Work]) -> None:
        line = json.dumps([(one.importer.value, str(one.path)) for one in work])
        pipe = self.processes[number].stdin
        if pipe is not None:
            pipe.write(line + "\n")
            pipe.flush()

    def _hear(self, number: int) -> int:
        pipe = self.processes[number].stdout
        return int(pipe.readline() if pipe is not None else "")


def in_processes(count: int) -> Runner:
    """Name the loop in so many processes."""

    @contextmanager
    def started(place: Place) -> Iterator[Loops]:
        with (place.folder / "loops.stderr").open("wb") as err:
            processes = [
                subprocess.Popen(
                    [place.site.python, _SIDE, "loop"],
                    env={**os.environ, **place.site.environment(place.database)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=err,
                    text=True,
                )
                for _ in range(count)
            ]
        try:
            yield Loops(processes=processes)
        finally:
            for process in processes:
                process.communicate()  # its input ends, and so does it

    name = "the functions in a loop" if count == 1 else f"the same in {count} processes"
    return Runner(name=name, started=started)
