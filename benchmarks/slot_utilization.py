"""Measures the slot utilization of whole jobs, by shard size, where summaries end where they end.

python -m benchmarks.slot_utilization --documents 2000 --shards 1 64 1000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.rival import machine
from pipeline.monitor.stats import Totals
from pipeline.output.commit import read_shard_metadata
from pipeline.output.open_store import open_store

MODEL = "demo/checkpoints/led-reports-summary"


def write_corpus(path: Path, documents: int, row_group: int | None = None) -> None:
    """Write the demo corpus, repeated to so many documents, in row groups of this size or in one."""
    table = pq.read_table("demo/corpus", columns=["text"])
    table = pa.concat_tables([table] * -(-documents // len(table))).slice(0, documents)
    pq.write_table(
        table.append_column("doc_id", pa.array([f"d{i}" for i in range(documents)])),
        path,
        row_group_size=row_group,
    )


def run_job(corpus: Path, output: Path, shard: int) -> dict[str, float]:
    """Slot utilization, and documents per second between the first and the last commit."""
    command = [sys.executable, "jobs/summarize_corpus.py", "--input", str(corpus), "--output", str(output)]
    command += ["--model", MODEL, "--shard-documents", str(shard)]
    start = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.time() - start
    store = open_store(str(output))
    shards = [read_shard_metadata(store, name) for name in store.names() if name.startswith("part-")]
    totals = Totals.of(shards)
    ends = sorted(each.finished_at for each in shards)
    between = totals.counts["documents"] * (1 - 1 / len(shards))
    return {
        "slot_utilization": totals.slot_utilization or 0.0,
        "documents_per_s": between / (ends[-1] - ends[0]) if len(ends) > 1 else 0.0,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 64, 1000])
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.parquet"
        write_corpus(corpus, args.documents)
        for shard in args.shards:
            found[shard] = run_job(corpus, Path(folder) / f"out-{shard}", shard)
            values = found[shard]
            print(
                f"{args.documents} documents in shards of {shard}: slot utilization "
                f"{values['slot_utilization']:.3f}, {values['documents_per_s']:.2f} documents per s, "
                f"{values['seconds']:.0f} s",
                flush=True,
            )
    print(json.dumps({"machine": machine(), "documents": args.documents, "shards": found}))


if __name__ == "__main__":
    main()
