"""The whole way of a file into OpenREM: this service beside what OpenREM itself offers."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ingest.openrem.site import Site
from tests.bench import mixes
from tests.bench.mixes import Mix
from tests.bench.place import Rows, a_place, corpus_of
from tests.bench.runner import Runner

_WARMINGS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way, once."""

    runner: str
    objects: int
    seconds: float
    cpu_ms: float | None  # a file, of all that isn't OpenREM
    rows: Rows
    failed: int

    @property
    def speed(self) -> float:
        """Objects a second."""
        return self.objects / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One way, several times."""

    runner: str
    runs: tuple[Run, ...]

    @property
    def speed(self) -> float:
        """Objects a second, the median."""
        return median(run.speed for run in self.runs)

    @property
    def speeds(self) -> tuple[float, float]:
        """The slowest and the fastest."""
        all_of_them = sorted(run.speed for run in self.runs)
        return all_of_them[0], all_of_them[-1]

    def times(self, other: "Summary") -> float:
        """How often it is as fast as another, the median of the rounds.

        Whatever else the machine does meets the runs of one round more alike than all.
        """
        pairs = zip(self.runs, other.runs, strict=True)
        return median(one.speed / another.speed for one, another in pairs)

    @property
    def cpu_ms(self) -> float | None:
        """The median."""
        known = [run.cpu_ms for run in self.runs if run.cpu_ms is not None]
        return median(known) if known else None


def compare(
    site: Site,
    mix: Mix,
    runners: Sequence[Runner],
    folder: Path,
    *,
    studies: int,
    rounds: int,
    progress: Callable[[str], None],
) -> list[Summary]:
    """Run all ways in turns, so that whatever else the machine does meets all of them."""
    runs: list[Run] = []
    for number in range(rounds):
        for runner in runners:
            run = run_once(site, mix, runner, folder / "run", studies=studies)
            progress(
                f"{mix.name}, round {number + 1} of {rounds}: {run.runner}: "
                f"{run.speed:.2f} objects a second"
            )
            runs.append(run)
    return [
        Summary(runner=runner.name, runs=tuple(run for run in runs if run.runner == runner.name))
        for runner in runners
    ]


def run_once(site: Site, mix: Mix, runner: Runner, folder: Path, *, studies: int) -> Run:
    """One run in a fresh database."""
    with a_place(site, folder) as place:
        corpus = corpus_of(site)
        warming = mixes.lay_out(mixes.warming(corpus), folder / "warming", _WARMINGS)
        work = mixes.lay_out(mix, folder / "work", studies)
        with runner.started(place) as running:
            running.warm(warming)
            before, cpu_before, began = place.rows(), running.cpu_s(), time.monotonic()
            running.feed(work)
            seconds = time.monotonic() - began
            cpu_after = running.cpu_s()
            run = Run(
                runner=runner.name,
                objects=len(work),
                seconds=seconds,
                cpu_ms=(
                    (cpu_after - cpu_before) * 1000 / len(work)
                    if cpu_before is not None and cpu_after is not None
                    else None
                ),
                rows=place.rows().since(before),
                failed=running.failed(),
            )
    shutil.rmtree(folder)
    return run
