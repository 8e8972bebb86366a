"""An object of which OpenREM holds but a part is never taken for imported."""

import pytest

from tests.system.harness import Ground, image, report, until

# What an import that failed half way leaves: the object is recorded, its end is missing.
LOST = {
    "events": "remapp_irradeventxraydata, remapp_ctirradiationeventdata",
    "patient": "remapp_patientmoduleattr",
}


@pytest.mark.parametrize("lost", list(LOST))
def test_what_openrem_holds_in_part_is_quarantined(ground: Ground, lost: str) -> None:
    """Dose reports and images alike; the next step is told, and taking it is all there is to do."""
    objects = {
        "sr": report("ct"),
        "dx": image("dx"),
        "mammo": image("mammo"),
    }
    files = {name: ground.root / f"{name}.dcm" for name in objects}
    for name, path in files.items():
        path.write_bytes(objects[name])
    assert ground.says("import", *files.values()).code == 0
    ground.query(f"TRUNCATE {LOST[lost]} CASCADE")
    by_hand = ground.says("import", "--delete", *files.values())
    assert by_hand.code == 1, by_hand
    assert by_hand.out.count("held-in-part") == 1
    assert all(path.exists() for path in files.values())
    for name, content in objects.items():
        ground.put(name, "object.dcm", content)
    said = ground.says("run", "--once")
    assert said.code == 1, said
    assert ground.quarantined() == {f"{name}/object.dcm".encode(): "held-in-part" for name in files}
    assert "delete this study in OpenREM" in ground.why(b"dx/object.dcm")["next"]
    ground.query("TRUNCATE remapp_generalstudymoduleattr CASCADE")
    for name in objects:
        (ground.failed / name / "object.dcm").rename(ground.drop(name) / "object.dcm")
    assert ground.says("run", "--once").code == 0
    assert sorted(row[2:6] for row in ground.held()) == [
        ("1", "1", "1", "1"),
        ("1", "1", "1", "1"),
        ("3", "3", "1", "1"),
    ]


def test_a_half_study_does_not_stop_a_whole_one(ground: Ground) -> None:
    """Others are imported meanwhile, also in the same run."""
    half, whole = image("dx"), image("dx")
    ground.put("dx", "half.dcm", half)
    assert ground.says("run", "--once").code == 0
    ground.query("TRUNCATE remapp_irradeventxraydata CASCADE")
    ground.put("dx", "half.dcm", half)
    ground.put("dx", "whole.dcm", whole)
    assert ground.says("run", "--once").code == 1
    assert ground.quarantined() == {b"dx/half.dcm": "held-in-part"}
    assert ground.holds(whole)


def test_what_openrem_itself_makes_a_part_of_is_told_as_that(ground: Ground) -> None:
    """It passes over events of another meaning; nobody else's import has failed here."""
    other = report().replace(b"CT Acquisition", b"CT acquisition")
    ground.put("sr", "x.dcm", other)
    service = ground.service()
    until(ground.is_empty, "it has gone its way")
    service.stop()
    assert ground.quarantined() == {b"sr/x.dcm": "not-held"}
    assert ground.why(b"sr/x.dcm")["detail"] == "3 of 3 events are missing"
