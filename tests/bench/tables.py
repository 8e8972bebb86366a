"""Shows what was measured as the Markdown that README has."""

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from ingest.openrem.install import OPENREM
from ingest.openrem.site import Site, query
from tests.bench.archive import Pass
from tests.bench.headers import Cost
from tests.bench.intake import Taken
from tests.bench.latency import Latency
from tests.bench.memory import Weight
from tests.bench.mixes import Mix
from tests.bench.pipeline import Summary
from tests.bench.place import Rows


def machine(site: Site) -> str:
    """What all of it was measured on."""
    cpu = _line_of("/proc/cpuinfo", "model name")
    memory = int(_line_of("/proc/meminfo", "MemTotal").split()[0]) / 2**20
    server = query(site, "SHOW server_version", "postgres")[0][0]
    fsync = query(site, "SHOW fsync", "postgres")[0][0]
    return (
        f"Measured on {os.cpu_count()} shared cores ({cpu}), {memory:.0f} GiB, Linux "
        f"{platform.release()}, Python {platform.python_version()}, PostgreSQL {server} on the "
        f"same cores (fsync {fsync}), OpenREM {OPENREM}."
    )


def pipeline(
    mix: Mix, summaries: Sequence[Summary], *, reference: Rows, scripts: str, loop: str
) -> str:
    """One mix: the speed of each way, beside that of OpenREM's scripts and of its functions."""
    by_name = {summary.runner: summary for summary in summaries}
    rounds = len(summaries[0].runs)
    rows = [
        (
            summary.runner,
            _speed(summary),
            _times(summary, by_name.get(scripts)),
            _times(summary, by_name.get(loop)),
            "" if summary.cpu_ms is None else f"{summary.cpu_ms:.1f} ms",
            _came_of(summary, reference),
        )
        for summary in summaries
    ]
    head = (
        *("objects a second:", "median (range)", "against scripts"),
        *("against the loop", "CPU a file beside OpenREM", "OpenREM then holds"),
    )
    words = (
        f"**{mix.name}**: {mix.what}; {summaries[0].runs[0].objects} objects, "
        f"{rounds} round{'s' if rounds > 1 else ''} in turns."
    )
    return f"{words}\n\n{table(head, rows)}"


def intake(taken: Sequence[Taken]) -> str:
    """Files a second, and what each costs."""
    head = ("intake alone", "files a second", "CPU a file", "files seen")
    rows = [
        (one.by, f"{one.speed:,.0f}", f"{one.cpu_us:,.0f} µs", f"{one.files:,} of {one.sent:,}")
        for one in taken
    ]
    return table(head, rows)


def headers(costs: Sequence[Cost]) -> str:
    """CPU for one look."""
    rows = [(cost.what, f"{cost.ms:.2f} ms") for cost in costs]
    return table(("header and completeness", "CPU a file"), rows)


def latency(latencies: Sequence[Latency]) -> str:
    """Medians."""
    head = ("from close to …", "import begun, median", "95 of 100 below", "proven, median")
    rows = [
        (
            one.what,
            f"{one.begun_ms:.0f} ms",
            f"{one.begun_95_ms:.0f} ms",
            f"{one.proven_ms:.0f} ms",
        )
        for one in latencies
    ]
    return table(head, rows)


def memory(weights: Sequence[Weight]) -> str:
    """Against the number of files."""
    rows = [(f"{one.files:,}", f"{one.now_mib:.1f}", f"{one.peak_mib:.1f}") for one in weights]
    return table(("files that wait", "memory (MiB)", "at most"), rows)


def archive(passes: Sequence[Pass]) -> str:
    """Against the number of files."""
    head = ("`import` of", "files", "files a second", "CPU a file beside OpenREM", "memory (MiB)")
    rows = [
        (
            one.kind,
            f"{one.files:,}",
            f"{one.speed:,.0f}",
            f"{one.cpu_ms:.1f} ms",
            f"{one.peak_mib:.1f}",
        )
        for one in passes
    ]
    return table(head, rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _speed(summary: Summary) -> str:
    slowest, fastest = summary.speeds
    return f"{summary.speed:.2f} ({slowest:.2f} to {fastest:.2f})"


def _times(summary: Summary, other: Summary | None) -> str:
    return "" if other is None else f"{summary.times(other):.1f} times"


def _came_of(summary: Summary, reference: Rows) -> str:
    wrong = [run for run in summary.runs if run.rows != reference or run.failed]
    if not wrong:
        return f"all {reference.studies} studies, {reference.events} events"
    worst = max(wrong, key=lambda run: (abs(run.rows.events - reference.events), run.failed))
    return (
        f"**wrong** in {len(wrong)} of {len(summary.runs)} rounds; the worst: "
        f"{worst.rows.studies} of {reference.studies} studies, {worst.rows.events} of "
        f"{reference.events} events, {worst.failed} failed, "
        f"{worst.rows.double_scanners} scanners twice"
    )


def _line_of(path: str, key: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "unknown"
