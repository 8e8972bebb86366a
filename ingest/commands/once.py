"""Runs what there is to its end and sums it up: for `run --once` and `import`."""

from ingest import service
from ingest.commands.show import Run
from ingest.errors import OpenRemUnreachable
from ingest.ledger import Ledger
from ingest.model import State


def once(draining: service.Service, ledger: Ledger, shown: Run) -> int:
    """Drain, and print the summary; returns the exit code.

    Raises:
        OpenRemUnreachable: OpenREM went away; what was done until then is summed up first.
    """
    drops = list(draining.engine.inboxes)
    failed = (State.LEFT,) if shown.is_final_later else ()
    try:
        with shown.progress():
            is_whole = draining.drain()
    except OpenRemUnreachable:
        if shown.tally.total:
            shown.left_behind(ledger.all_live(drops, failed))
            shown.finish()
        raise
    if not is_whole:
        shown.left_behind(ledger.all_live(drops, failed))
        shown.interrupted()
    else:
        shown.left_behind(ledger.all_live(drops, (*failed, State.SEEN, State.READY)))
        shown.elsewhere(draining.engine.intake.elsewhere)
        shown.offline(draining.engine.context.offline)
    return shown.finish()
