"""The intake alone: from a sender's files to files that are known, read and decided on.

OpenREM is away, so nothing is imported. Beside it, what merely hears of files: watchdog's
observer and a plain inotify loop.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ingest.openrem.site import Site
from tests.bench import meter, mixes, ours
from tests.bench.ledgers import in_state
from tests.bench.listeners import Heard
from tests.bench.mixes import Pattern
from tests.bench.place import Place, corpus_of

AWAY = "/bin/false"  # in place of OpenREM's interpreter
OBJECT = "DX-Im-GE_XR220-1.dcm"
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of so many files, written one after the other as fast as it goes."""

    by: str
    sent: int
    files: int  # that were taken in
    seconds: float  # from the first file's beginning to the last one's end
    cpu_us: float  # a file

    @property
    def speed(self) -> float:
        """Files a second."""
        return self.files / self.seconds


def pattern_of(site: Site) -> Pattern:
    """A small image."""
    corpus = [path for path in corpus_of(site) if path.name == OBJECT]
    return mixes.small(corpus).patterns[0]


def measure(site: Site, folder: Path, count: int) -> list[Taken]:
    """Each of the three once."""
    stencil = pattern_of(site).stencil
    contents = [stencil.copy(number) for number in range(count)]
    return [
        _ours(site, folder / "ours", contents),
        _listener("watchdog", folder / "watchdog", contents),
        _listener("inotify", folder / "inotify", contents),
    ]


def _ours(site: Site, folder: Path, contents: list[bytes]) -> Taken:
    folder.mkdir(parents=True)
    place = Place(site=site, database="none", folder=folder)
    with ours.a_service(place, workers=1, interpreter=AWAY) as drop:
        before, began = drop.cpu_s(), time.monotonic()
        _write(drop.folder, contents)
        meter.wait_for(
            lambda: in_state(drop.state, "READY") == len(contents), "all are read", poll_s=_POLL_S
        )
        seconds, used = time.monotonic() - began, drop.cpu_s() - before
    return Taken(
        by="openrem-ingest: noted, found complete, read, decided on",
        sent=len(contents),
        files=len(contents),
        seconds=seconds,
        cpu_us=used * 1e6 / len(contents),
    )


def _listener(kind: str, folder: Path, contents: list[bytes]) -> Taken:
    folder.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.listeners", kind, folder, str(len(contents))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        _write(folder, contents)
        process.stdin.write("all are written\n")
        process.stdin.flush()
        heard = Heard(**json.loads(process.stdout.readline()))
    return Taken(
        by={"watchdog": "watchdog's observer, an empty handler", "inotify": "an inotify loop"}[
            kind
        ],
        sent=len(contents),
        files=heard.files,
        seconds=heard.last - began,
        cpu_us=heard.cpu_s * 1e6 / max(1, heard.files),
    )


def _write(folder: Path, contents: list[bytes]) -> None:
    """As a sender does that is in a hurry."""
    for number, content in enumerate(contents):
        (folder / f"{number:06d}.dcm").write_bytes(content)
