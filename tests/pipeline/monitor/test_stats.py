"""Totals over shards, and the coverage of the interval of the time left."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from statistics import mean, stdev

import numpy as np
import pytest

from benchmarks.interval_coverage import MOMENTS, VARIATIONS, Disturbance, outcomes
from pipeline.monitor.makespan import Durations, draw_makespans, list_schedule
from pipeline.monitor.stats import Estimate, RunStats, Totals, device_hours, throughput
from tests.pipeline.shard_metadata import shard_metadata


def test_totals_are_sums_and_the_maximum_of_peaks() -> None:
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
    assert totals.slot_utilization == 0.4 and totals.tokens_per_second == 30
    assert Totals().slot_utilization is None and Totals().tokens_per_second is None


def test_reused_rows_are_no_work() -> None:
    totals = Totals.of(
        [
            shard_metadata("a", rows=4, ok=4, reused=3, seconds=2.0, input_tokens=70, output_tokens=10),
            shard_metadata("b", rows=2, ok=2, reused=2, input_tokens=1000),
        ]
    )
    assert totals.tokens_per_second == 10


def test_an_estimate_plus_and_times_a_constant() -> None:
    assert Estimate(3.0, 2.0, 5.0).plus(1.0).times(2.0) == Estimate(8.0, 6.0, 12.0)


# A key is a moment, over all variations, or a variation, over all moments. The standard deviation of a share
# of 300 runs is 0.023. Cells with too few runs are not tested one by one.
@pytest.mark.parametrize(
    ("shape", "runs"),
    [((8, 1), 200), ((16, 4), 120), ((60, 8), 100), ((200, 8), 100), ((500, 16), 60), ((2000, 64), 40)],
)
def test_the_interval_of_the_time_left_covers_the_truth_in_80_percent_of_the_runs(
    shape: tuple[int, int], runs: int
) -> None:
    covered = defaultdict(list)
    for variation in VARIATIONS:
        for moment, outcome in outcomes(shape, variation, runs, seed=1):
            assert outcome.estimate.low <= outcome.estimate.value <= outcome.estimate.high
            for key in (f"{moment:.0%} done", f"cv {variation}", "all"):
                covered[key].append(outcome.covered)
    coverage = {key: mean(cell) for key, cell in covered.items() if runs >= 100 or not key.startswith("cv")}
    assert len(coverage) == len(MOMENTS) + 1 + len(VARIATIONS) * (runs >= 100)
    assert all(0.72 <= share <= 0.88 for share in coverage.values()), coverage


@pytest.mark.parametrize(
    "disturbance", [Disturbance(start_spread=120.0), Disturbance(wait=5.0), Disturbance(reused=0.3)]
)
def test_the_interval_covers_the_truth_in_less_regular_runs(disturbance: Disturbance) -> None:
    covered = [o.covered for _, o in outcomes((200, 8), 0.3, 100, disturbance=disturbance)]
    assert 0.72 <= mean(covered) <= 0.88


def test_the_estimate_is_the_median_and_the_ends_are_the_10_and_90_percent_quantiles() -> None:
    results = [o for _, o in outcomes((60, 8), 0.3, 200)]
    assert mean(o.truth < o.estimate.low for o in results) == pytest.approx(0.1, abs=0.04)
    assert mean(o.truth < o.estimate.value for o in results) == pytest.approx(0.5, abs=0.07)
    assert mean(o.truth > o.estimate.high for o in results) == pytest.approx(0.1, abs=0.04)


def test_the_run_waits_for_the_slowest_shard_in_flight() -> None:
    stats = RunStats(160, 16, 8)
    for n in range(8):
        stats.add(shard_metadata(documents=10, seconds=100.0 + n), 100.0 + n)
    stats.advance_clock(150.0)
    left = stats.time_left(150.0)
    assert left is not None and 50 < left.value < 70  # 8 shards on 8 replicas, each half done


def test_there_is_no_estimate_before_two_shards_and_zero_at_the_end() -> None:
    stats = RunStats(20, 2, 1)
    assert stats.time_left(3.0) is None
    stats.add(shard_metadata(documents=10, seconds=4.0), 5.0)
    assert stats.time_left(6.0) is None and stats.documents_left == 10
    stats.add(shard_metadata(documents=10, seconds=4.0), 9.0)
    assert stats.time_left(9.0) == Estimate.exactly(0)


def test_shards_of_earlier_runs_are_not_measured() -> None:
    stats = RunStats(40, 4, 1)
    stats.add(shard_metadata(documents=10, seconds=1000.0))
    assert stats.own.counts["documents"] == 0 and stats.all.counts["documents"] == 10
    assert stats.durations.count == 0


def test_durations_are_kept_as_sums() -> None:
    rng, stats, durations = random.Random(0), RunStats(10_000, 1_000, 1), []
    now = 1e6
    for _ in range(500):
        seconds = rng.uniform(1e3, 1e3 + 1)
        now += seconds
        stats.add(shard_metadata(documents=10, seconds=seconds), now)
        durations.append(seconds)
    kept = stats.durations
    assert kept.mean == pytest.approx(mean(durations))
    assert math.sqrt(kept.squares / 499) == pytest.approx(stdev(durations))
    assert len(stats._finished) + len(stats._started) == 1


def test_shards_out_of_order_still_give_an_estimate() -> None:
    rng, stats = random.Random(0), RunStats(1000, 100, 4)
    ends = [25.0 * (n + 4) for n in range(60)]
    rng.shuffle(ends)
    for end in ends:
        stats.add(shard_metadata(documents=10, seconds=100.0), end)
    stats.replicas = 2  # two machines have failed
    left = stats.time_left(1600.0)
    assert left is not None and left.low > 0 and math.isfinite(left.high)


def test_instant_shards_are_a_share_of_what_is_left() -> None:
    stats = RunStats(2000, 200, 1)
    for n in range(100):
        stats.add(shard_metadata(documents=10, seconds=10.0, reused=10 * (n % 2)), 10.0 * (1 + n // 2))
    left = stats.time_left(500.0)
    assert left is not None and left.low < 500 < left.high and left.value == pytest.approx(500, rel=0.1)


def test_list_scheduling_in_steps_is_list_scheduling() -> None:
    rng = np.random.default_rng(0)
    durations = rng.lognormal(0.0, 0.3, (20, 150))
    free = np.zeros((20, 16))
    for column in durations.T:
        free[np.arange(20), free.argmin(axis=1)] += column
    assert list_schedule(np.zeros((20, 16)), durations) == pytest.approx(free.max(axis=1), rel=0.02)


def test_rounds_that_are_not_scheduled_shard_by_shard_do_not_change_the_makespan() -> None:
    done, ages = Durations(10_000, 100.0, 10_000 * 30.0**2), np.linspace(0.0, 100.0, 8)
    quantiles = np.quantile(draw_makespans(done, ages, 4000), (0.1, 0.5, 0.9))
    work = 4000 * 100.0 / 8
    assert quantiles[1] == pytest.approx(work + 100.0, rel=0.005)
    assert quantiles[2] - quantiles[0] == pytest.approx(
        2 * 1.28 * 30 * math.sqrt(4000 + 4000**2 / 10_000) / 8, rel=0.15
    )


def test_throughput_of_equal_bins() -> None:
    shards = [
        shard_metadata(documents=10, seconds=10.0, finished_at=110.0),
        shard_metadata(documents=30, seconds=5.0, finished_at=120.0),
    ]
    bins = throughput(shards, 4)
    assert [start for start, _, _ in bins] == [0, 5, 10, 15]
    assert sum(documents * 5 for _, documents, _ in bins) == pytest.approx(40)
    assert [busy for _, _, busy in bins] == pytest.approx([1, 1, 0, 1])
    assert throughput([], 4) == []


def test_device_hours() -> None:
    assert device_hours(7200, 0.0) == 2 and device_hours(7200, 0.25) == 0.5


def test_replica_seconds_count_from_the_start_of_a_replica() -> None:
    stats = RunStats(10, 1, 8)
    for seconds, replicas in ((3600, 8), (7200, 64), (7300, 64)):
        stats.advance_clock(seconds)
        stats.replicas = replicas
    assert stats.replica_seconds == 7200 * 8 + 100 * 64


def test_late_replicas_count_at_once() -> None:
    stats = RunStats(20_000, 2_000, 8)
    for n in range(288):  # eight replicas, an hour, shards of a hundred seconds
        stats.add(shard_metadata(documents=10, seconds=100.0), 100.0 * (1 + n // 8))
    stats.advance_clock(3600.0)
    stats.replicas = 64
    left = stats.time_left(3600.0)
    assert left is not None and left.value == pytest.approx(1712 * 100 / 64, rel=0.1)


def test_replicas_that_finish_nothing_count_as_idle() -> None:
    stats = RunStats(2_000, 200, 64)
    for n in range(100):  # the input keeps only four replicas busy
        stats.add(shard_metadata(documents=10, seconds=100.0), 100.0 * (1 + n // 4))
    stats.advance_clock(2500.0)
    left = stats.time_left(2500.0)
    assert left is not None and left.value == pytest.approx(100 * 100 / 4, rel=0.1)
