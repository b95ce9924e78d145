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
from typing import Any

from pipeline.settings import RunSettings
from pipeline.errors import PipelineError, Stopped, TooManyFailures
from pipeline.monitor.failures import check_failures
from pipeline.stop_time import hour_of, past_message
from pipeline.monitor.stats import Tally, device_hours


class Stop:
    """Whether the run is to end at the next shard border, and with which error; the first that is asked for stands."""

    def __init__(self) -> None:
        self.error: PipelineError | None = None

    def ask(self, error: PipelineError) -> None:
        """Ask for an end."""
        self.error = self.error or error


class Limits:
    """The limits of a run, checked when it is looked at; what is exceeded is asked of `stop`, and said on stderr.

    While an end is asked for, by whomever, `tell` is called at every look.

    Raises:
        Stopped: the moment of --stop-at is past.
    """

    def __init__(self, stop: Stop, settings: RunSettings, tell: Callable[[], object]) -> None:
        self._stop, self._settings, self._tell = stop, settings, tell
        now = time.time()
        self._until = hour_of(settings.stop_at, now)
        if self._until is not None and self._until <= now:
            # As at any end that was asked for: who starts a run again by a clock asks for no other.
            raise Stopped(past_message(settings.stop_at))

    def __call__(self, tally: Tally, seconds: float) -> None:
        error = self._exceeded(tally, seconds) if self._stop.error is None else None
        if error is not None:
            self._stop.ask(error)
            print(f"\n{error} Finishing the shards in flight.", file=sys.stderr, flush=True)
        if self._stop.error is not None:
            self._tell()

    def _exceeded(self, tally: Tally, seconds: float) -> PipelineError | None:
        settings, all_ = self._settings, tally.all
        try:
            check_failures(all_.counts["failed_documents"], settings.max_failed, tally.documents, all_.failures)
        except TooManyFailures as error:
            return error
        if self._until is not None and time.time() >= self._until:
            return Stopped(f"it is {settings.stop_at} (--stop-at).")
        spent = device_hours(tally.held_seconds, settings.gpus) * (settings.price_per_hour or 0.0)
        if settings.max_cost is not None and spent >= settings.max_cost:
            return Stopped(f"the run has cost {spent:.2f} (--max-cost {settings.max_cost:g}).")
        return None


@contextmanager
def signals_ask(stop: Stop) -> Iterator[None]:
    """While this lasts, the first SIGINT or SIGTERM asks for an end, the second raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    came = 0

    def handle(number: int, frame: Any) -> None:
        nonlocal came
        came += 1
        if came > 1:
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
