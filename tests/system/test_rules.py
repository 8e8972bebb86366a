"""What the user's rules say is done, by the real service, and nothing else is."""

import os
import zipfile
from pathlib import Path

import pytest

from tests.system.harness import (
    Ground,
    files_below,
    image,
    new_uid,
    report,
    sop_uid,
    study_uid,
    until,
)

MARK = "XQZMARK"


def _rules(ground: Ground) -> None:
    ground.tables = f"""
        [[rule]]
        name = "physics"
        match = {{ PatientName = "*physics*", StationName = "sample-*" }}
        then = "keep"
        into = "{ground.root}/physics"
        zip = true
        quiet = 2

        [[rule]]
        name = "old readers"
        match = {{ ManufacturerModelName = ["CR 85", "CR 75"] }}
        then = "ignore"

        [[rule]]
        name = "room 9"
        match = {{ StationName = "room 9" }}
        then = "ignore"
        archive = "{ground.root}/ignored"

        [[rule]]
        name = "test patients"
        match = {{ PatientID = "ZZ*", drop = "dx" }}
        then = "quarantine"

        [[rule]]
        name = "strange title"
        match = {{ sop_class = "X-Ray Radiation Dose SR Storage", StationName = "mislabelled" }}
        then = "import:mg"
    """
    ground.configure()


def test_each_rule_does_what_it_says(ground: Ground) -> None:
    _rules(ground)
    study = new_uid()
    physics = [
        image(study=study, PatientName=f"{MARK}^PHYSICS test", StudyDate="20261123")
        for _ in range(2)
    ]
    shelved = image("mammo", StationName="Room 9")
    normal, same_id = image(PatientID="AB1"), image("mammo", PatientID="ZZ9")
    for number, content in enumerate(physics):
        ground.put("dx", f"{MARK}/{number}.dcm", content)
    ground.put("dx", "reader.dcm", image(ManufacturerModelName="cr 75"))
    ground.put("mammo", "shelved.dcm", shelved)
    ground.put("dx", "test.dcm", image(PatientID="zz9"))
    ground.put("sr", "strange.dcm", report(StationName="mislabelled"))
    ground.put("dx", "normal.dcm", normal)
    ground.put("mammo", "same-id.dcm", same_id)
    service = ground.service()
    until(ground.is_empty, "all have gone their way")
    folder = ground.root / "physics" / "2026-11-23"
    until((folder / f"{study}.zip").exists, "the study is packed")
    alone = [f"2026-11-23/{study}.zip".encode()]
    until(lambda: files_below(ground.root / "physics") == alone, "and there is nothing else")
    with zipfile.ZipFile(folder / f"{study}.zip") as packed:
        kept = {name: packed.read(name) for name in packed.namelist()}
    assert kept == {f"{study}/{sop_uid(one)}.dcm": one for one in physics}
    (archived,) = files_below(ground.root / "ignored")
    assert archived.endswith(b"/shelved.dcm")
    assert (ground.root / "ignored" / os.fsdecode(archived)).read_bytes() == shelved
    assert ground.quarantined() == {b"dx/test.dcm": "by-rule", b"sr/strange.dcm": "refused"}
    assert ground.holds(normal)
    assert ground.holds(same_id)
    assert ground.events() == 2
    status = ground.status()
    assert status["rules"] == {"physics": 2, "old readers": 1, "room 9": 1}
    assert 'Rule "old readers": 1 taken out today.' in ground.says("status").out
    told = ground.says("history", "--sop", sop_uid(physics[0]))
    assert "taken out by a rule" in told.out
    assert "(physics)" in told.out
    service.stop()
    assert MARK not in service.log()
    by_rule = [line for line in service.events() if "rule" in line]
    assert {(line["event"], line["rule"]) for line in by_rule} == {
        ("file.kept", "physics"),
        ("file.ignored", "old readers"),
        ("file.ignored", "room 9"),
        ("study.zipped", "physics"),
    }
    assert MARK.encode() not in b"".join(
        path.read_bytes() for path in ground.state.rglob("*") if path.is_file()
    )


