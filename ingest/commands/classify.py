"""`classify`: what would happen to each file, and why; touches nothing."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click

from ingest import dicom, log, rules, watch
from ingest.errors import FileProblem, Reason
from ingest.model import Header, Import, Reject


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """One line of the answer."""

    path: str
    decision: str  # import | ignore | keep | reject
    importer: str | None = None
    reason: str | None = None
    because: str = ""
    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    modality: str | None = None


def classify(paths: Sequence[Path], *, as_json: bool) -> int:
    """Print the decision on each file; returns the exit code."""
    for path in _files(paths):
        answer = explain(path)
        click.echo(json.dumps(asdict(answer)) if as_json else _words(answer))
    return 0


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


def explain(path: bytes) -> Classified:
    """The decision on one file."""
    if os.path.isdir(path) and not os.path.islink(path):
        return _rejected(path, Reason.UNREADABLE, "this folder may not be read")
    try:
        look = dicom.look(path)
    except FileProblem as problem:
        return _rejected(path, problem.reason, problem.detail)
    except OSError as error:
        return _rejected(path, Reason.UNREADABLE, error.strerror or "it can't be read")
    if look.header is None:
        reason = look.problem or Reason.MALFORMED
        return _rejected(path, reason, look.detail)
    return _decided(path, look.header)


def _decided(path: bytes, header: Header) -> Classified:
    decision = rules.decide(header)
    return Classified(
        path=os.fsdecode(path),
        decision=type(decision).__name__.lower(),
        importer=decision.importer.value if isinstance(decision, Import) else None,
        reason=decision.reason.code if isinstance(decision, Reject) else None,
        because=decision.because,
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        modality=header.modality,
    )


def _rejected(path: bytes, reason: Reason, because: str) -> Classified:
    return Classified(
        path=os.fsdecode(path),
        decision="reject",
        reason=reason.code,
        because=f"{reason.why} ({because})" if because else reason.why,
    )


def _words(answer: Classified) -> str:
    path = log.shown(os.fsencode(answer.path))
    if answer.importer is not None:
        return f"{path}: import by {answer.importer}, because {answer.because}"
    if answer.reason is not None:
        next_step = Reason.from_code(answer.reason).next_step
        return f"{path}: reject ({answer.reason}), because {answer.because}. Next: {next_step}."
    return f"{path}: {answer.decision}, because {answer.because}"
