"""The forecast model: the duration of a run, from sampled document lengths and calibration shards. Pure
functions.

A replica decodes its shards as one stream, in which the last documents of a shard share the slots with the
first ones of the next. The duration of a shard is a sum of terms. Each term is proportional to a quantity
that is countable in advance:

- encoding: input tokens
- decoding: steps, documents in those steps, and the input tokens that these documents attend to
- the rest: rows and tokens

Calibration fits the costs per unit. The streams of the run are then simulated with lengths drawn from the
sample, and with the slots of the scheduler. The steps of a stream are divided among its shards by their
document steps.

The 80 % interval comes from simulated runs. Each of them draws its shards anew and starts each shard on the
replica that becomes free first. Three errors that all shards have in common widen it. They are the errors of
the sampled lengths, of the costs, and of the machine's speed.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from pipeline.batching import longest_first
from pipeline.monitor.makespan import Array, list_schedule
from pipeline.monitor.stats import Estimate

# Shards to simulate. More of them would come from the same sample and add no information.
_MAX_SIMULATED = 400

# Runs to simulate.
_RUNS = 400

# In a long run, only the last shards are scheduled one by one: this many, and this many per replica.
_SCHEDULED, _SCHEDULED_PER_REPLICA = 1000, 8

# The least relative deviation of a forecast. The speed of one machine varies by this much between hours.
_MIN_DEVIATION = 0.04

# The relative deviation if there is only one observation.
_UNKNOWN_DEVIATION = 0.2

# The largest relative deviation of a shard's duration.
_MAX_DEVIATION = 1.0

# The error of the costs is estimated by leaving out one of this many groups of calibration shards at a time.
_GROUPS = 20

# Half the width of the 80 % interval of a normal distribution, in standard deviations.
_Z_80 = 1.28

# Calibration rows of similar length from which an output length is drawn.
_NEIGHBOURS = 10


class Length(NamedTuple):
    """The tokens of one row, read and truncated, and the chunks in which they are read."""

    input_tokens: int
    truncated_tokens: int
    chunks: int = 1


@dataclass(frozen=True)
class CalibrationShard:
    """A shard that the calibration processed.

    `tokens` has (input tokens, output tokens) of each row, or of each chunk that was decoded for a row.
    `measured` has further measurements by name.
    """

    tokens: tuple[tuple[int, int], ...]
    predict_seconds: float
    measured: dict[str, float]


@dataclass(frozen=True)
class Work:
    """The countable work of a shard.

    `document_steps` counts the documents in each decode step, summed over the steps. `token_steps` counts
    their input tokens in the same way.
    """

    tokens: float
    rows: float
    steps: float
    document_steps: float
    token_steps: float


@dataclass(frozen=True)
class Costs:
    """Seconds per unit of work.

    `deviation` is the standard deviation of a shard's duration, relative to the duration that the costs
    predict.
    """

    encode_token: float
    step: float
    document_step: float
    token_step: float
    rest_token: float
    rest_row: float
    deviation: float

    def seconds(self, work: Work) -> float:
        """The predicted duration of a shard."""
        return (
            (self.encode_token + self.rest_token) * work.tokens
            + self.step * work.steps
            + self.document_step * work.document_steps
            + self.token_step * work.token_steps
            + self.rest_row * work.rows
        )


def count_steps(outputs: Sequence[int], slots: int) -> tuple[int, int]:
    """(steps, document steps) of continuous batching with `slots` slots over documents with these output
    lengths, in this order."""
    slot_ends = [0] * min(slots, len(outputs))
    for length in outputs:
        heapq.heapreplace(slot_ends, slot_ends[0] + length)
    return max(slot_ends, default=0), sum(outputs)


def calibrate(shards: Sequence[CalibrationShard]) -> Costs:
    """The costs that fit these shards best.

    Raises:
        ValueError: no shard has a row that could be read.
    """
    shards = _readable(shards)
    works = [_measured_work(shard) for shard in shards]
    encode = [shard.measured.get("encode_seconds", 0.0) for shard in shards]
    decode = [shard.measured.get("decode_seconds", 0.0) for shard in shards]
    rest = [max(0.0, s.predict_seconds - e - d) for s, e, d in zip(shards, encode, decode, strict=True)]
    encode_token = sum(encode) / max(1.0, sum(work.tokens for work in works))
    step, document_step, token_step = _fit(
        [[w.steps, w.document_steps, w.token_steps] for w in works], decode
    )
    rest_token, rest_row = _fit([[w.tokens, w.rows] for w in works], rest)
    costs = Costs(encode_token, step, document_step, token_step, rest_token, rest_row, _UNKNOWN_DEVIATION)
    if len(shards) == 1:
        return costs
    ratios = [s.predict_seconds / max(1e-9, costs.seconds(w)) for s, w in zip(shards, works, strict=True)]
    return replace(costs, deviation=min(_MAX_DEVIATION, stdev(ratios)))


def forecast_seconds(
    lengths: Sequence[Length],
    calibration: Sequence[CalibrationShard],
    shard_rows: Sequence[int],
    replicas: int,
    slots: int,
    seed: int = 0,
    fused_tokens: int | None = None,
) -> tuple[Estimate, float]:
    """(seconds from the start of the first shard to the end of the last, slot utilization) of a run.

    `lengths` are those of the sampled rows. `shard_rows` has the number of rows of each shard. Output lengths
    are drawn from calibration rows of similar length. With `fused_tokens`, what is written for the chunks of
    a row is read again, in chunks of that many tokens, until one is left.
    """
    rng, costs = random.Random(seed), calibrate(calibration)
    known = sorted(pair for shard in calibration for pair in shard.tokens)
    # A document occupies its slot a little longer than its best output is long.
    document_steps = sum(shard.measured.get("document_steps", 0) for shard in calibration)
    written = sum(output for _, output in known)
    stretch = document_steps / written if written else 0.0
    shard_rows = list(shard_rows)
    repeated = shard_rows * max(1, _MAX_SIMULATED // len(shard_rows))
    drawn = rng.sample(repeated, min(_MAX_SIMULATED, len(repeated)))
    shards_of_items = []
    for rows in drawn:
        of_shard = rng.choices(lengths, k=rows)
        of_shard = [of_shard[i] for i in longest_first([length.input_tokens for length in of_shard])]
        items = [item for length in of_shard for item in _draw_items(length, known, fused_tokens, rng)]
        shards_of_items.append(items)
    per_replica = -(-len(shard_rows) // replicas)
    works = [
        work
        for first in range(0, len(shards_of_items), per_replica)
        for work in _stream_works(shards_of_items[first : first + per_replica], stretch, slots)
    ]
    slot_steps = sum(work.steps for work in works) * slots
    slot_utilization = sum(work.document_steps for work in works) / slot_steps if slot_steps else 0.0
    draws = np.random.default_rng(seed)
    durations = np.array([costs.seconds(work) for work in works])
    makespans = _draw_makespans(durations, costs.deviation, len(shard_rows), replicas, draws)
    deviation = math.hypot(_MIN_DEVIATION, _deviation_of_mean(lengths))
    error, degrees = _error_of_costs(calibration, works)
    common = 1 + deviation * draws.standard_normal(_RUNS) + error * draws.standard_t(degrees, _RUNS)
    makespans = makespans * np.maximum(0.0, common)
    low, value, high = np.quantile(makespans, (0.1, 0.5, 0.9), method="weibull").tolist()
    return Estimate(value, low, high), slot_utilization


def total(values: Sequence[float], rows: int, *, complete: bool) -> Estimate:
    """The sum over `rows` rows. `values` are those of all rows if `complete`, otherwise those of a sample."""
    value = fmean(values) * rows
    if complete or len(values) < 2:
        return Estimate.exactly(value)
    unseen = max(0.0, 1 - len(values) / rows)
    half_width = _Z_80 * stdev(values) / math.sqrt(len(values)) * math.sqrt(unseen) * rows
    return Estimate(value, max(0.0, value - half_width), value + half_width)


def _readable(shards: Sequence[CalibrationShard]) -> list[CalibrationShard]:
    readable = [shard for shard in shards if shard.tokens]
    if not readable:
        raise ValueError("no calibration shard has a document that can be read")
    return readable


def _draw_makespans(
    durations: Array, deviation: float, shards: int, replicas: int, rng: np.random.Generator
) -> Array:
    """The makespans of `_RUNS` simulated runs, with shards drawn from `durations`.

    Shards before the last ones count as work that the replicas divide evenly.
    """
    replicas = min(replicas, shards)
    last = min(shards, max(_SCHEDULED, _SCHEDULED_PER_REPLICA * replicas))
    before, mean = shards - last, durations.mean()
    spread = math.sqrt(before) * math.hypot(durations.std(), deviation * mean)
    work = before * mean + spread * rng.standard_normal((_RUNS, 1))
    sigma = math.sqrt(math.log1p(deviation**2))
    noise = np.exp(sigma * rng.standard_normal((_RUNS, last)) - sigma**2 / 2)
    free = np.repeat(work / replicas, replicas, axis=1)
    return list_schedule(free, rng.choice(durations, (_RUNS, last)) * noise)


def _error_of_costs(calibration: Sequence[CalibrationShard], works: Sequence[Work]) -> tuple[float, int]:
    """The relative standard error of the predicted total work, and its degrees of freedom.

    A grouped jackknife. The costs are fitted again without each group of calibration shards. The errors of
    single costs are correlated, so they cannot be added up.
    """
    shards = _readable(calibration)
    groups = min(_GROUPS, len(shards))
    if groups < 2:
        return _UNKNOWN_DEVIATION, 1
    totals = []
    for group in range(groups):
        costs = calibrate([shard for i, shard in enumerate(shards) if i % groups != group])
        totals.append(sum(costs.seconds(work) for work in works))
    return stdev(totals) * (groups - 1) / math.sqrt(groups) / max(1e-9, fmean(totals)), groups - 1


def _deviation_of_mean(lengths: Sequence[Length]) -> float:
    """The relative standard error of the mean input length."""
    tokens = [length.input_tokens for length in lengths]
    if len(tokens) < 2:
        return _UNKNOWN_DEVIATION
    return stdev(tokens) / math.sqrt(len(tokens)) / max(1e-9, fmean(tokens))


def _measured_work(shard: CalibrationShard) -> Work:
    return Work(
        tokens=sum(n for n, _ in shard.tokens),
        rows=len(shard.tokens),
        steps=shard.measured.get("steps", 0.0),
        document_steps=shard.measured.get("document_steps", 0.0),
        token_steps=sum(n * m for n, m in shard.tokens),
    )


def _stream_works(shards: Sequence[Sequence[tuple[int, int]]], stretch: float, slots: int) -> list[Work]:
    """The work of each shard of a stream, from (tokens read, tokens written) of its documents and chunks.

    A document takes `stretch` times as many steps as it has tokens written.
    """
    steps_of = [[round(written * stretch) for _, written in items] for items in shards]
    steps, document_steps = count_steps([own for steps in steps_of for own in steps], slots)
    share = steps / document_steps if document_steps else 0.0
    return [
        Work(
            tokens=sum(read for read, _ in items),
            rows=len(items),
            steps=share * sum(own),
            document_steps=sum(own),
            token_steps=sum(read * written for read, written in items),
        )
        for items, own in zip(shards, steps_of, strict=True)
    ]


def _draw_items(
    length: Length, known: Sequence[tuple[int, int]], fused_tokens: int | None, rng: random.Random
) -> list[tuple[int, int]]:
    """(tokens read, tokens written) of each chunk of a row, at all levels."""
    items: list[tuple[int, int]] = []
    tokens, chunks = length.input_tokens, length.chunks
    while True:
        level = [(tokens // chunks, _draw_output(tokens // chunks, known, rng)) for _ in range(chunks)]
        items += level
        written = sum(output for _, output in level)
        if fused_tokens is None or chunks == 1 or written >= tokens:
            return items
        tokens, chunks = written, -(-written // fused_tokens) or 1


def _draw_output(tokens: int, known: Sequence[tuple[int, int]], rng: random.Random) -> int:
    """The output length of a random row among the known rows nearest in input length. `known` is sorted."""
    if not known:
        return 0
    position = bisect_left(known, (tokens,))
    low = max(0, min(position - _NEIGHBOURS // 2, len(known) - _NEIGHBOURS))
    return rng.choice(known[low : low + _NEIGHBOURS])[1]


def _fit(features: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Non-negative factors of the features, fitted to the values by least squares. Tries every subset of the
    features."""
    matrix, target = np.array(features, float), np.array(values, float)
    best, least_error = np.zeros(matrix.shape[1]), float(target @ target)
    for size in range(1, matrix.shape[1] + 1):
        for subset in combinations(range(matrix.shape[1]), size):
            factors = np.linalg.lstsq(matrix[:, subset], target, rcond=None)[0]
            error = float(((matrix[:, subset] @ factors - target) ** 2).sum())
            if (factors >= 0).all() and error < least_error * (1 - 1e-6):
                best, least_error = np.zeros(matrix.shape[1]), error
                best[list(subset)] = factors
    return best.tolist()
