"""What a run will take, from a sample of its documents' lengths and a rehearsal of a few of its shards. Pure.

The work of a shard is a sum of parts, each in proportion to something that can be counted beforehand:
encoding to tokens, decoding to steps, to documents in them and to the tokens these look at, the rest to
rows and tokens. The rehearsal gives the proportions; the shards are drawn from the sample, their batches
made as the decoding loop makes them.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from pipeline.batching import longest_first
from pipeline.monitor.stats import Estimate

# Shards that are drawn; more runs of the same draw tell nothing new.
_DRAWN = 400

# A forecast is never surer than this: a machine is not the same from one hour to the next.
_LEAST_DEVIATION = 0.04

_Z_80 = 1.28


class Length(NamedTuple):
    """A row's tokens, read and cut off."""

    input_tokens: int
    truncated_tokens: int


@dataclass(frozen=True)
class CalibrationShard:
    """A shard that was rehearsed: the tokens (read, written) of each of its rows, and what was measured of
    it."""

    tokens: tuple[tuple[int, int], ...]
    predict_seconds: float
    measured: dict[str, float]


@dataclass(frozen=True)
class Work:
    """What a shard asks for."""

    tokens: float
    rows: float
    steps: float
    document_steps: float
    token_steps: float


@dataclass(frozen=True)
class Costs:
    """Seconds for each unit of work."""

    encode_token: float
    step: float
    document_step: float
    token_step: float
    rest_token: float
    rest_row: float
    deviation: float  # of a shard's time from what the others say, as a share

    def seconds(self, work: Work) -> float:
        """What a shard takes."""
        return (
            (self.encode_token + self.rest_token) * work.tokens
            + self.step * work.steps
            + self.document_step * work.document_steps
            + self.token_step * work.token_steps
            + self.rest_row * work.rows
        )


def steps_of(outputs: Sequence[int], in_flight: int) -> tuple[int, int]:
    """(steps, documents in them, summed) of a loop that holds `in_flight` documents of these lengths, in this
    order."""
    free = [0] * min(in_flight, len(outputs))
    for length in outputs:
        heapq.heapreplace(free, free[0] + length)
    return max(free, default=0), sum(outputs)


def calibrate(calibration: Sequence[CalibrationShard]) -> Costs:
    """The costs that these shards show.

    Raises:
        ValueError: there is none with rows that could be read.
    """
    calibration = [shard for shard in calibration if shard.tokens]
    if not calibration:
        raise ValueError("no shard with a document that can be read was rehearsed")
    works = [_work_measured(shard) for shard in calibration]
    encode = [shard.measured.get("encode_seconds", 0.0) for shard in calibration]
    decode = [shard.measured.get("decode_seconds", 0.0) for shard in calibration]
    rest = [max(0.0, s.predict_seconds - e - d) for s, e, d in zip(calibration, encode, decode, strict=True)]
    encode_token = sum(encode) / max(1.0, sum(work.tokens for work in works))
    step, document_step, token_step = _fit(
        [[w.steps, w.document_steps, w.token_steps] for w in works], decode
    )
    rest_token, rest_row = _fit([[w.tokens, w.rows] for w in works], rest)
    costs = Costs(encode_token, step, document_step, token_step, rest_token, rest_row, 0.0)
    ratios = [
        s.predict_seconds / max(1e-9, costs.seconds(w)) for s, w in zip(calibration, works, strict=True)
    ]
    deviation = min(0.5, stdev(ratios) / math.sqrt(len(ratios))) if len(ratios) > 1 else 0.2
    return Costs(encode_token, step, document_step, token_step, rest_token, rest_row, deviation)


