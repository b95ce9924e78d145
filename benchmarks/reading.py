"""Measures the cost of reading all shards of a file, by the number of rows in one row group, and as gzipped
JSON lines.

A file of row groups that are as long as a shard is the reference. Documents have 5 KiB.

    python -m benchmarks.reading --rows 5000 20000 100000 1000000
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.rival import machine
from pipeline.inputs.files import find_files
from pipeline.inputs.read import inspect_file, read_rows

SHARD, MAX_BYTES = 64, 1 << 28
_PIECE = 10_000


def texts(first: int, last: int) -> list[str]:
    """Texts of 5 KiB, each with its number."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(4096)]
    bases = [" ".join(words[i] for i in rng.integers(0, len(words), 790)) for _ in range(200)]
    return [f"{i} {bases[i % len(bases)]}" for i in range(first, last)]


def pieces(rows: int) -> Iterator[pa.Table]:
    """The rows of a file, piece by piece."""
    for first in range(0, rows, _PIECE):
        last = min(first + _PIECE, rows)
        yield pa.table({"doc_id": [f"d{i}" for i in range(first, last)], "text": texts(first, last)})


def write(path: Path, rows: int, group: int) -> None:
    """Write a file. A Parquet file has row groups of `group` rows."""
    if path.suffix == ".gz":
        with gzip.open(path, "wt", compresslevel=1) as file:
            for table in pieces(rows):
                file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
    elif group < rows:
        with pq.ParquetWriter(path, pa.schema({"doc_id": pa.string(), "text": pa.string()})) as writer:
            for table in pieces(rows):
                writer.write_table(table, row_group_size=group)
    else:
        pq.write_table(pa.concat_tables(pieces(rows)), path, row_group_size=group)


def read(path: str, result: Any) -> None:
    """Read all shards. Puts CPU seconds of planning and of reading, and peak memory beyond the start."""
    start_rss = peak_rss()
    start = time.process_time()
    [entry] = find_files((path,)).files
    planned = inspect_file(entry, SHARD, {}, skip_bad=False, max_bytes=MAX_BYTES)
    inspected = time.process_time()
    count = 0
    for split in planned.splits:
        count += len(read_rows(entry.path, split, "text", ["text", "doc_id"], MAX_BYTES).table)
    assert count == planned.file.rows
    result.put((inspected - start, time.process_time() - inspected, peak_rss() - start_rss))


def peak_rss() -> int:
    """The peak memory of this process in bytes. Unlike that of getrusage, it is not inherited."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def measure(path: Path) -> dict[str, float]:
    """The cost of reading a file, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=read, args=(str(path), result))
    process.start()
    plan, seconds, peak = result.get()
    process.join()
    return {"plan_cpu_s": plan, "read_cpu_s": seconds, "peak_mib": peak / 2**20}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[5000, 20000, 100000])
    args = parser.parse_args(argv)
    found: dict[str, dict[int, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in args.rows:
            for kind, name, group in (
                ("row groups of a shard", "shards.parquet", SHARD),
                ("one row group", "one.parquet", rows),
                ("gzip", "lines.jsonl.gz", rows),
            ):
                path = Path(folder) / name
                write(path, rows, group)
                cost = measure(path)
                path.unlink()
                found.setdefault(kind, {})[rows] = cost
                print(
                    f"{rows} rows, {kind}: {cost['read_cpu_s']:.2f} s of CPU, "
                    f"{1e6 * cost['read_cpu_s'] / rows:.0f} us a row, planned in {cost['plan_cpu_s']:.2f} s, "
                    f"{cost['peak_mib']:.0f} MiB",
                    flush=True,
                )
    print(json.dumps({"machine": machine(), "reading": found}))


if __name__ == "__main__":
    main()
