"""Decides whose turn it is among studies that are imported as a whole: a pure function.

Images of such a study come one by one, over minutes, and nobody says which is the last. So a
study's turn comes when it is quiet: all its images that are here are complete and decided on,
none of them is in anybody's hand, and no further one came for a while.
"""

from collections.abc import Collection, Iterable

from ingest.model import StudyPart


def next_study(parts: Iterable[StudyPart], served: Collection[str], by: float) -> str | None:
    """The Study Instance UID of the study whose turn it is, the oldest first.

    Args:
        parts: of all studies that wait.
        served: the names of the drop folders that are there: a part in another one is waited for.
        by: the time at which it is to be quiet (seconds since the epoch).
    """
    orders: dict[str, str] = {}
    waits: set[str] = set()
    for part in parts:
        orders[part.study_uid] = min(part.order, orders.get(part.study_uid, part.order))
        if part.unsettled or part.quiet_at > by or part.drop not in served:
            waits.add(part.study_uid)
    due = [(order, uid) for uid, order in orders.items() if uid not in waits]
    return min(due)[1] if due else None
