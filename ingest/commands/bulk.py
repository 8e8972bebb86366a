"""`import`: a manual import of files and folders; the sources stay unless told otherwise."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ingest import service, watch
from ingest.commands.run import stopped_by_signals
from ingest.commands.show import Run, now
from ingest.config import Settings
from ingest.engine import Inbox
from ingest.ledger import Ledger
from ingest.settle import Patience

BY_HAND = "by hand"
# Whoever imports by hand says that the files are whole; one that just changed gets a moment.
PATIENCE = Patience(quiet_s=0.5, incomplete_after_s=0.0)


class Chosen:
    """The files and folders that were named on the command line, of one parent folder."""

    def __init__(self, paths: Sequence[bytes]) -> None:
        """Choose these."""
        self._paths = paths

    def everything(self) -> Iterator[bytes]:
        """Every file."""
        for path in self._paths:
            if os.path.isdir(path) and not os.path.islink(path):
                yield from watch.Tree(path).everything()
            else:
                yield path

    def changed(self, _now_ns: int) -> Iterator[bytes]:
        """Nothing is watched here."""
        return iter(())


def import_by_hand(settings: Settings, paths: Sequence[Path], *, delete: bool) -> int:
    """Import these; returns the exit code."""
    chosen = _by_folder(paths)
    inboxes = [
        Inbox(
            name=f"{BY_HAND} {number}",
            root=root,
            after="delete" if delete else "keep",
            patience=PATIENCE,
            is_local=not watch.is_network(Path(os.fsdecode(root))),
            is_drop=False,
        )
        for number, root in enumerate(chosen, start=1)
    ]
    sources = {inbox.name: Chosen(chosen[inbox.root]) for inbox in inboxes}
    shown = Run()
    with (
        service.only_one(settings.state_dir, "import"),
        service.openrem_database(settings),
        stopped_by_signals() as stop,
    ):
        ledger = Ledger(settings.ledger_path)
        try:
            ledger.forget(BY_HAND, now())
            draining = service.Service(
                settings,
                ledger,
                inboxes,
                work="import",
                sources=sources,
                on_end=shown.ended,
            )
            with shown.progress("importing"):
                draining.drain(stop)
            shown.left_behind(service.waiting(ledger, inboxes, limit=1000))
        finally:
            ledger.forget(BY_HAND, now())
            ledger.close()
    return shown.finish()


def _by_folder(paths: Sequence[Path]) -> dict[bytes, list[bytes]]:
    """The chosen paths by the folder that a claim of theirs would lie in."""
    chosen: dict[bytes, list[bytes]] = {}
    for path in paths:
        # The folder's links are resolved, the last part's not: a link is refused, not followed.
        parent, name = os.path.split(os.path.abspath(os.fsencode(path)))
        whole = os.path.join(os.path.realpath(parent), name)
        is_folder = os.path.isdir(whole) and not os.path.islink(whole)
        chosen.setdefault(whole if is_folder else os.path.dirname(whole), []).append(whole)
    return chosen
