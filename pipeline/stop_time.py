"""The hour that a run is to end at. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from pipeline.errors import UsageError


def stop_time_passed_message(stop_at: str | None) -> str:
    """What is said of a moment that is past."""
    return f"--stop-at is {stop_at!r}, which is past; name a later moment, or an hour such as 06:00."


def parse_stop_time(stop_at: str | None, now: float) -> float | None:
    """The Unix time that `--stop-at` names: the next 06:00 of this machine's clock, or a date and an hour as
    in ISO 8601.

    Raises:
        UsageError: it names none.
    """
    if stop_at is None:
        return None
    try:
        if len(stop_at) > 5:
            return datetime.fromisoformat(stop_at).timestamp()
        clock = datetime.strptime(stop_at, "%H:%M")
    except (TypeError, ValueError) as error:  # YAML reads 22:00 as a number
        raise UsageError(
            f"--stop-at is {stop_at!r}; write 06:00, or 2026-11-24T06:00, in YAML in quotes."
        ) from error
    # Without a zone, so that six in the morning is six on the clock after a night in which it was set.
    begun = datetime.fromtimestamp(now)
    then = begun.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
    return (then if then > begun else then + timedelta(days=1)).timestamp()
