"""Ten thousand damaged and hostile files: no crash, no hang, bounded memory, and nothing lost.

They are the same each time (`tests.mutations`). All of them are looked at as the service does,
in a process whose memory is bounded. Through the whole, a real service and a real OpenREM, go
some hundred of every kind, and all of them with OPENREM_INGEST_DEEP=1 (a quarter of an hour).
"""

import hashlib
import json
import logging
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests import mutations, strict
from tests.mutations import Mutant, Sound
from tests.system.harness import EXPECT, Ground, Service, files_below, image, report, until

DEEP = bool(os.environ.get("OPENREM_INGEST_DEEP"))
MUTANTS = 10_000
THROUGH_THE_WHOLE = MUTANTS if DEEP else 400
FIRST = 50  # after them the service has all that it needs
BATCH = 350
FEWER = 20_000  # items and elements; OpenREM takes a minute for each million
GOOD = 20

# The walk has a window of 256 KiB, as much again of what it unpacks, and copies of 13 elements
# of 16 KiB at most. More than this is another way to read.
ROOM_MIB = 8
LONGEST_CPU_S = 20.0  # for a file of 30 MB on a slow machine
GROWTH_KIB = 30 << 10  # of the service, by whatever comes; a mutant of 12 MB is no reason either
DEADLINE_S = 3600.0 if DEEP else 240.0

LARGEST_OF_CORPUS = 25_000  # bytes; larger ones are damaged in the same ways, but slowly
SLOWLY_READ = 1_000_000  # bytes, which our tests' own reader takes too long for
UID = re.compile(r"[0-9][0-9.]{0,63}")
DOSES = (0x0040A730, 0x0040030E, 0x00540016)
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
REPORTS = "1.2.840.10008.5.1.4.1.1.88."
NUCLEAR_MEDICINE = ("1.2.840.10008.5.1.4.1.1.20", "1.2.840.10008.5.1.4.1.1.128")


_log = logging.getLogger(__name__)  # pytest --log-cli-level=INFO shows what came of each kind


@pytest.fixture(scope="module")
def sound(corpus: dict[str, Path]) -> list[Sound]:
    """What is damaged: of every kind and encoding, and of every importer."""
    contents = [path.read_bytes() for path in corpus.values()]
    small = [content for content in contents if len(content) < LARGEST_OF_CORPUS]
    return mutations.sound([*small, corpus["NM-PetIm-GE.dcm"].read_bytes()])


def all_mutants(sound: list[Sound], folder: Path) -> Iterator[Mutant]:
    """The ten thousand, no two the same."""
    digests: set[bytes] = set()
    cuts = mutations.cuts(mutations.small_report())
    endless = (cuts, mutations.hostile(folder), mutations.damaged(sound))
    for mutants in endless:
        for mutant in mutants:
            if digest(mutant.content) not in digests:
                digests.add(digest(mutant.content))
                yield mutant
            if len(digests) == MUTANTS:
                return


