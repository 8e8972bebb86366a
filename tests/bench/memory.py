"""The memory of the service against the number of files that wait, while OpenREM is away."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest.openrem.site import Site
from tests.bench import meter, ours
from tests.bench.intake import AWAY, pattern_of
from tests.bench.ledgers import in_state
from tests.bench.place import Place

_NAMES_OF_A_FILE = 50_000  # ext4 allows no more than 65,000
_POLL_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """The memory that so many waiting files took."""

    files: int
    now_mib: float
    peak_mib: float


def measure(
    site: Site, folder: Path, backlogs: Sequence[int], progress: Callable[[str], None]
) -> list[Weight]:
    """Each backlog with a service of its own, which has read all of it."""
    found = []
    for files in backlogs:
        weight = _measure(site, folder / str(files), files)
        progress(f"memory with {files:,} waiting files: {weight.peak_mib:.1f} MiB")
        found.append(weight)
    return found


def _measure(site: Site, folder: Path, files: int) -> Weight:
    folder.mkdir(parents=True)
    place = Place(site=site, database="none", folder=folder)
    _fill(folder / "drop", files, pattern_of(site).stencil.copy)
    with ours.a_service(place, workers=2, interpreter=AWAY) as drop:
        meter.wait_for(
            lambda: in_state(drop.state, "READY") == files, "all are read", poll_s=_POLL_S
        )
        pid = drop.service.process.pid
        weight = Weight(files=files, now_mib=meter.resident_mib(pid), peak_mib=meter.peak_mib(pid))
    shutil.rmtree(folder)
    return weight


def _fill(folder: Path, files: int, copy: Callable[[int], bytes]) -> None:
    """So many names, most of them of one file: a million files need no gigabytes."""
    folder.mkdir()
    first = folder
    for number in range(files):
        path = folder / f"{number:07d}.dcm"
        if number % _NAMES_OF_A_FILE == 0:
            first = path
            path.write_bytes(copy(number))
        else:
            os.link(first, path)
