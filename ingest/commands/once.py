"""Runs what there is to its end and sums it up: for `run --once` and `import`."""

from ingest import service
from ingest.commands.show import Run
from ingest.errors import OpenRemUnreachable
from ingest.ledger import Ledger


def once(draining: service.Service, ledger: Ledger, shown: Run) -> int:
    """Drain, and print the summary; returns the exit code.

    Raises:
        OpenRemUnreachable: OpenREM went away; what was done until then is summed up first.
    """
    try:
        with shown.progress("importing"):
            is_whole = draining.drain()
    except OpenRemUnreachable:
        if shown.tally.total:
            shown.finish()
        raise
    if not is_whole:
        shown.interrupted()
    else:
        inboxes = list(draining.engine.inboxes.values())
        shown.left_behind(service.waiting(ledger, inboxes, limit=1000))
        shown.elsewhere(draining.engine.intake.elsewhere)
        shown.offline(draining.engine.context.offline)
    return shown.finish()
