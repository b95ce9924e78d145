"""Ends that are asked for: at an hour, at a cost, at a number of failures, by a signal. All come at a shard border.

The shards in flight are finished and committed, no other is begun, and the same command goes on later.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from pipeline.config import RunSettings
from pipeline.errors import PipelineError, Stopped, TooManyFailures
from pipeline.failures import check_failures
from pipeline.tally import Tally, device_hours


class Stop:
    """Whether the run is to end at the next shard border, and with which error; the first that is asked for stands."""

    def __init__(self) -> None:
        self.error: PipelineError | None = None

    def ask(self, error: PipelineError) -> None:
        """Ask for an end."""
        self.error = self.error or error


def hour_of(stop_at: str | None, now: float) -> float | None:
    """The Unix time that `--stop-at` names: the next 06:00 of this machine's clock, or a date and an hour as in ISO 8601."""
    if stop_at is None:
        return None
    begun = datetime.fromtimestamp(now).astimezone()
    if len(stop_at) > 5:
        return datetime.fromisoformat(stop_at).astimezone().timestamp()
    clock = datetime.strptime(stop_at, "%H:%M")
    then = begun.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
    return (then if then > begun else then + timedelta(days=1)).timestamp()


class Limits:
    """The limits of a run, checked when it is looked at; what is exceeded is asked of `stop`.

    While an end is asked for, by whomever, `tell` is called at every look.
    """

    def __init__(self, stop: Stop, settings: RunSettings, tell: Callable[[], object]) -> None:
        self._stop, self._settings, self._tell = stop, settings, tell
        self._until = hour_of(settings.stop_at, time.time())

    def __call__(self, tally: Tally, seconds: float) -> None:
        settings = self._settings
        try:
            check_failures(tally.all.counts["failed_documents"], settings.max_failed, tally.documents)
        except TooManyFailures as error:
            self._stop.ask(error)
        if self._until is not None and time.time() >= self._until:
            self._stop.ask(Stopped(f"it is {settings.stop_at} (--stop-at)."))
        spent = device_hours(seconds, tally.actors, settings.gpus) * (settings.price_per_hour or 0.0)
        if settings.max_cost is not None and spent >= settings.max_cost:
            self._stop.ask(Stopped(f"the run has cost {spent:.2f} (--max-cost {settings.max_cost:g})."))
        if self._stop.error is not None:
            self._tell()


@contextmanager
def signals_ask(stop: Stop) -> Iterator[None]:
    """While this lasts, the first SIGINT or SIGTERM asks for an end and the second raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if stop.error is not None:
            raise KeyboardInterrupt
        stop.ask(Stopped(f"{signal.Signals(number).name} came."))
        print("\nfinishing the shards in flight; once more ends the run at once.", file=sys.stderr, flush=True)

    # A command that a script starts in the background is deaf to SIGINT, and stays so.
    heard = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
