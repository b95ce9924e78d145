"""The progress of a run for Python: a report for a callback, or one line that is updated in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from pipeline.monitor.progress import describe_progress
from pipeline.monitor.stats import RunStats
from pipeline.monitor.watcher import Observer
from pipeline.settings import RunSettings


@dataclass(frozen=True)
class ProgressReport:
    """How far a run is.

    `documents` of `total` are committed, `failed` of them without a result. `seconds_left` is an estimate,
    and the interval holds with 80 %. They are None as long as too little is known. `line` says all of it.
    """

    documents: int
    total: int
    failed: int
    shards: int
    total_shards: int
    seconds: float
    seconds_left: float | None
    seconds_left_interval: tuple[float, float] | None
    line: str

    def __str__(self) -> str:
        return self.line


# True shows progress on stderr or in the notebook, False shows none, a function receives the reports.
ShowProgress: TypeAlias = bool | Callable[[ProgressReport], object]


def observer_of(show: ShowProgress, settings: RunSettings) -> Observer | None:
    """An observer of a run that shows its progress. None if the progress line on stderr does, or nothing."""
    if callable(show):
        return lambda stats, seconds: show(_report(stats, seconds, settings))
    if show and (update := _notebook_line()) is not None:
        return lambda stats, seconds: update(_report(stats, seconds, settings).line)
    return None


def _report(stats: RunStats, seconds: float, settings: RunSettings) -> ProgressReport:
    counts, left = stats.all.counts, stats.time_left(seconds)
    return ProgressReport(
        documents=counts["documents"],
        total=stats.documents,
        failed=counts["failed_documents"],
        shards=counts["shards"],
        total_shards=stats.shards,
        seconds=seconds,
        seconds_left=None if left is None else left.value,
        seconds_left_interval=None if left is None else (left.low, left.high),
        line=describe_progress(stats, seconds, settings),
    )


def _notebook_line() -> Callable[[str], object] | None:
    """A function that shows a line in the output of a notebook's cell, in place of the last one. None outside
    notebooks."""
    if "ipykernel" not in sys.modules:
        return None
    from IPython.display import display

    handle: Any = display({"text/plain": ""}, raw=True, display_id=True)
    return lambda line: handle.update({"text/plain": line}, raw=True)
