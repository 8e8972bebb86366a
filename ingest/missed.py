"""Tells whether events still come: counts the files that a sweep found and no event told of.

Each thread of watchdog can be seen alive and yet be blind. A file that events missed is the
proof, so this takes the place of test files in the user's folders. What a sweep comes upon first
is given a moment for its event to arrive.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum

GRACE_S = 5.0  # for an event; it takes a millisecond, on a busy machine much longer
MAX_OPEN = 10_000  # files that wait for their event; of more than that none is expected
AGAIN_S = 60.0  # between two times that a watch is said to be in doubt
CALM_S = 600.0  # without a miss, then a further one is news


class Doubt(Enum):
    """What is to be thought of a watch."""

    NONE = "nothing was missed"
    NEW = "the first files in a while were missed"
    STILL = "more files were missed"


class Missed:
    """The files of one drop folder. For one thread."""

    def __init__(self) -> None:
        """None so far."""
        self.count = 0
        self._is_excused = False
        self._open: OrderedDict[bytes, float] = OrderedDict()  # path -> when its time is over
        self._reported = 0
        self._missed_at = self._doubted_at = float("-inf")

    def found(self, path: bytes, now: float) -> None:
        """A sweep came upon a file that nobody had told of."""
        if self._is_excused:
            self.count += 1
            self._reported += 1
        elif len(self._open) >= MAX_OPEN:
            self.count += 1
        elif path not in self._open:
            self._open[path] = now + GRACE_S

    def told(self, paths: Iterable[bytes]) -> None:
        """Events told of these."""
        if self._open:
            for path in paths:
                self._open.pop(path, None)

    def excuse(self, *, begins: bool) -> None:
        """Events are known to be lost (or all that they hid is found): a miss is no news."""
        self._is_excused = begins
        if begins:
            self.count += len(self._open)
            self._reported += len(self._open)
            self._open.clear()

    def forget(self) -> None:
        """Expect no events any more."""
        self._open.clear()

    def check(self, now: float, is_told: Callable[[bytes], bool] = lambda _path: False) -> Doubt:
        """What is to be thought of the watch; the same doubt comes once a minute at most.

        Args:
            now: the time (seconds since the epoch).
            is_told: whether an event has told of a path, and nobody has looked at it yet.
        """
        while self._open and next(iter(self._open.values())) <= now:
            path, _ = self._open.popitem(last=False)
            self.count += not is_told(path)
        if self.count == self._reported:
            return Doubt.NONE
        is_news = now > self._missed_at + CALM_S
        self._missed_at = now
        if not is_news and now < self._doubted_at + AGAIN_S:
            return Doubt.NONE
        self._reported, self._doubted_at = self.count, now
        return Doubt.NEW if is_news else Doubt.STILL
