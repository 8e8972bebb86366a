"""What it costs to read a header and to see whether the object is whole."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pydicom import dcmread

from ingest import dicom

_REPEATS = 15
_MIB = 1 << 20
_PIXELS = 0x7FE00010
_LARGE_REPORT = 100_000  # bytes; of larger ones each element is walked over


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The CPU time for one look at a file."""

    what: str
    ms: float


def of_corpus(corpus: Sequence[Path]) -> list[Cost]:
    """The median of the real objects, and of those that are no large reports; the dearest."""
    costs = [Cost(what=path.name, ms=_look_ms(path)) for path in corpus]
    usual = [
        cost.ms
        for path, cost in zip(corpus, costs, strict=True)
        if path.stat().st_size < _LARGE_REPORT or "Im" in path.name
    ]
    dearest = max(costs, key=lambda cost: cost.ms)
    return [
        Cost(what=f"{len(corpus)} real objects, median", ms=median(cost.ms for cost in costs)),
        Cost(what="without dose reports of over 100 kB, median", ms=median(usual)),
        Cost(what="without them, the dearest", ms=max(usual)),
        Cost(what=f"the dearest of all: {dearest.what}", ms=dearest.ms),
    ]


def by_size(image: Path, folder: Path, sizes_mib: Sequence[int]) -> list[Cost]:
    """An image with so many pixels, uncompressed."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for size in sizes_mib:
        path = folder / f"{size}.dcm"
        _with_pixels(image, path, size * _MIB)
        found.append(Cost(what=f"an image of {size} MiB", ms=_look_ms(path)))
        path.unlink()
    return found


def _with_pixels(image: Path, path: Path, size: int) -> None:
    """Append pixels to its header: written to the disk, as a real image's are."""
    dataset = dcmread(image, stop_before_pixels=True)
    dataset.add_new(_PIXELS, "OW", bytes(size))
    dataset.save_as(path, enforce_file_format=True)


def _look_ms(path: Path) -> float:
    """The median: the first look may read from the disk."""
    taken = []
    for _ in range(_REPEATS):
        before = time.process_time_ns()
        look = dicom.look(path)
        taken.append((time.process_time_ns() - before) / 1e6)
        assert look.header is not None
    return median(taken)
