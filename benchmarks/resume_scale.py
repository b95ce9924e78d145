"""Measures planning and resuming at scale: a million tiny documents in a thousand shards.

    python -m benchmarks.resume_scale --folder out/resume-scale

Prints the seconds of each step and the memory of the process after it. No document is processed. Half of the
shards count as committed. To resume, only the names of committed shards are needed.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.planning.build import inspect_inputs, plan_inputs
from pipeline.planning.document_ids import check_duplicate_ids
from pipeline.planning.plan import Plan, remaining
from pipeline.settings import RunSettings

T = TypeVar("T")


def write_corpus(folder: Path, documents: int, files: int, file_format: str) -> None:
    """Write documents of a few words, the same number to each file."""
    folder.mkdir(parents=True, exist_ok=True)
    size = documents // files
    for number in range(files):
        ids = [f"doc-{number * size + i:09d}" for i in range(size)]
        if file_format == "parquet":
            table = pa.table({"doc_id": ids, "text": ["a few words"] * size})
            pq.write_table(table, folder / f"{number:04d}.parquet")
        else:
            lines = [json.dumps({"doc_id": i, "text": "a few words"}) for i in ids]
            (folder / f"{number:04d}.jsonl").write_text("\n".join(lines))


def timed(name: str, step: Callable[[], T]) -> T:
    """Run a step. Print its seconds, the memory of the process and the peak memory so far."""
    start = time.monotonic()
    result = step()
    seconds = time.monotonic() - start
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{name:<44} {seconds:8.2f} s   memory {now / 2**20:6.0f} MiB, peak {peak / 2**20:6.0f} MiB",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--format", choices=["parquet", "jsonl"], default="parquet")
    args = parser.parse_args()
    corpus = args.folder / f"{args.format}-{args.documents}-{args.files}"
    if not corpus.exists():
        write_corpus(corpus, args.documents, args.files, args.format)
    settings = RunSettings(
        input=(str(corpus),),
        output="",
        model="",
        shard_documents=args.documents // args.shards,
        on_duplicate_id="keep",
    )

    timed("start", lambda: None)

    def plan(previous: Plan | None) -> Plan:
        return plan_inputs(inspect_inputs(settings, previous), {"weights_sha256": ""}, settings, previous)

    first = timed("plan: list, hash, count, split", lambda: plan(None))
    timed("compare all IDs", lambda: check_duplicate_ids(first, settings, first.id_column))
    frozen = timed("write and read the plan", lambda: Plan.from_json(first.to_json()))
    again = timed("plan again with unchanged files", lambda: plan(frozen))
    assert again.shards == frozen.shards
    done = {shard.part for shard in frozen.shards[::2]}
    left = timed("find remaining shards", lambda: remaining(frozen, done))
    size = len(first.to_json()) / 2**20
    print(
        f"{frozen.documents} documents, {len(frozen.shards)} shards, {len(left)} left; plan of {size:.1f} MiB"
    )


if __name__ == "__main__":
    main()
