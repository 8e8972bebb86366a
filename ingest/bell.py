"""Wakes threads that wait for work: a ring between their last look and their wait is not lost."""

import threading


class Bell:
    """Rung by whoever has work for others. Thread-safe."""

    def __init__(self) -> None:
        """Not rung yet."""
        self._changed = threading.Condition()
        self._rings = 0

    @property
    def rings(self) -> int:
        """How often it has rung: to be asked before looking for work."""
        with self._changed:
            return self._rings

    def ring(self) -> None:
        """There may be work."""
        with self._changed:
            self._rings += 1
            self._changed.notify_all()

    def wait(self, heard: int, timeout_s: float) -> None:
        """Wait for a ring after the first ``heard`` ones; not at all if there was one already."""
        with self._changed:
            self._changed.wait_for(lambda: self._rings != heard, timeout_s)
