"""Puts the drop folders in order: what a crash left behind, and sub-folders that we emptied."""

import contextlib
import os
from collections.abc import Collection

from ingest import claim, files
from ingest.claim import Claim
from ingest.context import Context, Inbox
from ingest.ledger import Overtaken
from ingest.model import IN_HAND, Job, State
from ingest.setback import Setbacks

# What was meant to become of a file that is no longer there: then it did.
_END = {
    State.PROVEN: State.DONE,
    State.RULED: State.IGNORED,
    State.REJECTED: State.QUARANTINED,
}


class Housekeeping:
    """The turns of putting in order."""

    def __init__(self, context: Context, setbacks: Setbacks) -> None:
        """Work in this context."""
        self._context = context
        self._setbacks = setbacks

    def recover(self, inbox: Inbox) -> None:
        """Put back what lies in claims that nobody works on; with or without a ledger."""
        # Not a copy of what is in hand: a claim may be taken while we look.
        for claimed in claim.found(inbox.root, self._context.in_hand):
            self._setbacks.put_back(inbox, claimed)
        jobs = self._context.ledger.live([inbox.name], tuple(IN_HAND), limit=10_000)
        ours = {one.id for one in tuple(self._context.in_hand.values())}
        for job in jobs:
            if job.id in ours:
                continue
            with contextlib.suppress(Overtaken):  # its turn ended while we looked
                self._resume(job)

    def adopt(self) -> None:
        """Take over what a crash left in hand under a drop folder's former name, or of none.

        For the service at its start, when nobody else can have anything in hand.
        """
        for job in self._context.ledger.in_hand_elsewhere(list(self._context.inboxes)):
            root = _root_of_claim(job)
            if root is not None:
                claim.release(Claim(id=job.claim, root=root, place=os.path.relpath(job.path, root)))
            inbox = self._inbox_over(job.path)
            if not os.path.lexists(job.path):
                self._context.ledger.end(job, _END.get(job.state, State.GONE), self._context.now())
            elif inbox is None:  # it is put back, and no business of ours any more
                self._context.ledger.end(job, State.GONE, self._context.now())
            else:
                self._context.ledger.see(
                    drop=inbox.name,
                    path=job.path,
                    snapshot=files.snapshot(job.path),
                    now=self._context.now(),
                    in_hand=True,
                )

    def _inbox_over(self, path: bytes) -> Inbox | None:
        inboxes = self._context.inboxes.values()
        over = [inbox for inbox in inboxes if path.startswith(inbox.root + b"/")]
        return max(over, key=lambda inbox: len(inbox.root), default=None)

    def _resume(self, job: Job) -> None:
        """A turn that a crash broke off: the file is back in its place, or it reached its end."""
        try:
            found = files.snapshot(job.path)
        except FileNotFoundError:
            self._context.ledger.end(job, _END.get(job.state, State.GONE), self._context.now())
            return
        self._context.see_again(job, found)

    def tidy(self, after_s: float, keep: Collection[bytes]) -> None:
        """Remove sub-folders that we emptied, once nothing came for a while.

        Not at once: whoever copies a folder makes it first, then its files one by one. Never
        one that stood empty before: Conquest loses objects in silence while a folder is missing.
        """
        for folder in self._context.ledger.folders_to_tidy(self._context.now() - after_s):
            if not self._is_restless(folder, after_s):
                self._tidy(folder, keep)
                self._context.ledger.tidied(folder)

    def _is_restless(self, folder: bytes, after_s: float) -> bool:
        try:
            return self._context.now() - os.lstat(folder).st_mtime < after_s
        except OSError:
            return False

    def _tidy(self, folder: bytes, keep: Collection[bytes]) -> None:
        for inbox in self._context.inboxes.values():
            while folder.startswith(inbox.root + b"/") and folder not in keep:
                if self._context.ledger.is_standing(folder) or not files.remove_empty(folder):
                    return
                folder = os.path.dirname(folder)


def _root_of_claim(job: Job) -> bytes | None:
    """The drop folder whose claim holds the job's file: some folder above where it lay."""
    folder = os.path.dirname(job.path)
    while job.claim and folder != os.path.dirname(folder):
        if os.path.isdir(os.path.join(folder, claim.FOLDER, os.fsencode(job.claim))):
            return folder
        folder = os.path.dirname(folder)
    return None
