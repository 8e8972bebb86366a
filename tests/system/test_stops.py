"""Whatever ends the service, and whenever: starting it again brings all to its end, once."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.openrem.site import Site
from tests.system.harness import (
    Ground,
    Service,
    another_database,
    image,
    new_uid,
    report,
    study_uid,
    until,
)

# Of every kind and importer, but none that OpenREM itself can't import, and at most one of a
# study (which of two siblings comes first may decide what OpenREM makes of both).
CORPUS = [
    "CT-ESR-GE_Optima.dcm",
    "CT-RDSR-GEPixelMed.dcm",
    "CT-RDSR-Philips_BigBore4DCT.dcm",
    "CT-RDSR-Siemens_Flash-TAP-SS.dcm",
    "CT-SC-Philips_Brilliance16P.dcm",
    "DX-Im-GE_XR220-1.dcm",
    "DX-RDSR-Canon_CXDI.dcm",
    "MG-Im-Hologic-PropProj.dcm",
    "MG-RDSR-Hologic_2D.dcm",
    "NM-RRDSR-Siemens.dcm",
    "PX-Im-NewTom_Go.dcm",
    "RF-RDSR-GE.dcm",
    "RF-RDSR-Siemens-Zee.dcm",
]
SEED = 20240307

# Runs in OpenREM's interpreter before anything else: reading a certain object ends the process.
_DIES_OF_IT = """
import builtins, os, signal
plain = builtins.open
def deadly(file, mode="r", *args, **kwargs):
    if "b" in mode and str(file).endswith(".dcm"):
        with plain(file, "rb") as opened:
            if b"deadly" in opened.read():
                os.kill(os.getpid(), signal.SIGKILL)
    return plain(file, mode, *args, **kwargs)
builtins.open = deadly
"""


@pytest.fixture(scope="module")
def objects(corpus: dict[str, Path]) -> dict[str, bytes]:
    """A mixed backlog: each object by its place in the drop folders."""
    made = {f"sr/corpus/{name}": corpus[name].read_bytes() for name in CORPUS}
    studies = [new_uid() for _ in range(12)]
    for number in range(48):
        made[f"dx/a {number % 4}/{number}.dcm"] = image(study=studies[number % 12])
    for number in range(6):
        made[f"mammo/{number}.dcm"] = image("mammo")
        made[f"sr/{number}.dcm"] = report("ct")
    return made


@pytest.fixture(scope="module")
def as_it_should_be(
    site: Site, objects: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, ...]]:
    """What an OpenREM holds after an import of the same objects that nothing disturbed."""
    with another_database(site, f"test_{os.getpid()}_reference") as database:
        calm = Ground(root=tmp_path_factory.mktemp("calm"), site=site, database=database)
        _drop(calm, objects)
        said = calm.says("run", "--once")
        assert said.code == 0, said
        return calm.held()


@pytest.fixture
def backlog(ground: Ground, objects: dict[str, bytes]) -> dict[str, bytes]:
    """The same in this test's drop folders."""
    _drop(ground, objects)
    return objects


def _drop(ground: Ground, objects: dict[str, bytes]) -> None:
    for place, content in objects.items():
        name, _, file = place.partition("/")
        ground.put(name, file, content)


def _sigterm(service: Service) -> None:
    service.stop()


def _sigkill(service: Service) -> None:
    service.kill()


def _kill_a_worker(service: Service) -> None:
    for pid in service.workers()[:1]:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", [_sigterm, _sigkill])
def test_the_service_ends_at_any_moment(
    ground: Ground,
    backlog: dict[str, bytes],
    as_it_should_be: list[tuple[str, ...]],
    end: Callable[[Service], None],
) -> None:
    """By SIGTERM in time and with 0, or by SIGKILL: OpenREM then holds what it would have."""
    moments = random.Random(SEED)  # noqa: S311 - not a secret
    for _ in range(8):
        service = ground.service().started()
        service.runs_for(moments.uniform(0.0, 2.0))
        end(service)
        _nothing_is_lost(ground, backlog)
    service = ground.service()
    until(ground.is_empty, "all is imported")
    service.stop()
    assert ground.quarantined() == {}
    assert ground.held() == as_it_should_be


@pytest.mark.usefixtures("backlog")
def test_a_worker_is_killed_at_any_moment(
    ground: Ground, as_it_should_be: list[tuple[str, ...]]
) -> None:
    """The service starts another; the object in hand is tried again, the others never know."""
    moments = random.Random(SEED)  # noqa: S311 - not a secret
    service = ground.service().ready()
    for _ in range(8):
        service.runs_for(moments.uniform(0.0, 1.0))
        _kill_a_worker(service)
    until(ground.is_empty, "all is imported")
    service.stop()
    assert ground.quarantined() == {}
    assert ground.held() == as_it_should_be


def test_the_ledger_is_lost_between_a_kill_and_the_restart(
    ground: Ground, backlog: dict[str, bytes], as_it_should_be: list[tuple[str, ...]]
) -> None:
    """What was set aside is put back and imported: the folder is the queue."""
    for _ in range(3):
        service = ground.service()
        service.imports_something()
        service.kill()
        shutil.rmtree(ground.state)
        _nothing_is_lost(ground, backlog)
    left_behind = image()
    claimed = ground.put("dx", ".ingest/0123456789abcdef-01234567/left/behind.dcm", left_behind)
    service = ground.service()
    until(ground.is_empty, "all is imported")
    log = service.stop()
    assert "claim.put-back" in log
    assert not os.path.exists(claimed)
    assert ground.quarantined() == {}
    assert ground.holds(left_behind)
    uid = study_uid(left_behind)
    assert [row for row in ground.held() if row[0] != uid] == as_it_should_be


def test_an_object_that_kills_its_worker_is_not_given_a_third(ground: Ground) -> None:
    """It goes to quarantine after two deaths; the others are imported."""
    ground.patch_openrem(_DIES_OF_IT)
    good = [image() for _ in range(5)]
    for number, content in enumerate(good):
        ground.put("dx", f"{number}.dcm", content)
    ground.put("dx", "deadly.dcm", image(SeriesDescription="deadly"))
    service = ground.service()
    until(ground.is_empty, "all have gone their way")
    log = service.stop()
    assert ground.quarantined() == {b"dx/deadly.dcm": "worker-died"}
    assert log.count('"file.will-retry"') == 1
    assert all(ground.holds(content) for content in good)


def test_a_second_service_on_the_same_state_ends_at_once(ground: Ground) -> None:
    """With exit code 2 and one line; the first goes on."""
    service = ground.service().ready()
    for arguments in (("run",), ("run", "--once")):
        said = ground.says(*arguments)
        assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1), said
        assert str(ground.state) in said.err
        assert "Next: " in said.err
    ground.put("dx", "x.dcm", image())
    until(ground.is_empty, "the first goes on")
    service.stop(signal.SIGINT)


def _nothing_is_lost(ground: Ground, backlog: dict[str, bytes]) -> None:
    """Each object is in its folder (or its claim), or OpenREM has recorded it."""
    there = {os.path.basename(name) for names in ground.files().values() for name in names}
    for place, content in backlog.items():
        if os.path.basename(place).encode() not in there and "CT-SC" not in place:
            assert ground.holds(content), place
