"""A drop folder for tables of heights and weights, before a real OpenREM."""

import json
from pathlib import Path

from tests.system.harness import Ground, files_below, image, until

MARK = "XQZMARK"
COLUMNS = 'columns = { id = "Accession", height = "Height", weight = "Weight" }'

# Runs in OpenREM's interpreter before anything else: a table's answer can be held.
_HOLDS = """
import json, os, time
dumps = json.dumps
def answered(answer, *args, **kwargs):
    if isinstance(answer, dict) and "of" in answer:
        mark = {mark!r}
        while os.path.exists(mark):
            open(mark + " here", "w").close()
            time.sleep(0.02)
    return dumps(answer, *args, **kwargs)
json.dumps = answered
"""


def serve_tables(ground: Ground, *lines: str) -> Path:
    """Configure a folder for tables. Its path."""
    folder = ground.drop("sizes")
    folder.mkdir()
    keys = [f'path = "{folder}"', 'kind = "ptsizecsv"', COLUMNS, *lines]
    ground.tables = "\n".join(["[[drop]]", *keys])
    ground.configure()
    return folder


def table(*rows: str, titles: str = "Accession;Height;Weight") -> bytes:
    """A table as a RIS writes it."""
    return "\r\n".join([titles, *rows, ""]).encode("latin-1")


def without_sizes(accession: str) -> bytes:
    """An image whose patient's sizes nobody has told."""
    return image(AccessionNumber=accession, PatientSize="", PatientWeight="")


def sizes(ground: Ground) -> dict[str, tuple[str, str]]:
    """Height (m) and weight (kg) of each study, by accession number."""
    rows = ground.query(
        "SELECT accession_number, coalesce(round(patient_size, 3)::text, ''), "
        "coalesce(round(patient_weight, 1)::text, '') FROM remapp_patientstudymoduleattr AS own "
        "JOIN remapp_generalstudymoduleattr AS study "
        "ON study.id = own.general_study_module_attributes_id"
    )
    return {accession: (size, weight) for accession, size, weight in rows}


def is_tidy(folder: Path) -> bool:
    """Whether nothing lies in it, nor a claim, nor anything of ours."""
    return files_below(folder) == [] and not (folder / ".ingest").exists()


def test_sizes_come_to_their_studies_and_no_patient_data_anywhere_else(ground: Ground) -> None:
    """Each table goes its way; an object among them is imported as what it is."""
    folder = serve_tables(ground, 'unmatched = "accept"')
    for number in (1, 2):
        ground.put("dx", f"{number}.dcm", without_sizes(f"{MARK}{number}"))
    stray = without_sizes(f"{MARK}3")
    ground.put("sizes", f"{MARK}.dcm", stray)
    good = [f"{MARK}1;180;80,5", f"{MARK}2;165;", f"{MARK}9;150;50"]
    ground.put("sizes", f"{MARK} Müller.csv", table(*good))
    ground.put("sizes", "titles.csv", table(*good, titles=f"{MARK};Height;Weight"))
    ground.put("sizes", "metres.csv", table(f"{MARK}1;1,80;80", f"{MARK}2;1,65;60"))
    ground.put("sizes", "others.csv", table(f"{MARK}8;180;80"))
    ground.put("sizes", f"{MARK}.xlsx", b"PK\x03\x04" + f"{MARK}".encode() * 40)
    said = ground.says("classify", "--json", folder / f"{MARK} Müller.csv")
    assert (said.lines[0]["importer"], said.lines[0]["drop"]) == ("ptsizecsv", "sizes")

    service = ground.service()
    until(lambda: is_tidy(folder), "all have gone their way")
    assert sizes(ground) == {
        f"{MARK}1": ("1.800", "80.5"),
        f"{MARK}2": ("1.650", ""),
        f"{MARK}3": ("", ""),
    }
    assert ground.holds(stray)
    assert ground.quarantined() == {
        b"sizes/titles.csv": "column-missing",
        b"sizes/metres.csv": "bad-rows",
        b"sizes/others.csv": "no-row-matches",
        b"sizes/" + f"{MARK}.xlsx".encode(): "not-a-table",
    }
    assert ground.why(b"sizes/metres.csv")["detail"] == (
        "rows 2 and 3: the height is not more than 3 cm"
    )
    (line,) = [line for line in service.events() if line.get("importer") == "ptsizecsv"]
    told = "2 rows held, 1 without a study in OpenREM"
    assert (line["event"], line["rows"], line["unmatched"]) == ("file.imported", 2, 1)
    assert line["evidence"] == told
    history = ground.says("history", "--folder", "sizes", "--json")
    assert any(step["detail"] == told for step in history.lines)
    uploads = "SELECT count(*) FROM remapp_sizeupload"
    assert ground.number(uploads) == 1

    ground.put("sizes", "again.csv", table(*good))
    until(lambda: service.log().count('"already there"'), "the same table is there already")
    until(lambda: is_tidy(folder), "it has gone")
    assert ground.number(uploads) == 1
    log = service.stop()
    written = [path for path in ground.state.rglob("*") if path.is_file()]
    written += ground.failed.rglob("*.why.json")
    assert [path for path in written if MARK.encode() in path.read_bytes()] == []
    assert MARK not in log + history.out + ground.says("status").out


def test_a_table_waits_for_its_studies(ground: Ground) -> None:
    """It stays in its folder, and status tells why; once they are there it is archived."""
    archive = ground.root / "tables"
    folder = serve_tables(ground, 'unmatched = "wait"', f'after = "archive"\narchive = "{archive}"')
    ground.put("dx", "1.dcm", without_sizes(f"{MARK}1"))
    ground.put("sizes", "t.csv", table(f"{MARK}1;180;80", f"{MARK}2;165;65"))
    service = ground.service()
    until(lambda: '"unmatched-rows"' in service.log(), "it was tried")
    until((folder / "t.csv").exists, "it is back")
    assert sizes(ground) == {f"{MARK}1": ("1.800", "80.0")}
    assert "unmatched-rows" in json.dumps(ground.folder_status("sizes"))
    ground.put("dx", "2.dcm", without_sizes(f"{MARK}2"))
    until(lambda: list(archive.glob("*/t.csv")), "it is archived")
    until(lambda: is_tidy(folder), "nothing of ours is left")
    service.stop()
    assert sizes(ground)[f"{MARK}2"] == ("1.650", "65.0")
    assert ground.quarantined() == {}


def test_killed_once_openrem_has_committed_it_is_imported_once(ground: Ground) -> None:
    """The service is killed before it heard of it; the next one finds that all is held."""
    folder = serve_tables(ground, 'unmatched = "accept"')
    mark = ground.root / "hold"
    mark.touch()
    ground.patch_openrem(_HOLDS.format(mark=str(mark)))
    ground.put("dx", "1.dcm", without_sizes(f"{MARK}1"))
    ground.put("sizes", "t.csv", table(f"{MARK}1;180;80"))
    service = ground.service()
    until((ground.root / "hold here").exists, "OpenREM has committed")
    service.kill()
    assert any(name.endswith(b"t.csv") for name in files_below(folder))
    mark.unlink()
    service = ground.service()
    until(lambda: is_tidy(folder), "it has gone")
    log = service.stop()
    assert '"already there"' in log
    assert ground.number("SELECT count(*) FROM remapp_sizeupload") == 1
    assert sizes(ground) == {f"{MARK}1": ("1.800", "80.0")}
    assert ground.quarantined() == {}
