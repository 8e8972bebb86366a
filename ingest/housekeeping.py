"""Puts the drop folders in order: what a crash left behind, and sub-folders that we emptied."""

import contextlib
import os
from collections.abc import Collection

from ingest import claim, files
from ingest.context import Context, Inbox
from ingest.ledger import Overtaken
from ingest.model import Job, State
from ingest.setback import Setbacks


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
        states = (State.CLAIMED, State.PROVEN, State.REJECTED)
        for job in self._context.ledger.live([inbox.name], states, limit=10_000):
            if job.id in {one.id for one in tuple(self._context.in_hand.values())}:
                continue
            with contextlib.suppress(Overtaken):  # its turn ended while we looked
                self._resume(job)

    def _resume(self, job: Job) -> None:
        """A turn that a crash broke off: the file is back in its place, or it reached its end."""
        try:
            found = files.snapshot(job.path)
        except FileNotFoundError:
            end = State.DONE if job.state is State.PROVEN else State.GONE
            self._context.ledger.end(job, end, self._context.now())
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
