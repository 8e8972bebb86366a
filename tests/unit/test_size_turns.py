"""A table of heights and weights on its journey, on real files and a real ledger."""

import json
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ingest import dicom, policy, sizes
from ingest.context import Inbox
from ingest.engine import Engine
from ingest.errors import Reason
from ingest.explain import Explainer
from ingest.ledger import Ledger
from ingest.model import (
    Done,
    Failed,
    Import,
    Importer,
    Job,
    Outcome,
    Recordable,
    Reject,
    SizesDone,
    SizesFacts,
    SizesOfOne,
    SizesWanted,
    State,
    StudyOutcome,
)
from ingest.openrem.importers import Hello
from ingest.settle import Patience
from tests.objects import DX_IMAGE, variant
from tests.strategies import a_study, facts_of

WANTED = SizesWanted(id_title="Acc", height_title="Height", weight_title="Weight")
TABLE = "Acc;Height;Weight\nXQZMARK1;170;70\nXQZMARK2;180;80\n"
HELD = SizesOfOne(
    rows=1, heights=(170.0,), weights=(70.0,), found=1, studies=(((None, None), (170.0, 70.0)),)
)
UNMATCHED = replace(HELD, found=0, studies=())
QUIET_S = 1.0
LONGEST_S = 100.0


class OpenRem:
    """Holds each object, and of tables what it is told to."""

    def __init__(self) -> None:
        self.outcome: Outcome = SizesDone(facts=SizesFacts(of=(HELD, HELD)))
        self.took: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def hello(self) -> Hello:
        """See `OpenRem`, here and below."""
        return Hello(openrem="", database="", server="", duplicate_scanners=0)

    def import_object(self, path: bytes, importer: Importer) -> Outcome:
        """Take it."""
        self.took.append(importer.value)
        header = dicom.look(path).header
        assert header is not None
        held = a_study(event_uids=(header.sop_instance_uid,), event_rows=1, number_of_events=1)
        return Done(facts=facts_of(header, held))

    def import_sizes(self, path: bytes, wanted: SizesWanted) -> Outcome:
        """Take it."""
        assert wanted.titles == WANTED.titles
        self.took.append(Path(os.fsdecode(path)).read_text(encoding="utf-8"))
        self.meanwhile()
        return self.outcome

    def import_study(self, folder: bytes, importer: Importer) -> StudyOutcome:
        """No study comes."""
        raise NotImplementedError

    def recorded(self, _objects: Sequence[Recordable]) -> Collection[Recordable]:
        """None."""
        return ()

    def prove(self, path: bytes, importer: Importer) -> Outcome:
        """Nobody asks."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing runs."""


