"""Reads what processes have used, from /proc; and waits for what is timed."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_POLL_S = 0.01  # the runs that are timed take seconds
_PATIENCE_S = 3600.0


def cpu_s(pid: int) -> float:
    """The CPU time of a process with all its threads, without its children."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICKS


def resident_mib(pid: int) -> float:
    """The memory that a process has now."""
    return _status_mib(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """The most that it ever had."""
    return _status_mib(pid, "VmHWM")


def _status_mib(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) / 1024
    raise ValueError(f"no {key} of process {pid}")


def wait_for(condition: Callable[[], object], what: str, *, poll_s: float = _POLL_S) -> None:
    """Wait, looking often: what waits is timed."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain: {what}")
        threading.Event().wait(poll_s)
