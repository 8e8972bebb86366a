"""`import`: a manual import of files and folders; the sources stay unless told otherwise."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from ingest import claim, locks, mounts, parts, service, watch
from ingest.commands.listing import Listing, check_file, forget_old
from ingest.commands.once import once
from ingest.commands.run import stopped_by_signals
from ingest.commands.show import Run, now
from ingest.config import BY_HAND, Settings
from ingest.context import Inbox
from ingest.errors import Reason
from ingest.ledger import Ledger
from ingest.settle import Patience

# Whoever imports by hand says that the files are whole; one that just changed gets a moment.
PATIENCE = Patience(quiet_s=0.5, incomplete_after_s=0.0)
GATHER_S = 2.0  # and so are studies
SWEEP_S = 3600.0  # between full sweeps: nothing comes here, and to look at a million takes minutes


class Chosen:
    """The files and folders that were named on the command line, of one parent folder."""

    def __init__(self, paths: Sequence[bytes], shown: Run) -> None:
        """Choose these; what is found, and folders that can't be read, are shown."""
        self._paths = paths
        self._shown = shown
        self._found = 0  # by the sweep that found most
        self._is_met = False

    def everything(self) -> Iterator[bytes]:
        """Every file. Now and then, and after an error, they are swept again."""
        for number, path in enumerate(self._all(), start=1):
            if number > self._found:
                self._found = number
                self._shown.found()
            yield path
        if not self._is_met:
            self._is_met = True
            self._shown.met()

    def _all(self) -> Iterator[bytes]:
        for path in self._paths:
            if os.path.isdir(path) and not os.path.islink(path):
                yield from watch.Tree(path, on_folder=self._folder).everything()
            else:
                yield path

    def _folder(self, folder: watch.Folder) -> None:
        if not folder.is_readable and not self._is_met:
            self._shown.refused(folder.path, Reason.UNREADABLE)

    def changed(self, _now_ns: int) -> Iterator[bytes]:
        """Nothing is watched here."""
        return iter(())


def import_by_hand(
    settings: Settings, paths: Sequence[Path], *, delete: bool, failures: Path | None = None
) -> int:
    """Import these; returns the exit code.

    Args:
        settings: the configuration.
        paths: files and folders.
        delete: each source, once it is proven.
        failures: where what failed is listed, if not in the state folder.
    """
    if failures is not None:
        check_file(failures)
    sweep = settings.sweep.model_copy(update={"full": max(SWEEP_S, settings.sweep.full)})
    settings = settings.model_copy(update={"sweep": sweep})
    chosen = _by_folder(paths, _drop_roots(settings))
    inboxes = _inboxes(chosen, settings, delete=delete)
    listing = Listing(settings.state_dir, began=now(), file=failures)
    shown = Run(listing, sources=len(inboxes), is_final_later=True)
    sources = {inbox.name: Chosen(chosen[inbox.root], shown) for inbox in inboxes}
    with (
        stopped_by_signals() as stop,
        locks.only_one(settings.state_dir, locks.IMPORT, wait_s=2.0),
        parts.openrem_database(settings),
    ):
        forget_old(settings.state_dir, now())
        ledger = Ledger(settings.ledger_path)
        try:
            ledger.forget(BY_HAND, now())
            _put_back(chosen, settings)
            draining = service.Service(
                settings,
                ledger,
                inboxes,
                stop=stop,
                work=locks.IMPORT,
                sources=sources,
                on_end=shown.ended,
            )
            return once(draining, ledger, shown)
        finally:
            ledger.forget(BY_HAND, now())
            ledger.close()


def _inboxes(roots: Iterable[bytes], settings: Settings, *, delete: bool) -> list[Inbox]:
    """What is imported from these folders. Rules take a drop folder's files for what they are."""
    drops = {inbox.root: inbox.name for inbox in parts.inboxes_of(settings)}
    return [
        Inbox(
            name=f"{BY_HAND} {number}",
            root=root,
            after="delete" if delete else "keep",
            patience=PATIENCE,
            is_local=not mounts.is_network(Path(os.fsdecode(root))),
            is_drop=False,
            ruled_as=drops.get(root, ""),
            gather_s=GATHER_S,
        )
        for number, root in enumerate(roots, start=1)
    ]


def _put_back(roots: Collection[bytes], settings: Settings) -> None:
    """Put back what an earlier import with --delete had set aside when it was killed.

    Not in a drop folder: there it may be in the hand of the running service, which will do it.
    """
    drops = _drop_roots(settings)
    for root in roots:
        if root not in drops:
            for claimed in claim.found(root):
                claim.release(claimed)


def _drop_roots(settings: Settings) -> frozenset[bytes]:
    return frozenset(inbox.root for inbox in parts.inboxes_of(settings))


def _by_folder(
    paths: Sequence[Path], drops: Collection[bytes] = frozenset()
) -> dict[bytes, list[bytes]]:
    """The chosen paths by the folder that a claim of theirs would lie in.

    Of what lies in a drop folder, however deep, it is that: there the service looks for claims.
    """
    chosen: dict[bytes, list[bytes]] = {}
    folders: set[bytes] = set()
    for path in paths:
        # The folder's links are resolved, the last part's not: a link is refused, not followed.
        parent, name = os.path.split(os.path.abspath(os.fsencode(path)))
        whole = os.path.join(os.path.realpath(parent), name)
        is_folder = os.path.isdir(whole) and not os.path.islink(whole)
        root = whole if is_folder else os.path.dirname(whole)
        around = [drop for drop in drops if os.path.join(root, b"").startswith(drop + b"/")]
        chosen.setdefault(max(around, key=len, default=root), []).append(whole)
        if is_folder:
            folders.add(whole)
    return {
        root: outermost
        for root, paths in chosen.items()
        if (outermost := [path for path in dict.fromkeys(paths) if not _lies_in(path, folders)])
    }


def _lies_in(path: bytes, folders: Collection[bytes]) -> bool:
    """Does it come with a chosen folder above it anyway?"""
    while (above := os.path.dirname(path)) != path:
        if above in folders:
            return True
        path = above
    return False