class Turns:
    """One drop folder with tables, and turns at it; the time is set by hand."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder = folder
        self.root = folder / "drop"
        self.root.mkdir()
        (folder / "work").mkdir()
        self.ledger = ledger
        self.openrem = OpenRem()
        self.ahead_s = 0.0
        self.born = self.root.stat().st_mtime
        self.inbox = Inbox(
            name="sizes",
            root=os.fsencode(self.root),
            after="delete",
            patience=Patience(quiet_s=QUIET_S, incomplete_after_s=60.0),
            quarantine=os.fsencode(folder / "failed"),
            sizes=WANTED,
        )
        self.engine = Engine(
            ledger=ledger,
            inboxes=[self.inbox],
            retry=policy.RetryPolicy(attempts=3, initial_s=1.0, maximum_s=LONGEST_S),
            work=os.fsencode(folder / "work"),
            clock=lambda: self.born + self.ahead_s,
            stopping=threading.Event(),
        )

    def serve(self, inbox: Inbox) -> None:
        """Serve the folder so from now on."""
        self.inbox = self.engine.inboxes["sizes"] = inbox

    def put(self, text: str = TABLE, name: str = "t.csv") -> Path:
        """Have a sender write a table."""
        path = self.root / name
        path.write_text(text, encoding="utf-8")
        return path

    def look(self, path: Path, *, after_s: float = 1000.0) -> Job:
        """Look at a file so much later."""
        self.ahead_s += after_s
        self.engine.intake.look(self.inbox, bytes(path))
        return self.job(path)

    def turn(self) -> bool:
        """Import the next."""
        return self.engine.import_next(self.openrem)

    def job(self, path: Path) -> Job:
        """What the ledger knows of it."""
        job = self.ledger.find(bytes(path))
        assert job is not None
        return job

    def leftovers(self) -> list[str]:
        """All but what came and went by itself."""
        return sorted(
            str(one.relative_to(self.folder))
            for place in ("drop", "work")
            for one in (self.folder / place).rglob("*")
        )

    def quarantined(self) -> dict[str, str]:
        """The reasons in quarantine."""
        return {
            one.name.removesuffix(".why.json"): json.loads(one.read_text())["reason"]
            for one in (self.folder / "failed").rglob("*.why.json")
        }


@pytest.fixture
def turns(tmp_path: Path) -> Iterator[Turns]:
    with closing(Ledger(tmp_path / "state" / "ledger.sqlite")) as ledger:
        yield Turns(tmp_path, ledger)


def test_a_table_has_to_be_still_though_nobody_has_it_open(turns: Turns) -> None:
    path = turns.put()
    assert turns.look(path, after_s=QUIET_S * 2).state is State.SEEN
    job = turns.look(path, after_s=QUIET_S * sizes.QUIET_TIMES)
    assert (job.state, job.importer, job.header) == (State.READY, Importer.PTSIZECSV, None)


def test_a_table_that_is_held_leaves(turns: Turns) -> None:
    """OpenREM had the plain rows; log and history tell how many are held."""
    turns.openrem.outcome = SizesDone(facts=SizesFacts(of=(HELD, UNMATCHED)))
    path = turns.put()
    turns.look(path)
    with capture_logs() as logs:
        assert turns.turn()
    assert turns.openrem.took == ["XQZMARK1,170,70\nXQZMARK2,180,80\n"]
    assert turns.job(path).state is State.DONE
    assert turns.leftovers() == []
    (line,) = [line for line in logs if line["event"] == "file.imported"]
    assert (line["rows"], line["unmatched"], line["importer"]) == (1, 1, "ptsizecsv")
    told = "1 row held, 1 without a study in OpenREM"
    assert turns.ledger.history(turns.job(path).id)[-1][3] == told
    assert "XQZMARK" not in json.dumps(logs)


def test_where_files_stay_the_copy_goes(turns: Turns) -> None:
    turns.serve(replace(turns.inbox, after="keep"))
    path = turns.put()
    turns.look(path)
    assert turns.turn()
    assert turns.job(path).state is State.DONE
    assert turns.leftovers() == ["drop/t.csv"]
    assert not turns.turn()


def test_objects_go_first(turns: Turns) -> None:
    """A table needs its studies to be there, those included that are being imported just now."""
    table = turns.put()
    turns.look(table)
    image = variant(DX_IMAGE, turns.root / "image.dcm")
    turns.look(image)
    turns.turn()
    turns.turn()
    assert turns.openrem.took[0] == "dx"
    assert len(turns.openrem.took) == 2
    turns.look(turns.put(name="u.csv"))
    now = turns.engine.context.now()
    assert turns.ledger.next_ready(["sizes"], ["1.2.3"], now) is None
    assert turns.ledger.next_ready(["sizes"], [], now) is not None


def test_rows_wait_for_their_studies_for_so_long(turns: Turns) -> None:
    """No attempt is spent; at the end it is quarantined, and its reason says what is held."""
    turns.serve(replace(turns.inbox, sizes=replace(WANTED, wait_s=5000.0)))
    turns.openrem.outcome = SizesDone(facts=SizesFacts(of=(HELD, UNMATCHED)))
    path = turns.put()
    turns.look(path, after_s=10.0)
    for _ in range(6):
        assert turns.turn()
        job = turns.job(path)
        assert (job.state, job.reason, job.attempts) == (State.READY, Reason.UNMATCHED_ROWS, 0)
        assert path.exists()
        assert not turns.turn()
        turns.ahead_s += LONGEST_S + 1
    turns.ahead_s = 5100.0
    assert turns.turn()
    assert turns.job(path).state is State.QUARANTINED
    assert turns.quarantined() == {"t.csv": "unmatched-rows"}


def test_a_table_without_any_study_is_quarantined_at_once(turns: Turns) -> None:
    turns.openrem.outcome = SizesDone(facts=SizesFacts(of=(UNMATCHED, UNMATCHED)))
    path = turns.put()
    turns.look(path)
    assert turns.turn()
    assert turns.quarantined() == {"t.csv": "no-row-matches"}
    for one in (turns.folder / "failed").rglob("*.why.json"):
        assert "XQZMARK" not in one.read_text(encoding="utf-8")


def test_a_failed_import_is_tried_again(turns: Turns) -> None:
    turns.openrem.outcome = Failed(reason=Reason.DATABASE_HICCUP)
    path = turns.put()
    turns.look(path)
    assert turns.turn()
    assert (turns.job(path).state, turns.job(path).attempts) == (State.READY, 1)
    assert turns.leftovers() == ["drop/t.csv"]
    turns.openrem.outcome = SizesDone(facts=SizesFacts(of=(HELD, HELD)))
    turns.ahead_s += LONGEST_S
    assert turns.turn()
    assert turns.job(path).state is State.DONE


def test_a_table_that_is_sent_again_meanwhile_is_new_work(turns: Turns) -> None:
    path = turns.put()
    turns.look(path)
    newer = TABLE + "XQZMARK3;190;90\n"
    turns.openrem.meanwhile = lambda: turns.put(newer)
    assert turns.turn()
    turns.openrem.meanwhile = lambda: None
    assert path.read_text(encoding="utf-8") == newer
    assert turns.turn()
    assert [one.count("XQZMARK") for one in turns.openrem.took] == [2, 3]


def test_what_is_written_into_the_claim_meanwhile_goes_back(turns: Turns) -> None:
    path = turns.put()
    turns.look(path)

    def write() -> None:
        (claimed,) = turns.root.glob(".ingest/*/t.csv")
        with claimed.open("a", encoding="utf-8") as sender:
            sender.write("XQZMARK3;190;90\n")

    turns.openrem.meanwhile = write
    assert turns.turn()
    assert path.read_text(encoding="utf-8") == TABLE + "XQZMARK3;190;90\n"


def test_a_table_that_somebody_has_open_is_not_handed_over(turns: Turns) -> None:
    path = turns.put()
    turns.look(path)
    with path.open("a", encoding="utf-8"):
        assert turns.turn()
    assert turns.openrem.took == []
    assert path.exists()


def test_another_table_than_we_read_is_no_proof(turns: Turns) -> None:
    turns.openrem.outcome = SizesDone(facts=SizesFacts(of=(HELD,)))
    path = turns.put()
    turns.look(path)
    assert turns.turn()
    assert path.exists()
    assert turns.job(path).reason is Reason.CHANGED


def test_a_folder_that_has_tables_no_more(turns: Turns) -> None:
    """What was decided by the configuration of before is decided anew."""
    path = turns.put()
    turns.look(path)
    turns.serve(replace(turns.inbox, sizes=None))
    assert turns.turn()
    assert turns.openrem.took == []
    assert turns.job(path).reason is Reason.CHANGED
    turns.look(path)
    assert turns.quarantined() == {"t.csv": "not-dicom"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("\0" * 200, "not-a-table"),
        ("Nr;Height;Weight\nXQZMARK;170;70\n", "column-missing"),
        (TABLE + "XQZMARK;170", "bad-rows"),
        (TABLE + "XQZMARK;1,70;70\n", "bad-rows"),
        (TABLE + "XQZMARK;170;70\n" * sizes.MAX_ROWS, "too-many-rows"),
    ],
)
def test_what_cannot_be_imported_is_quarantined_with_its_reason(
    turns: Turns, text: str, reason: str
) -> None:
    path = turns.put(text)
    with capture_logs() as logs:
        turns.look(path)
    assert turns.quarantined() == {"t.csv": reason}
    assert turns.openrem.took == []
    assert "XQZMARK" not in json.dumps(logs) + turns.job(path).detail


def test_what_would_become_of_a_table_is_explained(turns: Turns) -> None:
    explainer = Explainer([turns.inbox])
    found = explainer.explain(bytes(turns.put()))
    assert isinstance(found.decision, Import)
    assert found.decision.importer is Importer.PTSIZECSV
    assert found.decision.because == "it has this folder's columns, and 2 rows with sizes"
    assert found.what == "a table of heights and weights"
    assert found.complete == "yes: its last row is whole, once it has been still for 5 s"
    assert found.drop == "sizes"
    with (turns.root / "t.csv").open("a", encoding="utf-8"):
        writing = explainer.explain(bytes(turns.root / "t.csv"))
    assert writing.complete == "not yet: somebody has it open for writing"
    bad = explainer.explain(bytes(turns.put("Acc;Height;Weight\nXQZMARK;x;70\n")))
    assert isinstance(bad.decision, Reject)
    assert "row 2: the height is no number" in bad.decision.because
    assert "XQZMARK" not in repr(bad)
    turns.serve(replace(turns.inbox, sizes=None))
    other = Explainer([turns.inbox]).explain(bytes(turns.put()))
    assert isinstance(other.decision, Reject)
    assert other.decision.reason is Reason.NOT_DICOM
