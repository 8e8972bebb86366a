"""The bench's ways into OpenREM, with a handful of files: what they come to is the same.

OpenREM's scripts are left out, as they need Redis.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.openrem.site import Site
from tests.bench import archive, bare, headers, intake, latency, memory, mixes, ours, tables
from tests.bench.pipeline import Run, Summary, run_once
from tests.bench.place import Rows
from tests.bench.runner import Runner

# Enough to see that a part works, and no more: nothing is measured here.
MIXED = ["CT-RDSR-Philips_BigBore4DCT.dcm", "DX-Im-GE_XR220-1.dcm", "MG-Im-GE-SenDS-scaled.dcm"]
STUDIES = 2
FILES = 20
BACKLOG = 30
PUT = 3

SOUND = Rows(studies=2, events=8, double_scanners=0)


@pytest.mark.parametrize(
    "runner", [ours.with_workers(1), bare.in_processes(1)], ids=lambda runner: runner.name
)
def test_openrem_holds_all_after_a_run(
    runner: Runner, site: Site, corpus: dict[str, Path], tmp_path: Path
) -> None:
    mix = mixes.small(corpus[name] for name in MIXED)

    run = run_once(site, mix, runner, tmp_path / "run", studies=STUDIES)

    assert (run.objects, run.failed) == (len(MIXED) * STUDIES, 0)
    assert (run.rows.studies, run.rows.double_scanners) == (len(MIXED) * STUDIES, 0)
    assert run.seconds > 0
    assert (run.cpu_ms is None) == (runner.name == bare.in_processes(1).name)


def test_the_intake_and_its_yardsticks_see_all_files(site: Site, tmp_path: Path) -> None:
    taken = intake.measure(site, tmp_path, FILES)

    assert [one.files for one in taken] == [FILES, FILES, FILES]
    assert all(one.speed > 0 for one in taken)


def test_each_file_has_its_latency(site: Site, tmp_path: Path) -> None:
    for one in latency.measure(site, tmp_path, PUT):
        assert len(one.begun) == len(one.proven) == PUT
        assert all(proven > begun for begun, proven in zip(one.begun, one.proven, strict=True))


def test_a_look_costs_something_whatever_the_size(corpus: dict[str, Path], tmp_path: Path) -> None:
    costs = headers.of_corpus([corpus[name] for name in MIXED])
    costs += headers.by_size(corpus[intake.OBJECT], tmp_path, [1])

    assert len(costs) == 5
    assert all(cost.ms > 0 for cost in costs)


def test_memory_is_read_once_all_files_wait(site: Site, tmp_path: Path) -> None:
    (weight,) = memory.measure(site, tmp_path, [BACKLOG], lambda _words: None)

    assert weight.files == BACKLOG
    assert 0 < weight.now_mib <= weight.peak_mib


def test_an_archive_is_imported_once_and_then_looked_up(site: Site, tmp_path: Path) -> None:
    (one,) = archive.measure(site, tmp_path, [BACKLOG], lambda _words: None, [archive.HELD])

    assert one.files == BACKLOG
    assert min(one.speed, one.cpu_ms, one.peak_mib) > 0
    (said,) = tmp_path.rglob("import.err")
    assert re.search(rf"already there\W+{BACKLOG}\b", said.read_text(encoding="utf-8"))


def test_what_is_missing_or_double_is_shown() -> None:
    spoilt = [
        Rows(studies=2, events=7, double_scanners=0),
        Rows(studies=2, events=8, double_scanners=1),
    ]
    for rows in spoilt:
        assert "**wrong** in 1 of 2 rounds" in shown(rows, failed=0)
    assert "1 failed" in shown(SOUND, failed=1)
    assert "wrong" not in shown(SOUND, failed=0)


def shown(rows: Rows, *, failed: int) -> str:
    """The table of two runs, of which the second came to this."""
    runs = tuple(
        Run(runner="a", objects=8, seconds=2.0, cpu_ms=None, rows=rows, failed=failed)
        for rows, failed in ((SOUND, 0), (rows, failed))
    )
    mix = mixes.Mix(name="some", what="some objects", patterns=())
    summaries = [Summary(runner="a", runs=runs)]
    return tables.pipeline(mix, summaries, reference=SOUND, scripts="b", loop="a")


def test_two_ways_are_compared_round_by_round() -> None:
    def summary(*seconds: float) -> Summary:
        runs = (
            Run(runner="a", objects=6, seconds=one, cpu_ms=None, rows=SOUND, failed=0)
            for one in seconds
        )
        return Summary(runner="a", runs=tuple(runs))

    busy_at_the_end, twice_as_slow = summary(1.0, 1.0, 6.0), summary(2.0, 2.0, 12.0)

    assert busy_at_the_end.times(twice_as_slow) == 2.0
    assert busy_at_the_end.speed == 6.0
    assert busy_at_the_end.speeds == (1.0, 6.0)


def test_the_bench_says_that_redis_is_missing_and_fails() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "intake", "images"],
        env={"PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("redis-server is missing")
    assert done.stderr.count("\n") == 1
