"""Looks at one path: notes the file, and once it is complete, decides what is to become of it."""

import os
from typing import assert_never

from ingest import dicom, files, log, rules, watch
from ingest.context import Context, Inbox
from ingest.errors import FileProblem, LedgerError, Reason
from ingest.ledger import Overtaken
from ingest.model import IN_HAND, LIVE, Ignore, Import, Job, Keep, Reject, Snapshot, State
from ingest.setback import Setbacks
from ingest.settle import Verdict, settle

_log = log.get(__name__)


class Intake:
    """The turns of looking."""

    def __init__(self, context: Context, setbacks: Setbacks) -> None:
        """Work in this context."""
        self._context = context
        self._setbacks = setbacks

    def look(self, inbox: Inbox, path: bytes) -> None:
        """One look at one path: note it, and when it is complete, decide on it."""
        if watch.is_passed_over(os.path.basename(path)):
            return
        try:
            self._look_or_miss(inbox, path)
        except Overtaken:
            return  # an import of its earlier version runs; its end looks here again
        except LedgerError:
            raise
        except Exception as error:  # noqa: BLE001 - one file must never stop the others
            self._setbacks.internal_error(self._context.ledger.find(path), error)

    def look_at_due(self, limit: int) -> int:
        """Look again at files whose waiting time is over. Returns how many."""
        due = self._context.ledger.due(list(self._context.inboxes), self._context.now(), limit)
        for job in due:
            if self._context.stopping.is_set():
                break
            self.look(self._context.inboxes[job.drop], job.path)
        return len(due)

    def _look_or_miss(self, inbox: Inbox, path: bytes) -> None:
        try:
            self._look(inbox, path)
        except FileNotFoundError:
            self._is_gone(path)

    def _look(self, inbox: Inbox, path: bytes) -> None:
        found = files.snapshot(path)
        job = self._context.ledger.find(path)
        if job is not None and self._is_known(inbox, job, found):
            return
        if job is None or job.snapshot != found or job.state is not State.SEEN:
            job = self._context.ledger.see(
                drop=inbox.name, path=path, snapshot=found, now=self._context.now()
            )
        try:
            look = dicom.look(path)
        except FileProblem as problem:
            self._unreadable(inbox, job, problem)
            return
        settled = settle(
            look.snapshot,
            look.structure,
            has_writer=dicom.has_writer(path, local=inbox.is_local),
            now_ns=int(self._context.now() * 1e9),
            patience=inbox.patience,
        )
        match settled.verdict:
            case Verdict.WAIT:
                self._context.wait(job, settled.reason, settled.detail, settled.again_in_s)
            case Verdict.HOPELESS:
                reason = settled.reason or Reason.MALFORMED
                self._setbacks.refuse(inbox, job, reason, settled.detail)
            case Verdict.COMPLETE if look.snapshot != job.snapshot:
                self._context.wait(job, Reason.CHANGED, "", inbox.patience.quiet_s)
            case Verdict.COMPLETE:
                self._decide(inbox, job, look)

    def _is_known(self, inbox: Inbox, job: Job, found: Snapshot) -> bool:
        """Is this version on its way already, or done with and meant to stay?"""
        if job.state in IN_HAND and job.drop == inbox.name:
            return True
        if job.snapshot != found:
            return False
        if job.state is State.SEEN:
            return job.not_before > self._context.now()
        if job.state is State.LEFT:
            return job.not_before > self._context.now() and job.drop == inbox.name
        if job.state in LIVE:
            return job.drop == inbox.name
        return job.state is State.DONE and inbox.after == "keep" and job.drop == inbox.name

    def _unreadable(self, inbox: Inbox, job: Job, problem: FileProblem) -> None:
        """A link or pipe is refused at once; rights may yet be put right in the quiet time."""
        still_s = self._context.now() - job.snapshot.changed_ns / 1e9
        if problem.reason is Reason.UNREADABLE and still_s < inbox.patience.quiet_s:
            self._context.wait(job, problem.reason, problem.detail, inbox.patience.quiet_s)
        else:
            self._setbacks.refuse(inbox, job, problem.reason, problem.detail)

    def _decide(self, inbox: Inbox, job: Job, look: dicom.Look) -> None:
        if look.header is None:
            self._setbacks.refuse(inbox, job, look.problem or Reason.MALFORMED, look.detail)
            return
        decision = rules.decide(look.header)
        match decision:
            case Import(importer=importer):
                if inbox.expect and importer not in inbox.expect:
                    _log.info(
                        "file.unexpected-kind",
                        **self._context.who(job, look.header),
                        importer=importer.value,
                        expected=[one.value for one in inbox.expect],
                    )
                self._context.ledger.ready(
                    job,
                    header=look.header,
                    importer=importer,
                    order=rules.study_order(look.header),
                    now=self._context.now(),
                )
            case Reject(reason=reason, because=because):
                self._context.ledger.describe(job, look.header)
                self._setbacks.refuse(inbox, self._context.ledger.get(job.id), reason, because)
            case Ignore() | Keep():
                raise NotImplementedError("the configuration offers no such rules yet")
            case _:
                assert_never(decision)

    def _is_gone(self, path: bytes) -> None:
        job = self._context.ledger.find(path)
        if job is not None and job.state in (State.SEEN, State.READY, State.LEFT):
            self._context.ledger.end(job, State.GONE, self._context.now())
