"""Toshiba CT studies through the real service, a real OpenREM, Java and PixelMed: counted once."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import toshiba
from tests.system.harness import Ground, Moments, new_uid, report, until

RULE = """
[[rule]]
name = "Aquilion"
match = { Modality = "CT", Manufacturer = "Toshiba", ManufacturerModelName = "Aquilion" }
then = "import:cttoshiba"
"""
QUIET_S = 3.0  # the looks are half a second apart
ONCE = [("2", "2", "1", "6", "307.000")]  # two scans; five images and the report made of them


@pytest.fixture
def ground(ground: Ground) -> Ground:
    """With the rule for such images."""
    return with_rule(ground)


def with_rule(ground: Ground, *, quiet_s: float = QUIET_S) -> Ground:
    """Have such images gathered, for so long."""
    ground.tables = f"{RULE}\n[gather]\nquiet = {quiet_s}"
    ground.configure()
    return ground


def put(ground: Ground, images: Sequence[bytes], *, drops: Sequence[str] = ("sr", "dx")) -> None:
    """Put the images of a study into several drop folders by turns."""
    for number, image in enumerate(images):
        ground.put(drops[number % len(drops)], f"study/{number}.dcm", image)


def held(ground: Ground) -> list[tuple[str, ...]]:
    """Of each study: events as counted and as stored, patients, objects, the DLP."""
    return [(row[2], row[3], row[4], row[5], row[7]) for row in ground.held()]


def test_a_study_is_imported_as_a_whole_and_once(ground: Ground) -> None:
    """From two folders."""
    service = ground.service().ready()
    put(ground, toshiba.study())
    until(ground.is_empty, "the study is imported")
    service.stop()
    assert held(ground) == ONCE
    assert ground.quarantined() == {}
    assert not list((ground.state / "work" / "run").iterdir())


def test_an_image_that_comes_late_says_so(ground: Ground) -> None:
    """It is not counted, and not deleted."""
    *early, late, screen = toshiba.study()
    service = ground.service().ready()
    put(ground, [*early, screen])
    until(ground.is_empty, "the study is imported")
    ground.put("sr", "late.dcm", late)
    until(ground.quarantined, "the late image is refused")
    service.stop()
    assert ground.quarantined() == {b"sr/late.dcm": "late-image"}
    assert held(ground) == [("2", "2", "1", "5", "307.000")]


def test_a_study_that_openrem_has_from_a_report_is_refused_as_such(ground: Ground) -> None:
    uid = new_uid()
    ground.put("sr", "report.dcm", report("ct", study=uid))
    assert ground.says("run", "--once").code == 0
    with_rule(ground, quiet_s=600)
    put(ground, toshiba.study(slices=1, uid=uid), drops=("sr",))
    said = ground.says("run", "--once")  # which waits for nothing
    assert said.code == 1, said
    assert said.err.count("it waits for the rest of its study") == 3
    with_rule(ground, quiet_s=0.1)
    for file in ground.state.glob("ledger.sqlite*"):  # until then it would wait
        file.unlink()
    assert ground.says("run", "--once").code == 1
    assert set(ground.quarantined().values()) == {"other-source"}


def test_missing_tools_cost_no_attempt_and_stop_nothing_else(ground: Ground) -> None:
    """Whoever installs them finds all of it imported."""
    java = ground.root / "java"
    ground.patch_openrem(_JAVA_IS.format(path=str(java)))
    service = ground.service().ready()
    put(ground, toshiba.study())
    until(
        lambda: any(line.get("reason") == "tools-missing" for line in service.events()),
        "the tools are missed",
    )
    ground.put("sr", "report.dcm", report("ct"))
    until(lambda: len(ground.held()) == 1, "a report is imported all the same")
    java.symlink_to(toshiba.JAVA)
    until(ground.is_empty, "the study is imported")
    service.stop()
    assert len(ground.held()) == 2
    assert ground.quarantined() == {}


# OpenREM's settings are read when its extractor is imported.
_JAVA_IS = """
import importlib
plain = importlib.import_module
def changed(name, *args):
    module = plain(name, *args)
    if name == "openrem.remapp.extractors.ct_toshiba":
        module.JAVA_EXE = {path!r}
    return module
importlib.import_module = changed
"""


def test_by_hand_a_study_needs_no_long_wait(ground: Ground, tmp_path: Path) -> None:
    """A folder is named: all of it is there. The sources stay."""
    with_rule(ground, quiet_s=600.0)
    folder = tmp_path / "a study"
    folder.mkdir()
    for number, image in enumerate(toshiba.study()):
        (folder / f"{number}.dcm").write_bytes(image)
    for _ in range(2):
        said = ground.says("import", folder)
        assert said.code == 0, said
    assert held(ground) == ONCE
    assert len(list(folder.iterdir())) == 5


@pytest.mark.parametrize(
    ("moment", "ledger"), [("asked", "kept"), ("committed", "kept"), ("committed", "lost")]
)
def test_killed_in_mid_import_it_is_counted_once(ground: Ground, moment: str, ledger: str) -> None:
    """The service, and OpenREM's process with it: what was set aside is gathered again."""
    moments = Moments(ground)
    service = ground.service().ready()
    put(ground, toshiba.study())
    with moments.hold(moment) as wait:
        wait()
        workers = service.workers()
        service.kill()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
    if ledger == "lost":
        for file in ground.state.glob("ledger.sqlite*"):
            file.unlink()
    again = ground.service().ready()
    until(ground.is_empty, "the study is gathered again and imported")
    again.stop()
    assert held(ground) == ONCE
    assert ground.quarantined() == {}
    assert ground.is_tidy()
    assert not list((ground.state / "work" / "run").iterdir())
