"""How soon: from a sender's close of a file to its import, and to its proof."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from ingest.openrem.site import Site
from tests.bench import meter, mixes, ours
from tests.bench.intake import pattern_of
from tests.bench.ledgers import steps
from tests.bench.place import a_place, corpus_of

_WARMINGS = 4
_IDLE_S = 0.37  # between files: no multiple of anything that the service waits for
_BUSY_S = 0.13


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of many files one after the other (ms)."""

    what: str
    begun: tuple[float, ...]  # until its import began
    proven: tuple[float, ...]  # until OpenREM provably held it

    @property
    def begun_ms(self) -> float:
        """The median."""
        return median(self.begun)

    @property
    def begun_95_ms(self) -> float:
        """What 95 of 100 stay below."""
        return quantiles(self.begun, n=20)[-1]

    @property
    def proven_ms(self) -> float:
        """The median."""
        return median(self.proven)


def measure(site: Site, folder: Path, count: int) -> list[Latency]:
    """Of an idle service; and while other files of the folder are claimed and imported."""
    return [
        _measure(
            site, folder / "idle", count, what="idle: each file once the one before it is gone"
        ),
        _measure(
            site,
            folder / "busy",
            count,
            what=f"a file each {_BUSY_S:.2f} s, while others are moved out",
        ),
    ]


def _measure(site: Site, folder: Path, count: int, *, what: str) -> Latency:
    stencil = pattern_of(site).stencil
    idle = "idle" in what
    with a_place(site, folder) as place, ours.with_workers(1).started(place) as drop:
        assert isinstance(drop, ours.Drop)
        drop.warm(mixes.lay_out(mixes.warming(corpus_of(site)), folder / "warming", _WARMINGS))
        closed = []
        for number in range(count):
            closed.append(_put(drop.folder, f"{number}.dcm", stencil.copy(number)))
            if idle:
                meter.wait_for(lambda: not os.listdir(drop.folder), "it is gone")
            threading.Event().wait(_IDLE_S if idle else _BUSY_S)
        meter.wait_for(lambda: not os.listdir(drop.folder), "all are gone")
        return _latency(what, drop.state, closed)


def _put(folder: Path, name: str, content: bytes) -> tuple[bytes, float]:
    (folder / name).write_bytes(content)
    return content, time.time()  # the ledger's clock


def _latency(what: str, state: Path, closed: Sequence[tuple[bytes, float]]) -> Latency:
    recorded = steps(state)
    begun, proven = [], []
    for content, at in closed:
        own = [step for step in recorded if step.sop_uid.encode() in content]
        begun += [(step.at - at) * 1000 for step in own if step.state == "CLAIMED"][:1]
        proven += [(step.at - at) * 1000 for step in own if step.state == "PROVEN"][:1]
    assert len(begun) == len(proven) == len(closed)
    return Latency(what=what, begun=tuple(begun), proven=tuple(proven))
