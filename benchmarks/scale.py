"""Measures the pipeline at scale with a model that only sleeps (`benchmarks.stand_in`).

It measures the busy share of the replicas, the memory of the driver and the object stores, and the cost of
scheduling a shard. The cluster consists of raylets that announce one CPU per replica. Reading, tokenizing,
sending and committing are real and share this machine's cores.

The busy share is the share of their time that replicas spend in their model. Warm-up and the last shards are
excluded.

    python -m benchmarks.scale --documents 100000 --replicas 8
    python -m benchmarks.scale --documents 100000 --replicas 64 --shard-documents 1 --seconds 1 \\
        --stop-after 600
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from grpc import RpcError
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster

from benchmarks.rival import machine
from benchmarks.stand_in import StandIn
from pipeline.cluster.session import KEEP_WORKERS
from pipeline.errors import Stopped
from pipeline.output.commit import ShardMetadata, read_all_shard_metadata
from pipeline.output.open_store import open_store
from pipeline.planning.plan import Plan
from pipeline.run import run
from pipeline.tasks.settings import SummarizeSettings

MODEL = "demo/checkpoints/led-reports-summary"
FILES = 50


class Sampler:
    """Samples the memory and CPU time of this process, and the object stores, every `interval_s` seconds.

    `samples` are (seconds since the start, bytes of this process, bytes of the object stores, CPU seconds).
    """

    def __init__(self, interval_s: float = 2.0) -> None:
        self.samples: list[tuple[float, int, int, float]] = []
        self._interval_s, self._start, self._end = interval_s, time.time(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        stored = 0
        while not self._end.wait(self._interval_s):
            with suppress(RpcError):  # a busy raylet may not answer in time; then its last value is kept
                stored = sum(_stored_bytes(node) for node in ray.nodes() if node["Alive"])
            self.samples.append((time.time() - self._start, _own_bytes(), stored, time.process_time()))

    def mean(self, column: int, first: float, last: float) -> float:
        """The mean of a column between two fractions of the time, in MiB."""
        rows = self.samples[int(len(self.samples) * first) : max(1, int(len(self.samples) * last))]
        return sum(row[column] for row in rows) / max(1, len(rows)) / 2**20

    def cpu_seconds(self, first: float, last: float) -> float:
        """CPU seconds between two times of `time.time()`."""
        rows = [row for row in self.samples if first <= self._start + row[0] <= last]
        return rows[-1][3] - rows[0][3] if rows else 0.0


def _stored_bytes(node: dict[str, Any]) -> int:
    """Bytes in the object store of a node."""
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False)
    return int(stats.store_stats.object_store_bytes_used)


def _own_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def corpus(folder: Path, documents: int, words: int) -> None:
    """Write short documents to `FILES` files, in row groups of 64."""
    text = " ".join(["the pump at station seven was stopped"] * (words // 7))
    size = -(-documents // FILES)
    folder.mkdir()
    for number in range(FILES):
        ids = [f"d{i}" for i in range(number * size, min(documents, (number + 1) * size))]
        if ids:
            table = pa.table({"doc_id": ids, "text": [f"{name} {text}" for name in ids]})
            pq.write_table(table, folder / f"{number:03d}.parquet", row_group_size=64)


def busy_share(shards: Sequence[ShardMetadata], replicas: int) -> tuple[float, float]:
    """The busy share of the replicas, and the seconds of the measured period."""
    spans = sorted((shard.finished_at - shard.seconds, shard.finished_at) for shard in shards)
    begin = spans[min(replicas, len(spans) - 1)][0]
    end = sorted(stop for _, stop in spans)[-min(replicas, len(spans))]
    work = sum(max(0.0, min(stop, end) - max(start, begin)) for start, stop in spans)
    return work / max(1e-9, replicas * (end - begin)), end - begin


def measure(args: argparse.Namespace, replicas: int, documents: int, folder: Path) -> dict[str, Any]:
    """Measure a run with this number of replicas on a new cluster."""
    corpus(folder / "corpus", documents, args.words)
    settings = SummarizeSettings(
        input=(str(folder / "corpus"),),
        output=str(folder / "out"),
        model=MODEL,
        replicas=replicas,
        flags=False,
        shard_documents=args.shard_documents,
        on_duplicate_id="keep",
        stop_at=time.strftime("%Y-%m-%dT%H:%M", time.localtime(time.time() + args.stop_after))
        if args.stop_after
        else None,
    )
    cpus = -(-replicas // args.machines)
    head = {
        "num_cpus": 0,
        "include_dashboard": False,
        "object_store_memory": 300 << 20,
        "_system_config": KEEP_WORKERS,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(args.machines):
        cluster.add_node(num_cpus=cpus, object_store_memory=300 << 20)
    ray.init(address=cluster.address, log_to_driver=False)
    start = time.time()
    with Sampler() as sampler:
        try:
            run(StandIn(settings, args.seconds))
        except Stopped as stopped:
            print(stopped, flush=True)
    ray.shutdown()
    cluster.shutdown()
    store = open_store(settings.output)
    plan, names = Plan.from_json(store.read("_plan.json")), store.names()
    committed = [shard for shard in plan.shards if shard.part in names]
    shards = list(read_all_shard_metadata(store, committed).values())
    share, seconds = busy_share(shards, replicas)
    first = min(shard.finished_at - shard.seconds for shard in shards)
    last = max(shard.finished_at for shard in shards)
    return {
        "replicas": replicas,
        "shards": len(plan.shards),
        "shards_done": len(shards),
        "busy": share,
        "documents_per_s": sum(shard.documents for shard in shards) / (last - first),
        "idle_ms_per_shard": (1 - share) * seconds * replicas / len(shards) * 1e3,
        "driver_cpu_ms_per_shard": sampler.cpu_seconds(first, last) / len(shards) * 1e3,
        "wall_s": time.time() - start,
        "driver_mib": [sampler.mean(1, 0.4, 0.5), sampler.mean(1, 0.9, 1.0)],
        "object_store_mib": [sampler.mean(2, 0.4, 0.5), sampler.mean(2, 0.9, 1.0)],
        "seen": [
            [round(s, 1), rss >> 20, stored >> 20]
            for s, rss, stored, _ in sampler.samples[:: max(1, len(sampler.samples) // 60)]
        ],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument(
        "--replicas",
        type=int,
        nargs="+",
        default=[8],
        help="number of replicas of each run; documents are in proportion",
    )
    parser.add_argument("--machines", type=int, default=2)
    parser.add_argument("--shard-documents", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.03, help="seconds of the model for each document")
    parser.add_argument("--words", type=int, default=70)
    parser.add_argument("--stop-after", type=float, help="seconds after which the run stops")
    args = parser.parse_args(argv)
    rows = []
    for replicas in args.replicas:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(args, replicas, args.documents * replicas // max(args.replicas), Path(folder))
        rows.append(row)
        print(
            f"{replicas} replicas, {row['shards_done']:,} of {row['shards']:,} shards: busy "
            f"{row['busy']:.1%}, {row['documents_per_s']:.1f} documents/s, idle "
            f"{row['idle_ms_per_shard']:.0f} ms per shard, driver {row['driver_cpu_ms_per_shard']:.1f} ms of "
            f"CPU per shard; driver {row['driver_mib'][0]:.0f}, at the end {row['driver_mib'][1]:.0f} MiB; "
            f"object stores {row['object_store_mib'][0]:.1f}, at the end {row['object_store_mib'][1]:.1f} "
            "MiB",
            flush=True,
        )
    for row in rows[1:]:
        linear = rows[0]["documents_per_s"] * row["replicas"] / rows[0]["replicas"]
        share = row["documents_per_s"] / linear
        print(f"{rows[0]['replicas']} to {row['replicas']} replicas: {share:.3f} of linear scaling")
    settings = {
        name: getattr(args, name) for name in ("documents", "machines", "shard_documents", "seconds", "words")
    }
    print(json.dumps({"benchmark": "scale", "machine": machine(), **settings, "rows": rows}))


if __name__ == "__main__":
    main()
