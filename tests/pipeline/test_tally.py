"""What receipts add up to, and the time left that they speak for."""

from __future__ import annotations

import math
import random
from statistics import mean, stdev

import pytest

from pipeline.monitor.stats import Tally, Totals, device_hours, throughput
from tests.pipeline.receipts import receipt


def test_sums_and_of_peaks_the_highest() -> None:
    shards = [
        receipt("a", documents=3, rows=4, ok=2, failed=2, seconds=2.0, input_tokens=90, output_tokens=10,
                failures={"read: the text is null": 2}, flags={"short": 1},
                measured={"steps": 5, "document_steps": 30, "places": 80, "peak_bytes": 7}),
        receipt("b", documents=1, rows=1, ok=1, seconds=3.0, input_tokens=50, flags={"short": 1, "names": 1},
                measured={"steps": 1, "document_steps": 10, "places": 20, "peak_bytes": 5}),
    ]  # fmt: skip
    totals = Totals.of(shards)
    assert (totals.counts["documents"], totals.counts["rows"], totals.counts["shards"]) == (4, 5, 2)
    assert totals.measured == {"steps": 6, "document_steps": 40, "places": 100, "peak_bytes": 7}
    assert totals.failures == {"read: the text is null": 2} and totals.flags == {"short": 2, "names": 1}
    assert totals.fill == 0.4 and totals.tokens_per_second == 30
    assert Totals().fill is None and Totals().tokens_per_second is None


def test_what_was_carried_over_is_no_work() -> None:
    totals = Totals.of([receipt("a", rows=4, ok=4, carried=3, seconds=2.0, input_tokens=70, output_tokens=10),
                        receipt("b", rows=2, ok=2, carried=2, input_tokens=1000)])  # fmt: skip
    assert totals.tokens_per_second == 10


def run_of(costs: list[float], actors: int) -> tuple[Tally, float]:
    """The tally of a run with shards of ten documents, after half of them, and the seconds that the rest then takes."""
    lanes, ends = [5.0] * actors, []
    for cost in costs:
        lane = lanes.index(min(lanes))
        lanes[lane] += cost
        ends.append((lanes[lane], cost))
    ends.sort()
    half = len(costs) // 2
    tally = Tally(10 * len(costs), len(costs), actors)
    for end, cost in ends[:half]:
        tally.add(receipt(documents=10, rows=10, seconds=cost), end)
    return tally, ends[-1][0] - ends[half - 1][0]


def test_the_interval_of_the_time_left_holds_the_truth_four_times_in_five() -> None:
    rng, held = random.Random(0), 0
    for _ in range(200):
        tally, truth = run_of([rng.uniform(5, 15) for _ in range(60)], 3)
        at = max(5.0, tally.first or 0) + tally.own.counts["seconds"] / 3
        left = tally.time_left(at)
        assert left is not None and left.low <= left.middle <= left.high
        assert left.middle == pytest.approx(truth, rel=0.4)
        held += left.low <= truth <= left.high
    assert held > 120


def test_nothing_is_said_before_two_shards_and_nothing_is_left_at_the_end() -> None:
    tally = Tally(20, 2, 1)
    assert tally.time_left(3.0) is None
    tally.add(receipt(documents=10, seconds=4.0), 5.0)
    assert tally.time_left(6.0) is None and tally.documents_left == 10
    tally.add(receipt(documents=10, seconds=4.0), 9.0)
    left = tally.time_left(9.0)
    assert left is not None and left.high == 0


def test_what_stood_there_before_is_no_measure_of_this_run() -> None:
    tally = Tally(40, 4, 1)
    tally.add(receipt(documents=10, seconds=1000.0))
    assert tally.own.counts["documents"] == 0 and tally.all.counts["documents"] == 10 and tally.mean_cost == 0


def test_what_shards_differ_in_is_kept_as_sums() -> None:
    rng, tally, costs = random.Random(0), Tally(10_000, 1_000, 1), []
    for _ in range(500):
        documents, seconds = rng.randint(1, 20), rng.uniform(1e3, 1e3 + 1)
        tally.add(receipt(documents=documents, rows=documents, seconds=seconds), 1e6)
        costs.append(seconds / documents)
    assert tally.mean_cost == pytest.approx(mean(costs)) and math.sqrt(tally.squares / 499) == pytest.approx(stdev(costs))


def test_throughput_is_what_was_done() -> None:
    made = [receipt(documents=10, seconds=10.0, finished_at=110.0), receipt(documents=30, seconds=5.0, finished_at=120.0)]
    spans = throughput(made, 4)
    assert [start for start, _, _ in spans] == [0, 5, 10, 15]
    assert sum(pace * 5 for _, pace, _ in spans) == pytest.approx(40)
    assert [busy for _, _, busy in spans] == pytest.approx([1, 1, 0, 1])
    assert throughput([], 4) == []


def test_device_hours() -> None:
    assert device_hours(7200, 0.0) == 2 and device_hours(7200, 0.25) == 0.5


def test_model_copies_are_held_from_when_they_came() -> None:
    tally = Tally(10, 1, 8)
    for seconds, actors in ((3600, 8), (7200, 64), (7300, 64)):
        tally.pass_time(seconds)
        tally.actors = actors
    assert tally.held_seconds == 7200 * 8 + 100 * 64


def test_copies_that_came_late_are_not_taken_for_idle() -> None:
    tally = Tally(20_000, 2_000, 8)
    for n in range(288):  # eight copies, an hour, shards of a hundred seconds
        tally.add(receipt(documents=10, seconds=100.0), 100.0 * (1 + n // 8))
    tally.pass_time(3600.0)
    tally.actors = 64
    left = tally.time_left(3600.0)
    assert left is not None and left.middle == pytest.approx(1712 * 100 / 64, rel=0.1)
