"""Rules that are carried out while all goes wrong: no file is lost, or hidden."""

import os
import re
import threading
from contextlib import closing
from pathlib import Path

import pytest

from ingest import claim, dicom, dispose, files, ledger_file, parts
from ingest.commands import bulk
from ingest.config import Settings
from ingest.context import Context
from ingest.errors import FileProblem, LedgerError, Reason, Trouble
from ingest.explain import Explainer
from ingest.ledger import Ledger
from ingest.model import Ignore, Import, State
from ingest.service import Service
from tests.crash import Crash
from tests.objects import DX_IMAGE, variant
from tests.world import ALL_DUE_S, IGNORED, KEPT, StandIn, World, a_text, an_image


def a_world(folder: Path) -> World:
    """One in which what was sent is complete at the first look."""
    world = World(folder)
    world.ahead_s = ALL_DUE_S
    return world


def claims_of(world: World, drop: str) -> list[Path]:
    """What is set aside in a drop folder."""
    return [path for path in (world.drops[drop] / ".ingest").rglob("*") if path.is_file()]


def dies(*_of: object, **_more: object) -> None:
    """The process is killed here."""
    raise Crash


@pytest.mark.parametrize("trouble", [FileProblem(Reason.UNREADABLE), MemoryError(), ValueError()])
def test_a_file_that_a_rule_has_set_aside_goes_back_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """At once, and not at some later sweep, before which `run --once` may end."""
    world = a_world(tmp_path / "world")
    path = world.path("delete", "x.dcm")
    world.send(path, an_image(1, IGNORED))

    def fails(*_of: object) -> dicom.Look:
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(dicom, "look", _at_the_second_look(fails))
        world.living().look()

    assert path.exists()
    assert not claims_of(world, "delete")
    world.run_dry()
    world.check_at_rest()


def _at_the_second_look(fails: object) -> object:
    """The first is the intake's, and in no claim."""
    plain = dicom.look

    def look(path: bytes, keywords: frozenset[str]) -> dicom.Look:
        return fails(path) if claim.FOLDER in path else plain(path, keywords)  # type: ignore[operator]

    return look


@pytest.mark.parametrize("study", [IGNORED, KEPT, 0])
def test_what_a_crash_left_set_aside_comes_back_though_its_folder_is_no_drop_folder_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: int
) -> None:
    """Else it would lie there hidden for ever, and be told as taken out or in quarantine."""
    world = a_world(tmp_path / "world")
    path = world.path("delete", "x.dcm")
    content = an_image(1, study) if study else a_text(1)
    world.send(path, content)
    with monkeypatch.context() as patch:
        for way in ("delete", "keep", "quarantine"):
            patch.setattr(dispose, way, dies)
        with pytest.raises(Crash):
            world.living().look()
    assert len(claims_of(world, "delete")) == 1
    world.die()

    world.inboxes = tuple(one for one in world.inboxes if one.name != "delete")
    world.living()

    assert path.read_bytes() == content.data
    assert not claims_of(world, "delete")
    job = world.living().ledger.find(os.fsencode(path))
    assert job is not None
    assert job.state is State.GONE


def test_no_version_that_knows_no_rules_reads_a_ledger_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would stumble over their states at every look."""
    file = tmp_path / "ledger.sqlite"
    with monkeypatch.context() as before:
        before.setattr(ledger_file, "_UPGRADES", ledger_file._UPGRADES[:2])
        Ledger(file).close()
    Ledger(file).close()

    monkeypatch.setattr(ledger_file, "_UPGRADES", ledger_file._UPGRADES[:2])
    with pytest.raises(LedgerError) as caught:
        Ledger(file)
    assert caught.value.trouble is Trouble.NEWER


def test_one_run_too_takes_up_what_lies_in_a_folder_that_is_none_of_its_own_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run --once` may be all that ever runs, as by cron."""
    monkeypatch.setattr(parts, "worker_of", lambda _settings: StandIn())
    former, drop = tmp_path / "former", tmp_path / "drop"
    claimed = claim.Claim(id=claim.new_id(1), root=os.fsencode(former), place=b"x.dcm")
    for folder in (former, drop):
        folder.mkdir()
    path = variant(DX_IMAGE, former / "x.dcm")
    settings = Settings.model_validate(
        {
            "state_dir": str(tmp_path / "state"),
            "openrem": {"python": "/no/python", "workers": 1},
            "drop": [{"path": str(drop)}],
        }
    )
    with closing(Ledger(settings.ledger_path)) as ledger:
        found = files.snapshot(os.fsencode(path))
        job = ledger.see(drop="former", path=os.fsencode(path), snapshot=found, now=1.0)
        ledger.ruled(job, "a rule", 1.0, claim=claimed.id)
        claim.take(claimed, found)

        service = Service(settings, ledger, parts.inboxes_of(settings), stop=threading.Event())
        assert service.drain()

        assert path.exists()
        assert ledger.get(job.id).state is State.GONE


def test_what_is_imported_by_hand_from_a_drop_folder_is_ruled_as_of_that_folder(
    tmp_path: Path,
) -> None:
    """Else a test patient would be counted that a rule for this folder sets aside."""
    drop, other = tmp_path / "dx", tmp_path / "other"
    for folder in (drop, other):
        folder.mkdir()
    settings = Settings.model_validate(
        {
            "state_dir": str(tmp_path / "state"),
            "openrem": {"python": "/no/python"},
            "drop": [{"path": str(drop)}],
            "rule": [{"name": "all", "match": {"drop": "dx"}, "then": "ignore"}],
        }
    )
    roots = [os.fsencode(drop), os.fsencode(other)]
    with closing(Ledger(settings.ledger_path)) as ledger:
        context = Context(
            ledger=ledger,
            inboxes=bulk._inboxes(roots, settings, delete=False),
            clock=lambda: 0.0,
            stopping=threading.Event(),
            on_end=lambda _ended: None,
            rulebook=parts.rulebook_of(settings),
        )
        look = dicom.look(DX_IMAGE)
        by_hand, from_elsewhere = context.inboxes.values()
        assert isinstance(context.decide(by_hand, look), Ignore)
        assert isinstance(context.decide(from_elsewhere, look), Import)
    explainer = Explainer(parts.inboxes_of(settings), parts.rulebook_of(settings))
    for folder, kind in ((drop, Ignore), (other, Import)):
        path = variant(DX_IMAGE, folder / "x.dcm")
        assert isinstance(explainer.explain(os.fsencode(path)).decision, kind)


def test_what_a_rule_took_out_of_an_import_by_hand_is_decided_on_anew_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rule may be another by then; and the same command says the same again."""
    openrem = StandIn()
    monkeypatch.setattr(parts, "worker_of", lambda _settings: openrem)
    folder = tmp_path / "mine"
    folder.mkdir()
    variant(DX_IMAGE, folder / "x.dcm")
    plain = {
        "state_dir": str(tmp_path / "state"),
        "openrem": {"python": "/no/python", "workers": 1},
    }
    rule = {"name": "all", "match": {"Modality": "DX"}, "then": "ignore"}
    ruled = Settings.model_validate({**plain, "rule": [rule]})

    for _ in range(2):
        assert bulk.import_by_hand(ruled, [folder], delete=False) == 0
        assert re.search(r"ignored\W+1\W", capsys.readouterr().out)
    assert not openrem.holds

    assert bulk.import_by_hand(Settings.model_validate(plain), [folder], delete=False) == 0
    assert len(openrem.holds) == 1
