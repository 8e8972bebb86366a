"""Decides what to look at next: what events tell of, what has waited, what a sweep finds."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from ingest import log, watch
from ingest.context import Context, Inbox
from ingest.errors import Reason
from ingest.housekeeping import Housekeeping
from ingest.intake import Intake

_log = log.get(__name__)

BATCH = 200  # files looked at before hints and waiting files have their turn again,
BATCH_S = 1.0  # or seconds, whatever is over first
SCAN_SHARE = 20  # a quick sweep that took a second rests for 20
STANDING_S = 60.0  # a sub-folder that is empty for so long was prepared by someone


class Source(Protocol):
    """Where paths come from."""

    def everything(self) -> Iterator[bytes]:
        """Every file."""

    def changed(self, now_ns: int) -> Iterator[bytes]:
        """Every file in folders that changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How often what is done. Seconds."""

    quick_s: float
    full_s: float
    tidy_after_s: float


class Lookout:
    """The turns of one thread."""

    def __init__(
        self,
        context: Context,
        intake: Intake,
        house: Housekeeping,
        *,
        rhythm: Rhythm,
        excluded: frozenset[bytes] = frozenset(),
        sources: Mapping[str, Source] | None = None,
        may_recover: Callable[[], bool] = lambda: True,
    ) -> None:
        """Prepare to look; nothing is read yet.

        Args:
            context: the folders, the ledger, the clock.
            intake: looks at a path.
            house: puts in order.
            rhythm: how often.
            excluded: folders that no sweep enters.
            sources: what to sweep for each inbox (by name), if not all that lies below it.
            may_recover: asked before claims are put back: nobody else may work on them.
        """
        self.hints = watch.Hints()
        self._context = context
        self._intake = intake
        self._house = house
        self._rhythm = rhythm
        self._excluded = excluded
        self._may_recover = may_recover
        self._sources: Mapping[str, Source] = sources or {
            inbox.name: watch.Tree(
                inbox.root,
                excluded=excluded - {inbox.root},
                on_folder=partial(self._folder, inbox),
            )
            for inbox in context.inboxes.values()
        }
        self._watches: dict[str, watch.Watch] = {}
        self._sweep: Iterator[tuple[Inbox, bytes]] = iter(())
        self._is_sweeping = False
        self._full_at = 0.0
        self._quick_at = 0.0
        self._tidied_at = 0.0
        self._away: set[str] = set()
        self._unreadable: set[bytes] = set()

    @property
    def is_sweeping(self) -> bool:
        """Is a full sweep going on, or due?"""
        return self._is_sweeping or self._full_at == 0.0

    def start_watching(self) -> None:
        """Have native events shorten the latency, where they tell anything."""
        for inbox in self._context.inboxes.values():
            if inbox.is_local:
                self._watches[inbox.name] = watch.Watch(inbox.root, self.hints)

    def stop_watching(self) -> None:
        """End that; by the thread that takes the turns."""
        for watching in self._watches.values():
            watching.stop()

    def start_over(self) -> None:
        """Sweep everything again: after an error, or whatever else leaves a doubt."""
        self._is_sweeping = False  # an iterator that raised is at its end
        self._full_at = 0.0

    def hurry(self) -> None:
        """Do all at the next turn: the clock by which times were set has been set back."""
        self._full_at = self._quick_at = self._tidied_at = 0.0

    def turn(self) -> bool:
        """One turn of looking. True if there may be more to do at once."""
        now = self._context.now()
        self._check_watches(now)
        paths, overflowed = self.hints.take()
        for path in paths:
            if self._context.stopping.is_set():
                return False
            self._follow(path)
        if overflowed:
            self._full_at = 0.0
        looked = self._intake.look_at_due(BATCH)
        self._begin_sweep(now)
        swept = self._go_on_sweeping()
        if now >= self._tidied_at + 1.0:
            self._tidied_at = now
            self._house.tidy(self._rhythm.tidy_after_s, self._excluded)
        return bool(paths) or looked == BATCH or swept

    def _check_watches(self, now: float) -> None:
        for inbox in self._context.inboxes.values():
            here = watch.folder_identity(inbox.root) is not None
            if here == (inbox.name in self._away):
                self._came_or_went(inbox, here=here)
            watching = self._watches.get(inbox.name)
            if watching is not None and watching.check(now):
                self._full_at = 0.0  # what came before the watch began

    def _came_or_went(self, inbox: Inbox, *, here: bool) -> None:
        if here:
            self._away.discard(inbox.name)
            self._full_at = 0.0
            _log.info("drop.back", drop=inbox.name)
        else:
            self._away.add(inbox.name)
            _log.error(
                "drop.away",
                drop=inbox.name,
                why="the drop folder is gone (unmounted, renamed or removed); senders that "
                "write there now may lose objects without knowing",
                next="mount or make it again; it is watched again by itself",
            )

    def _follow(self, path: bytes) -> None:
        inbox = self._inbox_of(path)
        if inbox is None or watch.is_passed_over(os.path.basename(path)):
            return
        if os.path.isdir(path) and not os.path.islink(path):
            self._quick_at = 0.0  # the quick sweep finds the new folder
        else:
            self._intake.look(inbox, path)

    def _inbox_of(self, path: bytes) -> Inbox | None:
        folder = os.path.dirname(path)
        for inbox in self._context.inboxes.values():
            if folder == inbox.root:
                return inbox
        return None

    def _begin_sweep(self, now: float) -> None:
        if self._is_sweeping:
            return
        if now >= self._full_at:
            self._full_at = now + self._rhythm.full_s
            self._sweep = self._everything()
        elif now >= self._quick_at:
            self._sweep = self._changed(now)
        else:
            return
        self._is_sweeping = True

    def _everything(self) -> Iterator[tuple[Inbox, bytes]]:
        recovers = self._may_recover()
        for inbox in self._context.inboxes.values():
            if inbox.is_drop and recovers:
                self._house.recover(inbox)
            for path in self._sources[inbox.name].everything():
                yield inbox, path

    def _changed(self, now: float) -> Iterator[tuple[Inbox, bytes]]:
        began = time.monotonic()
        for inbox in self._context.inboxes.values():
            for path in self._sources[inbox.name].changed(int(now * 1e9)):
                yield inbox, path
        took = time.monotonic() - began
        self._quick_at = now + max(self._rhythm.quick_s, took * SCAN_SHARE)

    def _go_on_sweeping(self) -> bool:
        enough_at = time.monotonic() + BATCH_S
        for _ in range(BATCH):
            if time.monotonic() > enough_at:
                return True
            if not self._is_sweeping or self._context.stopping.is_set():
                return False
            try:
                inbox, path = next(self._sweep)
            except StopIteration:
                self._is_sweeping = False
                return False
            self._intake.look(inbox, path)
        return True

    def _folder(self, inbox: Inbox, folder: watch.Folder) -> None:
        if not folder.is_readable:
            if folder.path not in self._unreadable:
                self._unreadable.add(folder.path)
                _log.error(
                    "folder.unreadable",
                    file=log.safe_name(folder.path),
                    why="the user that openrem-ingest runs as may not read this folder",
                    next="correct the folder's owner or rights",
                )
                self._context.tell_of_folder(inbox, folder.path, Reason.UNREADABLE)
            return
        self._unreadable.discard(folder.path)
        stood_s = self._context.now() - folder.mtime_ns / 1e9
        if folder.is_empty and stood_s > max(STANDING_S, self._rhythm.tidy_after_s * 2):
            self._context.ledger.stands(folder.path, self._context.now())
