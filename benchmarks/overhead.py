"""Measures the cost of quality flags, cross-attention profiles and metrics.

For flags and profiles, predictors process the same documents alternately in one process. Metrics and logs run
in the driver. Their cost is the time of one update divided by the interval between updates.

    python -m benchmarks.overhead --documents 24 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.rival import interleaved, machine
from pipeline.monitor.progress import ProgressLog
from pipeline.monitor.prometheus import PrometheusMetrics
from pipeline.monitor.stats import RunStats
from pipeline.planning.plan import Shard
from pipeline.run import _INTERVAL_S
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader

MODEL, CORPUS = "demo/checkpoints/led-reports-summary", "demo/corpus/reports-00.parquet"
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"flags": False},
    "flags": {},
    "attention": {"flags": False, "attention": True},
}


def measure(documents: int, rounds: int) -> dict[str, float]:
    """CPU seconds of each variant, and its documents per second relative to the plain one."""
    torch.set_num_threads(1)
    calls = {}
    for name, changes in VARIANTS.items():
        task = Summarize(SummarizeSettings(input=(CORPUS,), output="none", model=MODEL, **changes))
        predictor = Predictor(task, MODEL, None)
        table = ShardReader(task, MODEL, None, task.input_limits(Path(MODEL)))(
            Shard("s", CORPUS, 0, documents)
        )
        calls[name] = partial(predictor, table)
    seconds, _ = interleaved(calls, rounds)
    return {
        **seconds,
        **{f"{name} ratio": seconds["plain"] / seconds[name] for name in VARIANTS if name != "plain"},
    }


def update_seconds() -> float:
    """Seconds of one update of metrics and log."""
    settings = SummarizeSettings(input=("i",), output="o", model="m")
    observers, stats = (PrometheusMetrics(settings, "benchmark"), ProgressLog()), RunStats(10**6, 10**4, 8)
    start = time.perf_counter()
    for _ in range(200):
        stats.own.counts.update(documents=64, shards=1, input_tokens=10**5)
        for observe in observers:
            observe(stats, 100.0)
    return (time.perf_counter() - start) / 200


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    results = measure(args.documents, args.rounds)
    results |= {"update": update_seconds()}
    results["metrics ratio"] = 1 - results["update"] / _INTERVAL_S
    for name in ("flags", "attention", "metrics"):
        print(f"documents per second with {name}: {results[f'{name} ratio']:.4f} of those without")
    print(json.dumps({"machine": machine(), "documents": args.documents, **results}))


if __name__ == "__main__":
    main()
