"""Tells how fast files go of late, and how long the rest will take."""

from collections import deque
from collections.abc import Callable

WINDOW_S = 300.0  # what is held already goes faster than what is new: long ago counts no more
_MARKS = 60  # in a window
_FEW_S = 2.0  # so soon nothing can be said
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


class Pace:
    """The pace of something that is counted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin now, at 0. The clock has seconds, and is never set back."""
        self._clock = clock
        self._marks = deque([(clock(), 0)], maxlen=_MARKS)

    def rate(self, count: int) -> float | None:
        """So many a second, now that it has come to this number; None if that can't be said."""
        now = self._clock()
        if now >= self._marks[-1][0] + WINDOW_S / _MARKS:
            self._marks.append((now, count))
        began, before = self._marks[0]
        return (count - before) / (now - began) if now >= began + _FEW_S else None


def words_for(seconds: float) -> str:
    """A time as one would say it."""
    minutes = round(seconds / _MINUTE_S)
    if minutes < 1:
        return "less than a minute"
    if seconds < _HOUR_S:
        return f"about {minutes} min"
    if seconds < _DAY_S:
        return f"about {minutes // 60} h {minutes % 60} min"
    hours = round(seconds / _HOUR_S)
    return f"about {hours // 24} days {hours % 24} h"
