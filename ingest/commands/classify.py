"""`classify`: what would happen to each file, and why; touches nothing."""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
from pydicom.uid import UID
from rich.console import Console
from rich.table import Table

from ingest import files, log, parts, watch
from ingest.commands.show import out
from ingest.config import Settings
from ingest.errors import Reason
from ingest.explain import Explainer, Explanation
from ingest.model import Done, Import, Reject
from ingest.openrem.importers import OpenRem
from ingest.verify import Proof, verify

STEP = 100  # files between two words about how far it is
MAX_KINDS = 1000  # rows of a summary; what comes then is counted together

Ask = Callable[[Explanation], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """One line of the answer."""

    path: str
    decision: str  # import | ignore | keep | reject
    importer: str | None
    reason: str | None
    rule: str | None
    because: str
    next: str | None
    complete: str
    afterwards: str
    drop: str | None
    what: str
    sop_class_uid: str | None
    sop_instance_uid: str | None
    modality: str | None
    station: str | None
    openrem: str | None = None  # what it holds of the object, where that was asked


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What a summary counts together."""

    decision: str
    by: str  # the importer, the rule, or the reason
    what: str  # the SOP class, in words


def classify(
    settings: Settings | None, paths: Sequence[Path], *, as_json: bool, asks_openrem: bool
) -> int:
    """Print the decision on each file; returns the exit code.

    Raises:
        OpenRemUnreachable: it was to be asked, and can't be.
    """
    explainer = _explainer(settings)
    with _asking(settings if asks_openrem else None) as ask:
        for path in _files(paths):
            found = explainer.explain(path)
            answer = _classified(found, ask(found))
            click.echo(json.dumps(asdict(answer)) if as_json else _words(answer))
    return 0


def summarize(settings: Settings | None, paths: Sequence[Path], *, as_json: bool) -> int:
    """Print how many files there are of each decision; returns the exit code.

    Memory does not grow with the number of files.
    """
    explainer, counts = _explainer(settings), Counter[Kind]()
    for path in _counted(_files(paths)):
        kind = _kind(explainer.explain(path))
        if kind not in counts and len(counts) >= MAX_KINDS:
            kind = Kind(kind.decision, "others", "")
        counts[kind] += 1
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    if as_json:
        for kind, count in rows:
            click.echo(json.dumps({**asdict(kind), "files": count}))
    else:
        out().print(_table(rows))
    return 0


def _table(rows: Sequence[tuple[Kind, int]]) -> Table:
    table = Table(title="Summary")
    for column in ("Decision", "By", "What it is"):
        table.add_column(column)
    table.add_column("Files", justify="right")
    for kind, count in rows:
        table.add_row(kind.decision, kind.by, kind.what, str(count))
    table.add_row("all", "", "", str(sum(count for _, count in rows)))
    return table


def _counted(paths: Iterator[bytes]) -> Iterator[bytes]:
    """Show on a terminal how far it is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from paths
        return
    with console.status("looking …") as status:
        for number, path in enumerate(paths, start=1):
            if number % STEP == 0:
                status.update(f"{number} files looked at")
            yield path


def _explainer(settings: Settings | None) -> Explainer:
    if settings is None:
        return Explainer()
    return Explainer(parts.inboxes_of(settings), parts.rulebook_of(settings))


@contextlib.contextmanager
def _asking(settings: Settings | None) -> Iterator[Ask]:
    """A way to ask OpenREM, if it is to be asked."""
    if settings is None:
        yield lambda _found: None
        return
    with parts.openrem_database(settings):
        worker = parts.worker_of(settings)
        try:
            worker.hello()
            yield partial(_held, worker)
        finally:
            worker.close()


def _held(openrem: OpenRem, found: Explanation) -> str | None:
    """What OpenREM holds of an object that it would be asked to import."""
    if not isinstance(found.decision, Import) or found.header is None:
        return None
    outcome = openrem.prove(os.path.abspath(found.path), found.decision.importer)
    if not isinstance(outcome, Done):
        return "it could not tell"
    snapshot = files.snapshot(found.path)
    verdict = verify(snapshot, found.header, found.decision.importer, outcome.facts)
    if isinstance(verdict, Proof):
        return f"has it already: {verdict.evidence}"
    if any(study.has_sop for study in outcome.facts.studies):
        return f"has it only in part: {verdict.detail}"
    if outcome.facts.studies:
        return "does not have it, but others of its study"
    return "does not have it"


def _files(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in map(os.fsencode, paths):
        if os.path.isdir(path) and not os.path.islink(path):
            closed: list[bytes] = []
            yield from watch.Tree(path, on_folder=partial(_note_closed, closed)).everything()
            yield from closed
        else:
            yield path


def _note_closed(closed: list[bytes], folder: watch.Folder) -> None:
    if not folder.is_readable:
        closed.append(folder.path)


def _kind(found: Explanation) -> Kind:
    answer = _classified(found, None)
    is_by_rule = answer.reason in (None, Reason.BY_RULE.code)
    by = (answer.rule if is_by_rule else None) or answer.importer or answer.reason or ""
    return Kind(answer.decision, by, UID(answer.sop_class_uid or "").name)


def _classified(found: Explanation, held: str | None) -> Classified:
    decision, header = found.decision, found.header
    reason = decision.reason if isinstance(decision, Reject) else None
    return Classified(
        path=os.fsdecode(found.path),
        decision=type(decision).__name__.lower(),
        importer=decision.importer.value if isinstance(decision, Import) else None,
        reason=reason.code if reason else None,
        rule=decision.rule or None,
        because=decision.because,
        next=reason.next_step if reason else None,
        complete=found.complete,
        afterwards=found.afterwards,
        drop=found.drop or None,
        what=found.what,
        sop_class_uid=header.sop_class_uid if header else None,
        sop_instance_uid=header.sop_instance_uid if header else None,
        modality=header.modality if header else None,
        station=header.station if header else None,
        openrem=held,
    )


def _words(answer: Classified) -> str:
    """The lines for one file: the path, and below it what there is to say."""
    if answer.importer is not None:
        would = f"import by {answer.importer}, because {answer.because}"
    elif answer.reason is not None:
        would = f"refuse ({answer.reason}), because {answer.because}"
    else:
        would = f"{answer.decision}, because {answer.because}"
    lines = {
        "complete": answer.complete,
        "what it is": answer.what,
        "decision": would,
        "next step": answer.next or "",
        "then": answer.afterwards,
        "OpenREM": answer.openrem or "",
    }
    told = [f"    {name + ':':<12}{words}" for name, words in lines.items() if words]
    return "\n".join([log.shown(os.fsencode(answer.path)), *told])
