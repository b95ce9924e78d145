"""Compares the processor in a user's own pipeline with the job: documents per second, and the rows.

Both run in this process, on one local cluster, in turn. The pipeline has a `map` of the user's before the
processor and a `filter` after it. The rate is measured between the first and the last block, or commit.

    python -m benchmarks.processor --documents 960 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data.expressions import col

import led_corpus
from benchmarks.rival import machine
from benchmarks.slot_utilization import write_corpus

MODEL = "demo/checkpoints/led-reports-summary"
BATCH = 64  # the default of both


def of_job(corpus: str, output: Path) -> tuple[float, dict[str, str]]:
    """Documents per second, and the summaries."""
    results = led_corpus.summarize(
        input=corpus, output=output, model=MODEL, shard_documents=BATCH, progress=False
    )
    commits = sorted((p.stat().st_mtime, pq.read_metadata(p).num_rows) for p in output.glob("part-*.parquet"))
    seconds = commits[-1][0] - commits[0][0]
    table = results.arrow(["doc_id", "summary"])
    return sum(rows for _, rows in commits[1:]) / seconds, _summaries([table])


def of_processor(corpus: str) -> tuple[float, dict[str, str]]:
    """Documents per second, and the summaries."""
    processor = led_corpus.build_processor("summarize", model=MODEL, batch_documents=BATCH)
    dataset = ray.data.read_parquet(corpus).map(lambda row: {**row, "characters": len(row["text"])})
    times, tables = [], []
    for table in (
        processor(dataset)
        .filter(expr=col("status") == "ok")
        .iter_batches(batch_size=None, batch_format="pyarrow")
    ):
        times.append(time.time())
        tables.append(table.select(["doc_id", "summary"]))
    return sum(map(len, tables[1:])) / (times[-1] - times[0]), _summaries(tables)


def _summaries(tables: list[pa.Table]) -> dict[str, str]:
    return {row["doc_id"]: row["summary"] for table in tables for row in table.to_pylist()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=960)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rates: dict[str, list[float]] = {"job": [], "processor": []}
    same: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        corpus = f"{folder}/corpus.parquet"
        write_corpus(Path(corpus), args.documents, BATCH)
        for number in range(args.rounds):
            ways: dict[str, Callable[[], Any]] = {
                "job": lambda number=number: of_job(corpus, Path(folder) / f"out-{number}"),
                "processor": lambda: of_processor(corpus),
            }
            order = list(ways) if number % 2 == 0 else list(ways)[::-1]
            found = {way: ways[way]() for way in order}
            for way, (rate, _) in found.items():
                rates[way].append(rate)
            same.append(found["job"][1] == found["processor"][1])
            print(
                {way: round(rate, 2) for way, (rate, _) in found.items()}, "same rows:", same[-1], flush=True
            )
    shares = [b / a for a, b in zip(rates["job"], rates["processor"], strict=True)]
    print(f"{args.documents} documents: the processor does {median(shares):.2f} of the job's documents per s")
    print(json.dumps({"machine": machine(), **rates, "shares": shares, "same rows": all(same)}))


if __name__ == "__main__":
    main()
