"""Carries out what a rule of the user's says of an object that is not to be imported."""

import os

from ingest import claim, dicom, dispose, log, rules
from ingest.claim import Claim
from ingest.context import Context, Inbox
from ingest.errors import Changed, FileProblem, Reason
from ingest.model import Ignore, Job, Keep, State
from ingest.setback import Setbacks

_log = log.get(__name__)


class Rulings:
    """Files that leave on the strength of a rule. As everywhere: intent, claim, effect, end."""

    def __init__(self, context: Context, setbacks: Setbacks) -> None:
        """Work in this context."""
        self._context = context
        self._setbacks = setbacks

    def carry_out(self, inbox: Inbox, job: Job, decision: Ignore | Keep) -> None:
        """Delete, archive or keep a complete file as the rule says.

        Where the folder's files stay in it (``after = "keep"``, or a manual import), so does
        this one; it is only noted, and left alone.
        """
        if inbox.after == "keep":
            self._end(inbox, job, decision, b"")
            return
        claimed = Claim(
            id=claim.new_id(int(self._context.now() * 1e9)),
            root=inbox.root,
            place=os.path.relpath(job.path, inbox.root),
        )
        self._context.in_hand[claimed.id] = job  # first: what the ledger calls ruled is in a hand
        told = job.reason
        try:
            self._context.ledger.ruled(job, decision.rule, self._context.now(), claim=claimed.id)
            job = self._context.ledger.get(job.id)
            claim.take(claimed, job.snapshot)
            self._dispose(inbox, job, claimed, decision, told)
        except Changed:
            self._setbacks.start_again(job, claimed)
        except FileProblem as problem:
            claim.release(claimed)  # it may have come as far as that
            self._setbacks.leave_for_now(inbox, job, problem, told)
        except Exception:
            claim.release(claimed)
            raise
        finally:
            self._context.in_hand.pop(claimed.id, None)

    def _dispose(
        self,
        inbox: Inbox,
        job: Job,
        claimed: Claim,
        decision: Ignore | Keep,
        told: Reason | None,
    ) -> None:
        try:
            self._context.check_target(self._context.rulebook.targets.get(decision.rule))
            now_at = self._leave(inbox, job, claimed, decision)
        except OSError as error:
            self._setbacks.cannot_move(job, claimed, error, told)
            return
        self._setbacks.moved(inbox)
        self._context.emptied(inbox, job.path)
        self._end(inbox, job, decision, now_at)

    def _leave(self, inbox: Inbox, job: Job, claimed: Claim, decision: Ignore | Keep) -> bytes:
        """Returns where the file is now, if anywhere.

        It is looked at once more: what leaves must be what the rule was asked about, and a
        sender may have written into it before it was set aside.
        """
        look = dicom.look(claimed.path, self._context.keywords)
        if look.snapshot != job.snapshot or look.header is None:
            raise Changed
        if self._context.decide(inbox, look) != decision:
            raise Changed
        ruling = rules.ruling(decision, look.header, look.snapshot)
        local, today = inbox.is_local, self._context.today()
        if isinstance(decision, Keep):
            return dispose.keep(claimed, ruling, decision.into, look.header, local=local)
        if decision.into is not None:
            return dispose.archive(claimed, ruling, decision.into, today, local=local)
        dispose.delete(claimed, ruling, local=local)
        return b""

    def _end(self, inbox: Inbox, job: Job, decision: Ignore | Keep, now_at: bytes) -> None:
        self._context.ledger.dismissed(job, decision.rule, self._context.now())
        _log.info(
            "file.kept" if isinstance(decision, Keep) else "file.ignored",
            **self._context.who(job),
            rule=decision.rule,
        )
        self._context.tell(inbox, job, State.IGNORED, detail=decision.because, now_at=now_at)
