"""What receipts add up to, and the time left that they speak for."""

from __future__ import annotations

import math
import random
from statistics import mean, stdev

import pytest
from tests.pipeline.shards_metadata import shard_metadata

from pipeline.monitor.stats import RunStats, Totals, device_hours, throughput


def test_sums_and_of_peaks_the_highest() -> None:
    shards = [
        shard_metadata(
            "a",
            documents=3,
            rows=4,
            ok=2,
            failed=2,
            seconds=2.0,
            input_tokens=90,
            output_tokens=10,
            failures={"read: the text is null": 2},
            flags={"short": 1},
            measured={"steps": 5, "document_steps": 30, "slot_steps": 80, "peak_bytes": 7},
        ),
        shard_metadata(
            "b",
            documents=1,
            rows=1,
            ok=1,
            seconds=3.0,
            input_tokens=50,
            flags={"short": 1, "names": 1},
            measured={"steps": 1, "document_steps": 10, "slot_steps": 20, "peak_bytes": 5},
        ),
    ]
    totals = Totals.of(shards)
    assert (totals.counts["documents"], totals.counts["rows"], totals.counts["shards"]) == (4, 5, 2)
    assert totals.measured == {"steps": 6, "document_steps": 40, "slot_steps": 100, "peak_bytes": 7}
    assert totals.failures == {"read: the text is null": 2} and totals.flags == {"short": 2, "names": 1}
    assert totals.fill == 0.4 and totals.tokens_per_second == 30
    assert Totals().fill is None and Totals().tokens_per_second is None


def test_what_was_carried_over_is_no_work() -> None:
    totals = Totals.of(
        [
            shard_metadata("a", rows=4, ok=4, reused=3, seconds=2.0, input_tokens=70, output_tokens=10),
            shard_metadata("b", rows=2, ok=2, reused=2, input_tokens=1000),
        ]
    )
    assert totals.tokens_per_second == 10


def run_of(costs: list[float], replicas: int) -> tuple[RunStats, float]:
    """The tally of a run with shards of ten documents, after half of them, and the seconds that the rest then
    takes."""
    lanes, ends = [5.0] * replicas, []
    for cost in costs:
        lane = lanes.index(min(lanes))
        lanes[lane] += cost
        ends.append((lanes[lane], cost))
    ends.sort()
    half = len(costs) // 2
    stats = RunStats(10 * len(costs), len(costs), replicas)
    for end, cost in ends[:half]:
        stats.add(shard_metadata(documents=10, rows=10, seconds=cost), end)
    return stats, ends[-1][0] - ends[half - 1][0]


def test_the_interval_of_the_time_left_holds_the_truth_four_times_in_five() -> None:
    rng, held = random.Random(0), 0
    for _ in range(200):
        stats, truth = run_of([rng.uniform(5, 15) for _ in range(60)], 3)
        at = max(5.0, stats.first or 0) + stats.own.counts["seconds"] / 3
        left = stats.time_left(at)
        assert left is not None and left.low <= left.middle <= left.high
        assert left.middle == pytest.approx(truth, rel=0.4)
        held += left.low <= truth <= left.high
    assert held > 120


def test_nothing_is_said_before_two_shards_and_nothing_is_left_at_the_end() -> None:
    stats = RunStats(20, 2, 1)
    assert stats.time_left(3.0) is None
    stats.add(shard_metadata(documents=10, seconds=4.0), 5.0)
    assert stats.time_left(6.0) is None and stats.documents_left == 10
    stats.add(shard_metadata(documents=10, seconds=4.0), 9.0)
    left = stats.time_left(9.0)
    assert left is not None and left.high == 0


def test_what_stood_there_before_is_no_measure_of_this_run() -> None:
    stats = RunStats(40, 4, 1)
    stats.add(shard_metadata(documents=10, seconds=1000.0))
    assert stats.own.counts["documents"] == 0 and stats.all.counts["documents"] == 10 and stats.mean_cost == 0


def test_what_shards_differ_in_is_kept_as_sums() -> None:
    rng, stats, costs = random.Random(0), RunStats(10_000, 1_000, 1), []
    for _ in range(500):
        documents, seconds = rng.randint(1, 20), rng.uniform(1e3, 1e3 + 1)
        stats.add(shard_metadata(documents=documents, rows=documents, seconds=seconds), 1e6)
        costs.append(seconds / documents)
    assert stats.mean_cost == pytest.approx(mean(costs)) and math.sqrt(stats.squares / 499) == pytest.approx(
        stdev(costs)
    )


def test_throughput_is_what_was_done() -> None:
    made = [
        shard_metadata(documents=10, seconds=10.0, finished_at=110.0),
        shard_metadata(documents=30, seconds=5.0, finished_at=120.0),
    ]
    spans = throughput(made, 4)
    assert [start for start, _, _ in spans] == [0, 5, 10, 15]
    assert sum(pace * 5 for _, pace, _ in spans) == pytest.approx(40)
    assert [busy for _, _, busy in spans] == pytest.approx([1, 1, 0, 1])
    assert throughput([], 4) == []


def test_device_hours() -> None:
    assert device_hours(7200, 0.0) == 2 and device_hours(7200, 0.25) == 0.5


def test_model_copies_are_held_from_when_they_came() -> None:
    stats = RunStats(10, 1, 8)
    for seconds, replicas in ((3600, 8), (7200, 64), (7300, 64)):
        stats.advance_clock(seconds)
        stats.replicas = replicas
    assert stats.replica_seconds == 7200 * 8 + 100 * 64


def test_copies_that_came_late_are_not_taken_for_idle() -> None:
    stats = RunStats(20_000, 2_000, 8)
    for n in range(288):  # eight copies, an hour, shards of a hundred seconds
        stats.add(shard_metadata(documents=10, seconds=100.0), 100.0 * (1 + n // 8))
    stats.advance_clock(3600.0)
    stats.replicas = 64
    left = stats.time_left(3600.0)
    assert left is not None and left.middle == pytest.approx(1712 * 100 / 64, rel=0.1)
