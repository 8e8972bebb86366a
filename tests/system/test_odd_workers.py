"""Processes of OpenREM that hang, or want more memory than they may have: the others go on."""

import os
import signal
from pathlib import Path

from tests import objects
from tests.system.harness import Ground, image, until

LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"

# Runs in OpenREM's interpreter before anything else: reading a certain object never ends.
_HANGS_ON_IT = """
import builtins, time
plain = builtins.open
def slow(file, mode="r", *args, **kwargs):
    if "b" in mode and str(file).endswith(".dcm"):
        with plain(file, "rb") as opened:
            if b"endless" in opened.read():
                time.sleep(3600)
    return plain(file, mode, *args, **kwargs)
builtins.open = slow
"""


def test_an_object_on_which_workers_hang_does_not_stop_the_others(ground: Ground) -> None:
    """Each attempt ends at the deadline, and after two it goes to quarantine."""
    ground.openrem = "workers = 2\ntimeout = 3"
    ground.patch_openrem(_HANGS_ON_IT)
    ground.put("dx", "endless.dcm", image(SeriesDescription="endless"))
    service = ground.service().ready()
    until(lambda: any(b".ingest" in name for name in ground.files()["dx"]), "it is in hand")
    good = [image() for _ in range(20)]
    for number, content in enumerate(good):
        ground.put("dx", f"{number}.dcm", content)
    until(lambda: all(ground.holds(content) for content in good), "the others are imported")
    until(ground.is_empty, "all have gone their way")
    service.stop()
    assert ground.quarantined() == {b"dx/endless.dcm": "worker-died"}
    assert ground.why(b"dx/endless.dcm")["detail"] == "no answer within 3 seconds"
    (retry,) = [line for line in service.events() if line["event"] == "file.will-retry"]
    assert retry["reason"] == "worker-died"
    assert not service.has_said("file.internal-error")


def test_all_workers_hang_in_mid_import(ground: Ground, corpus: dict[str, Path]) -> None:
    """One holds the lock that all others wait for: its deadline sets them free."""
    ground.openrem = "workers = 2\ntimeout = 30"
    ground.configure()
    long_one = corpus["RF-RDSR-Philips_Azurion.dcm"].read_bytes()
    service = ground.service().ready()
    ground.put("sr", "long.dcm", long_one)
    until(lambda: ground.number(LOCKS) == 1, "its import runs")
    ground.put("dx", "first.dcm", image())
    until(lambda: ground.number(LOCKS) == 2, "the other worker waits for it")
    hung = service.workers()
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    good = [image() for _ in range(10)]
    for number, content in enumerate(good):
        ground.put("dx", f"{number}.dcm", content)
    until(ground.is_empty, "all is imported")
    assert not set(hung) & set(service.workers())
    service.stop()
    assert ground.quarantined() == {}
    assert all(ground.holds(content) for content in good)
    assert ground.events() == 89 + 11


def test_an_object_for_which_the_memory_is_not_enough(ground: Ground) -> None:
    """It is told as that, with the key to raise; the others are imported."""
    ground.openrem = "memory = 256"
    ground.configure()
    big = objects.deflated(objects.DX_IMAGE, ground.root / "big", 250 << 20).read_bytes()
    ground.put("dx", "big.dcm", big)
    good = [image() for _ in range(5)]
    for number, content in enumerate(good):
        ground.put("dx", f"{number}.dcm", content)
    service = ground.service()
    until(ground.is_empty, "all have gone their way")
    log = service.stop()
    assert ground.quarantined() == {b"dx/big.dcm": "out-of-memory"}
    assert "[openrem] memory" in ground.why(b"dx/big.dcm")["next"]
    assert log.count('"file.will-retry"') == 1
    assert all(ground.holds(content) for content in good)
    assert not ground.holds(big)
