"""Two OpenREM processes on one database: what goes wrong there without our lock stays right.

Each race is run a hundred times by two of our workers that are released together, one of them
with a small head start. What OpenREM then holds must be what the same pair makes of it one after
the other: each study by its events and sums, and each of OpenREM's tables by its number of rows.
"""

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pydicom
import pytest
from pydicom.uid import generate_uid

from ingest.model import Shortfall
from ingest.openrem.importers import Worker
from ingest.openrem.site import Site, query
from ingest.verify import Proof
from tests import objects
from tests.contract import real
from tests.contract.test_worker import imported
from tests.system.harness import HELD

ROUNDS = 1000 if os.environ.get("OPENREM_INGEST_DEEP") else 100
HEAD_START_S = 0.01  # at the most
SEED = 20240311

PHILIPS = "CT-SC-Philips_Brilliance16P.dcm"
NM_IMAGE = "NM-NmIm-Siemens.dcm"

# What a fresh OpenREM makes at its first import of a fluoroscopy report; our template has both.
MADE_LATER = ("remapp_skindosemapcalcsettings", "remapp_highdosemetricalertsettings")

Samples = dict[str, Path]
Pair = tuple[Path, Path]
Verdict = Proof | Shortfall
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Two objects to be imported at once, and what OpenREM has before."""

    pair: Pair
    before: tuple[Path, ...] = ()


# -- the pairs: fresh objects in a folder, made anew for each round --------------------------------


def _of_study(
    study: str, clock: str = "", **elements: str
) -> Callable[[pydicom.FileDataset], None]:
    """Put it into a study, with an exposure at this time."""

    def change(dataset: pydicom.FileDataset) -> None:
        dataset.StudyInstanceUID = study
        dataset.SeriesInstanceUID = generate_uid()
        if clock:
            dataset.AcquisitionTime = dataset.ContentTime = clock
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        if "PixelData" in dataset:
            dataset["PixelData"].value = bytes(2)  # no importer looks at them

    return change


def _with_events(count: int) -> Callable[[pydicom.FileDataset], None]:
    """Leave so many of a report's events."""

    def change(dataset: pydicom.FileDataset) -> None:
        while len(objects.events(dataset)) > count:
            objects.without_last_event(dataset)

    return change


def _two_images(sample: Path, folder: Path) -> Pair:
    study = generate_uid()
    return (
        objects.variant(sample, folder / "a.dcm", _of_study(study, "101010")),
        objects.variant(sample, folder / "b.dcm", _of_study(study, "101112.5")),
    )


def dx_first_and_second(folder: Path, _corpus: Samples) -> Round:
    """Two images of a new study."""
    return Round(pair=_two_images(objects.DX_IMAGE, folder))


def mg_first_and_second(folder: Path, _corpus: Samples) -> Round:
    """Two mammograms of a new study."""
    return Round(pair=_two_images(objects.MG_IMAGE, folder))


def dx_second_and_third(folder: Path, _corpus: Samples) -> Round:
    """Two images of a study that OpenREM has."""
    first, second = _two_images(objects.DX_IMAGE, folder)
    study = pydicom.dcmread(first).StudyInstanceUID
    third = objects.variant(objects.DX_IMAGE, folder / "c.dcm", _of_study(study, "101520"))
    return Round(pair=(second, third), before=(first,))


def same_report_twice(folder: Path, _corpus: Samples) -> Round:
    """One dose report, as from two folders."""
    report = objects.variant(objects.CT_REPORT, folder / "a.dcm", _with_events(1))
    return Round(pair=(report, report))


def cumulative_reports(folder: Path, _corpus: Samples) -> Round:
    """A report of a study that still went on, and the one of its end."""
    later = objects.variant(objects.CT_REPORT, folder / "a.dcm", _with_events(2))
    dataset = pydicom.dcmread(later)
    objects.without_last_event(dataset)
    return Round(pair=(objects.write(dataset, folder / "b.dcm"), later))


def two_nm_images(folder: Path, corpus: Samples) -> Round:
    """Two images of a new study."""
    return Round(pair=_two_images(corpus[NM_IMAGE], folder))


def same_philips_capture_twice(folder: Path, corpus: Samples) -> Round:
    """One dose info, as from two folders."""
    capture = objects.variant(corpus[PHILIPS], folder / "a.dcm")
    return Round(pair=(capture, capture))


def two_philips_captures(folder: Path, corpus: Samples) -> Round:
    """The dose info of a study, made twice by the scanner."""
    return Round(pair=_two_images(corpus[PHILIPS], folder))


def two_studies_of_a_new_scanner(folder: Path, _corpus: Samples) -> Round:
    """The first two studies from a scanner that OpenREM doesn't know."""
    station = generate_uid()[-16:]
    first, second = (
        objects.variant(
            objects.DX_IMAGE, folder / name, _of_study(generate_uid(), StationName=station)
        )
        for name in ("a.dcm", "b.dcm")
    )
    return Round(pair=(first, second))


