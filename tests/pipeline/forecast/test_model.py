"""The forecast for a machine with known costs, and scheduler steps counted by hand."""

from __future__ import annotations

import heapq
import random

import pytest

from pipeline.forecast.model import CalibrationShard, Length, calibrate, count_steps, forecast_seconds, total


@pytest.mark.parametrize(
    ("outputs", "slots", "steps"),
    [([5], 4, 5), ([5, 3, 2], 4, 5), ([5, 3, 2], 1, 10), ([5, 3, 2], 2, 5), ([4, 4, 4], 2, 8), ([], 3, 0)],
)
def test_steps_of_continuous_batching(outputs: list[int], slots: int, steps: int) -> None:
    assert count_steps(outputs, slots) == (steps, sum(outputs))


def shard_of(rng: random.Random, rows: int, slots: int = 8) -> tuple[CalibrationShard, float]:
    """A shard, and its seconds on a machine with known costs: 1 ms per 10 tokens, 5 ms per step, 2 ms per
    document in a step, and 1 ms per row."""
    tokens = sorted(
        ((n, round(20 + n / 50)) for n in (rng.randint(100, 4000) for _ in range(rows))), reverse=True
    )
    steps, document_steps = count_steps([m for _, m in tokens], slots)
    encode, decode = 1e-4 * sum(n for n, _ in tokens), 5e-3 * steps + 2e-3 * document_steps
    measured = {
        "encode_seconds": encode,
        "decode_seconds": decode,
        "steps": steps,
        "document_steps": document_steps,
    }
    seconds = (encode + decode + 1e-3 * rows) * rng.uniform(0.97, 1.03)
    return CalibrationShard(tuple(tokens), seconds, measured), seconds


def test_costs_are_recovered() -> None:
    rng = random.Random(1)
    costs = calibrate([shard_of(rng, 8)[0] for _ in range(12)])
    assert costs.encode_token == pytest.approx(1e-4)
    assert costs.step == pytest.approx(5e-3, rel=0.3) and costs.document_step == pytest.approx(2e-3, rel=0.3)
    with pytest.raises(ValueError, match="no calibration shard has a document that can be read"):
        calibrate([CalibrationShard((), 1.0, {})])


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_run_takes_as_long_as_forecast(replicas: int) -> None:
    rng = random.Random(2)
    calibration = [shard_of(rng, 8)[0] for _ in range(10)]
    lengths = [Length(rng.randint(100, 4000), 0) for _ in range(500)]
    truth = sum(shard_of(rng, 32)[1] for _ in range(60)) / replicas
    seconds, utilization = forecast_seconds(lengths, calibration, [32] * 60, replicas, 8)
    assert seconds.value == pytest.approx(truth, rel=0.1) and seconds.low < truth < seconds.high
    assert 0.7 < utilization <= 1
    many, _ = forecast_seconds(lengths, calibration, [32] * 6000, replicas, 8)
    assert many.value == pytest.approx(100 * seconds.value, rel=0.05)


def test_tasks_without_decoding_have_no_steps() -> None:
    calibration = [CalibrationShard(((n, 0),) * 4, 4 * n * 1e-3, {}) for n in (100, 300, 500)]
    seconds, utilization = forecast_seconds([Length(200, 0)] * 50, calibration, [10] * 7, 1, 8)
    assert seconds.value == pytest.approx(14.0, rel=0.02) and utilization == 0


def test_totals() -> None:
    assert total([1.0, 3.0], 100, complete=True).high == 200
    estimate = total([1.0, 3.0] * 50, 1000, complete=False)
    assert estimate.value == 2000 and 1700 < estimate.low < 2000 < estimate.high < 2300


@pytest.mark.parametrize(("shards", "replicas"), [(16, 4), (60, 8)])
def test_the_interval_covers_the_truth_in_80_percent_of_the_runs(shards: int, replicas: int) -> None:
    covered = []
    for seed in range(150):
        rng = random.Random(seed)
        calibration = [shard_of(rng, 8)[0] for _ in range(10)]
        lengths = [Length(rng.randint(100, 4000), 0) for _ in range(300)]
        speed, ends = rng.gauss(1.0, 0.04), [0.0] * replicas
        for _ in range(shards):
            heapq.heapreplace(ends, ends[0] + speed * shard_of(rng, 8)[1])
        forecast, _ = forecast_seconds(lengths, calibration, [8] * shards, replicas, 8)
        covered.append(forecast.low <= max(ends) <= forecast.high)
    assert 0.72 <= sum(covered) / len(covered) <= 0.88


def test_chunks_are_read_one_by_one_and_fused() -> None:
    """A row of 4 chunks takes as long as 4 rows, and fusing as long as a row of what they write."""
    calibration = [shard_of(random.Random(n), 8)[0] for n in range(10)]
    rows, _ = forecast_seconds([Length(1000, 0)], calibration, [32] * 40, 1, 8)
    chunks, _ = forecast_seconds([Length(4000, 0, 4)], calibration, [8] * 40, 1, 8)
    assert chunks.value == pytest.approx(rows.value, rel=0.05)
    fused, _ = forecast_seconds([Length(4000, 0, 4)], calibration, [8] * 40, 1, 8, fused_tokens=1000)
    assert 1.03 * chunks.value < fused.value < 1.4 * chunks.value
