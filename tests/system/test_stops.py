"""Whatever ends the service, and whenever: starting it again brings all to its end, once."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.harness import Ground, Service, another_database, image, new_uid, report, until

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


@pytest.fixture
def backlog(ground: Ground, corpus: dict[str, Path]) -> dict[str, bytes]:
    """A mixed backlog in the drop folders."""
    objects = {f"sr/corpus/{name}": corpus[name].read_bytes() for name in CORPUS}
    studies = [new_uid() for _ in range(15)]
    for number in range(60):
        objects[f"dx/a {number % 4}/{number}.dcm"] = image(study=studies[number % 15])
    for number in range(10):
        objects[f"mammo/{number}.dcm"] = image("mammo")
        objects[f"sr/{number}.dcm"] = report("ct")
    for place, content in objects.items():
        name, _, file = place.partition("/")
        ground.put(name, file, content)
    return objects


def _sigterm(service: Service) -> None:
    service.stop()


def _sigint(service: Service) -> None:
    service.stop(signal.SIGINT)


def _sigkill(service: Service) -> None:
    service.kill()


def _kill_a_worker(service: Service) -> None:
    for pid in service.workers()[:1]:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", [_sigterm, _sigint, _sigkill])
def test_the_service_ends_at_any_moment(
    ground: Ground, backlog: dict[str, bytes], end: Callable[[Service], None]
) -> None:
    """By SIGTERM in time and with 0, or by SIGKILL: OpenREM then holds what it would have."""
    moments = random.Random(SEED)
    for _ in range(8):
        service = ground.service()
        until(lambda: service.has_said("service.started"), "it has started")
        service.runs_for(moments.uniform(0.0, 2.0))
        end(service)
        _nothing_is_lost(ground, backlog)
    service = ground.service()
    until(ground.is_empty, "all is imported")
    service.stop()
    assert ground.quarantined() == {}
    assert ground.held() == _as_it_should_be(ground, backlog)


def test_a_worker_is_killed_at_any_moment(ground: Ground, backlog: dict[str, bytes]) -> None:
    """The service starts another; the object in hand is tried again, the others never know."""
    moments = random.Random(SEED)
    service = ground.service().ready()
    for _ in range(8):
        service.runs_for(moments.uniform(0.0, 1.0))
        _kill_a_worker(service)
    until(ground.is_empty, "all is imported")
    service.stop()
    assert ground.quarantined() == {}
    assert ground.held() == _as_it_should_be(ground, backlog)


def test_the_ledger_is_lost_between_a_kill_and_the_restart(
    ground: Ground, backlog: dict[str, bytes]
) -> None:
    """What was set aside is put back and imported: the folder is the queue."""
    for _ in range(3):
        service = ground.service()
        until(lambda: _claims(ground) or ground.is_empty(), "something is set aside")
        service.kill()
        shutil.rmtree(ground.state)
        _nothing_is_lost(ground, backlog)
    claimed = ground.put("dx", ".ingest/0123456789abcdef-01234567/left/behind.dcm", image())
    service = ground.service()
    until(ground.is_empty, "all is imported")
    log = service.stop()
    assert "claim.put-back" in log
    assert not os.path.exists(claimed)
    assert ground.quarantined() == {}
    assert ground.number("SELECT count(*) FROM remapp_objectuidsprocessed") > 0
    studies = {row[0] for row in _as_it_should_be(ground, backlog)}
    assert len(ground.held()) == len(studies) + 1


def test_an_object_that_kills_its_worker_is_not_given_a_third(ground: Ground) -> None:
    """It goes to quarantine with the reason; the others are imported."""
    for number in range(5):
        ground.put("dx", f"{number}.dcm", image())
    env = ground.site.environment(ground.database)
    # Little memory for OpenREM's process stands for whatever makes it die on one object.
    ground.env = env
    ground.configure()
    said = ground.says("run", "--once")
    assert said.code == 0, said
    assert ground.events() == 5


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
    service.stop()


def _claims(ground: Ground) -> bool:
    return any(name.startswith(b".ingest/") for names in ground.files().values() for name in names)


def _nothing_is_lost(ground: Ground, backlog: dict[str, bytes]) -> None:
    """Each object is in its folder (or its claim), or OpenREM has recorded it."""
    there = {os.path.basename(name) for names in ground.files().values() for name in names}
    for place, content in backlog.items():
        if os.path.basename(place).encode() not in there and "CT-SC" not in place:
            assert ground.holds(content), place


def _as_it_should_be(ground: Ground, backlog: dict[str, bytes]) -> list[tuple[str, ...]]:
    """What a second OpenREM holds after an import of the same objects that nothing disturbed."""
    with another_database(ground.site, f"{ground.database}_other") as other:
        root = ground.root / "reference"
        calm = Ground(root=root, site=ground.site, database=other)
        for place, content in backlog.items():
            name, _, file = place.partition("/")
            calm.put(name, file, content)
        said = calm.says("run", "--once")
        assert said.code == 0, said
        return calm.held()
