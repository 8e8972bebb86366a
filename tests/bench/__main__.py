"""Measures openrem-ingest beside OpenREM's own import, and prints the tables of README.

python -m tests.bench [--quick | --deep] [small] [large] [images] [intake] ...
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from ingest.openrem.site import Site
from tests.bench import (
    archive,
    bare,
    headers,
    intake,
    latency,
    memory,
    mixes,
    ours,
    pipeline,
    scripts,
    tables,
)
from tests.bench.mixes import Mix
from tests.bench.place import a_site, corpus_of

LOOP = bare.in_processes(1)
RUNNERS = (
    ours.with_workers(1),
    ours.with_workers(2),
    scripts.SCRIPTS,
    LOOP,
    bare.in_processes(2),
)
WITH_SCRIPTS = ("small", "large", "images")
PARTS = (*WITH_SCRIPTS, "intake", "headers", "latency", "memory", "archive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much of each is measured."""

    rounds: int
    studies: int  # of each object of the small mix
    large: int  # the same of the large one
    images: int
    intake: int  # files
    latency: int
    backlogs: tuple[int, ...]
    archives: tuple[int, ...]


QUICK = Effort(
    rounds=1,
    studies=1,
    large=1,
    images=1,
    intake=2000,
    latency=15,
    backlogs=(1000, 10_000),
    archives=(500,),
)
NORMAL = Effort(
    rounds=3,
    studies=2,
    large=1,
    images=1,
    intake=5000,
    latency=60,
    backlogs=(1000, 10_000, 100_000),
    archives=(5000, 20_000),
)
DEEP = Effort(
    rounds=5,
    studies=4,
    large=2,
    images=2,
    intake=5000,
    latency=200,
    backlogs=(1000, 10_000, 100_000, 1_000_000),
    archives=(5000, 100_000),
)
SIZES_MIB = (1, 10, 50, 200)


def say(words: str) -> None:
    """Tell how far it is; the tables alone go to stdout."""
    click.echo(words, err=True)


def measure(part: str, site: Site, folder: Path, effort: Effort) -> str:
    """The table of one part."""
    corpus = corpus_of(site)
    match part:
        case "small" | "large" | "images":
            mix, studies = {
                "small": (mixes.small, effort.studies),
                "large": (mixes.large, effort.large),
                "images": (mixes.images, effort.images),
            }[part]
            found = _pipeline(mix(corpus), studies, site, folder, effort)
        case "intake":
            found = tables.intake(intake.measure(site, folder, effort.intake))
        case "headers":
            image = next(path for path in corpus if path.name == intake.OBJECT)
            costs = headers.of_corpus(corpus) + headers.by_size(image, folder, SIZES_MIB)
            found = tables.headers(costs)
        case "latency":
            found = tables.latency(latency.measure(site, folder, effort.latency))
        case "memory":
            found = tables.memory(memory.measure(site, folder, effort.backlogs, say))
        case "archive":
            found = tables.archive(archive.measure(site, folder, effort.archives, say))
        case _:
            raise click.UsageError(f"there is no part {part}: choose from {', '.join(PARTS)}")
    return found


def _pipeline(mix: Mix, studies: int, site: Site, folder: Path, effort: Effort) -> str:
    summaries = pipeline.compare(
        site, mix, RUNNERS, folder, studies=studies, rounds=effort.rounds, progress=say
    )
    (loop,) = (one for one in summaries if one.runner == LOOP.name)
    return tables.pipeline(
        mix,
        summaries,
        reference=loop.runs[0].rows,
        scripts=scripts.SCRIPTS.name,
        loop=LOOP.name,
    )


@click.command(help=__doc__)
@click.option("--quick", "effort", flag_value="quick", help="Once, and little of each.")
@click.option("--deep", "effort", flag_value="deep", help="More of each; takes hours.")
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
def main(effort: str | None, parts: tuple[str, ...]) -> None:
    """Measure these parts, or all."""
    wanted = parts or PARTS
    if not scripts.is_there() and set(wanted) & set(WITH_SCRIPTS):
        say(f"{scripts.REDIS} is missing: OpenREM's scripts can't be measured without it")
        sys.exit(1)
    chosen = {"quick": QUICK, "deep": DEEP, None: NORMAL}[effort]
    with a_site(say) as site, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        click.echo(tables.machine(site))
        for part in wanted:
            say(f"measuring: {part}")
            click.echo("\n" + measure(part, site, Path(folder) / part, chosen))


if __name__ == "__main__":
    main()
