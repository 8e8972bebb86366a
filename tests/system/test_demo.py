"""`demo`: from nothing to doses in a real OpenREM; the second time without building."""

import shutil

import pytest

from tests.system.harness import Ground


@pytest.mark.timeout(900)
def test_the_demo_twice(ground: Ground) -> None:
    """It shows what OpenREM holds, and the second time it starts at once."""
    folder = ground.root / "demo"
    first = ground.demo(folder)
    assert first.code == 0, first
    for shown in ("DLP 575.2 mGy·cm", "AGD left 2.66", "12.3 mGy"):
        assert shown in first.out, first.out
    assert "installing" in first.err
    failed = {path.name for path in (folder / "dosedata" / "failed").rglob("*.why.json")}
    assert failed == {
        "enhanced-sr-not-dose.dcm.why.json",
        "notes.txt.why.json",
        "truncated-dose-report.dcm.why.json",
    }
    second = ground.demo(folder)
    assert second.code == 0, second
    assert "installing" not in second.err
    assert "making" not in second.err
    assert "already there" in second.out
    held = first.out.index("What OpenREM now holds")
    again = second.out.index("What OpenREM now holds")
    assert first.out[held:] == second.out[again:]
    shutil.rmtree(folder / "site")
