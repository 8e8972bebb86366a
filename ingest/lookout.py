"""Decides what to look at next: what events tell of, what has waited, what a sweep finds."""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from ingest import files, log, watch
from ingest.context import Context, Inbox
from ingest.errors import Reason
from ingest.housekeeping import Housekeeping
from ingest.intake import Intake
from ingest.missed import Doubt, Missed
from ingest.presence import Absence

_log = log.get(__name__)

BATCH = 200  # files looked at before hints and waiting files have their turn again,
BATCH_S = 1.0  # or seconds, whatever is over first
SCAN_SHARE = 20  # a quick sweep that took a second rests for 20
OVERFLOW_S = 60.0  # without an overflow, then a further one is news
SETTLED_NS = 1_000_000_000  # what changed so soon after a watch began may have come before it
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
        renew: Callable[[Inbox], Inbox] = lambda inbox: inbox,
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
            renew: finds out anew how a drop folder is to be watched.
        """
        self.hints = watch.Hints()
        self._context = context
        self._intake = intake
        self._house = house
        self._rhythm = rhythm
        self._excluded = excluded
        self._may_recover = may_recover
        self._renew = renew
        self._sources: Mapping[str, Source] = sources or {
            inbox.name: watch.Tree(
                inbox.root,
                excluded=excluded - {inbox.root},
                on_folder=partial(self._folder, inbox),
            )
            for inbox in context.inboxes.values()
        }
        self._watches: dict[str, watch.Watch] = {}
        self._missed = {name: Missed() for name in context.inboxes}
        self._sweep: Iterator[tuple[Inbox, bytes]] = iter(())
        self._is_sweeping = False
        self._full_at = 0.0
        self._quick_at = 0.0
        self._tidied_at = 0.0
        self._unreadable: set[bytes] = set()
        self._away: dict[bytes, Absence] = {}  # archives and quarantine that are not there
        self._overflowed_at = 0.0
        self._excuses_at_end = False  # of the sweep that goes on
        context.looked_through = False

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

    def missed(self) -> dict[str, int]:
        """How many files sweeps found that events had missed, by folder, since the start."""
        return {name: missed.count for name, missed in self._missed.items()}

    def start_over(self) -> None:
        """Sweep everything again: after an error, or whatever else leaves a doubt."""
        self._is_sweeping = False  # an iterator that raised is at its end
        self._full_at = 0.0

    def hurry(self) -> None:
        """Do all at the next turn: the clock by which times were set has been set back."""
        self._full_at = self._quick_at = self._tidied_at = self._overflowed_at = 0.0
        for missed in self._missed.values():
            missed.forget()

    def turn(self) -> bool:
        """One turn of looking. True if there may be more to do at once."""
        now = self._context.now()
        self._check_folders()
        paths, overflowed = self.hints.take(BATCH)
        for missed in self._missed.values():
            missed.told(paths)
        self._check_watches(now)
        for path in paths:
            if self._context.stopping.is_set():
                return False
            self._follow(path)
        if overflowed:
            self._overflowed(now)
        looked = self._intake.look_at_due(BATCH)
        self._begin_sweep(now)
        swept = self._go_on_sweeping()
        if now >= self._tidied_at + 1.0:
            self._tidied_at = now
            self._house.tidy(self._rhythm.tidy_after_s, self._excluded)
        return bool(paths) or looked == BATCH or swept

    def _check_folders(self) -> None:
        """See which drop folders are there, before anything is believed of what lies in them."""
        before, now_offline = self._context.offline, dict[str, Absence]()
        for inbox in self._context.inboxes.values():
            absence = self._context.presence.absence(inbox.place)
            if absence is not None:
                now_offline[inbox.name] = absence
        self._context.offline = now_offline
        for name in now_offline.keys() - before.keys():
            absence = now_offline[name]
            _log.error("drop.offline", drop=name, why=absence.why, next=absence.next_step)
        for name in before.keys() - now_offline.keys():
            self._full_at = 0.0
            _log.info("drop.back", drop=name)
        self._check_targets()

    def _check_targets(self) -> None:
        """See that archives and quarantine lie where they should, and remember where they do."""
        now_away: dict[bytes, Absence] = {}
        inboxes = self._context.inboxes.values()
        places = [place for one in inboxes for place in (one.archive_at, one.quarantine_at)]
        targets = {place for place in (*places, *self._context.rulebook.targets.values()) if place}
        for place in targets:
            absence = self._context.presence.unmounted(place)
            if absence is not None:
                now_away[place.folder] = absence
        for folder in now_away.keys() - self._away.keys():
            absence = now_away[folder]
            shown = log.shown(folder)
            _log.error("target.offline", path=shown, why=absence.why, next=absence.next_step)
        for folder in self._away.keys() - now_away.keys():
            _log.info("target.back", path=log.shown(folder))
        self._away = now_away

    def _check_watches(self, now: float) -> None:
        for name, watching in list(self._watches.items()):
            if name in self._context.offline:
                watching.stop()
                self._missed[name].forget()
            elif watching.check(now):
                self._full_at = 0.0  # what came before the watch began
                self._missed[name].forget()
                self._renew_inbox(name)
            else:
                self._check_events(name, watching, now)

    def _renew_inbox(self, name: str) -> None:
        """Another file system may be there now, such as a share that was not mounted before."""
        inbox = self._context.inboxes[name] = self._renew(self._context.inboxes[name])
        if not inbox.is_local:
            self._watches.pop(name).stop()

    def _check_events(self, name: str, watching: watch.Watch, now: float) -> None:
        doubt = self._missed[name].check(now, self.hints.holds)
        if doubt is Doubt.NONE:
            return
        if doubt is Doubt.NEW:
            _log.warning(
                "watch.missed",
                drop=name,
                count=self._missed[name].count,
                why="the system gave no events for files that a sweep found; none is lost",
                next='nothing: events are asked for anew. If it comes again, set watch = "poll"',
            )
        watching.stop()  # and the next turn builds it anew
        self._full_at = 0.0

    def _overflowed(self, now: float) -> None:
        """Events were lost: look at everything. Say so once for each burst of files."""
        if now >= self._overflowed_at + OVERFLOW_S:
            _log.warning(
                "watch.overflowed",
                why="files came faster than the system keeps events; none is lost",
                next="nothing: all folders are swept",
            )
        self._overflowed_at = now
        self._excuse(begins=True)
        self._full_at = 0.0

    def _excuse(self, *, begins: bool) -> None:
        self._excuses_at_end = False
        for missed in self._missed.values():
            missed.excuse(begins=begins)

    def _follow(self, path: bytes) -> None:
        inbox = self._inbox_of(path)
        if inbox is None or watch.is_passed_over(os.path.basename(path)):
            return
        if inbox.name in self._context.offline:
            return
        if os.path.isdir(path) and not os.path.islink(path):
            self._quick_at = 0.0  # the quick sweep finds the new folder
        else:
            self._intake.look(inbox, path, is_told=True)

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
            if self._full_at == 0.0:  # the first, or there is a doubt
                self._context.looked_through = False
            self._full_at = now + self._rhythm.full_s
            self._sweep = self._everything()
            self._excuses_at_end = True
        elif now >= self._quick_at:
            self._sweep = self._changed(now)
        else:
            return
        self._is_sweeping = True

    def _served(self) -> Iterator[Inbox]:
        for name in self._context.inboxes:
            if name not in self._context.offline:
                yield self._context.inboxes[name]

    def _everything(self) -> Iterator[tuple[Inbox, bytes]]:
        yield from _by_turns([self._all_of(inbox) for inbox in self._served()])

    def _all_of(self, inbox: Inbox) -> Iterator[tuple[Inbox, bytes]]:
        if inbox.is_drop and self._may_recover():
            self._house.recover(inbox)
        for path in self._sources[inbox.name].everything():
            yield inbox, path

    def _changed(self, now: float) -> Iterator[tuple[Inbox, bytes]]:
        began = time.monotonic()
        yield from _by_turns([self._changed_of(inbox, int(now * 1e9)) for inbox in self._served()])
        took = time.monotonic() - began
        self._quick_at = now + max(self._rhythm.quick_s, took * SCAN_SHARE)

    def _changed_of(self, inbox: Inbox, now_ns: int) -> Iterator[tuple[Inbox, bytes]]:
        for path in self._sources[inbox.name].changed(now_ns):
            yield inbox, path

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
                if self._excuses_at_end:  # all that an overflow had hidden is found
                    self._excuse(begins=False)
                    self._context.looked_through = True
                return False
            if self._intake.look(inbox, path):
                self._found(inbox, path)
        return True

    def _found(self, inbox: Inbox, path: bytes) -> None:
        """A sweep came upon something new: was it to be expected that an event told of it?"""
        watching = self._watches.get(inbox.name)
        if watching is None or not watching.began_ns or os.path.dirname(path) != inbox.root:
            return
        now = self._context.now()
        with contextlib.suppress(OSError):
            if files.snapshot(path).ctime_ns > watching.began_ns + SETTLED_NS:
                self._missed[inbox.name].found(path, now)

    def _folder(self, inbox: Inbox, folder: watch.Folder) -> None:
        if not folder.is_readable:
            if folder.path not in self._unreadable:
                self._unreadable.add(folder.path)
                is_root = folder.path == inbox.root  # else its name may be a patient's
                _log.error(
                    "folder.unreadable",
                    drop=inbox.name,
                    path=log.shown(folder.path) if is_root else None,
                    file=None if is_root else log.safe_name(folder.path),
                    why="the user that openrem-ingest runs as may not read this folder",
                    next="correct the folder's owner or rights",
                )
                self._context.tell_of_folder(inbox, folder.path, Reason.UNREADABLE)
            return
        self._unreadable.discard(folder.path)
        stood_s = self._context.now() - folder.mtime_ns / 1e9
        if folder.is_empty and stood_s > max(STANDING_S, self._rhythm.tidy_after_s * 2):
            self._context.ledger.stands(folder.path, self._context.now())


def _by_turns(sweeps: list[Iterator[tuple[Inbox, bytes]]]) -> Iterator[tuple[Inbox, bytes]]:
    """A batch of each in turn: neither a flood nor a slow disk must hold up the others."""
    todo = deque(sweeps)
    while todo:
        sweep, enough_at = todo.popleft(), time.monotonic() + BATCH_S
        for count, found in enumerate(sweep, start=1):
            yield found
            if count == BATCH or time.monotonic() > enough_at:
                todo.append(sweep)
                break
