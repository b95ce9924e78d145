"""The limits of a run, and its graceful shutdown: --stop-at, --max-cost, --max-failed and signals.

A graceful shutdown happens at a shard boundary. Shards in flight finish and are committed, no new shard
starts, and the same command resumes the run later.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.errors import PipelineError, Stopped, TooManyFailures
from pipeline.monitor.stats import RunStats, device_hours
from pipeline.settings import RunSettings
from pipeline.stop_time import parse_stop_time, stop_time_passed_message

# Failure reasons that a message lists, most frequent first.
_REASONS_SHOWN = 3


class StopRequest:
    """A request to stop at the next shard boundary. The first error requested stays."""

    def __init__(self) -> None:
        self.error: PipelineError | None = None

    def request(self, error: PipelineError) -> None:
        """Request a stop. The run then ends with `error`."""
        self.error = self.error or error

    def cancel(self) -> None:
        """Request a stop on behalf of the caller of the Python API. The run then ends with `Stopped`."""
        self.request(Stopped("stopped by the caller."))


class RunLimits:
    """An observer that checks the run's limits and requests a stop if one is exceeded.

    While a stop is requested, by whomever, every call also calls `publish`, which tells the workers.

    Raises:
        Stopped: the time of --stop-at has passed.
    """

    def __init__(self, stop: StopRequest, settings: RunSettings, publish: Callable[[], object]) -> None:
        self._stop, self._settings, self._publish = stop, settings, publish
        now = time.time()
        self._stop_time = parse_stop_time(settings.stop_at, now)
        if self._stop_time is not None and self._stop_time <= now:
            # The exit code of a graceful shutdown: a scheduler that starts the run again expects no other.
            raise Stopped(stop_time_passed_message(settings.stop_at))

    def __call__(self, stats: RunStats, seconds: float) -> None:
        error = self._exceeded(stats) if self._stop.error is None else None
        if error is not None:
            self._stop.request(error)
            print(f"\n{error} Finishing the shards in flight.", file=sys.stderr, flush=True)
        if self._stop.error is not None:
            self._publish()

    def _exceeded(self, stats: RunStats) -> PipelineError | None:
        settings, totals = self._settings, stats.all
        try:
            check_failures(
                totals.counts["failed_documents"], settings.max_failed, stats.documents, totals.failures
            )
        except TooManyFailures as error:
            return error
        if self._stop_time is not None and time.time() >= self._stop_time:
            return Stopped(f"it is {settings.stop_at} (--stop-at).")
        cost = device_hours(stats.replica_seconds, settings.gpus) * (settings.price_per_hour or 0.0)
        if settings.max_cost is not None and cost >= settings.max_cost:
            return Stopped(f"the run has cost {cost:.2f} (--max-cost {settings.max_cost:g}).")
        return None


def allowed_failures(max_failed: float | None, documents: int) -> int | None:
    """How many of `documents` may fail: a number from 1 on, below 1 a share, None for no limit."""
    if max_failed is None:
        return None
    return int(max_failed if max_failed >= 1 else max_failed * documents)


def check_failures(
    failed: int, max_failed: float | None, documents: int, reasons: Mapping[str, int], advice: str = ""
) -> None:
    """Check the number of failed documents against `max_failed`.

    `reasons` counts the rows that failed or were skipped, by stage and reason. `advice` ends the message.

    Raises:
        TooManyFailures: more documents failed.
    """
    allowed = allowed_failures(max_failed, documents)
    if allowed is not None and failed > allowed:
        most = sorted(reasons.items(), key=lambda item: -item[1])[:_REASONS_SHOWN]
        listed = ", ".join(f"{reason} ({count:,} rows)" for reason, count in most)
        raise TooManyFailures(
            f"{failed} of {documents} documents failed; --max-failed is {max_failed:g}. Most frequent "
            f"reasons: {listed}.{advice and ' '}{advice}"
        )


@contextmanager
def stop_on_signals(stop: StopRequest) -> Iterator[None]:
    """Within this context, the first SIGINT or SIGTERM requests a stop, and the second raises
    KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    received = 0

    def handle(number: int, frame: Any) -> None:
        nonlocal received
        received += 1
        if received > 1:
            raise KeyboardInterrupt
        stop.request(Stopped(f"stopped by {signal.Signals(number).name}."))
        print(
            "\nStopping: finishing the shards in flight. Press Ctrl-C again to stop now and lose them.",
            file=sys.stderr,
            flush=True,
        )

    # A background command of a shell script ignores SIGINT. It keeps ignoring it.
    numbers = [
        number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN
    ]
    handlers = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
