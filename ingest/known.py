"""Asks in batches which of the waiting objects OpenREM has recorded: those cost no import.

That an object is recorded proves nothing, a failed import leaves that behind, too. So the answer
only says what to try first: whether OpenREM holds the object is then asked and judged as after an
import, and if it does not, the object is imported as any other. An old answer is as harmless.
"""

import threading
from collections.abc import Sequence

from ingest.ledger import Ledger
from ingest.model import Job, Recordable
from ingest.openrem.importers import OpenRem

BATCH = 1000  # asked for at once: OpenREM has no index of study UIDs
FEW = 20  # for so few, what is asked for would cost more than it saves


class Known:
    """What is known of the objects that are next."""

    def __init__(self, ledger: Ledger) -> None:
        """Nothing yet."""
        self._ledger = ledger
        self._answers: dict[Recordable, bool] = {}
        self._asking = threading.Lock()

    def may_be_held(self, job: Job, drops: Sequence[str], openrem: OpenRem) -> bool:
        """Has OpenREM recorded this object, as far as is known?

        Raises:
            OpenRemUnreachable: OpenREM can't be asked.
        """
        if job.header is None or job.importer is None:
            return False
        one = Recordable(
            importer=job.importer,
            study_uid=job.header.study_uid,
            sop_instance_uid=job.header.sop_instance_uid,
        )
        with self._asking:
            if one not in self._answers:
                waiting = self._ledger.recordable(drops, BATCH)
                if len(waiting) < FEW:
                    return False
                asked = list(dict.fromkeys([one, *waiting]))
                recorded = openrem.recorded(asked)
                self._answers = {other: other in recorded for other in asked}
            return self._answers[one]