def some_mutants(sound: list[Sound], folder: Path) -> list[Mutant]:
    """Of every kind, and of those kinds most that are likely to be imported."""
    cuts = mutations.cuts(mutations.small_report())
    chosen = [*cuts[:: len(cuts) // 20], *mutations.hostile(folder, many=FEWER)]
    chosen += islice(mutations.damaged(sound), THROUGH_THE_WHOLE - len(chosen))
    return list({digest(mutant.content): mutant for mutant in chosen}.values())


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


# -- looking ---------------------------------------------------------------------------------------


@contextmanager
def a_looker() -> Iterator["subprocess.Popen[str]"]:
    """A process that looks at files."""
    command = [sys.executable, "-m", "tests.looking", str(ROOM_MIB), str(LONGEST_CPU_S)]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as looker:
        try:
            yield looker
        finally:
            looker.kill()


def look(looker: "subprocess.Popen[str]", path: Path, mutant: Mutant) -> dict[str, Any]:
    """What it finds; whatever ends it is the failure of this mutant."""
    path.write_bytes(mutant.content)
    assert looker.stdin is not None
    assert looker.stdout is not None
    looker.stdin.write(f"{path}\n")
    looker.stdin.flush()
    line = looker.stdout.readline()
    if not line:
        assert looker.stderr is not None
        pytest.fail(f"{mutant.kind}: {path}: {looker.wait()}: {looker.stderr.read()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


@pytest.mark.timeout(900)
def test_ten_thousand_mutants_are_looked_at(sound: list[Sound], tmp_path: Path) -> None:
    """In a few MiB and seconds each; and what is called whole is so by another reader, too."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    slowest, largest = (0.0, ""), 0
    with a_looker() as looker:
        for mutant in all_mutants(sound, tmp_path):
            answer = look(looker, tmp_path / "mutant.dcm", mutant)
            slowest = max(slowest, (answer["cpu"], mutant.kind))
            largest = max(largest, answer["grown"])
            found[mutant.kind][answer["problem"] or answer["decision"]] += 1
            _is_sound(mutant, answer)
    assert sum(outcomes.total() for outcomes in found.values()) == MUTANTS
    assert found["cut"].keys() == {"empty", "truncated"}
    seen = {outcome for outcomes in found.values() for outcome in outcomes}
    assert seen >= {"Import", "Reject", "malformed", "trailing-data", "too-complex", "no-uids"}
    _log.info("slowest %s, %s KiB more", slowest, largest)
    for kind, outcomes in found.items():
        _log.info("%s: %s", kind, dict(outcomes))


def _is_sound(mutant: Mutant, answer: dict[str, Any]) -> None:
    """What must hold of any look at any file."""
    assert answer["detail"].isprintable(), (mutant.kind, answer)
    assert answer["late"] != "wait", "nothing waits for ever"
    if not answer["complete"]:
        assert answer["header"] is None
        assert answer["soon"] in ("wait", "hopeless")
        assert answer["late_reason"] == answer["problem"] is not None
        return
    assert answer["soon"] == "complete"
    by_us = None
    if len(mutant.content) < SLOWLY_READ:
        by_us = strict.read(mutant.content, deep=DOSES)  # it raises if that isn't whole
    header = answer["header"]
    if header is None:
        assert answer["problem"] == "no-uids"
        return
    uids = [header[f"{name}_uid"] for name in ("sop_class", "sop_instance", "study")]
    assert all(UID.fullmatch(uid) for uid in uids), (mutant.kind, uids)
    assert by_us is None or uids == [by_us.sop_class, by_us.sop_instance, by_us.study]
    texts = [text for text in header.values() if isinstance(text, str)] + header["image_type"]
    assert all(text.isprintable() and len(text) <= 64 for text in texts), (mutant.kind, header)


# -- the whole -------------------------------------------------------------------------------------


@pytest.mark.timeout(2 * DEADLINE_S)
def test_mutants_go_through_the_whole(ground: Ground, sound: list[Sound], tmp_path: Path) -> None:
    """Each is in quarantine with its reason, or OpenREM holds what it holds by our own reading."""
    mutants = list(all_mutants(sound, tmp_path)) if DEEP else some_mutants(sound, tmp_path)
    chance = random.Random(mutations.SEED)  # noqa: S311 - chance that repeats itself
    chance.shuffle(mutants)
    mutants.sort(key=lambda mutant: len(mutant.content) > SLOWLY_READ)  # not within the first
    good = [report() if number % 2 else image() for number in range(GOOD)]
    service = ground.service().ready()
    _drop(ground, service, mutants[:FIRST], [])
    at_first = peak_kib(service)
    _drop(ground, service, mutants[FIRST:], good)
    at_last = peak_kib(service)
    assert service.workers()
    ground.put("dx", "last.dcm", image())
    until(ground.is_empty, "the last one is imported")
    service.stop()

    assert all(ground.holds(content) for content in good)
    assert at_last - at_first < GROWTH_KIB
    assert not service.has_said("file.internal-error")
    reasons = _judged(ground, mutants)
    assert not reasons.keys() & {"worker-died", "out-of-memory", "internal-error"}
    retried = Counter(
        line["reason"] for line in service.events() if line["event"] == "file.will-retry"
    )
    _log.info("%s; retried: %s; KiB: %s, %s", reasons, retried, at_first, at_last)


def _drop(ground: Ground, service: Service, mutants: list[Mutant], good: list[bytes]) -> None:
    """Drop them in, with good ones among them, and wait until all have gone their way."""
    files = [mutant.content for mutant in mutants]
    for number, content in enumerate(good):
        files.insert(number * len(files) // len(good), content)
    for start in range(0, len(files), BATCH):
        for number, content in enumerate(files[start : start + BATCH], start=start):
            ground.put([*EXPECT][number % 3], f"{len(content)}/{number}.dcm", content)
        until(
            lambda: ground.is_empty() or service.has_ended(),
            f"all up to the {start + BATCH}th of {len(files)} have gone their way",
            deadline_s=DEADLINE_S,
        )
        assert not service.has_ended(), service.log()


def peak_kib(service: Service) -> int:
    """The most memory that the service ever had."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def _judged(ground: Ground, mutants: list[Mutant]) -> Counter[str]:
    """See that the promise was kept for each; returns how many had which reason."""
    ground.quarantined()  # each has its reason beside it, and a next step
    reasons = {
        digest((ground.failed / os.fsdecode(name)).read_bytes()): ground.why(name)["reason"]
        for name in files_below(ground.failed)
        if not name.endswith(b".why.json")
    }
    held = Held(ground)
    gone = [mutant for mutant in mutants if digest(mutant.content) not in reasons]
    lacking = [(mutant.kind, held.by_our_reading(mutant.content)) for mutant in gone]
    assert [(kind, what) for kind, what in lacking if what] == []
    imported = len(mutants) - len(reasons)
    assert len(reasons) < len(mutants)
    return Counter(reasons.values()) + Counter({"imported": imported})


class Held:
    """What OpenREM holds, asked of its database alone."""

    def __init__(self, ground: Ground) -> None:
        """Ask it."""
        studies = ground.query(
            "SELECT study.study_instance_uid, study.number_of_events, "
            " (SELECT count(*) FROM remapp_patientmoduleattr AS patient "
            "  WHERE patient.general_study_module_attributes_id = study.id) "
            "FROM remapp_generalstudymoduleattr AS study"
        )
        self.studies = {uid for uid, _, patients in studies if int(patients) > 0}
        self.recorded = set(
            ground.query(
                "SELECT study.study_instance_uid, uids.sop_instance_uid "
                "FROM remapp_objectuidsprocessed AS uids "
                "JOIN remapp_generalstudymoduleattr AS study "
                "ON uids.general_study_module_attributes_id = study.id"
            )
        )
        self.events: dict[str, Counter[str]] = defaultdict(Counter)
        for events, dose, link, uid in _EVENTS:
            for study, event in ground.query(
                f"SELECT study.study_instance_uid, event.{uid} FROM remapp_{events} AS event "
                f"JOIN remapp_{dose} AS dose ON event.{link} = dose.id "
                "JOIN remapp_generalstudymoduleattr AS study "
                "ON dose.general_study_module_attributes_id = study.id"
            ):
                self.events[study][event] += 1

    def by_our_reading(self, content: bytes) -> str:
        """What of this object it doesn't hold; "" if it holds all."""
        if len(content) > SLOWLY_READ:
            content = _without_private(content)
        try:
            return self.of_object(strict.read(content, deep=DOSES))
        except strict.Unsound as error:
            return f"nobody can say what it holds: {error}"

    def of_object(self, found: strict.Read) -> str:
        """The same of an object that we have read."""
        stored, wanted = self.events[found.study], found.events()
        if found.study not in self.studies:
            return "no finished study"
        if found.sop_class == SECONDARY_CAPTURE and found.exposures():
            return "" if stored.total() == found.exposures() else "exposures"
        if (found.study, found.sop_instance) not in self.recorded:
            return "not recorded"
        # Odd UIDs may be those of several mutants; what the others hold is then there, too.
        is_alone = sum(study == found.study for study, _ in self.recorded) == 1
        if found.sop_class.startswith(REPORTS):
            known = Counter({uid: times for uid, times in wanted.items() if UID.fullmatch(uid)})
            most = found.containers() if is_alone else stored.total()
            is_held = known <= stored and wanted.total() <= stored.total() <= most
            return "" if is_held else "events"
        has_event = stored == {found.sop_instance: 1} or (stored.total() > 0 and not is_alone)
        return "" if has_event or found.sop_class in NUCLEAR_MEDICINE else "event"


_EVENTS = (
    (
        *("ctirradiationeventdata", "ctradiationdose", "ct_radiation_dose_id"),
        "irradiation_event_uid",
    ),
    (
        *("irradeventxraydata", "projectionxrayradiationdose"),
        *("projection_xray_radiation_dose_id", "irradiation_event_uid"),
    ),
    (
        *("radiopharmaceuticaladministrationeventdata", "radiopharmaceuticalradiationdose"),
        *("radiopharmaceutical_radiation_dose_id", "radiopharmaceutical_administration_event_uid"),
    ),
)


def _without_private(content: bytes) -> bytes:
    """One with a million elements, less all but its beginning and its end."""
    end = content.rindex(b"\x10\0\x10\0PN")
    return content[: content.index(b"\x09\0\x10\0LO")] + content[end:]