def forecast_seconds(
    lengths: Sequence[Length],
    calibration: Sequence[CalibrationShard],
    shards: Sequence[int],
    replicas: int,
    in_flight: int,
    seed: int = 0,
) -> tuple[Estimate, float]:
    """(seconds from the first shard's begin to the last one's end, documents in a step over places) of shards
    of so many rows.

    `lengths` are the sample's, one of a row; outputs are as long as those of rehearsed rows of about that
    length.
    """
    rng, costs = random.Random(seed), calibrate(calibration)
    outputs = sorted(pair for shard in calibration for pair in shard.tokens)
    steps, written = sum(s.measured.get("document_steps", 0) for s in calibration), sum(o for _, o in outputs)
    stretch = (
        steps / written if written else 0.0
    )  # a document is held a little longer than its best output is long
    drawn = rng.preview(list(shards), _DRAWN) if len(shards) > _DRAWN else list(shards)
    works = []
    for rows in drawn:
        inputs = [length.input_tokens for length in rng.choices(lengths, k=rows)]
        works.append(
            _work_drawn([inputs[i] for i in longest_first(inputs)], outputs, stretch, in_flight, rng)
        )
    times = [costs.seconds(work) for work in works]
    everything = times * (len(shards) // len(times)) + times[: len(shards) % len(times)]
    lanes = [0.0] * min(replicas, len(everything))
    for seconds in everything:
        heapq.heapreplace(lanes, lanes[0] + seconds)
    middle = max(lanes)
    places = sum(work.steps for work in works) * in_flight
    fill = sum(work.document_steps for work in works) / places if places else 0.0
    tokens = [length.input_tokens for length in lengths]
    sampled = stdev(tokens) / math.sqrt(len(tokens)) / max(1e-9, fmean(tokens)) if len(tokens) > 1 else 0.2
    reach = _Z_80 * math.hypot(_LEAST_DEVIATION, sampled, costs.deviation) * middle
    return Estimate(middle, max(0.0, middle - reach), middle + reach), fill


def total(values: Sequence[float], rows: int, *, everything: bool) -> Estimate:
    """The sum over so many rows, of which `values` are a sample, or all."""
    middle = fmean(values) * rows
    if everything or len(values) < 2:
        return Estimate.exactly(middle)
    unseen = max(0.0, 1 - len(values) / rows)
    reach = _Z_80 * stdev(values) / math.sqrt(len(values)) * math.sqrt(unseen) * rows
    return Estimate(middle, max(0.0, middle - reach), middle + reach)


def _work_measured(shard: CalibrationShard) -> Work:
    steps = shard.measured.get("document_steps", 0.0)
    return Work(
        sum(n for n, _ in shard.tokens),
        len(shard.tokens),
        shard.measured.get("steps", 0.0),
        steps,
        sum(n * m for n, m in shard.tokens),
    )


def _work_drawn(
    inputs: Sequence[int],
    known: Sequence[tuple[int, int]],
    stretch: float,
    in_flight: int,
    rng: random.Random,
) -> Work:
    outputs = [_output_like(n, known, rng) for n in inputs]
    steps, document_steps = steps_of([round(n * stretch) for n in outputs], in_flight)
    token_steps = sum(n * m for n, m in zip(inputs, outputs, strict=True))
    return Work(sum(inputs), len(inputs), steps, document_steps, token_steps)


def _output_like(tokens: int, known: Sequence[tuple[int, int]], rng: random.Random) -> int:
    """The output of one of the ten known rows that are nearest in length."""
    if not known:
        return 0
    place = int(np.searchsorted([n for n, _ in known], tokens))
    low = max(0, min(place - 5, len(known) - 10))
    return rng.choice(known[low : low + 10])[1]


def _fit(features: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """The factors, none below 0, by which the features come closest to the values: the best of all choices of
    features."""
    matrix, target = np.array(features, float), np.array(values, float)
    best, closest = np.zeros(matrix.shape[1]), float(target @ target)
    for size in range(1, matrix.shape[1] + 1):
        for chosen in combinations(range(matrix.shape[1]), size):
            factors = np.linalg.lstsq(matrix[:, chosen], target, rcond=None)[0]
            miss = float(((matrix[:, chosen] @ factors - target) ** 2).sum())
            if (factors >= 0).all() and miss < closest * (1 - 1e-6):
                best, closest = np.zeros(matrix.shape[1]), miss
                best[list(chosen)] = factors
    return best.tolist()
