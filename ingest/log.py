"""Sets up the log: structlog to stderr, a console on a terminal, JSON lines otherwise.

An allow-list of keys keeps patient data out: whatever is bound under another name never
reaches the log. File names may hold a patient's name, so only names that are plain UIDs are
shown; any other is shown as a short digest, by which ``status`` and the quarantine find it.
"""

import contextlib
import hashlib
import logging
import os
import re
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

ALLOWED = frozenset(
    {
        # of the file
        "drop", "file", "job", "importer", "outcome", "evidence", "reason", "why", "next",
        "detail", "sop_instance_uid", "study_uid", "modality", "station", "attempt",
        "seconds", "retry_in_s", "expected", "quarantine_id", "rule",
        "rows", "unmatched",
        # of the service
        "count", "pid", "version", "path", "openrem", "database", "server", "signal", "mode",
        "error", "folders", "warning", "state",
        # of structlog
        "event", "level", "timestamp",
    }
)  # fmt: skip

# Five components at least, or one made from a UUID (PS3.5 annex B.2): a number alone may be
# a patient's, and "1.3.1956" a date of birth.
_UID_NAME = re.compile(
    rb"(?=[0-9.]{1,64}(\.[A-Za-z]{1,5})?\Z)"
    rb"([0-2](\.[0-9]+){4,}|2\.25\.[0-9]{10,})(\.[A-Za-z]{1,5})?"
)


def safe_name(path: bytes) -> str:
    """A file's name as it may be logged: itself if it is a UID, else a digest of it."""
    name = os.path.basename(path)
    if _UID_NAME.fullmatch(name):
        return name.decode("ascii")
    return "name#" + hashlib.blake2b(name, digest_size=4).hexdigest()


def shown(path: bytes) -> str:
    """A path as it may be printed on a terminal, for the user who owns it."""
    return printable(os.fsdecode(path))


def printable(text: str) -> str:
    """A line as a terminal takes it, whatever a path or a line of somebody's file has in it."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _only_allowed(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: value for key, value in event.items() if key in ALLOWED}


class _Unfailing:
    """A stream on which a full disk or a closed pipe costs log lines, never a thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def set_up(stream: TextIO | None = None, *, level: int = logging.INFO) -> None:
    """Log to ``stream`` (default: stderr)."""
    stream = stream or sys.stderr
    # What watchdog says by itself would reach the screen unasked, with paths in it.
    logging.getLogger("watchdog").addHandler(logging.NullHandler())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=True)
        if stream.isatty()
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _only_allowed,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Unfailing(stream))),
        cache_logger_on_first_use=False,
    )


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """The log of a module."""
    return structlog.get_logger(name)  # type: ignore[no-any-return]
