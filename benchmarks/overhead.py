"""What flags, attention strips and metrics cost, each as a ratio of documents per second with and without.

One process, taking turns: the bare predictor over the same documents. Metrics and logs run in the driver,
not beside the model: their cost is the time of a look at the run, against the time between two of them.

    python -m benchmarks.overhead --documents 24 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.rival import interleaved, machine
from pipeline.monitor.progress import ProgressLog
from pipeline.monitor.prometheus import PrometheusMetrics
from pipeline.monitor.stats import RunStats
from pipeline.planning.plan import Shard
from pipeline.run import _INTERVAL_S
from pipeline.settings import SummarizeSettings
from pipeline.tasks import Summarize
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader

MODEL, CORPUS = "demo/checkpoints/led-reports-summary", "demo/corpus/reports-00.parquet"
WAYS = {"plain": {"flags": False}, "flags": {}, "attention": {"flags": False, "attention": True}}


def measure(documents: int, rounds: int) -> dict[str, float]:
    """CPU seconds of each way, and the share of documents per second that is left of the plain one's."""
    torch.set_num_threads(1)
    calls = {}
    for name, given in WAYS.items():
        task = Summarize(SummarizeSettings(input=(CORPUS,), output="none", model=MODEL, **given))
        predictor = Predictor(task, MODEL, None)
        table = ShardReader(task, MODEL, None, task.input_limits(Path(MODEL)))(
            Shard("s", CORPUS, 0, documents)
        )
        calls[name] = lambda p=predictor, t=table: p(t)
    seconds, _ = interleaved(calls, rounds)
    return {
        **seconds,
        **{f"{name} ratio": seconds["plain"] / seconds[name] for name in WAYS if name != "plain"},
    }


def look_seconds() -> float:
    """Seconds of one look at a run by metrics and log."""
    settings = SummarizeSettings(input=("i",), output="o", model="m")
    observers, stats = (PrometheusMetrics(settings, "benchmark"), ProgressLog()), RunStats(10**6, 10**4, 8)
    begun = time.perf_counter()
    for _ in range(200):
        stats.own.counts.update(documents=64, shards=1, input_tokens=10**5)
        for observe in observers:
            observe(stats, 100.0)
    return (time.perf_counter() - begun) / 200


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    found = measure(args.documents, args.rounds)
    found |= {"look": look_seconds()}
    found["metrics ratio"] = 1 - found["look"] / _INTERVAL_S
    for name in ("flags", "attention", "metrics"):
        print(f"documents per second with {name}: {found[f'{name} ratio']:.4f} of those without")
    print(json.dumps({"machine": machine(), "documents": args.documents, **found}))


if __name__ == "__main__":
    main()
