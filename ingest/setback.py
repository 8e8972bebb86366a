"""What becomes of a file whose turn doesn't go well: it goes back, stays, or is quarantined."""

import os
from datetime import UTC, datetime

from ingest import claim, dispose, files, log, quarantine
from ingest.claim import Claim
from ingest.context import Context, Inbox, words
from ingest.errors import Changed, FileProblem, Reason, hindrance
from ingest.ledger import NEVER
from ingest.model import LIVE, Job, Shortfall, State
from ingest.policy import UNKNOWN_ATTEMPTS

_log = log.get(__name__)

LOOK_AGAIN_S = 60.0  # at first, at a file that can't be moved for now
PATIENCE_SHARE = 0.5  # of the time that a folder has been stuck: a backlog is not asked for ever


class Setbacks:
    """The ways back."""

    def __init__(
        self,
        context: Context,
        *,
        look_again_s: float = LOOK_AGAIN_S,
        at_most_s: float = LOOK_AGAIN_S,
    ) -> None:
        """Prepare.

        Args:
            context: what the turns share.
            look_again_s: after so long what can't be moved is looked at again,
            at_most_s: or up to so long, the longer its folder has been stuck.
        """
        self._context = context
        self._look_again_s = look_again_s
        self._at_most_s = at_most_s
        self._stuck_since: dict[str, float] = {}  # by inbox
        self._told_claims: set[bytes] = set()  # that can't be put back

    def refuse(self, inbox: Inbox, job: Job, reason: Reason, detail: str) -> None:
        """Quarantine a file that isn't claimed yet, or leave it where the folder is not ours."""
        if inbox.quarantine is None:
            self.leave(inbox, job, reason, detail)
            return
        claimed = Claim(
            id=claim.new_id(int(self._context.now() * 1e9)),
            root=inbox.root,
            place=os.path.relpath(job.path, inbox.root),
        )
        self._context.in_hand[claimed.id] = job  # first, as in _pick
        told = job.reason
        try:
            self._context.ledger.rejected(
                job, reason, detail, self._context.now(), claim=claimed.id
            )
            job = self._context.ledger.get(job.id)
            claim.take(claimed, job.snapshot)
            self._quarantine(inbox, job, claimed, told)
        except Changed:
            self.start_again(job, claimed)
        except FileProblem as problem:
            self.leave_for_now(inbox, job, problem, told)
        finally:
            self._context.in_hand.pop(claimed.id, None)

    def refuse_claimed(self, inbox: Inbox, job: Job, claimed: Claim, shortfall: Shortfall) -> None:
        """Quarantine a file that is claimed, or was read in place; or leave it."""
        if inbox.quarantine is None:
            claim.release(claimed)
            self.leave(inbox, job, shortfall.reason, shortfall.detail)
            return
        told = job.reason
        self._context.ledger.rejected(
            job, shortfall.reason, shortfall.detail, self._context.now(), claim=claimed.id
        )
        job = self._context.ledger.get(job.id)
        try:
            if not os.path.lexists(claimed.path):  # a file that was read in place
                claim.take(claimed, job.snapshot)
            self._quarantine(inbox, job, claimed, told)
        except Changed:
            self.start_again(job, claimed)
        except FileProblem as problem:
            self.leave_for_now(inbox, job, problem, told)

    def _quarantine(self, inbox: Inbox, job: Job, claimed: Claim, told: Reason | None) -> None:
        assert inbox.quarantine is not None  # noqa: S101 - the callers asked
        assert job.reason is not None  # noqa: S101 - it was rejected for one
        reason, detail = job.reason, job.detail
        why = dispose.Why(
            reason=reason,
            detail=detail,
            drop=inbox.name,
            job=job.id,
            header=job.header,
            at=datetime.fromtimestamp(self._context.now(), UTC),
            root=inbox.root,
            path=job.path,
            snapshot=job.snapshot,
        )
        try:
            self._context.check_target(inbox.quarantine_at)
            now_at = dispose.quarantine(
                claimed, job.snapshot, inbox.quarantine, why, local=inbox.is_local
            )
        except OSError as error:
            self.cannot_move(job, claimed, error, told)
            return
        self.moved(inbox)
        self._context.ledger.end(job, State.QUARANTINED, self._context.now())
        self._context.emptied(inbox, job.path)
        place = os.path.relpath(now_at, inbox.quarantine)
        _log.warning(
            "file.quarantined",
            **self._context.who(job),
            **words(reason, detail),
            quarantine_id=quarantine.id_of(inbox.name, place),
        )
        self._context.tell(
            inbox, job, State.QUARANTINED, reason=reason, detail=detail, now_at=now_at
        )

    def back(
        self,
        job: Job,
        claimed: Claim,
        *,
        reason: Reason | None = None,
        detail: str = "",
        not_before: float = 0.0,
        attempts: int | None = None,
        deaths: int | None = None,
    ) -> None:
        """Put the file back to wait for another turn."""
        claim.release(claimed)
        self._context.ledger.back(
            job,
            self._context.now(),
            reason=reason,
            detail=detail,
            not_before=not_before,
            attempts=attempts,
            deaths=deaths,
        )

    def start_again(self, job: Job, claimed: Claim) -> None:
        """The file isn't what we looked at: whatever lies there now is new work."""
        claim.release(claimed)
        inbox = self._context.inboxes[job.drop]
        try:
            found = files.snapshot(job.path)
        except OSError as error:
            is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
            if is_gone and not self._context.is_offline(inbox):
                self._context.ledger.end(job, State.GONE, self._context.now())
                return
            found = job.snapshot  # it can't be seen for now
        job = self._context.see_again(job, found)
        quiet_s = inbox.patience.quiet_s
        self._context.wait(job, Reason.CHANGED, "", quiet_s)

    def leave(
        self,
        inbox: Inbox,
        job: Job,
        reason: Reason,
        detail: str,
        *,
        again_s: float | None = None,
        told: Reason | None = None,
    ) -> None:
        """It stays in its folder: say so once, and look again if that may help."""
        now = self._context.now()
        self._context.ledger.left(
            job, reason, detail, now, not_before=NEVER if again_s is None else now + again_s
        )
        if reason not in (job.reason, told):
            _log.warning("file.left", **self._context.who(job), **words(reason, detail))
            self._context.tell(inbox, job, State.LEFT, reason=reason, detail=detail)

    def leave_for_now(
        self, inbox: Inbox, job: Job, problem: FileProblem, told: Reason | None = None
    ) -> None:
        """It can't be moved now; it is looked at again after a while.

        Args:
            inbox: its folder.
            job: the file.
            problem: what is in the way.
            told: what was in the way at the last attempt, where the job no longer says so.
        """
        again_s = self._pause_s(inbox.name)
        self.leave(inbox, job, problem.reason, problem.detail, again_s=again_s, told=told)

    def cannot_move(
        self, job: Job, claimed: Claim, error: OSError, told: Reason | None = None
    ) -> None:
        """A full or read-only target: the file goes back, and all is tried again later.

        Args:
            job: the file.
            claimed: where it is.
            error: what is in the way.
            told: what was in the way at the last attempt, where the job no longer says so.
        """
        claim.release(claimed)
        reason, detail = hindrance(error), error.strerror or type(error).__name__
        if reason not in (job.reason, told):
            who = self._context.who(job)
            _log.error("file.cannot-move", **who, **words(reason, detail))
        # First: once it is seen again, others may take it up.
        self._context.wait(job, reason, detail, self._pause_s(job.drop))
        self._context.see_again(job, job.snapshot)

    def moved(self, inbox: Inbox) -> None:
        """A file of this folder could be moved: whatever was in the way is over."""
        self._stuck_since.pop(inbox.name, None)

    def _pause_s(self, drop: str) -> float:
        now = self._context.now()
        stuck_s = now - self._stuck_since.setdefault(drop, now)
        return max(self._look_again_s, min(stuck_s * PATIENCE_SHARE, self._at_most_s))

    def put_back(self, inbox: Inbox, claimed: Claim) -> None:
        """Put a file back that nobody works on."""
        name = log.safe_name(claimed.place)
        if claim.release(claimed) or (inbox.after == "keep" and self._lay_beside(claimed)):
            self._told_claims.discard(claimed.path)
            _log.info("claim.put-back", drop=inbox.name, file=name)
        elif claimed.path not in self._told_claims and not os.path.lexists(claimed.original):
            self._told_claims.add(claimed.path)
            _log.error(
                "claim.cannot-put-back",
                drop=inbox.name,
                file=name,
                **words(Reason.CANNOT_MOVE, ""),
            )

    def _lay_beside(self, claimed: Claim) -> bool:
        """Where files stay, one that took its name never makes room: it gets another name."""
        if not os.path.lexists(claimed.path):
            return False
        for target in dispose.free_names(claimed.original):
            try:
                files.move(claimed.path, target)
            except FileExistsError:
                continue
            except OSError:
                return False
            claim.finish(claimed)
            return True
        raise AssertionError("the names never end")

    def internal_error(self, path: bytes, error: Exception, *, own_claim: str = "") -> None:
        """A defect of ours: a few attempts, then quarantine; the log has type and place.

        Args:
            path: where the file lies, or lay before it was claimed.
            error: what was raised.
            own_claim: the claim in the caller's hand; a file in another's is not touched.
        """
        detail = f"{type(error).__name__} in {place_of(error)}"
        job = self._context.ledger.find(path)
        who = self._context.who(job) if job else {"file": log.safe_name(path)}
        _log.error("file.internal-error", **who, **words(Reason.INTERNAL_ERROR, detail))
        if job is None or job.state not in LIVE or job.drop not in self._context.inboxes:
            return
        if job.claim in self._context.in_hand and job.claim != own_claim:
            return
        inbox = self._context.inboxes[job.drop]
        if job.claim:
            self.put_back(inbox, self._context.claim_of(inbox, job))
        if job.state is not State.SEEN:
            job = self._context.see_again(job, job.snapshot)
        attempts = job.attempts + 1
        if attempts >= UNKNOWN_ATTEMPTS:
            self.refuse(inbox, job, Reason.INTERNAL_ERROR, detail)
        else:
            self._context.wait(
                job, Reason.INTERNAL_ERROR, detail, self._look_again_s, attempts=attempts
            )


def place_of(error: BaseException) -> str:
    """The function that raised it; an error's text may hold anything, so not that."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place.tb_frame.f_code.co_qualname if place else "?"
