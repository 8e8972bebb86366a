"""What OpenREM is asked for in batches, and what it is taken for."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ingest import known
from ingest.known import Known
from ingest.ledger import Ledger
from ingest.model import Importer, Job, Recordable, Snapshot
from tests.strategies import a_header

DROPS = ("sr", "dx")


class Asked(SimpleNamespace):
    """Says what it has recorded, and remembers what it was asked for."""

    def __init__(self, *has: str) -> None:
        super().__init__(has=set(has), asked=[])

    def recorded(self, objects: Sequence[Recordable]) -> Collection[Recordable]:
        """As OpenREM."""
        self.asked.append(list(objects))
        return [one for one in objects if one.sop_instance_uid in self.has]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as opened:
        yield opened


def ready(ledger: Ledger, count: int) -> list[Job]:
    """So many objects that wait for their import, the youngest study first."""
    jobs = []
    for number in range(count):
        inode = Snapshot(device=1, inode=number, size=1, mtime_ns=1, ctime_ns=1)
        path = b"/drop/%d" % number
        job = ledger.see(drop=DROPS[number % 2], path=path, snapshot=inode, now=1.0)
        header = a_header(sop_instance_uid=f"1.{number}", study_uid=f"2.{number}")
        order = f"{count - number:05}"
        ledger.ready(job, header=header, importer=Importer.DX, order=order, now=1.0)
        jobs.append(ledger.get(job.id))
    return jobs


def maybe_held(seen: Known, jobs: Sequence[Job], openrem: Any) -> list[bytes]:  # noqa: ANN401
    """Those that are looked up first, one after the other."""
    return [job.path for job in jobs if seen.may_be_held(job, DROPS, openrem)]


def test_all_that_wait_are_asked_for_at_once(ledger: Ledger) -> None:
    jobs, openrem = ready(ledger, 50), Asked("1.3", "1.4")
    seen = Known(ledger)

    held = maybe_held(seen, jobs, openrem)

    assert held == [b"/drop/3", b"/drop/4"]
    ((first, *_),) = openrem.asked
    assert len(openrem.asked[0]) == 50
    assert first.sop_instance_uid == "1.0"


def test_for_a_few_nothing_is_asked(ledger: Ledger) -> None:
    """Objects that come one by one are new."""
    jobs, openrem = ready(ledger, known.FEW - 1), Asked("1.3")
    seen = Known(ledger)

    assert maybe_held(seen, jobs, openrem) == []
    assert openrem.asked == []


def test_what_is_remembered_is_one_batch(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "BATCH", 5)
    monkeypatch.setattr(known, "FEW", 0)
    jobs, openrem = ready(ledger, 40), Asked("1.0", "1.39")
    seen = Known(ledger)

    held = maybe_held(seen, jobs, openrem)

    assert held == [b"/drop/0", b"/drop/39"]
    assert len(seen._answers) <= 2 * 5 + 1


def test_a_table_of_sizes_is_no_object(ledger: Ledger) -> None:
    (job,), openrem = ready(ledger, 1), Asked()
    assert maybe_held(Known(ledger), [replace(job, header=None)], openrem) == []
