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
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import assert_never

from ingest import claim, dicom, dispose, files, log, policy, rules, watch
from ingest.claim import Claim
from ingest.errors import Changed, FileProblem, LedgerError, OpenRemUnreachable, Reason
from ingest.ledger import NEVER, Ledger, Overtaken
from ingest.model import (
    IN_HAND,
    LIVE,
    Done,
    Failed,
    Header,
    Ignore,
    Import,
    Importer,
    Job,
    Keep,
    Outcome,
    Reject,
    Shortfall,
    Snapshot,
    State,
    Vanished,
)
from ingest.openrem.importers import OpenRem
from ingest.settle import Patience, Verdict, settle
from ingest.verify import Proof, verify

_log = log.get(__name__)

LOOK_AGAIN_S = 60.0  # at the most, at a file that can't be moved for now


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """A drop folder as the engine needs it, or the folder of a manual import."""

    name: str
    root: bytes  # its real path
    after: str  # delete | archive | keep
    patience: Patience
    archive: bytes | None = None
    quarantine: bytes | None = None  # None: refused files stay where they are
    is_local: bool = True  # a read lease tells whether somebody writes
    expect: tuple[Importer, ...] = ()
    is_drop: bool = True  # else it is the user's own folder: emptied sub-folders stay


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of a file, for whoever shows it."""

    inbox: Inbox
    path: bytes
    state: State
    reason: Reason | None = None
    detail: str = ""
    already: bool = False
    importer: Importer | None = None
    now_at: bytes = b""  # where the file is now, if it was moved


@dataclass(slots=True)
class Breaker:
    """Whether OpenREM can take work. While it can't, nothing new is begun."""

    reason: Reason | None = None
    detail: str = ""
    failures: int = 0
    probe_at: float = 0.0
    is_open: bool = True  # until OpenREM has answered once
    lock: threading.Lock = field(default_factory=threading.Lock)


PROBES = policy.RetryPolicy(attempts=1, initial_s=1.0, maximum_s=30.0)


