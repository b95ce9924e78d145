"""What deciding takes at scale: a million tiny documents in a thousand shards, planned, then resumed with
half of them done.

python -m benchmarks.resume_scale --folder out/resume-scale [--documents 1000000 --shards 1000 --format
parquet]

Prints seconds and the process's memory after each step. Nothing is run: committed shards are empty files of
their names, since resuming looks at names alone.
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


def write_corpus(folder: Path, documents: int, files: int, kind: str) -> None:
    """Files of equally many documents of a few words."""
    folder.mkdir(parents=True, exist_ok=True)
    each = documents // files
    for number in range(files):
        ids = [f"doc-{number * each + i:09d}" for i in range(each)]
        if kind == "parquet":
            pq.write_table(
                pa.table({"doc_id": ids, "text": ["a few words"] * each}), folder / f"{number:04d}.parquet"
            )
        else:
            lines = [json.dumps({"doc_id": i, "text": "a few words"}) for i in ids]
            (folder / f"{number:04d}.jsonl").write_text("\n".join(lines))


def timed(what: str, work: Callable[[], T]) -> T:
    """Do it and print what it took, with the highest memory of the process so far and its memory now."""
    begun = time.monotonic()
    result = work()
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{what:<44} {time.monotonic() - begun:8.2f} s   memory {now / 2**20:6.0f} MiB, peak {peak / 2**20:6.0f} MiB",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--format", choices=["parquet", "jsonl"], default="parquet")
    arguments = parser.parse_args()
    corpus = arguments.folder / f"{arguments.format}-{arguments.documents}-{arguments.files}"
    each = arguments.documents // arguments.shards
    if not corpus.exists():
        write_corpus(corpus, arguments.documents, arguments.files, arguments.format)
    settings = RunSettings(
        input=(str(corpus),), output="", model="", shard_documents=each, on_duplicate_id="keep"
    )

    timed("begun", lambda: None)

    def plan(before: Plan | None) -> Plan:
        return plan_inputs(inspect_inputs(settings, before), {"weights_sha256": ""}, settings, before)

    first = timed("plan: find, hash, count, cut", lambda: plan(None))
    timed("compare all ids", lambda: check_duplicate_ids(first, settings))
    frozen = timed("write the plan and read it back", lambda: Plan.from_json(first.to_json()))
    again = timed("plan again, files as they were", lambda: plan(frozen))
    assert again.shards == frozen.shards
    done = {shard.part for shard in frozen.shards[::2]}
    left = timed("what remains", lambda: remaining(frozen, done))
    size = len(first.to_json()) / 2**20
    print(
        f"{frozen.documents} documents, {len(frozen.shards)} shards, {len(left)} left; plan of {size:.1f} MiB"
    )


if __name__ == "__main__":
    main()
