"""What the runs have in common: something is started, warmed, and fed until OpenREM has it all."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from tests.bench.mixes import Work
from tests.bench.place import Place


class Running(Protocol):
    """A way to have files imported, up and running."""

    def warm(self, work: Sequence[Work]) -> None:
        """Have all its processes load what they need."""

    def feed(self, work: Sequence[Work]) -> None:
        """Have these files imported; returns as soon as nothing more is to come of them."""

    def cpu_s(self) -> float | None:
        """The CPU time so far of what isn't OpenREM, if there is such a thing."""

    def failed(self) -> int:
        """How many files it says could not be imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """One of the ways that are compared."""

    name: str
    started: Callable[[Place], AbstractContextManager[Running]]
