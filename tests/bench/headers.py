"""What it costs to read a header and to see whether the object is whole."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pydicom import dcmread

from ingest import dicom
from ingest.model import Importer
from tests.bench import mixes

_REPEATS = 15
_MIB = 1 << 20
_PIXELS = 0x7FE00010


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The CPU time for one look at a file."""

    what: str
    ms: float


def of_corpus(corpus: Sequence[Path]) -> list[Cost]:
    """The medians of the real objects, of which dose reports are walked over to their end."""
    looks = [(path, _look_ms(path)) for path in corpus]
    reports = [ms for path, ms in looks if mixes.importer_of(path) is Importer.RDSR]
    images = [ms for path, ms in looks if mixes.importer_of(path) not in {Importer.RDSR, None}]
    largest = max(corpus, key=lambda path: path.stat().st_size)
    return [
        Cost(what=f"{len(looks)} real objects, median", ms=median(ms for _, ms in looks)),
        Cost(what=f"{len(images)} images of them, median", ms=median(images)),
        Cost(what=f"{len(reports)} dose reports, median", ms=median(reports)),
        Cost(
            what=f"the largest dose report ({largest.stat().st_size / 1e6:.1f} MB)",
            ms=dict(looks)[largest],
        ),
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
