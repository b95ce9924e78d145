"""The stop time of a run."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from pipeline.errors import UsageError
from pipeline.scheduled import run_arguments
from pipeline.stop_time import parse_stop_time


def test_the_next_such_time() -> None:
    now = datetime(2026, 11, 23, 22, 30).timestamp()
    assert datetime.fromtimestamp(parse_stop_time("06:00", now) or 0) == datetime(2026, 11, 24, 6)
    assert datetime.fromtimestamp(parse_stop_time("23:15", now) or 0) == datetime(2026, 11, 23, 23, 15)
    assert datetime.fromtimestamp(parse_stop_time("2026-11-30T06:00", now) or 0) == datetime(2026, 11, 30, 6)
    assert parse_stop_time("6:00", now) == parse_stop_time("06:00", now)
    assert parse_stop_time(None, now) is None


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        ("2026-10-24T22:00+02:00", "2026-10-25T06:00+01:00"),  # the clock is set back at three
        ("2026-03-28T22:00+01:00", "2026-03-29T06:00+02:00"),  # and forward at two
        ("2026-10-25T02:40+02:00", "2026-10-25T06:00+01:00"),
        ("2026-10-25T06:00+01:00", "2026-10-26T06:00+01:00"),
    ],
)
def test_six_is_six_on_the_clock_after_daylight_saving_changes(
    start: str, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert (
            parse_stop_time("06:00", datetime.fromisoformat(start).timestamp())
            == datetime.fromisoformat(stop).timestamp()
        )
        assert (
            parse_stop_time(stop, 0.0)
            == parse_stop_time(stop[:16], 0.0)
            == datetime.fromisoformat(stop).timestamp()
        )
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("start", "stop_at", "stop"),
    [
        # The clock is set back from three to two, so 02:30 occurs twice.
        ("2026-10-24T22:00+02:00", "02:30", "2026-10-25T02:30+01:00"),
        ("2026-10-25T02:10+02:00", "02:30", "2026-10-25T02:30+01:00"),
        ("2026-10-25T02:40+02:00", "02:30", "2026-10-25T02:30+01:00"),
        ("2026-10-25T02:10+01:00", "02:30", "2026-10-25T02:30+01:00"),
        ("2026-10-25T02:40+01:00", "02:30", "2026-10-26T02:30+01:00"),
        ("2026-10-24T22:00+02:00", "2026-10-25T02:30", "2026-10-25T02:30+01:00"),
        ("2026-10-24T22:00+02:00", "2026-10-25T02:30+02:00", "2026-10-25T02:30+02:00"),
        # It is set forward from two to three, so 02:30 does not occur.
        ("2026-03-28T22:00+01:00", "02:30", "2026-03-29T03:30+02:00"),
    ],
)
def test_a_time_that_occurs_twice_or_never(
    start: str, stop_at: str, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        now, expected = (datetime.fromisoformat(each).timestamp() for each in (start, stop))
        assert parse_stop_time(stop_at, now) == expected
        arguments = run_arguments("out", "2026-10-25", [], stop_at, now)
        assert parse_stop_time(arguments[-1], now) == expected
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("stop_at", ["25:00", "6 o'clock", "2026-13-01T06:00", 1320])
def test_other_values_are_refused(stop_at: str) -> None:
    with pytest.raises(UsageError, match=r"--stop-at is .*; write 06:00 or 2026-11-24T06:00"):
        parse_stop_time(stop_at, 0.0)
