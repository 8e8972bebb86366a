"""What a check of the set-up found: how bad it is, what it is, why it matters, what to do."""

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"  # good to know
    WARNING = "warning"  # it works, but not for sure or not for long
    ERROR = "error"  # it does not work, or loses something


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of one check."""

    level: Level
    what: str
    why: str = ""  # what it means, or leads to
    next: str = ""  # what to do; of warnings and errors always. Lines to copy are lines of it


def ok(what: str) -> Finding:
    """It is as it should be."""
    return Finding(level=Level.OK, what=what)


def note(what: str, why: str = "", next_step: str = "") -> Finding:
    """It is good to know."""
    return Finding(level=Level.NOTE, what=what, why=why, next=next_step)


def warning(what: str, why: str, next_step: str) -> Finding:
    """It should be looked after."""
    return Finding(level=Level.WARNING, what=what, why=why, next=next_step)


def error(what: str, why: str, next_step: str) -> Finding:
    """It has to be put right."""
    return Finding(level=Level.ERROR, what=what, why=why, next=next_step)
