"""`ingest.commands.when`: times as people write them."""

import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.commands.when import when


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


NOW = 1_700_000_000.0  # 2023-11-14 23:13:20 in Berlin


@pytest.mark.parametrize(
    ("text", "begins", "ends"),
    [
        ("2023-11-02", "2023-11-02T00:00+01:00", "2023-11-03T00:00+01:00"),
        ("20231102", "2023-11-02T00:00+01:00", "2023-11-03T00:00+01:00"),
        ("2023-07-02", "2023-07-02T00:00+02:00", "2023-07-03T00:00+02:00"),
        ("2023-11-02T13:30", "2023-11-02T13:30+01:00", "2023-11-02T13:30+01:00"),
        ("2023-11-02 13:30", "2023-11-02T13:30+01:00", "2023-11-02T13:30+01:00"),
        ("2023-11-02T13:30Z", "2023-11-02T13:30+00:00", "2023-11-02T13:30+00:00"),
        ("today", "2023-11-14T00:00+01:00", "2023-11-15T00:00+01:00"),
        (" Yesterday ", "2023-11-13T00:00+01:00", "2023-11-14T00:00+01:00"),
        ("30min", "2023-11-14T22:43:20+01:00", "2023-11-14T22:43:20+01:00"),
        ("12h", "2023-11-14T11:13:20+01:00", "2023-11-14T11:13:20+01:00"),
        ("2d", "2023-11-12T23:13:20+01:00", "2023-11-12T23:13:20+01:00"),
        ("1w", "2023-11-07T23:13:20+01:00", "2023-11-07T23:13:20+01:00"),
    ],
)
def test_a_time_is_understood(text: str, begins: str, ends: str) -> None:
    assert when(text, NOW) == at(begins)
    assert when(text, NOW, is_end=True) == at(ends)


@pytest.mark.parametrize(
    "text", ["", "soon", "2023-13-01", "2 fortnights", "-1d", "1e5", "999999w"]
)
def test_what_is_not_understood_is_told_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"Next: write 2026-11-24, .*today.*12h, 2d"):
        when(text, NOW)


@given(text=st.text(max_size=12))
def test_any_text_is_a_time_or_is_told_of(text: str) -> None:
    told = ""
    try:
        when(text, NOW)
    except ValueError as error:
        told = str(error)
    assert told == "" or "Next: " in told
