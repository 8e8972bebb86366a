"""`import` of a whole archive: memory and speed against the number of files.

Of objects that OpenREM holds already, and of files that are no DICOM: to import 100,000 new ones
takes an hour, and what grows with their number would grow with these as well.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ingest.openrem.site import Site
from tests.bench import meter, ours
from tests.bench.intake import pattern_of
from tests.bench.place import Place, a_place

HELD = "objects that OpenREM holds already"
FOREIGN = "files that are not DICOM"
_OBJECTS = 1000  # different ones; the tree has each of them many times
_OF_A_FOLDER = 500
_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One run of `import`."""

    kind: str
    files: int
    seconds: float
    cpu_ms: float  # a file, of what isn't OpenREM
    peak_mib: float

    @property
    def speed(self) -> float:
        """Files a second, OpenREM's start included."""
        return self.files / self.seconds


def measure(
    site: Site,
    folder: Path,
    numbers: Sequence[int],
    progress: Callable[[str], None],
    kinds: Sequence[str] = (HELD, FOREIGN),
) -> list[Pass]:
    """Each kind in each number, with an OpenREM and a state folder of its own."""
    found = []
    for kind in kinds:
        for files in numbers:
            with a_place(site, folder / f"{kind.split()[0]}-{files}") as place:
                one = _measure(place, kind, files)
            progress(f"import of {files:,} {kind}: {one.speed:.0f} a second")
            found.append(one)
    return found


def _measure(place: Place, kind: str, files: int) -> Pass:
    config = ours.configure(place, workers=2)
    tree = place.folder / "tree"
    if kind == FOREIGN:
        _fill(tree, files, lambda number: b"no DICOM, number %d" % number)
    else:
        copy, objects = pattern_of(place.site).stencil.copy, min(_OBJECTS, files)
        contents = [copy(number) for number in range(objects)]
        _fill(place.folder / "originals", objects, contents.__getitem__)
        _import(config, place.folder / "originals", place.folder / "originals.err")
        _fill(tree, files, lambda number: contents[number % objects])
    began = time.monotonic()
    cpu_s, peak_mib = _import(config, tree, place.folder / "import.err")
    return Pass(
        kind=kind,
        files=files,
        seconds=time.monotonic() - began,
        cpu_ms=cpu_s * 1000 / files,
        peak_mib=peak_mib,
    )


def _import(config: Path, tree: Path, err: Path) -> tuple[float, float]:
    """Run it to its end. Its CPU time, and the most memory that it ever had."""
    command = [sys.executable, "-m", "ingest", "import", "-c", str(config), str(tree)]
    cpu_s = peak_mib = 0.0
    with err.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:

        def is_over() -> bool:
            nonlocal cpu_s, peak_mib
            with suppress(OSError, ValueError):  # it has just ended
                cpu_s = max(cpu_s, meter.cpu_s(process.pid))
                peak_mib = max(peak_mib, meter.peak_mib(process.pid))
            return process.poll() is not None

        meter.wait_for(is_over, "the import ends", poll_s=_POLL_S)
    return cpu_s, peak_mib


def _fill(tree: Path, files: int, content: Callable[[int], bytes]) -> None:
    """Write so many files into folders as an archive has them."""
    for number in range(files):
        path = tree / f"{number // _OF_A_FOLDER:04d}" / f"{number:07d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))
