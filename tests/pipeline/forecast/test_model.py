"""The forecast against a machine whose costs are known, and the loop's steps counted by hand."""

from __future__ import annotations

import random

import pytest

from pipeline.forecast.model import CalibrationShard, Length, calibrate, forecast_seconds, steps_of, total


@pytest.mark.parametrize(
    ("outputs", "in_flight", "steps"),
    [([5], 4, 5), ([5, 3, 2], 4, 5), ([5, 3, 2], 1, 10), ([5, 3, 2], 2, 5), ([4, 4, 4], 2, 8), ([], 3, 0)],
)
def test_steps_of_a_loop_whose_places_are_filled_again(
    outputs: list[int], in_flight: int, steps: int
) -> None:
    assert steps_of(outputs, in_flight) == (steps, sum(outputs))


def shard_of(rng: random.Random, rows: int, in_flight: int = 8) -> tuple[CalibrationShard, float]:
    """A shard of a machine that takes 1 ms for 10 tokens, 5 ms a step, 2 ms a document in it and 1 ms a
    row."""
    tokens = sorted(
        ((n, round(20 + n / 50)) for n in (rng.randint(100, 4000) for _ in range(rows))), reverse=True
    )
    steps, document_steps = steps_of([m for _, m in tokens], in_flight)
    encode, decode = 1e-4 * sum(n for n, _ in tokens), 5e-3 * steps + 2e-3 * document_steps
    measured = {
        "encode_seconds": encode,
        "decode_seconds": decode,
        "steps": steps,
        "document_steps": document_steps,
    }
    seconds = (encode + decode + 1e-3 * rows) * rng.uniform(0.97, 1.03)
    return CalibrationShard(tuple(tokens), seconds, measured), seconds


def test_costs_are_found() -> None:
    rng = random.Random(1)
    costs = calibrate([shard_of(rng, 8)[0] for _ in range(12)])
    assert costs.encode_token == pytest.approx(1e-4)
    assert costs.step == pytest.approx(5e-3, rel=0.3) and costs.document_step == pytest.approx(2e-3, rel=0.3)
    with pytest.raises(ValueError, match="no shard with a document that can be read"):
        calibrate([CalibrationShard((), 1.0, {})])


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_run_takes_as_long_as_was_said(replicas: int) -> None:
    rng = random.Random(2)
    calibration = [shard_of(rng, 8)[0] for _ in range(10)]
    lengths = [Length(rng.randint(100, 4000), 0) for _ in range(500)]
    truth = sum(shard_of(rng, 32)[1] for _ in range(60)) / replicas
    found, fill = forecast_seconds(lengths, calibration, [32] * 60, replicas, 8)
    assert (
        found.middle == pytest.approx(truth, rel=0.1) and found.low < truth < found.high and 0.7 < fill <= 1
    )
    many, _ = forecast_seconds(lengths, calibration, [32] * 6000, replicas, 8)
    assert many.middle == pytest.approx(100 * found.middle, rel=0.05)


def test_readers_have_no_steps() -> None:
    calibration = [CalibrationShard(((n, 0),) * 4, 4 * n * 1e-3, {}) for n in (100, 300, 500)]
    found, fill = forecast_seconds([Length(200, 0)] * 50, calibration, [10] * 7, 1, 8)
    assert found.middle == pytest.approx(14.0, rel=0.02) and fill == 0


def test_sums() -> None:
    assert total([1.0, 3.0], 100, everything=True).high == 200
    guess = total([1.0, 3.0] * 50, 1000, everything=False)
    assert guess.middle == 2000 and 1700 < guess.low < 2000 < guess.high < 2300