class Engine:
    """The turns."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        inboxes: Sequence[Inbox],
        retry: policy.RetryPolicy,
        work: bytes,
        clock: Callable[[], float],
        on_end: Callable[[Ended], None] = lambda _ended: None,
    ) -> None:
        """Prepare the engine.

        Args:
            ledger: where every transition goes.
            inboxes: the folders it serves.
            retry: the user's `[retry]`.
            work: a private folder for aliases of files that are read in place.
            clock: the time (seconds since the epoch).
            on_end: told of each file whose journey ended.
        """
        self.ledger = ledger
        self.inboxes: Mapping[str, Inbox] = {inbox.name: inbox for inbox in inboxes}
        self.breaker = Breaker()
        self.stopping = threading.Event()
        self._retry = retry
        self._look_again_s = min(LOOK_AGAIN_S, retry.maximum_s)
        self._work = work
        self._clock = clock
        self._on_end = on_end
        self._picking = threading.Lock()
        self._in_hand: dict[str, Job] = {}  # by claim id

    # -- the intake: looking ---------------------------------------------------------------------

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
            self._internal_error(self.ledger.find(path), error)

    def _look_or_miss(self, inbox: Inbox, path: bytes) -> None:
        try:
            self._look(inbox, path)
        except FileNotFoundError:
            self._is_gone(path)

    def _look(self, inbox: Inbox, path: bytes) -> None:
        found = files.snapshot(path)
        job = self.ledger.find(path)
        if job is not None and self._is_known(inbox, job, found):
            return
        if job is None or job.snapshot != found or job.state is not State.SEEN:
            job = self.ledger.see(drop=inbox.name, path=path, snapshot=found, now=self._clock())
        try:
            look = dicom.look(path)
        except FileProblem as problem:
            self._unreadable(inbox, job, problem)
            return
        settled = settle(
            look.snapshot,
            look.structure,
            has_writer=dicom.has_writer(path, local=inbox.is_local),
            now_ns=int(self._clock() * 1e9),
            patience=inbox.patience,
        )
        match settled.verdict:
            case Verdict.WAIT:
                self._wait(job, settled.reason, settled.detail, settled.again_in_s)
            case Verdict.HOPELESS:
                self.refuse(inbox, job, settled.reason or Reason.MALFORMED, settled.detail)
            case Verdict.COMPLETE if look.snapshot != job.snapshot:
                self._wait(job, Reason.CHANGED, "", inbox.patience.quiet_s)
            case Verdict.COMPLETE:
                self._decide(inbox, job, look)

    def _is_known(self, inbox: Inbox, job: Job, found: Snapshot) -> bool:
        """Is this version on its way already, or done with and meant to stay?"""
        if job.state in IN_HAND and job.drop == inbox.name:
            return True
        if job.snapshot != found:
            return False
        if job.state is State.SEEN:
            return job.not_before > self._clock()
        if job.state is State.LEFT:
            return job.not_before > self._clock() and job.drop == inbox.name
        if job.state in LIVE:
            return job.drop == inbox.name
        return job.state is State.DONE and inbox.after == "keep" and job.drop == inbox.name

    def _unreadable(self, inbox: Inbox, job: Job, problem: FileProblem) -> None:
        """A link or pipe is refused at once; rights may yet be put right in the quiet time."""
        still_s = self._clock() - job.snapshot.changed_ns / 1e9
        if problem.reason is Reason.UNREADABLE and still_s < inbox.patience.quiet_s:
            self._wait(job, problem.reason, problem.detail, inbox.patience.quiet_s)
        else:
            self.refuse(inbox, job, problem.reason, problem.detail)

    def _wait(self, job: Job, reason: Reason | None, detail: str, delay_s: float) -> None:
        self.ledger.wait(job, reason=reason, detail=detail, not_before=self._clock() + delay_s)

    def _decide(self, inbox: Inbox, job: Job, look: dicom.Look) -> None:
        if look.header is None:
            self.refuse(inbox, job, look.problem or Reason.MALFORMED, look.detail)
            return
        decision = rules.decide(look.header)
        match decision:
            case Import(importer=importer):
                if inbox.expect and importer not in inbox.expect:
                    _log.info(
                        "file.unexpected-kind",
                        **self._who(job, look.header),
                        importer=importer.value,
                        expected=[one.value for one in inbox.expect],
                    )
                self.ledger.ready(
                    job,
                    header=look.header,
                    importer=importer,
                    order=rules.study_order(look.header),
                    now=self._clock(),
                )
            case Reject(reason=reason, because=because):
                self.ledger.describe(job, look.header)
                self.refuse(inbox, self.ledger.get(job.id), reason, because)
            case Ignore() | Keep():
                raise NotImplementedError("the configuration offers no such rules yet")
            case _:
                assert_never(decision)

    def _is_gone(self, path: bytes) -> None:
        job = self.ledger.find(path)
        if job is not None and job.state in (State.SEEN, State.READY, State.LEFT):
            self.ledger.end(job, State.GONE, self._clock())

    # -- the import ------------------------------------------------------------------------------

    def import_next(self, openrem: OpenRem) -> bool:
        """Take the next file through its import. False if none is ready, or OpenREM is away."""
        if self.breaker.is_open and not self._probe(openrem):
            return False
        try:
            job = self._pick()
        except Overtaken:
            return True
        if job is None:
            return False
        inbox = self.inboxes[job.drop]
        try:
            self._import(inbox, job, openrem)
        except LedgerError:
            raise
        except Exception as error:  # noqa: BLE001 - one file must never stop the others
            self._internal_error(self.ledger.get(job.id), error)
        finally:
            self._in_hand.pop(job.claim, None)
        if inbox.after != "keep" and os.path.lexists(job.path):
            self.look(inbox, job.path)  # sent again meanwhile, or put back
        return True

    def _pick(self) -> Job | None:
        """Choose the next file and note the intent to claim it, before anything is done."""
        with self._picking:
            now = self._clock()
            in_hand = list(self._in_hand.values())
            studies = [job.header.study_uid for job in in_hand if job.header]
            job = self.ledger.next_ready(list(self.inboxes), studies, now)
            if job is None or self.stopping.is_set():
                return None
            claim_id = claim.new_id(int(now * 1e9))
            self._in_hand[claim_id] = job  # first: what the ledger calls claimed is in a hand
            try:
                self.ledger.claimed(job, claim_id, now)
                job = self._in_hand[claim_id] = self.ledger.get(job.id)
            except Exception:
                del self._in_hand[claim_id]
                raise
            return job

    def _import(self, inbox: Inbox, job: Job, openrem: OpenRem) -> None:
        assert job.header is not None  # noqa: S101 - a READY job has been read
        assert job.importer is not None  # noqa: S101
        began = self._clock()
        claimed = self._claim(inbox, job)
        try:
            outcome = self._hand_over(inbox, job, claimed, job.importer, openrem)
        except Changed:
            self._start_again(job, claimed)
        except OpenRemUnreachable as trouble:
            self._stop_intake(job, claimed, trouble.reason, trouble.detail)
        except FileProblem as problem:
            self._left(inbox, job, problem.reason, problem.detail, self._look_again_s)
        except OSError as error:
            self._cannot_move(job, claimed, error)
        else:
            self._judge(inbox, job, claimed, outcome, began)

    def _hand_over(
        self, inbox: Inbox, job: Job, claimed: Claim, importer: Importer, openrem: OpenRem
    ) -> Outcome:
        """Have the very version that we looked at imported, under a name that may be deleted.

        A file that is to stay is read in place, and its alias lies elsewhere: its folder may
        be read-only.
        """
        if inbox.after == "keep":
            path, alias = job.path, os.path.join(self._work, claimed.id.encode() + b".dcm")
        else:
            path, alias = claimed.path, claimed.alias
            self._take(inbox, job, claimed)
        files.link_aside(path, alias)
        try:
            outcome = openrem.import_object(alias, importer)
        finally:
            files.unlink_alias(alias)
        files.check_identity(path, job.snapshot)
        return outcome

    def _claim(self, inbox: Inbox, job: Job) -> Claim:
        return Claim(id=job.claim, root=inbox.root, place=os.path.relpath(job.path, inbox.root))

    def _take(self, inbox: Inbox, job: Job, claimed: Claim) -> None:
        """Set the file aside. `Changed` if somebody still writes to it."""
        claim.take(claimed, job.snapshot)
        if dicom.has_writer(claimed.path, local=inbox.is_local):
            raise Changed("somebody has it open for writing")

    def _judge(
        self, inbox: Inbox, job: Job, claimed: Claim, outcome: Outcome, began: float
    ) -> None:
        assert job.header is not None  # noqa: S101 - see _import
        assert job.importer is not None  # noqa: S101
        match outcome:
            case Done(facts=facts):
                verdict = verify(job.snapshot, job.header, job.importer, facts)
                for warning in facts.warnings:
                    _log.warning("import.warning", **self._who(job), warning=warning)
                if isinstance(verdict, Proof):
                    self._finish(inbox, job, claimed, verdict, began)
                else:
                    self._failed(inbox, job, claimed, verdict)
            case Failed(reason=reason, detail=detail):
                self._failed(inbox, job, claimed, Shortfall(reason=reason, detail=detail))
            case Vanished(detail=detail):
                if self.stopping.is_set():
                    self._back(job, claimed)  # we broke it off ourselves
                    return
                shortfall = Shortfall(reason=Reason.WORKER_DIED, detail=detail)
                self._failed(inbox, job, claimed, shortfall)

    def _finish(self, inbox: Inbox, job: Job, claimed: Claim, proof: Proof, began: float) -> None:
        """With the proof in the ledger, dispose of the file as its folder says."""
        self.ledger.proven(job, proof.evidence, self._clock())
        job = self.ledger.get(job.id)
        now_at = b""
        try:
            if inbox.after == "delete":
                dispose.delete(claimed, proof)
            elif inbox.after == "archive":
                assert inbox.archive is not None  # noqa: S101 - the configuration demands it
                today = datetime.fromtimestamp(self._clock()).astimezone().date()
                now_at = dispose.archive(claimed, proof, inbox.archive, today)
        except Changed:
            self._start_again(job, claimed)
            return
        except OSError as error:
            self._cannot_move(job, claimed, error)
            return
        self.ledger.end(job, State.DONE, self._clock())
        self._emptied(inbox, job.path)
        _log.info(
            "file.imported",
            **self._who(job),
            outcome="already there" if proof.already else "imported",
            importer=job.importer.value if job.importer else None,
            evidence=proof.evidence,
            seconds=round(self._clock() - began, 3),
        )
        self._tell(inbox, job, State.DONE, already=proof.already, now_at=now_at)

    def is_busy(self) -> bool:
        """Is a file in anybody's hand?"""
        return bool(self._in_hand)

    # -- when it does not go well ------------------------------------------------------------------

    def _failed(self, inbox: Inbox, job: Job, claimed: Claim, shortfall: Shortfall) -> None:
        step = policy.after_failure(
            shortfall.reason, attempts=job.attempts, deaths=job.deaths, policy=self._retry
        )
        match step:
            case policy.StopIntake():
                self._stop_intake(job, claimed, shortfall.reason, shortfall.detail)
            case policy.GiveUp():
                self._refuse_claimed(inbox, job, claimed, shortfall)
            case policy.Again(delay_s=delay_s, attempts=attempts, deaths=deaths):
                _log.warning(
                    "file.will-retry",
                    **self._who(job),
                    **_words(shortfall.reason, shortfall.detail),
                    attempt=attempts,
                    retry_in_s=round(delay_s, 1),
                )
                self._back(
                    job,
                    claimed,
                    reason=shortfall.reason,
                    detail=shortfall.detail,
                    not_before=self._clock() + delay_s,
                    attempts=attempts,
                    deaths=deaths,
                )
            case _:
                assert_never(step)

    def _back(
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
        self.ledger.back(
            job,
            self._clock(),
            reason=reason,
            detail=detail,
            not_before=not_before,
            attempts=attempts,
            deaths=deaths,
        )

    def _start_again(self, job: Job, claimed: Claim) -> None:
        """The file isn't what we looked at: whatever lies there now is new work."""
        claim.release(claimed)
        try:
            found = files.snapshot(job.path)
        except FileNotFoundError:
            self.ledger.end(job, State.GONE, self._clock())
            return
        job = self._see_again(job, found)
        self._wait(job, Reason.CHANGED, "", self.inboxes[job.drop].patience.quiet_s)

    def _see_again(self, job: Job, found: Snapshot) -> Job:
        return self.ledger.see(
            drop=job.drop, path=job.path, snapshot=found, now=self._clock(), in_hand=True
        )

    def refuse(self, inbox: Inbox, job: Job, reason: Reason, detail: str) -> None:
        """Quarantine a file that isn't claimed yet, or leave it where the folder is not ours."""
        if inbox.quarantine is None:
            self._left(inbox, job, reason, detail)
            return
        claimed = Claim(
            id=claim.new_id(int(self._clock() * 1e9)),
            root=inbox.root,
            place=os.path.relpath(job.path, inbox.root),
        )
        self._in_hand[claimed.id] = job  # first, as in _pick
        try:
            self.ledger.rejected(job, reason, detail, self._clock())
            job = self.ledger.get(job.id)
            claim.take(claimed, job.snapshot)
            self._quarantine(inbox, job, claimed, reason, detail)
        except Changed:
            self._start_again(job, claimed)
        except FileProblem as problem:
            self._left(inbox, job, problem.reason, problem.detail, self._look_again_s)
        finally:
            self._in_hand.pop(claimed.id, None)

    def _refuse_claimed(self, inbox: Inbox, job: Job, claimed: Claim, shortfall: Shortfall) -> None:
        if inbox.quarantine is None:
            claim.release(claimed)
            self._left(inbox, job, shortfall.reason, shortfall.detail)
            return
        self.ledger.rejected(job, shortfall.reason, shortfall.detail, self._clock())
        job = self.ledger.get(job.id)
        try:
            if not os.path.lexists(claimed.path):  # a file that was read in place
                claim.take(claimed, job.snapshot)
            self._quarantine(inbox, job, claimed, shortfall.reason, shortfall.detail)
        except Changed:
            self._start_again(job, claimed)
        except FileProblem as problem:
            self._left(inbox, job, problem.reason, problem.detail, self._look_again_s)

    def _quarantine(
        self, inbox: Inbox, job: Job, claimed: Claim, reason: Reason, detail: str
    ) -> None:
        assert inbox.quarantine is not None  # noqa: S101 - the callers asked
        why = dispose.Why(
            reason=reason,
            detail=detail,
            drop=inbox.name,
            header=job.header,
            at=datetime.fromtimestamp(self._clock(), UTC),
        )
        try:
            now_at = dispose.quarantine(claimed, job.snapshot, inbox.quarantine, why)
        except OSError as error:
            self._cannot_move(job, claimed, error)
            return
        self.ledger.end(job, State.QUARANTINED, self._clock())
        self._emptied(inbox, job.path)
        _log.warning("file.quarantined", **self._who(job), **_words(reason, detail))
        self._tell(inbox, job, State.QUARANTINED, reason=reason, detail=detail, now_at=now_at)

    def _cannot_move(self, job: Job, claimed: Claim, error: OSError) -> None:
        """A full or read-only target: the file goes back, and all is tried again later."""
        claim.release(claimed)
        detail = error.strerror or type(error).__name__
        _log.error("file.cannot-move", **self._who(job), **_words(Reason.CANNOT_MOVE, detail))
        job = self._see_again(job, job.snapshot)
        self._wait(job, Reason.CANNOT_MOVE, detail, self._look_again_s)

    def _left(
        self, inbox: Inbox, job: Job, reason: Reason, detail: str, again_s: float | None = None
    ) -> None:
        """It stays in its folder: say so once, and look again if that may help."""
        now = self._clock()
        self.ledger.left(
            job, reason, detail, now, not_before=NEVER if again_s is None else now + again_s
        )
        if job.reason is not reason:
            _log.warning("file.left", **self._who(job), **_words(reason, detail))
            self._tell(inbox, job, State.LEFT, reason=reason, detail=detail)

    def _internal_error(self, job: Job | None, error: Exception) -> None:
        """A defect of ours: the file goes back to wait, and the log has type and place."""
        detail = f"{type(error).__name__} in {place_of(error)}"
        _log.error(
            "file.internal-error",
            job=job.id if job else None,
            **_words(Reason.INTERNAL_ERROR, detail),
        )
        if job is None or job.state not in LIVE:
            return
        inbox = self.inboxes[job.drop]
        if job.claim:
            self._put_back(inbox, self._claim(inbox, job))
        if job.state is not State.SEEN:
            job = self._see_again(job, job.snapshot)
        self._wait(job, Reason.INTERNAL_ERROR, detail, self._look_again_s)

    # -- OpenREM away and back ---------------------------------------------------------------------

    def _stop_intake(self, job: Job, claimed: Claim, reason: Reason, detail: str) -> None:
        self._back(job, claimed, reason=None)
        self._open_breaker(reason, detail)

    def _open_breaker(self, reason: Reason, detail: str) -> None:
        with self.breaker.lock:
            if self.breaker.reason is not reason:
                _log.error("openrem.away", **_words(reason, detail))
                self.ledger.say("openrem", f"{reason.code} {detail}", self._clock())
            self.breaker.is_open = True
            self.breaker.reason, self.breaker.detail = reason, detail
            self.breaker.failures += 1
            self.breaker.probe_at = self._clock() + policy.delay_s(self.breaker.failures, PROBES)

    def check(self, openrem: OpenRem) -> None:
        """Ask after OpenREM's health while there is nothing to import, so that status knows."""
        if self.breaker.is_open:
            return
        try:
            openrem.hello()
        except OpenRemUnreachable as trouble:
            if not self.stopping.is_set():
                self._open_breaker(trouble.reason, trouble.detail)

    def _probe(self, openrem: OpenRem) -> bool:
        """Ask whether OpenREM is back, if it is time to. True if it is."""
        with self.breaker.lock:
            if not self.breaker.is_open:
                return True
            if self.breaker.probe_at > self._clock():
                return False
            self.breaker.probe_at = self._clock() + PROBES.maximum_s  # one prober at a time
        try:
            hello = openrem.hello()
        except OpenRemUnreachable as trouble:
            if not self.stopping.is_set():
                self._open_breaker(trouble.reason, trouble.detail)
            return False
        with self.breaker.lock:
            self.breaker.is_open, self.breaker.reason, self.breaker.failures = False, None, 0
        _log.info(
            "openrem.ready", openrem=hello.openrem, database=hello.database, server=hello.server
        )
        if hello.duplicate_scanners:
            _log.error(
                "openrem.duplicate-scanners",
                count=hello.duplicate_scanners,
                **_words(Reason.DUPLICATE_SCANNER, ""),
            )
        self.ledger.say("openrem", "ready", self._clock())
        return True

    # -- putting in order ----------------------------------------------------------------------------

    def recover(self, inbox: Inbox) -> None:
        """Put back what lies in claims that nobody works on; with or without a ledger."""
        # Not a copy of what is in hand: a claim may be taken while we look.
        for claimed in claim.found(inbox.root, self._in_hand):
            self._put_back(inbox, claimed)
        states = (State.CLAIMED, State.PROVEN, State.REJECTED)
        for job in self.ledger.live([inbox.name], states, limit=10_000):
            if job.id in {one.id for one in tuple(self._in_hand.values())}:
                continue
            with contextlib.suppress(Overtaken):  # its turn ended while we looked
                self._resume(job)

    def _put_back(self, inbox: Inbox, claimed: Claim) -> None:
        name = log.safe_name(claimed.place)
        if claim.release(claimed):
            _log.info("claim.put-back", drop=inbox.name, file=name)
        elif not os.path.lexists(claimed.original):
            words = _words(Reason.CANNOT_MOVE, "")
            _log.error("claim.cannot-put-back", drop=inbox.name, file=name, **words)

    def _resume(self, job: Job) -> None:
        """A turn that a crash broke off: the file is back in its place, or it reached its end."""
        try:
            found = files.snapshot(job.path)
        except FileNotFoundError:
            end = State.DONE if job.state is State.PROVEN else State.GONE
            self.ledger.end(job, end, self._clock())
            return
        self._see_again(job, found)

    def look_at_due(self, limit: int) -> int:
        """Look again at files whose waiting time is over. Returns how many."""
        due = self.ledger.due(list(self.inboxes), self._clock(), limit)
        for job in due:
            if self.stopping.is_set():
                break
            self.look(self.inboxes[job.drop], job.path)
        return len(due)

    def _emptied(self, inbox: Inbox, path: bytes) -> None:
        folder = os.path.dirname(path)
        if inbox.is_drop and folder != inbox.root and inbox.after != "keep":
            self.ledger.emptied(folder, self._clock())

    def tidy(self, after_s: float, keep: Collection[bytes]) -> None:
        """Remove sub-folders that we emptied, once nothing came for a while.

        Not at once: whoever copies a folder makes it first, then its files one by one. Never
        one that stood empty before: Conquest loses objects in silence while a folder is missing.
        """
        for folder in self.ledger.folders_to_tidy(self._clock() - after_s):
            if not self._is_restless(folder, after_s):
                self._tidy(folder, keep)
                self.ledger.tidied(folder)

    def _is_restless(self, folder: bytes, after_s: float) -> bool:
        try:
            return self._clock() - os.lstat(folder).st_mtime < after_s
        except OSError:
            return False

    def _tidy(self, folder: bytes, keep: Collection[bytes]) -> None:
        for inbox in self.inboxes.values():
            while folder.startswith(inbox.root + b"/") and folder not in keep:
                if self.ledger.is_standing(folder) or not files.remove_empty(folder):
                    return
                folder = os.path.dirname(folder)

    # -- telling -------------------------------------------------------------------------------------

    def _who(self, job: Job, header: Header | None = None) -> dict[str, object]:
        header = header or job.header
        who: dict[str, object] = {
            "drop": job.drop,
            "file": log.safe_name(job.path),
            "job": job.id,
        }
        if header is not None:
            who |= {
                "sop_instance_uid": header.sop_instance_uid,
                "study_uid": header.study_uid,
                "modality": header.modality,
                "station": header.station,
            }
        return who

    def _tell(
        self,
        inbox: Inbox,
        job: Job,
        state: State,
        *,
        reason: Reason | None = None,
        detail: str = "",
        already: bool = False,
        now_at: bytes = b"",
    ) -> None:
        self._on_end(
            Ended(
                inbox=inbox,
                path=job.path,
                state=state,
                reason=reason,
                detail=detail,
                already=already,
                importer=job.importer,
                now_at=now_at,
            )
        )


def place_of(error: Exception) -> str:
    """The function that raised it; an error's text may hold anything, so not that."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place.tb_frame.f_code.co_qualname if place else "?"


def _words(reason: Reason, detail: str) -> dict[str, str]:
    return {
        "reason": reason.code,
        "why": reason.why,
        "detail": detail,
        "next": reason.next_step,
    }
