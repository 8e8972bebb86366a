"""Looks at one path: notes the file, and once it is complete, decides what is to become of it."""

import contextlib
import errno
import os
import stat
import time
from collections import deque
from dataclasses import replace
from typing import assert_never

from ingest import claim, dicom, files, leases, log, routing, sizes
from ingest.context import Context, Inbox, words
from ingest.errors import HINDRANCES, FileProblem, LedgerError, Reason
from ingest.ledger import Overtaken
from ingest.model import (
    IN_HAND,
    LIVE,
    Ignore,
    Import,
    Importer,
    Job,
    Keep,
    Reject,
    Snapshot,
    State,
)
from ingest.rulings import Rulings
from ingest.setback import Setbacks
from ingest.settle import Verdict, settle

_log = log.get(__name__)


CLOSED_S = 30.0  # between looks at what can't be read or moved for now
DUE_S = 1.0  # of looks at what has waited, then others have their turn

# Stands for a file that even the folder doesn't tell of.
_UNSEEN = Snapshot(device=0, inode=0, size=0, mtime_ns=0, ctime_ns=0)


class Intake:
    """The turns of looking."""

    def __init__(self, context: Context, setbacks: Setbacks) -> None:
        """Work in this context."""
        self._context = context
        self._setbacks = setbacks
        self._rulings = Rulings(context, setbacks)
        self._elsewhere: dict[bytes, Inbox] = {}

    @property
    def elsewhere(self) -> list[bytes]:
        """Files that another openrem-ingest (the service, or a manual import) has in hand."""
        return list(self._elsewhere)

    def look(self, inbox: Inbox, path: bytes, *, is_told: bool = False) -> bool:
        """One look at one path: note it, and when it is complete, decide on it.

        Args:
            inbox: its folder.
            path: the file.
            is_told: an event told of it, and so may have its writer's close: it is looked at
                before its time, too.

        Returns:
            Whether it was a file that nobody knew of.
        """
        self._elsewhere.pop(path, None)
        try:
            return self._look(inbox, path, is_told=is_told)
        except (FileNotFoundError, NotADirectoryError):
            self._is_gone(inbox, path)
        except Overtaken:
            self._overtaken(inbox, path)
        except LedgerError:
            raise
        except (OSError, MemoryError) as error:  # the machine's trouble, not the file's
            self._cannot_read(inbox, path, error)
        except Exception as error:  # noqa: BLE001 - one file must never stop the others
            self._setbacks.internal_error(path, error)
        return False

    def look_at_due(self, limit: int) -> int:
        """Look again at files whose waiting time is over, for a while at most.

        Each folder has the same share of the time: a slow one must not hold up the others.

        Returns:
            How many were looked at; ``limit`` where there may be more.
        """
        for path, inbox in list(self._elsewhere.items()):
            self.look(inbox, path)
        now, began = self._context.now(), time.monotonic()
        due = {
            drop: deque(self._context.ledger.due([drop], now, limit))
            for drop in self._context.served()
        }
        spent_s = dict.fromkeys(due, 0.0)
        for looked in range(limit):
            waiting = [drop for drop in due if due[drop]]
            if not waiting or self._context.stopping.is_set():
                return looked
            if time.monotonic() > began + DUE_S:
                break
            drop = min(waiting, key=spent_s.__getitem__)
            job, before = due[drop].popleft(), time.monotonic()
            self.look(self._context.inboxes[job.drop], job.path)
            spent_s[drop] += time.monotonic() - before
        return limit

    def _overtaken(self, inbox: Inbox, path: bytes) -> None:
        """An import of its earlier version runs. The end of one of our own looks here again."""
        job = self._context.ledger.find(path)
        ours = {one.id for one in list(self._context.in_hand.values())}
        if job is not None and job.id not in ours:
            self._elsewhere[path] = inbox

    def _look(self, inbox: Inbox, path: bytes, *, is_told: bool) -> bool:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):  # the file's name is a folder's now
            raise FileNotFoundError
        found = Snapshot.of(status)
        job = self._context.ledger.find(path)
        is_awaited = is_told and job is not None and self._waits_for_writer(job)
        if job is not None and not is_awaited and self._is_known(inbox, job, found):
            return False
        if job is not None and job.snapshot == found and self._is_held_fast(inbox, job):
            self._context.wait(job, job.reason, job.detail, CLOSED_S)
            return False
        is_new = job is None or job.state not in LIVE or job.snapshot.inode != found.inode
        is_ours = (
            job is not None and job.state is State.SEEN and not self._is_taken_over(inbox, job)
        )
        if job is None or job.snapshot != found or not is_ours:
            job = self._context.ledger.see(
                drop=inbox.name, path=path, snapshot=found, now=self._context.now()
            )
        try:
            look = sizes.look_into(path, inbox.sizes, self._context.keywords)
            has_writer = leases.has_writer(path, local=inbox.is_local)
        except FileProblem as problem:
            self._unreadable(inbox, job, problem)
        else:
            self._act_on(inbox, job, look, has_writer=has_writer)
        return is_new

    def _act_on(
        self,
        inbox: Inbox,
        job: Job,
        look: dicom.Look | sizes.Look,
        *,
        has_writer: bool | None,
    ) -> None:
        patience = inbox.patience
        if isinstance(look, sizes.Look):  # nothing in it tells its end: it must have been still
            has_writer = has_writer or None
            patience = replace(patience, quiet_s=patience.quiet_s * look.quiet_times)
        settled = settle(
            look.snapshot,
            look.structure,
            has_writer=has_writer,
            now_ns=int(self._context.now() * 1e9),
            known_s=self._context.now() - job.since,
            patience=patience,
        )
        match settled.verdict:
            case Verdict.WAIT:
                self._context.wait(job, settled.reason, settled.detail, settled.again_in_s)
            case Verdict.HOPELESS:
                reason = settled.reason or Reason.MALFORMED
                self._setbacks.refuse(inbox, job, reason, settled.detail)
            case Verdict.COMPLETE if look.snapshot != job.snapshot:
                self._context.wait(job, Reason.CHANGED, "", inbox.patience.quiet_s)
            case Verdict.COMPLETE if isinstance(look, sizes.Look):
                self._context.ledger.ready(
                    job,
                    header=None,
                    importer=Importer.PTSIZECSV,
                    order=routing.AFTER_ALL_STUDIES,
                    now=self._context.now(),
                )
            case Verdict.COMPLETE:
                self._decide(inbox, job, look)

    def _is_known(self, inbox: Inbox, job: Job, found: Snapshot) -> bool:
        """Is this version on its way already, or done with and meant to stay?"""
        if job.state in IN_HAND and job.drop == inbox.name:
            return True
        if job.snapshot != found:
            return False
        if job.state is State.SEEN:
            waits = job.not_before > self._context.now()
            return waits and not self._is_taken_over(inbox, job)
        if job.state is State.LEFT:
            return job.not_before > self._context.now() and job.drop == inbox.name
        if job.state in LIVE:
            return job.drop == inbox.name
        is_over = job.state in (State.DONE, State.IGNORED)
        return is_over and inbox.after == "keep" and job.drop == inbox.name

    def _waits_for_writer(self, job: Job) -> bool:
        """Did the last look find somebody writing, or no end yet? Nothing else is hurried."""
        return job.state is State.SEEN and job.reason in (None, Reason.INCOMPLETE)

    def _is_taken_over(self, inbox: Inbox, job: Job) -> bool:
        """Was it another one that could not move it? A manual import that leaves it there can."""
        return job.drop != inbox.name and job.reason in HINDRANCES

    def _is_held_fast(self, inbox: Inbox, job: Job) -> bool:
        """Could it not be moved, and is its folder still closed to us? Then nothing has changed."""
        return (
            job.state is State.LEFT
            and job.drop == inbox.name
            and job.reason in HINDRANCES
            and not os.access(os.path.dirname(job.path), os.W_OK | os.X_OK)
        )

    def _cannot_read(self, inbox: Inbox, path: bytes, error: OSError | MemoryError) -> None:
        """A disk, share or right in trouble, or a file server that holds it: look again."""
        try:
            found = files.snapshot(path)
        except OSError:
            found = _UNSEEN
        job = self._context.ledger.find(path)
        if job is None or job.state is not State.SEEN or job.snapshot != found:
            with contextlib.suppress(Overtaken):
                job = self._context.ledger.see(
                    drop=inbox.name, path=path, snapshot=found, now=self._context.now()
                )
        if job is None or job.state is not State.SEEN:
            return
        number = error.errno if isinstance(error, OSError) else None
        detail = errno.errorcode.get(number or 0, type(error).__name__)
        if job.reason is not Reason.CANNOT_READ:
            _log.warning(
                "file.cannot-read", **self._context.who(job), **words(Reason.CANNOT_READ, detail)
            )
        self._context.wait(job, Reason.CANNOT_READ, detail, CLOSED_S)

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
        decision = self._context.decide(inbox, look)
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
                    order=routing.study_order(look.header),
                    now=self._context.now(),
                    gather_s=inbox.gather_s,
                )
            case Reject(reason=reason, because=because):
                self._context.ledger.describe(job, look.header)
                self._setbacks.refuse(inbox, self._context.ledger.get(job.id), reason, because)
            case Ignore() | Keep():
                self._context.ledger.describe(job, look.header)
                self._rulings.carry_out(inbox, self._context.ledger.get(job.id), decision)
            case _:
                assert_never(decision)

    def _is_gone(self, inbox: Inbox, path: bytes) -> None:
        job = self._context.ledger.find(path)
        if job is None or job.state not in (State.SEEN, State.READY, State.LEFT):
            return
        place = os.path.relpath(path, inbox.root)
        if job.reason in HINDRANCES and claim.holds(inbox.root, place):
            # It was set aside when its disk became read-only, and could not be put back.
            self._context.wait(job, job.reason, job.detail, CLOSED_S)
        elif not self._context.is_offline(inbox):
            self._context.ledger.end(job, State.GONE, self._context.now())
