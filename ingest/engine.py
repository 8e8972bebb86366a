"""Takes one file through its journey: each turn asks the stages, acts, and records.

A turn does one unit of work and returns; loops, threads and waiting are the service's. The
order within a turn is what keeps the promise:

* the intent is in the ledger before the effect, the success only after it;
* a file is set aside before it is imported, and its identity is checked after that, after the
  import, and again at its disposal;
* whatever ends a turn early (a crash, a kill, a full disk) leaves the file in the drop folder,
  in its claim (put back at start, with or without a ledger), or in quarantine.
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from ingest import claim, files, gather, leases, log, policy, sizes
from ingest.breaker import Breaker
from ingest.claim import Claim
from ingest.context import Context, Ended, Inbox, Rulebook
from ingest.errors import (
    HINDRANCES,
    Changed,
    FileProblem,
    Kind,
    LedgerError,
    OpenRemUnreachable,
    Reason,
)
from ingest.housekeeping import Housekeeping
from ingest.intake import Intake
from ingest.known import Known
from ingest.ledger import Ledger, Overtaken
from ingest.model import (
    GATHERED,
    IN_HAND,
    Done,
    Facts,
    Failed,
    Importer,
    Job,
    Outcome,
    Shortfall,
    SizesDone,
    Snapshot,
    StudyDone,
    StudyOutcome,
    Vanished,
)
from ingest.openrem.importers import OpenRem
from ingest.setback import LOOK_AGAIN_S, Setbacks
from ingest.verdicts import Verdicts
from ingest.verify import Proof, verify, verify_sizes

_log = log.get(__name__)

GATHER_SHARE = 20  # a look for a study whose turn it is that took a second rests for 20,
GATHER_REST_S = 60.0  # or seconds at most


@dataclass(slots=True, kw_only=True)
class Image:
    """One of the images that are imported together."""

    inbox: Inbox
    job: Job
    claimed: Claim
    name: str  # in the folder that OpenREM is handed
    held: Snapshot  # what the file is since then


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handed:
    """What came of handing a file to OpenREM."""

    outcome: Outcome
    held: Snapshot  # what the file was meanwhile: nothing has moved its ctime since
    rows: int  # that a table has with sizes


class Engine:
    """The turns of importing; those of looking and of putting in order are its parts."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        inboxes: Sequence[Inbox],
        retry: policy.RetryPolicy,
        work: bytes,
        clock: Callable[[], float],
        stopping: threading.Event,
        on_end: Callable[[Ended], None] = lambda _ended: None,
        rulebook: Rulebook | None = None,
    ) -> None:
        """Prepare the engine.

        Args:
            ledger: where every transition goes.
            inboxes: the folders it serves.
            retry: the user's `[retry]`.
            work: a private folder for aliases of files that are read in place.
            clock: the time (seconds since the epoch).
            stopping: set when all is to end; what breaks off then is our own doing.
            on_end: told of each file whose journey ended.
            rulebook: the user's `[[rule]]`.
        """
        self.context = context = Context(
            ledger=ledger,
            inboxes=inboxes,
            clock=clock,
            stopping=stopping,
            on_end=on_end,
            rulebook=rulebook,
        )
        self._setbacks = Setbacks(
            context,
            look_again_s=min(LOOK_AGAIN_S, retry.maximum_s),
            at_most_s=retry.maximum_s,
        )
        self._work = work
        self._known = Known(ledger)
        self._picking = threading.Lock()
        self._had_study = False  # at the last turn: then files that come alone go first
        self._gather_at = 0.0  # seconds since the epoch
        self.inboxes = context.inboxes
        self.stopping = context.stopping
        self.breaker = Breaker(ledger, clock, context.stopping)
        self._verdicts = Verdicts(context, self._setbacks, self.breaker, retry)
        self.intake = Intake(context, self._setbacks)
        self.house = Housekeeping(context, self._setbacks)

    def is_busy(self) -> bool:
        """Is a file in anybody's hand?"""
        return bool(self.context.in_hand)

    def import_next(self, openrem: OpenRem) -> bool:
        """Take the next file through its import. False if none is ready, or OpenREM is away."""
        if not self.breaker.lets_pass(openrem):
            return False
        try:
            jobs = self._choose()
        except Overtaken:
            return True
        if not jobs:
            return False
        if jobs[0].importer in GATHERED:
            self._take_turn_of(jobs, openrem)
        else:
            self._take_turn(jobs[0], openrem)
        return True

    def _choose(self) -> Sequence[Job]:
        """One file, or all images of a study: by turns, so that neither waits for all others."""
        picks = (self._pick, self._pick_study)
        for pick in picks if self._had_study else reversed(picks):
            jobs = pick()
            if jobs:
                self._had_study = pick == self._pick_study
                return jobs
        return []

    def _take_turn(self, job: Job, openrem: OpenRem) -> None:
        inbox = self.inboxes[job.drop]
        try:
            self._import(inbox, job, openrem)
        except LedgerError:
            raise
        except Exception as error:  # noqa: BLE001 - one file must never stop the others
            self._setbacks.internal_error(job.path, error, own_claim=job.claim)
        finally:
            self.context.in_hand.pop(job.claim, None)
        if inbox.after != "keep" and os.path.lexists(job.path):
            self.intake.look(inbox, job.path)  # sent again meanwhile, or put back

    def _pick(self) -> list[Job]:
        """Choose the next file and note the intent to claim it, before anything is done."""
        with self._picking:
            now = self.context.now()
            in_hand = list(self.context.in_hand.values())
            studies = {job.header.study_uid for job in in_hand if job.header}
            job = self.context.ledger.next_ready(self.context.served(), list(studies), now)
            if job is None or self.stopping.is_set():
                return []
            claim_id = claim.new_id(int(now * 1e9))
            # First: what the ledger calls claimed is in a hand.
            self.context.in_hand[claim_id] = job
            try:
                self.context.ledger.claimed(job, claim_id, now)
                job = self.context.in_hand[claim_id] = self.context.ledger.get(job.id)
            except Exception:
                del self.context.in_hand[claim_id]
                raise
            return [job]

    def _import(self, inbox: Inbox, job: Job, openrem: OpenRem) -> None:
        assert job.importer is not None  # noqa: S101 - a READY job was decided on
        began = self.context.now()
        claimed = self.context.claim_of(inbox, job)
        try:
            handed = self._hand_over(inbox, job, claimed, job.importer, openrem)
        except Changed:
            self._setbacks.start_again(job, claimed)
        except OpenRemUnreachable as trouble:
            self._verdicts.stop_intake(job, claimed, trouble.reason, trouble.detail)
        except FileProblem as problem:
            claim.release(claimed)  # it may have come as far as that
            self._setbacks.leave_for_now(inbox, job, problem)
        except OSError as error:
            self._setbacks.cannot_move(job, claimed, error)
        else:
            if isinstance(handed.outcome, Done | SizesDone):
                self.breaker.worked(began)
            self._judge(inbox, job, claimed, handed, began)

    def _hand_over(
        self, inbox: Inbox, job: Job, claimed: Claim, importer: Importer, openrem: OpenRem
    ) -> _Handed:
        """Have the very version that we looked at imported, under a name that may be deleted.

        A file that is to stay is read in place, and its alias lies elsewhere: its folder may
        be read-only. The alias of a claim goes with the claim.
        """
        if inbox.after == "keep":
            path, alias = job.path, os.path.join(self._work, claimed.id.encode() + b".dcm")
            self._check_whole(inbox, path, job)
        else:
            path, alias = claimed.path, claimed.alias
            self._take(inbox, job, claimed)
        try:
            rows = self._lay_alias(inbox, job, path, alias)
            held = files.check_identity(path, job.snapshot)
            if importer is Importer.PTSIZECSV and inbox.sizes is not None:
                outcome = openrem.import_sizes(alias, inbox.sizes)
            else:
                outcome = self._imported(job, alias, importer, openrem)
            is_whole = os.path.lexists(alias)  # OpenREM may delete it, which moves the ctime
            held = files.check_identity(path, held, exact=inbox.is_local and is_whole)
        finally:
            if inbox.after == "keep":
                files.unlink_alias(alias)
        return _Handed(outcome=outcome, held=held, rows=rows)

    def _imported(self, job: Job, alias: bytes, importer: Importer, openrem: OpenRem) -> Outcome:
        """What OpenREM holds already costs a look into its database, not an import."""
        if self._known.may_be_held(job, self.context.served(), openrem):
            held = openrem.prove(alias, importer)
            if isinstance(held, Vanished) or self._is_proven(job, importer, held):
                return held
        return openrem.import_object(alias, importer)

    @staticmethod
    def _is_proven(job: Job, importer: Importer, outcome: Outcome) -> bool:
        """Would it come to a proof? That is made of the file as it is afterwards."""
        return (
            isinstance(outcome, Done)
            and job.header is not None
            and isinstance(verify(job.snapshot, job.header, importer, outcome.facts), Proof)
        )

    def _lay_alias(self, inbox: Inbox, job: Job, path: bytes, alias: bytes) -> int:
        """Give OpenREM a name of the object, or a copy of the table. Returns the table's rows."""
        if job.importer is not Importer.PTSIZECSV:
            files.link_aside(path, alias)
            return 0
        if inbox.sizes is None:  # by the configuration of before
            raise Changed
        return sizes.write_plain(path, alias, inbox.sizes, job.snapshot)

    def _take(self, inbox: Inbox, job: Job, claimed: Claim) -> None:
        """Set the file aside. `Changed` if somebody still writes to it."""
        claim.take(claimed, job.snapshot)
        self._check_whole(inbox, claimed.path, job)

    def _check_whole(self, inbox: Inbox, path: bytes, job: Job) -> None:
        """It waited for its turn: an object cut by its next version would be imported as it is."""
        files.check_identity(path, job.snapshot)
        if leases.has_writer(path, local=inbox.is_local):
            raise Changed("somebody has it open for writing")

    def _judge(
        self,
        inbox: Inbox,
        job: Job,
        claimed: Claim,
        handed: _Handed,
        began: float,
    ) -> None:
        match handed.outcome:
            case Done(facts=facts):
                assert job.header is not None  # noqa: S101 - an object has been read
                assert job.importer is not None  # noqa: S101 - see _import
                verdict = verify(handed.held, job.header, job.importer, facts)
                self._conclude(inbox, job, claimed, verdict, facts.warnings, began)
            case SizesDone(facts=facts):
                assert inbox.sizes is not None  # noqa: S101 - see _hand_over
                verdict = verify_sizes(handed.held, handed.rows, inbox.sizes, facts)
                self._conclude(inbox, job, claimed, verdict, facts.warnings, began)
            case Failed(reason=reason, detail=detail):
                self._verdicts.failed(inbox, job, claimed, Shortfall(reason=reason, detail=detail))
            case Vanished(detail=detail):
                if self.stopping.is_set():
                    self._setbacks.back(job, claimed)  # we broke it off ourselves
                    return
                shortfall = Shortfall(reason=Reason.WORKER_DIED, detail=detail)
                self._verdicts.failed(inbox, job, claimed, shortfall)

    def _conclude(
        self,
        inbox: Inbox,
        job: Job,
        claimed: Claim,
        verdict: Proof | Shortfall,
        warnings: Sequence[str],
        began: float,
    ) -> None:
        for warning in warnings:
            _log.warning("import.warning", **self.context.who(job), warning=warning)
        if isinstance(verdict, Proof):
            self._verdicts.finish(inbox, job, claimed, verdict, began)
        else:
            self._verdicts.failed(inbox, job, claimed, verdict)

    # -- images that are imported together ------------------------------------------------------

    def next_study(self, by: float) -> str | None:
        """The study whose images have their turn together then (seconds since the epoch)."""
        if not self.context.looked_through:
            return None  # some of its images may not have been met yet
        parts = self.context.ledger.gathering(list(self.inboxes))
        return gather.next_study(parts, self.context.served(), by)

    def _pick_study(self) -> list[Job]:
        """As `_pick`, for all images of the next study. None while another one is in hand."""
        with self._picking:
            began, now = time.monotonic(), self.context.now()
            rests = 0 < self._gather_at - now < GATHER_REST_S  # the clock may have been set back
            if rests or self.stopping.is_set() or self._has_study_in_hand():
                return []
            uid = self.next_study(now)
            self._gather_at = now + (time.monotonic() - began) * GATHER_SHARE
            if uid is None:
                return []
            jobs = {
                claim.new_id(int(now * 1e9)): job
                for job in self.context.ledger.images_of(uid, list(self.inboxes))
            }
            self.context.in_hand.update(jobs)  # first, as in _pick
            try:
                self.context.ledger.claimed_together(jobs, now)
                jobs = {claim_id: self.context.ledger.get(job.id) for claim_id, job in jobs.items()}
            except Exception:
                for claim_id in jobs:
                    self.context.in_hand.pop(claim_id, None)
                raise
            self.context.in_hand.update(jobs)
            return list(jobs.values())

    def _has_study_in_hand(self) -> bool:
        return any(job.importer in GATHERED for job in list(self.context.in_hand.values()))

    def _take_turn_of(self, jobs: Sequence[Job], openrem: OpenRem) -> None:
        images = [
            Image(
                inbox=self.inboxes[job.drop],
                job=job,
                claimed=self.context.claim_of(self.inboxes[job.drop], job),
                name=f"{number:06d}.dcm",
                held=job.snapshot,
            )
            for number, job in enumerate(jobs)
        ]
        try:
            self._import_together(images, openrem)
        except LedgerError:
            self.context.looked_through = False
            raise
        except Exception as error:  # noqa: BLE001 - one study must never stop the others
            self.context.looked_through = False
            for image in images:
                if self.context.ledger.get(image.job.id).state in IN_HAND:
                    self._setbacks.internal_error(image.job.path, error, own_claim=image.job.claim)
        finally:
            for image in images:
                self.context.in_hand.pop(image.job.claim, None)
        for image in images:
            if image.inbox.after != "keep" and os.path.lexists(image.job.path):
                self.intake.look(image.inbox, image.job.path)

    def _import_together(self, images: Sequence[Image], openrem: OpenRem) -> None:
        """Hand all of them over in one folder, and judge each by what OpenREM holds then."""
        importer = images[0].job.importer
        assert importer is not None  # noqa: S101 - a READY job has been read
        began = self.context.now()
        folder = os.path.join(self._work, os.fsencode(images[0].job.claim))
        try:
            if not self._set_aside_together(images, folder):
                return
            try:
                outcome = openrem.import_study(folder, importer)
            except OpenRemUnreachable as trouble:
                self._stop_together(images, trouble.reason, trouble.detail)
                return
            self._judge_together(images, outcome, importer, began)
        finally:
            # Not before: a second name that goes moves the ctime by which a file is recognised.
            with contextlib.suppress(OSError):
                files.clear_folder(folder)

    def _set_aside_together(self, images: Sequence[Image], folder: bytes) -> bool:
        """Set them aside, each with a name in the folder. One that can't be: all go back."""
        for image in images:
            try:
                if self.stopping.is_set():
                    self._back_together(images)
                    return False
                self._set_aside(image, folder)
            except Changed:
                self._setbacks.start_again(image.job, image.claimed)
            except FileProblem as problem:
                claim.release(image.claimed)
                self._setbacks.leave_for_now(image.inbox, image.job, problem)
            except OSError as error:
                self._setbacks.cannot_move(image.job, image.claimed, error)
            else:
                continue
            # Should even its way back fail, it lies in its claim until the next full sweep.
            self.context.looked_through = False
            self._back_together((one for one in images if one is not image), gathers_again=True)
            return False
        return True

    def _set_aside(self, image: Image, folder: bytes) -> None:
        if image.inbox.after == "keep":
            path = image.job.path
            self._check_whole(image.inbox, path, image.job)
        else:
            path = image.claimed.path
            self._take(image.inbox, image.job, image.claimed)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        files.link_aside(path, os.path.join(folder, image.name.encode()))
        image.held = files.check_identity(path, image.job.snapshot)

    def _back_together(self, images: Iterable[Image], *, gathers_again: bool = False) -> None:
        now = self.context.now()
        for image in images:
            quiet_at = now + image.inbox.gather_s if gathers_again else 0.0
            self._setbacks.back(image.job, image.claimed, not_before=quiet_at)

    def _stop_together(self, images: Sequence[Image], reason: Reason, detail: str) -> None:
        """As `_stop_intake`, once for all of them."""
        first, *others = images
        try:
            self._verdicts.stop_intake(first.job, first.claimed, reason, detail)
        finally:
            self._back_together(others)

    def _judge_together(
        self, images: Sequence[Image], outcome: StudyOutcome, importer: Importer, began: float
    ) -> None:
        match outcome:
            case StudyDone(facts=facts):
                self.breaker.worked(began)
                self._judge_each(images, facts, importer, began)
            case Failed(reason=reason, detail=detail) if reason in HINDRANCES:
                error = OSError(errno.ENOSPC, detail)
                for image in images:
                    self._setbacks.cannot_move(image.job, image.claimed, error)
            case Failed(reason=reason, detail=detail) if reason.kind is Kind.OUTAGE:
                self._stop_together(images, reason, detail)
            case Failed(reason=reason, detail=detail):
                self._failed_together(images, Shortfall(reason=reason, detail=detail))
            case Vanished() if self.stopping.is_set():
                self._back_together(images)  # we broke it off ourselves
            case Vanished(detail=detail):
                shortfall = Shortfall(reason=Reason.WORKER_DIED, detail=detail)
                self._failed_together(images, shortfall)
            case _:
                assert_never(outcome)

    def _judge_each(
        self,
        images: Sequence[Image],
        facts: Mapping[str, Facts],
        importer: Importer,
        began: float,
    ) -> None:
        for warning in {warning for one in facts.values() for warning in one.warnings}:
            _log.warning("import.warning", **self.context.who(images[0].job), warning=warning)
        short: dict[Shortfall, list[Image]] = {}
        for image in images:
            if self.stopping.is_set():  # what OpenREM holds of it is asked again at the next start
                self._back_together([image])
                continue
            try:
                path = image.job.path if image.inbox.after == "keep" else image.claimed.path
                held = files.check_identity(path, image.held, exact=image.inbox.is_local)
            except Changed:
                self._setbacks.start_again(image.job, image.claimed)
                continue
            assert image.job.header is not None  # noqa: S101 - see _import
            verdict = verify(held, image.job.header, importer, facts[image.name])
            if isinstance(verdict, Proof):
                self._verdicts.finish(image.inbox, image.job, image.claimed, verdict, began)
            else:
                short.setdefault(verdict, []).append(image)
        for shortfall, of_these in short.items():
            self._failed_together(of_these, shortfall)

    def _failed_together(self, images: Sequence[Image], shortfall: Shortfall) -> None:
        """They share their fate: some of a study without the others would be counted as all."""
        attempts = max(image.job.attempts for image in images)
        deaths = max(image.job.deaths for image in images)
        for image in images:
            job = replace(image.job, attempts=attempts, deaths=deaths)
            self._verdicts.failed(image.inbox, job, image.claimed, shortfall)
