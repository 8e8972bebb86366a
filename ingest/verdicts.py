"""What a verdict on an import leads to: disposal with a proof, or else what the policy says.

That is another attempt after a while, quarantine, or, where OpenREM is away, a stop of the intake.
"""

from typing import assert_never

from ingest import dispose, log, policy
from ingest.breaker import Breaker
from ingest.claim import Claim
from ingest.context import Context, Inbox, words
from ingest.errors import Changed, Reason
from ingest.model import Job, Shortfall, State
from ingest.setback import Setbacks
from ingest.verify import Proof

_log = log.get(__name__)


class Verdicts:
    """The ends of imports, and the ways back."""

    def __init__(
        self, context: Context, setbacks: Setbacks, breaker: Breaker, retry: policy.RetryPolicy
    ) -> None:
        """Work in this context, with the user's `[retry]`."""
        self._context = context
        self._setbacks = setbacks
        self._breaker = breaker
        self._retry = retry

    def finish(self, inbox: Inbox, job: Job, claimed: Claim, proof: Proof, began: float) -> None:
        """With the proof in the ledger, dispose of the file as its folder says."""
        told = job.reason
        self._context.ledger.proven(job, proof.evidence, self._context.now())
        job = self._context.ledger.get(job.id)
        now_at = b""
        try:
            if inbox.after == "delete":
                dispose.delete(claimed, proof, local=inbox.is_local)
            elif inbox.after == "archive":
                assert inbox.archive is not None  # noqa: S101 - the configuration demands it
                self._context.check_target(inbox.archive_at)
                today = self._context.today()
                now_at = dispose.archive(claimed, proof, inbox.archive, today, local=inbox.is_local)
        except Changed:
            self._setbacks.start_again(job, claimed)
            return
        except OSError as error:
            self._setbacks.cannot_move(job, claimed, error, told)
            return
        self._setbacks.moved(inbox)
        self._context.ledger.end(job, State.DONE, self._context.now())
        self._context.emptied(inbox, job.path)
        _log.info(
            "file.imported",
            **self._context.who(job),
            outcome="already there" if proof.already else "imported",
            importer=job.importer.value if job.importer else None,
            evidence=proof.evidence,
            **_counts(proof),
            seconds=round(self._context.now() - began, 3),
        )
        self._context.tell(inbox, job, State.DONE, already=proof.already, now_at=now_at)

    def failed(self, inbox: Inbox, job: Job, claimed: Claim, shortfall: Shortfall) -> None:
        """Without a proof: another attempt, quarantine, or a stop, as the policy says."""
        if shortfall.reason is Reason.HELD_IN_PART and job.reason is Reason.NOT_HELD:
            # The part is of our own last attempt, not of an import by somebody else.
            shortfall = Shortfall(reason=Reason.NOT_HELD, detail=shortfall.detail)
        step = policy.after_failure(
            shortfall.reason,
            attempts=job.attempts,
            deaths=job.deaths,
            policy=self._retry,
            is_overdue=self._is_overdue(inbox, job),
        )
        match step:
            case policy.StopIntake():
                self.stop_intake(job, claimed, shortfall.reason, shortfall.detail)
            case policy.GiveUp():
                self._setbacks.refuse_claimed(inbox, job, claimed, shortfall)
            case policy.Again(delay_s=delay_s, attempts=attempts, deaths=deaths):
                _log.warning(
                    "file.will-retry",
                    **self._context.who(job),
                    **words(shortfall.reason, shortfall.detail),
                    attempt=attempts,
                    retry_in_s=round(delay_s, 1),
                )
                self._setbacks.back(
                    job,
                    claimed,
                    reason=shortfall.reason,
                    detail=shortfall.detail,
                    not_before=self._context.now() + delay_s,
                    attempts=attempts,
                    deaths=deaths,
                )
                if shortfall.reason is Reason.CHANGED:  # what we know of it is out of date
                    self._context.see_again(self._context.ledger.get(job.id), job.snapshot)
            case _:
                assert_never(step)

    def _is_overdue(self, inbox: Inbox, job: Job) -> bool:
        """Has a table waited long enough? The ctime of its first sight tells when it came."""
        if inbox.sizes is None or inbox.sizes.wait_s is None:
            return True
        return self._context.now() - job.snapshot.ctime_ns / 1e9 > inbox.sizes.wait_s

    def stop_intake(self, job: Job, claimed: Claim, reason: Reason, detail: str) -> None:
        """OpenREM is away: the file goes back, and nothing new is begun."""
        wait_s = 0.0
        try:
            wait_s = self._breaker.open(reason, detail, by_import=True)
        finally:
            self._setbacks.back(
                job,
                claimed,
                reason=reason,
                detail=detail,
                not_before=self._context.now() + min(wait_s, self._retry.maximum_s),
            )


def _counts(proof: Proof) -> dict[str, int]:
    """What the log tells of a table."""
    if proof.rows is None or proof.unmatched is None:
        return {}
    return {"rows": proof.rows, "unmatched": proof.unmatched}
