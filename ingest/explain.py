"""Explains what would happen to a file, and why; looks only, and touches nothing."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.uid import UID

from ingest import dicom, leases, rules, sizes, watch
from ingest.context import Inbox, Rulebook
from ingest.errors import FileProblem, Reason
from ingest.model import Decision, Header, Ignore, Import, Importer, Keep, Reject

_ENDS = "it ends where its own lengths say it should"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What there is to say of one file. No patient data but what may be in its path."""

    path: bytes
    drop: str  # the drop folder that it lies in, by its name; "" for none
    complete: str  # yes or no, and by which test
    header: Header | None  # of a complete object
    decision: Decision
    afterwards: str  # what would become of the file

    @property
    def what(self) -> str:
        """What it is, in words."""
        if isinstance(self.decision, Import) and self.decision.importer is Importer.PTSIZECSV:
            return "a table of heights and weights"
        if self.header is None:
            return ""
        told = [UID(self.header.sop_class_uid).name]
        told += [f"modality {self.header.modality}"] if self.header.modality else []
        told += [f"station {self.header.station}"] if self.header.station else []
        return ", ".join(told)


class Explainer:
    """Looks at files as the service would, whether it runs or not."""

    def __init__(self, inboxes: Sequence[Inbox] = (), rulebook: Rulebook | None = None) -> None:
        """Explain for these drop folders and rules; without any, by the built-in routing."""
        self._inboxes = sorted(inboxes, key=lambda inbox: -len(inbox.root))
        self._rules = rulebook.rules if rulebook else ()
        self._keywords = rules.keywords_of(self._rules)

    def explain(self, path: bytes) -> Explanation:
        """The explanation of one file; whatever is wrong with it is a part of that."""
        inbox = self._inbox_of(path)
        if os.path.isdir(path) and not os.path.islink(path):
            closed = FileProblem(Reason.UNREADABLE, "this folder may not be read")
            return self._refused(path, inbox, closed, afterwards="it stays, and what lies in it")
        if watch.is_passed_over(os.path.basename(path)):
            passed = FileProblem(
                Reason.INCOMPLETE, "by its name it is still on its way, or clutter"
            )
            return self._refused(path, inbox, passed, afterwards="it is left alone")
        try:
            look = sizes.look_into(path, inbox.sizes if inbox else None, self._keywords)
            has_writer = leases.has_writer(path, local=inbox.is_local if inbox else True)
        except FileProblem as problem:
            return self._refused(path, inbox, problem)
        except OSError as error:
            words = error.strerror or "it can't be read"
            trouble = FileProblem(Reason.CANNOT_READ, words)
            return self._refused(path, inbox, trouble, afterwards="it is looked at again")
        if isinstance(look, sizes.Look):
            return self._table(path, inbox, look, has_writer=has_writer)
        return self._object(path, inbox, look, has_writer=has_writer)

    def _object(
        self, path: bytes, inbox: Inbox | None, look: dicom.Look, *, has_writer: bool | None
    ) -> Explanation:
        if look.header is None:
            found = FileProblem(look.problem or Reason.MALFORMED, look.detail)
            return self._refused(path, inbox, found, look)
        drop = inbox.name if inbox else ""
        decision = rules.decide(look.header, self._rules, drop=drop, values=look.values)
        return Explanation(
            path=path,
            drop=drop,
            complete=_completeness(inbox, has_writer=has_writer),
            header=look.header,
            decision=decision,
            afterwards=_when_refused(inbox, can_improve=False)
            if isinstance(decision, Reject)
            else _afterwards(inbox, decision),
        )

    def _table(
        self, path: bytes, inbox: Inbox | None, look: sizes.Look, *, has_writer: bool | None
    ) -> Explanation:
        structure = look.structure
        if not structure.is_complete:
            reason = structure.problem or Reason.NOT_A_TABLE
            return self._refused(path, inbox, FileProblem(reason, structure.detail), look)
        because = f"it has this folder's columns, and {look.rows} rows with sizes"
        decision = Import(importer=Importer.PTSIZECSV, because=because)
        still = f"{inbox.patience.quiet_s * look.quiet_times:g} s" if inbox else "a while"
        return Explanation(
            path=path,
            drop=inbox.name if inbox else "",
            complete="not yet: somebody has it open for writing"
            if has_writer
            else f"yes: its last row is whole, once it has been still for {still}",
            header=None,
            decision=decision,
            afterwards=_afterwards(inbox, decision),
        )

    def _inbox_of(self, path: bytes) -> Inbox | None:
        folder = os.path.realpath(os.path.dirname(os.path.abspath(path))) + b"/"
        return next((one for one in self._inboxes if folder.startswith(one.root + b"/")), None)

    def _refused(
        self,
        path: bytes,
        inbox: Inbox | None,
        problem: FileProblem,
        look: dicom.Look | sizes.Look | None = None,
        afterwards: str = "",
    ) -> Explanation:
        reason, detail = problem.reason, problem.detail
        is_whole = look is not None and look.structure.is_complete
        because = f"{reason.why} ({detail})" if detail else reason.why
        decision = Reject(reason=reason, because=because)
        return Explanation(
            path=path,
            drop=inbox.name if inbox else "",
            complete=_incompleteness(look, reason),
            header=None,
            decision=decision,
            afterwards=afterwards
            or _when_refused(
                inbox, can_improve=look is not None and look.structure.can_improve and not is_whole
            ),
        )


def _incompleteness(look: dicom.Look | sizes.Look | None, reason: Reason) -> str:
    if look is None:
        return ""
    return f"yes: {_ENDS}" if look.structure.is_complete else f"no: {reason.why}"


def _completeness(inbox: Inbox | None, *, has_writer: bool | None) -> str:
    if has_writer:
        return "not yet: somebody has it open for writing"
    if has_writer is None:
        still = f"{inbox.patience.quiet_s:g} s" if inbox else "a while"
        return (
            f"yes: {_ENDS}; whether somebody still writes to it can't be told here, so it must "
            f"also have been still for {still}"
        )
    return f"yes: {_ENDS}, and nobody has it open for writing"


def _afterwards(inbox: Inbox | None, decision: Import | Ignore | Keep) -> str:
    """What would become of the file."""
    if inbox is not None and inbox.after == "keep":
        return "it stays where it is"
    if isinstance(decision, Import):
        return _once_proven(inbox)
    if isinstance(decision, Keep):
        return f"it is moved to {os.fsdecode(decision.into)}, by study date and study"
    if decision.into is not None:
        return f"it is moved to {os.fsdecode(decision.into)}, in a folder of the day"
    return "it is deleted, and counted"


def _when_refused(inbox: Inbox | None, *, can_improve: bool) -> str:
    if inbox is None:
        moved = "in a drop folder it is moved to quarantine"
    elif inbox.quarantine is None:
        moved = "it stays where it is"
    else:
        moved = f"it is moved to quarantine, {os.fsdecode(inbox.quarantine)}"
    if not can_improve:
        return moved
    wait = f"{inbox.patience.incomplete_after_s:g} s" if inbox else "its time"
    return f"it waits to become whole; if it doesn't change for {wait}, {moved}"


def _once_proven(inbox: Inbox | None) -> str:
    proven = "once OpenREM provably holds it"
    if inbox is None:
        return f"as its drop folder says, {proven}; it lies in none"
    if inbox.archive is not None and inbox.after == "archive":
        return f"it is moved to {os.fsdecode(inbox.archive)}, {proven}"
    return f"it is deleted, {proven}"
