"""Whatever ends the service, and whenever: starting it again brings all to its end, once.

For what kills it, see test_kills.py.
"""

import os
import random
import shutil
import signal

from tests.system.backlog import Objects, lost
from tests.system.harness import Ground, image, study_uid, until

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


def test_the_service_ends_at_any_moment(
    ground: Ground, backlog: Objects, as_it_should_be: list[tuple[str, ...]]
) -> None:
    """In time and with 0; OpenREM then holds what it would have."""
    moments = random.Random(SEED)  # noqa: S311 - not a secret
    for _ in range(8):
        service = ground.service().started()
        service.runs_for(moments.uniform(0.0, 2.0))
        service.stop()
        assert lost(ground, backlog) == []
    service = ground.service()
    until(ground.is_empty, "all is imported")
    service.stop()
    assert ground.quarantined() == {}
    assert ground.held() == as_it_should_be


def test_the_ledger_is_lost_between_a_kill_and_the_restart(
    ground: Ground, backlog: Objects, as_it_should_be: list[tuple[str, ...]]
) -> None:
    """What was set aside is put back and imported: the folder is the queue."""
    for _ in range(3):
        service = ground.service()
        service.imports_something()
        service.kill()
        shutil.rmtree(ground.state)
        assert lost(ground, backlog) == []
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
