"""How often the 80 % interval of the time left covers the true time, in simulated runs.

A run has log-normal shard durations with a mean of 100 s. Each shard starts on the replica that becomes free
first. The benchmark compares the estimates at 25, 50, 75 and 90 % of the shards with the time that the rest
takes. The options make the runs less regular than the model of the estimate.

    python -m benchmarks.interval_coverage --runs 500
"""

from __future__ import annotations

import argparse
import heapq
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.monitor.stats import Estimate, RunStats
from pipeline.output.commit import ShardMetadata

SHAPES = ((8, 1), (16, 4), (60, 8), (200, 8), (500, 16), (2000, 64))  # shards, replicas
MOMENTS = (0.25, 0.5, 0.75, 0.9)  # share of the shards that are done
VARIATIONS = (0.1, 0.3, 0.6)  # coefficients of variation of the durations

MEAN_SECONDS, POLL_SECONDS, DOCUMENTS = 100.0, 2.0, 10


@dataclass(frozen=True)
class Disturbance:
    """Irregularities of a simulated run that the model of the estimate does not have."""

    start_spread: float = 0.0  # seconds over which the replicas start
    wait: float = 0.0  # mean seconds that a replica waits for each shard
    reused: float = 0.0  # share of the shards that take no time


@dataclass(frozen=True)
class Outcome:
    """An estimate, the time that was left, and the CPU seconds that the estimate took."""

    estimate: Estimate
    truth: float
    cost: float

    @property
    def covered(self) -> bool:
        """Whether the interval covers the true time."""
        return self.estimate.low <= self.truth <= self.estimate.high

    @property
    def width(self) -> float:
        """The width of the interval relative to the truth."""
        return (self.estimate.high - self.estimate.low) / self.truth


def simulate(
    rng: np.random.Generator, shards: int, replicas: int, variation: float, disturbance: Disturbance
) -> list[tuple[float, float]]:
    """Return (end, duration) of each shard of a run, in the order of the ends."""
    variance = math.log1p(variation**2)
    durations = MEAN_SECONDS * np.exp(rng.normal(-variance / 2, math.sqrt(variance), shards))
    durations[rng.random(shards) < disturbance.reused] = 0.0
    waits = rng.exponential(disturbance.wait, shards)
    free = sorted(rng.uniform(0.0, disturbance.start_spread, replicas).tolist())
    run = []
    for duration, wait in zip(durations.tolist(), waits.tolist(), strict=True):
        end = free[0] + wait + duration
        heapq.heapreplace(free, end)
        run.append((end, duration))
    return sorted(run)


def outcomes(
    shape: tuple[int, int], variation: float, runs: int, seed: int = 0, disturbance: Disturbance | None = None
) -> Iterator[tuple[float, Outcome]]:
    """Yield (moment, outcome) for simulated runs of a shape. Moments without an estimate are left out."""
    shards, replicas = shape
    rng = np.random.default_rng([seed, shards, replicas, round(1000 * variation)])
    for _ in range(runs):
        run = simulate(rng, shards, replicas, variation, disturbance or Disturbance())
        stats, added = RunStats(DOCUMENTS * shards, shards, replicas), 0
        for moment in MOMENTS:
            now = run[round(moment * shards) - 1][0] + rng.uniform(0.0, POLL_SECONDS)
            while added < shards and run[added][0] <= now:
                end, duration = run[added]
                stats.add(_metadata(duration), end)
                added += 1
            stats.advance_clock(now)
            start = time.thread_time()
            estimate = stats.time_left(now)
            cost = time.thread_time() - start
            if estimate is not None and now < run[-1][0]:
                yield moment, Outcome(estimate, run[-1][0] - now, cost)


def _metadata(seconds: float) -> ShardMetadata:
    return ShardMetadata(
        shard_id="s",
        attempt="a",
        documents=DOCUMENTS,
        rows=DOCUMENTS,
        ok=DOCUMENTS,
        failed=0,
        skipped=0,
        failed_documents=0,
        reused=0 if seconds else DOCUMENTS,
        input_tokens=0,
        truncated=0,
        output_tokens=0,
        failures={},
        flags={},
        finished_at=0.0,
        seconds=seconds,
        measured={},
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=500, help="simulated runs for each row of the table")
    parser.add_argument(
        "--start-spread", type=float, default=0.0, help="seconds over which the replicas start"
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, help="mean seconds that a replica waits for a shard"
    )
    parser.add_argument("--reused", type=float, default=0.0, help="share of the shards that take no time")
    args = parser.parse_args(argv)
    disturbance = Disturbance(args.start_spread, args.wait, args.reused)
    print("coverage of the 80 % interval (mean width relative to the truth), by the share of shards done")
    header = "".join(f"{f'{moment:.0%} done':>15}" for moment in MOMENTS)
    print(f"{'shards x replicas':<18}{'cv':>5}{header}{'ms a call':>11}")
    for shape in SHAPES:
        for variation in VARIATIONS:
            by_moment: dict[float, list[Outcome]] = {moment: [] for moment in MOMENTS}
            for moment, outcome in outcomes(shape, variation, args.runs, disturbance=disturbance):
                by_moment[moment].append(outcome)
            cells = [
                f"{np.mean([o.covered for o in cell]):.2f} ({np.mean([o.width for o in cell]):.2f})"
                for cell in by_moment.values()
            ]
            cost = 1000 * max(np.mean([o.cost for o in cell]) for cell in by_moment.values())
            row = "".join(f"{cell:>15}" for cell in cells)
            print(f"{f'{shape[0]} x {shape[1]}':<18}{variation:>5}{row}{cost:>11.1f}", flush=True)


if __name__ == "__main__":
    main()
