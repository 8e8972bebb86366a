"""How people write a time: a date, a date with a time, "today", or "2d" for two days ago."""

import re
from datetime import datetime, time, timedelta

_AGO = re.compile(r"([0-9]{1,6})\s*(m|min|h|d|w)")
_UNITS = {
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
FORMS = "2026-11-24, 2026-11-24T13:30, today, yesterday, 30min, 12h, 2d or 1w (ago)"


def when(text: str, now: float, *, is_end: bool = False) -> float:
    """The time that is meant (seconds since the epoch); without a zone it is local time.

    Args:
        text: as it was written.
        now: seconds since the epoch.
        is_end: a day stands for its end, not for its beginning.

    Raises:
        ValueError: it is none of `FORMS`.
    """
    text = text.strip().lower()
    try:
        return _time(text, datetime.fromtimestamp(now).astimezone(), is_end=is_end).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"{text!r} is no time that is understood. Next: write {FORMS}") from error


def _time(text: str, here: datetime, *, is_end: bool) -> datetime:
    if found := _AGO.fullmatch(text):
        return here - int(found[1]) * _UNITS[found[2]]
    days = {"today": here.date(), "yesterday": here.date() - timedelta(days=1)}
    is_day = text in days or re.fullmatch(r"[0-9-]+", text)
    at = datetime.combine(days[text], time()) if text in days else _parsed(text)
    return at + timedelta(days=1) if is_end and is_day else at


def _parsed(text: str) -> datetime:
    return datetime.fromisoformat(text.upper())
