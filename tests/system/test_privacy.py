"""No patient data wherever openrem-ingest itself writes."""

import os

from tests.system.harness import Ground, changed, image, report, sample, until

MARK = "XQZMARK"
PATIENT = {
    "PatientName": f"{MARK}name^{MARK}given",
    "PatientID": f"{MARK}id",
    "AccessionNumber": f"{MARK}acc",
    "PatientBirthDate": "19310427",
    "PatientComments": f"{MARK}comment",
}
NEEDLES = (MARK.encode(), b"19310427")


def test_no_patient_data_is_written_anywhere(ground: Ground) -> None:
    """Whatever becomes of a file: neither its content nor its name is in log, state or reason."""
    good, long = image("dx", **PATIENT), image("dx", StudyID="S" * 20, **PATIENT)
    ground.put("dx", f"{MARK} good/{MARK}.dcm", good)
    ground.put("dx", f"{MARK}-bad-value.dcm", long)
    ground.put("sr", f"{MARK} report.dcm", report("fluoroscopy", **PATIENT))
    ground.put("sr", f"{MARK} cut.dcm", report("ct", **PATIENT)[:-40])
    ground.put(
        "sr", f"{MARK} no dose.dcm", changed(sample("sr/enhanced-sr-not-dose.dcm"), **PATIENT)
    )
    ground.put("sr", f"{MARK}.txt", f"{MARK} text".encode())
    ground.put("mammo", f"{MARK}.dcm", image("mammo", **PATIENT))
    service = ground.service()
    until(ground.is_empty, "all have gone their way")
    until(lambda: ground.folders() == [], "all is tidied up")
    # The paths of a moment ago stay in the ledger's files until its next heartbeat.
    until(lambda: _marked(_written_by_us(ground)) == [], "no trace is left while it runs")
    service.stop()
    mark = MARK.encode()
    assert ground.quarantined() == {
        b"dx/" + mark + b"-bad-value.dcm": "bad-value",
        b"sr/" + mark + b" cut.dcm": "truncated",
        b"sr/" + mark + b" no dose.dcm": "not-a-dose-report",
        b"sr/" + mark + b".txt": "not-dicom",
    }
    assert ground.holds(good)
    assert _marked(_written_by_us(ground)) == []
    told = ground.says("status").out + ground.says("status", "--json").out
    assert MARK not in told


def test_no_patient_data_after_a_manual_import(ground: Ground) -> None:
    """The sources' names are shown to who asked for them, and kept nowhere."""
    path = ground.root / f"{MARK}.dcm"
    path.write_bytes(image("dx", **PATIENT))
    bad = ground.root / f"{MARK}-bad.dcm"
    bad.write_bytes(image("dx", StudyID="S" * 20, **PATIENT))
    said = ground.says("import", path, bad)
    assert said.code == 1
    assert MARK not in said.out
    assert MARK not in said.err.replace(str(bad), "")
    assert _marked(_written_by_us(ground)) == []


def _written_by_us(ground: Ground) -> dict[str, bytes]:
    """State, logs and reasons."""
    paths = [path for path in ground.state.rglob("*") if path.is_file()]
    paths += ground.failed.rglob("*.why.json")
    paths += ground.root.glob("*.stderr")
    assert paths
    return {os.path.basename(path): path.read_bytes() for path in paths}


def _marked(contents: dict[str, bytes]) -> list[tuple[str, bytes]]:
    found = []
    for name, content in contents.items():
        for needle in NEEDLES:
            at = content.find(needle)
            if at >= 0:
                found.append((name, content[max(0, at - 80) : at + 80]))
    return found