def test_rules_need_no_openrem_and_a_change_of_them_counts_for_what_waits(ground: Ground) -> None:
    """While OpenREM is away, what a rule takes out goes; what waits is decided on anew."""
    ground.python = ground.root / "no-python"
    _rules(ground)
    ground.put("dx", "reader.dcm", image(ManufacturerModelName="CR 85"))
    ground.put("dx", "other.dcm", image(ManufacturerModelName="CR 35"))
    service = ground.service()
    until(lambda: ground.files()["dx"] == [b"other.dcm"], "the reader's is gone")
    until(lambda: ground.folder_status("dx", code=3)["waiting_for_import"] == 1, "it waits")
    service.kill()
    ground.config.write_text(ground.config.read_text().replace('"CR 75"', '"CR 35"'))
    service = ground.service()
    until(ground.is_empty, "now it is gone, too")
    service.stop()
    assert ground.quarantined() == {}


def test_rules_on_a_drop_folder_hold_for_a_manual_import_from_it(ground: Ground) -> None:
    """By the folder's own name; and --delete does what the rule says."""
    _rules(ground)
    path = ground.put("dx", "x.dcm", image(PatientID="ZZ1"))
    other = ground.put("dx", "y.dcm", image(ManufacturerModelName="CR 85"))
    said = ground.says("import", "--delete", path, other)
    assert said.code == 1, said
    assert "by-rule" in said.out
    assert ground.files()["dx"] == [b"x.dcm"]
    assert ground.events() == 0


@pytest.mark.parametrize("how", ["keep", "by hand"])
def test_where_files_stay_those_of_rules_stay_as_well(ground: Ground, how: str) -> None:
    _rules(ground)
    content = image(ManufacturerModelName="CR 85")
    if how == "by hand":
        path = ground.root / "reader.dcm"
        path.write_bytes(content)
        said = ground.says("import", path)
    else:
        ground.after = "keep"
        ground.configure()
        path = Path(os.fsdecode(ground.put("dx", "reader.dcm", content)))
        said = ground.says("run", "--once")
    assert said.code == 0, said
    assert "ignored" in said.out
    assert path.read_bytes() == content
    if how == "by hand":  # what was done counts for one run only
        assert "ignored" in ground.says("import", path).out
        ground.config.write_text(ground.config.read_text().replace('"CR 85", ', ""))
        assert ground.says("import", path).code == 0
        assert ground.events() == 1
    if how == "keep":
        assert "nothing to import" in ground.says("run", "--once").err
        ground.config.write_text(ground.config.read_text().replace('"CR 85", ', ""))
        assert ground.says("run", "--once").code == 0
        assert ground.events() == 1  # without the rule it is imported
    assert path.read_bytes() == content
    assert study_uid(content)


def test_a_folder_of_a_rule_on_a_share_that_is_away_is_not_filled(ground: Ground) -> None:
    """Files for it wait, and are not put where the share should be."""
    _rules(ground)
    text = ground.config.read_text()
    ground.config.write_text(
        text.replace(
            'then = "ignore"\n        archive',
            f'then = "ignore"\n        mount = "{ground.root}/ignored"\n        archive',
        )
    )
    (ground.root / "ignored").mkdir()
    ground.put("dx", "x.dcm", content := image(StationName="room 9"))
    service = ground.service().ready()
    until(lambda: service.has_said("file.cannot-move"), "it can't be moved")
    assert ground.folder_status("dx")["stuck"] == {"disk-away": 1}
    assert [target["what"] for target in ground.status()["offline"]] == ['folder of rule "room 9"']
    service.stop()
    assert list((ground.root / "ignored").iterdir()) == []
    assert (ground.drop("dx") / "x.dcm").read_bytes() == content