def first_two_fluoroscopy_reports(folder: Path, _corpus: Samples) -> Round:
    """Two studies of one scanner."""
    first, second = (
        objects.variant(objects.RF_REPORT, folder / name, _with_events(1))
        for name in ("a.dcm", "b.dcm")
    )
    return Round(pair=(first, second))


Race = Callable[[Path, Samples], Round]

RACES: list[Race] = [
    dx_first_and_second,
    mg_first_and_second,
    dx_second_and_third,
    same_report_twice,
    cumulative_reports,
    two_nm_images,
    same_philips_capture_twice,
    two_philips_captures,
    two_studies_of_a_new_scanner,
]


# -- racing ----------------------------------------------------------------------------------------


@contextmanager
def two_workers(site: Site, database: str) -> Iterator[tuple[Worker, Worker]]:
    """Two OpenREM processes on one database."""
    with real.a_worker(site, database) as one, real.a_worker(site, database) as two:
        yield one, two


def at_once(workers: Sequence[Worker], pair: Pair, lead_s: float) -> list[Verdict]:
    """Have each worker import one of the pair; the first is ahead by so much, or behind."""
    barrier = threading.Barrier(2)

    def one(worker: Worker, path: Path, wait_s: float) -> Verdict:
        barrier.wait()
        threading.Event().wait(wait_s)
        return imported(worker, path)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, workers, pair, (max(0.0, -lead_s), max(0.0, lead_s))))


def proven(verdicts: Sequence[Verdict]) -> list[bool]:
    """What of a pair was there already; `AssertionError` if it is not proven."""
    assert all(isinstance(verdict, Proof) for verdict in verdicts), verdicts
    return sorted(verdict.already for verdict in verdicts if isinstance(verdict, Proof))


def calmly(made: Round, worker: Worker) -> list[bool]:
    """Import them one after the other; what of the pair was there already."""
    for path in made.before:
        imported(worker, path)
    return proven([imported(worker, path) for path in made.pair])


def held(site: Site, database: str) -> Counter[tuple[str, ...]]:
    """How many studies there are of each make: kind, events, patients, objects, sums."""
    return Counter(row[1:] for row in query(site, HELD, database))


def rows(site: Site, database: str) -> Counter[str]:
    """The number of rows of each of OpenREM's tables."""
    tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'remapp\\_%'"
    counts = " UNION ALL ".join(
        f"SELECT '{table}', count(*) FROM {table}" for (table,) in query(site, tables, database)
    )
    return Counter({table: int(count) for table, count in query(site, counts, database)})


def grown(before: Counter[Key], after: Counter[Key], rounds: int = 1) -> dict[Key, float]:
    """What has come to each count, on average of so many rounds; nothing where nothing has."""
    return {
        key: (after[key] - before[key]) / rounds
        for key in before | after
        if after[key] != before[key]
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize("race", RACES, ids=lambda race: race.__name__)
def test_two_at_once_are_as_one_after_the_other(
    site: Site, database: str, corpus: Samples, tmp_path: Path, race: Race
) -> None:
    """Every time, whichever of the two comes first."""
    leads = random.Random(SEED)  # noqa: S311 - not a secret
    with two_workers(site, database) as workers:
        # The first round leaves the scanner and the codes, which are made once.
        calmly(race(tmp_path, corpus), workers[0])
        start, start_held = rows(site, database), held(site, database)
        was_there = calmly(race(tmp_path, corpus), workers[0])
        a_round = grown(start, rows(site, database))
        a_round_held = grown(start_held, held(site, database))
        start, start_held = rows(site, database), held(site, database)
        for _ in range(ROUNDS):
            made = race(tmp_path, corpus)
            for path in made.before:
                imported(workers[0], path)
            lead_s = leads.uniform(-HEAD_START_S, HEAD_START_S)
            assert proven(at_once(workers, made.pair, lead_s)) == was_there
        hello = workers[0].hello()
    assert hello.duplicate_scanners == 0
    assert grown(start_held, held(site, database), ROUNDS) == a_round_held
    assert grown(start, rows(site, database), ROUNDS) == a_round


@pytest.mark.timeout(900)
def test_the_first_two_fluoroscopy_reports_of_a_new_openrem(
    site: Site, database: str, corpus: Samples, tmp_path: Path
) -> None:
    """They make its settings, its scanner and its codes; then each of them is there once."""
    leads = random.Random(SEED)  # noqa: S311 - not a secret
    fresh = rows(site, database)
    renew = "SET session_replication_role = replica;"  # deletes nothing else by foreign keys
    renew += "".join(
        f"DELETE FROM {table};" for table in fresh if not fresh[table] or table in MADE_LATER
    )

    def anew() -> Round:
        query(site, renew, database)
        return first_two_fluoroscopy_reports(tmp_path, corpus)

    with two_workers(site, database) as workers:
        calmly(anew(), workers[0])
        wanted, wanted_held = rows(site, database), held(site, database)
        assert [wanted[table] for table in MADE_LATER] == [1, 1]
        for _ in range(ROUNDS):
            lead_s = leads.uniform(-HEAD_START_S, HEAD_START_S)
            assert proven(at_once(workers, anew().pair, lead_s)) == [False, False]
            assert held(site, database) == wanted_held
            assert rows(site, database) == wanted
