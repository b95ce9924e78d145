"""The progress line: its content, and how often it appears."""

from __future__ import annotations

from typing import Any

from pipeline.monitor.progress import Progress, clock, describe_progress
from pipeline.monitor.stats import RunStats
from pipeline.tasks.settings import SummarizeSettings
from tests.pipeline.shard_metadata import shard_metadata


def settings(**changes: Any) -> SummarizeSettings:
    return SummarizeSettings(input=("i",), output="o", model="m", **changes)


def halfway() -> RunStats:
    stats = RunStats(80, 8, 2)
    for n in range(4):
        stats.add(
            shard_metadata(
                documents=10,
                failed_documents=n % 2,
                seconds=20.0,
                input_tokens=900,
                output_tokens=100,
                measured={"document_steps": 9, "slot_steps": 12},
            ),
            30.0 + 20 * (n // 2),
        )
    stats.advance_clock(50.0)
    return stats


def test_the_line_has_all_figures() -> None:
    line = describe_progress(halfway(), 50.0, settings(price_per_hour=36.0))
    assert line.startswith(
        "40/80 documents, 4/8 shards, 50 s, 0.8 documents/s, 50 tokens/s per replica, slot utilization 75%, "
        "2 failed"
    )
    assert " left (" in line and line.endswith("cost 1.00")


def test_unknown_figures_are_left_out() -> None:
    assert (
        describe_progress(RunStats(80, 8, 2), 3.0, settings()) == "0/80 documents, 0/8 shards, 3 s, 0 failed"
    )


def test_lines_appear_at_intervals_and_the_last_one_always() -> None:
    lines: list[str] = []
    with Progress(settings(), 30.0, lines.append) as progress:
        for seconds in (0.5, 10.0, 31.0, 40.0, 62.0, 70.0):
            progress(halfway(), seconds)
    assert [line.split(", ")[2] for line in lines] == ["0 s", "31 s", "1 min 02 s", "1 min 10 s"]


def test_durations() -> None:
    assert [clock(s) for s in (0.4, 59.4, 61, 3600, 93784)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "1 h 00 min",
        "26 h 03 min",
    ]
