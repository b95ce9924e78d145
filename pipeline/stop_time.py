"""The stop time of a run, as --stop-at gives it. Pure functions."""

from __future__ import annotations

from datetime import datetime, timedelta

from pipeline.errors import UsageError


def stop_time_passed_message(stop_at: str | None) -> str:
    """The error message for a stop time that has passed."""
    return f"--stop-at is {stop_at!r}, which has passed; give a later time, or a time of day such as 06:00."


def parse_stop_time(stop_at: str | None, now: float) -> float | None:
    """The Unix time of --stop-at, in seconds, or None if it is not set.

    A time of day such as 06:00 means the next one after `now`, by the clock of this machine. A date with a
    time follows ISO 8601, with or without an offset. A local time that occurs twice, because the clocks are
    set back, means the second one.

    Raises:
        UsageError: it is not a time.
    """
    if stop_at is None:
        return None
    try:
        if len(stop_at) > 5:
            given = datetime.fromisoformat(stop_at)
            return given.timestamp() if given.tzinfo else _latest(given)
        clock = datetime.strptime(stop_at, "%H:%M")
    except (TypeError, ValueError) as error:  # YAML reads 22:00 as a number
        raise UsageError(
            f"--stop-at is {stop_at!r}; write 06:00 or 2026-11-24T06:00, in quotes in YAML."
        ) from error
    # Local time without a zone, so that 06:00 is right if daylight saving time begins or ends before it.
    today = datetime.fromtimestamp(now).replace(
        hour=clock.hour, minute=clock.minute, second=0, microsecond=0, fold=0
    )
    days = (_latest(today + timedelta(days=days)) for days in (0, 1, 2))
    return next(time for time in days if time > now)


def _latest(local: datetime) -> float:
    """The Unix time of a local time. If a change of the clocks repeats it, the second time."""
    return max(local.replace(fold=fold).timestamp() for fold in (0, 1))
