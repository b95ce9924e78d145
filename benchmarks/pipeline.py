"""Measures the cost of Ray and Parquet: the job's throughput compared with that of bare predictors.

Both process the same documents on the same cores. The bare predictors are processes, one per core. They read
their shards in advance and then predict one after another. The job's throughput is measured between its first
and its last commit. The time before the first commit is reported separately.

    python -m benchmarks.pipeline --documents 960
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.rival import machine
from benchmarks.slot_utilization import write_corpus
from pipeline.checkpoint import find_checkpoint
from pipeline.prepare import build_plan
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader

MODEL = "demo/checkpoints/led-reports-summary"
SHARD = 64  # the default


def predict(task: Summarize, tables: list[Any], ready: Any, times: Any) -> None:
    """Load a predictor, wait for the others, and predict `tables`. Put start and end times into `times`."""
    predictor = Predictor(task, task.settings.model, None)
    ready.wait()
    start = time.time()
    for table in tables:
        predictor(table)
    times.put((start, time.time()))


def bare(task: Summarize, cores: int) -> tuple[int, float]:
    """Documents, and documents per second, of bare predictors. Each core gets every n-th shard."""
    checkpoint = find_checkpoint(task.settings)
    plan = build_plan(task, checkpoint, None)
    reader = ShardReader(task, task.settings.model, None, task.input_limits(checkpoint.folder))
    tables = [reader(shard) for shard in plan.shards]
    context = multiprocessing.get_context("spawn")
    ready, times = context.Barrier(cores), context.Queue()
    workers = [
        context.Process(target=predict, args=(task, tables[i::cores], ready, times)) for i in range(cores)
    ]
    for worker in workers:
        worker.start()
    spans = [times.get() for _ in workers]
    for worker in workers:
        worker.join()
    seconds = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return plan.documents, plan.documents / seconds


def job(settings: SummarizeSettings) -> dict[str, float]:
    """Documents per second between the first and the last commit, and the seconds of each phase."""
    command = [
        sys.executable,
        "jobs/summarize_corpus.py",
        "--input",
        *settings.input,
        "--output",
        settings.output,
        "--model",
        settings.model,
        "--shard-documents",
        str(SHARD),
    ]
    start = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time()
    parts = sorted(
        (p.stat().st_mtime, pq.read_metadata(p).num_rows)
        for p in Path(settings.output).glob("part-*.parquet")
    )
    first, last = parts[0][0], parts[-1][0]
    return {
        "documents_per_s": sum(rows for _, rows in parts[1:]) / (last - first),
        "start_s": first - start,
        "end_s": end - last,
        "all_s": end - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=960)
    args = parser.parse_args()
    cores = os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder) / "corpus.parquet", args.documents, SHARD)
        settings = SummarizeSettings(
            input=(f"{folder}/corpus.parquet",), output=f"{folder}/out", model=MODEL, shard_documents=SHARD
        )
        result = job(settings)
        shutil.rmtree(settings.output)
        documents, rate = bare(Summarize(settings), cores)
    share = result["documents_per_s"] / rate
    print(
        f"{documents} documents, {cores} cores: bare predictors {rate:.2f} documents per s, the job "
        f"{result['documents_per_s']:.2f} ({share:.0%}); {result['start_s']:.0f} s before its first commit"
    )
    print(json.dumps({"machine": machine(), "bare": rate, "job": result, "share": share}))


if __name__ == "__main__":
    main()
