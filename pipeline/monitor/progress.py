"""The progress line and the progress events in the log. Both count committed shards only.

On a terminal the line is updated in place. Elsewhere it is printed at intervals.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipeline.logs import event
from pipeline.monitor.stats import RunStats, device_hours
from pipeline.settings import RunSettings


def clock(seconds: float) -> str:
    """A duration in a readable form, such as 42 s, 3 min 05 s or 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def describe_progress(stats: RunStats, seconds: float, settings: RunSettings) -> str:
    """The progress line after `seconds`: documents and shards committed, throughput, slot utilization,
    failures, time left and cost so far."""
    counts, own = stats.all.counts, stats.own
    parts = [
        f"{counts['documents']}/{stats.documents} documents",
        f"{counts['shards']}/{stats.shards} shards",
        clock(seconds),
    ]
    if own.counts["documents"] and seconds > 0:
        parts.append(f"{own.counts['documents'] / seconds:.1f} documents/s")
    if (throughput := own.tokens_per_second) is not None:
        parts.append(f"{throughput:,.0f} tokens/s per replica")
    if own.slot_utilization is not None:
        parts.append(f"slot utilization {own.slot_utilization:.0%}")
    parts.append(f"{counts['failed_documents']} failed")
    left = stats.time_left(seconds)
    if left is not None:
        parts.append(f"{clock(left.value)} left ({clock(left.low)} to {clock(left.high)})")
    if settings.price_per_hour is not None:
        hours = device_hours(stats.replica_seconds, settings.gpus)
        parts.append(f"cost {hours * settings.price_per_hour:.2f}")
    return ", ".join(parts)


class Progress:
    """An observer that shows the progress line.

    On a terminal it rewrites the line in place. Elsewhere it prints a line at most every `interval_s`
    seconds. The last line always appears. With `write`, lines go to that function instead of stderr.
    """

    def __init__(
        self, settings: RunSettings, interval_s: float, write: Callable[[str], object] | None = None
    ) -> None:
        self._settings, self._interval_s, self._write = settings, interval_s, write
        self._line, self._last_printed = "", float("-inf")
        console = Console(stderr=True)
        self._live = (
            Live(console=console, auto_refresh=False) if write is None and console.is_terminal else None
        )

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        elif self._line:
            self._print(self._line)

    def __call__(self, stats: RunStats, seconds: float) -> None:
        line = describe_progress(stats, seconds, self._settings)
        if self._live:
            self._live.update(Text(line), refresh=True)
        elif seconds - self._last_printed >= self._interval_s:
            self._last_printed = seconds
            self._print(line)
            line = ""
        self._line = line  # a line that is not printed yet

    def _print(self, line: str) -> None:
        (self._write or sys.stderr.write)(line + "\n")
        sys.stderr.flush()


class ProgressLog:
    """An observer that logs a progress event whenever shards were committed since the last one."""

    def __init__(self) -> None:
        self._shards = -1

    def __call__(self, stats: RunStats, seconds: float) -> None:
        counts = stats.all.counts
        if counts["shards"] == self._shards:
            return
        self._shards = counts["shards"]
        left = stats.time_left(seconds)
        event(
            "progress",
            documents=counts["documents"],
            of=stats.documents,
            shards=self._shards,
            seconds=round(seconds, 1),
            failed_documents=counts["failed_documents"],
            input_tokens=counts["input_tokens"],
            output_tokens=counts["output_tokens"],
            failures=dict(stats.all.failures),
            seconds_left=None if left is None else round(left.value),
        )
