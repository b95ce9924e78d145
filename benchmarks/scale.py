"""The pipeline at scale, with a model that sleeps: how busy actors are, what the driver and the object store
hold, and what a shard costs to schedule.

A cluster of raylets that say they have as many CPUs as there are actors; reading, tokenizing, sending,
committing and all else are real, and share this machine's cores. Busy is the share of their time that actors
spent in their model, from when each had its first shard to when the first found none.

    python -m benchmarks.scale --documents 100000 --replicas 8 python -m benchmarks.scale --documents 100000
    --replicas 64 --shard-documents 1 --seconds 1 --stop-after 600
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
from pipeline.output.store import open_store
from pipeline.planning.plan import Plan
from pipeline.run import run
from pipeline.settings import SummarizeSettings

MODEL = "demo/checkpoints/led-reports-summary"
FILES = 50


class Watched:
    """This process and the object stores, looked at every `every` seconds: (seconds, bytes, bytes of the
    object stores, seconds of CPU)."""

    def __init__(self, every: float = 2.0) -> None:
        self.seen: list[tuple[float, int, int, float]] = []
        self._every, self._begun, self._end = every, time.time(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        held = 0
        while not self._end.wait(self._every):
            with suppress(RpcError):  # a raylet that is busy answers late; what it held before stands
                held = sum(_held_by(node) for node in ray.nodes() if node["Alive"])
            self.seen.append((time.time() - self._begun, _own_bytes(), held, time.process_time()))

    def mean(self, column: int, first: float, last: float) -> float:
        """The mean of a column between two parts of the time, in MiB."""
        rows = self.seen[int(len(self.seen) * first) : max(1, int(len(self.seen) * last))]
        return sum(row[column] for row in rows) / max(1, len(rows)) / 2**20

    def cpu_seconds(self, first: float, last: float) -> float:
        """Seconds of CPU between two moments, as `time.time()` gives them."""
        rows = [row for row in self.seen if first <= self._begun + row[0] <= last]
        return rows[-1][3] - rows[0][3] if rows else 0.0


def _held_by(node: dict[str, Any]) -> int:
    """Bytes in a machine's object store."""
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False)
    return int(stats.store_stats.object_store_bytes_used)


def _own_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def corpus(folder: Path, documents: int, words: int) -> None:
    """Short documents in some files, in row groups of 64."""
    text = " ".join(["the pump at station seven was stopped"] * (words // 7))
    each = -(-documents // FILES)
    folder.mkdir()
    for number in range(FILES):
        ids = [f"d{i}" for i in range(number * each, min(documents, (number + 1) * each))]
        if ids:
            table = pa.table({"doc_id": ids, "text": [f"{name} {text}" for name in ids]})
            pq.write_table(table, folder / f"{number:03d}.parquet", row_group_size=64)


def busy_share(shards_metadata: Sequence[ShardMetadata], replicas: int) -> tuple[float, float]:
    """(share of their time that actors were in their model, seconds of that time), warm-up and last shards
    left out."""
    spans = sorted((r.finished_at - r.seconds, r.finished_at) for r in shards_metadata)
    begin = spans[min(replicas, len(spans) - 1)][0]
    end = sorted(stop for _, stop in spans)[-min(replicas, len(spans))]
    work = sum(max(0.0, min(stop, end) - max(start, begin)) for start, stop in spans)
    return work / max(1e-9, replicas * (end - begin)), end - begin


def measure(args: argparse.Namespace, replicas: int, documents: int, folder: Path) -> dict[str, Any]:
    """A run of so many actors on a cluster of its own."""
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
    usable_cpus = -(-replicas // args.machines)
    head = {
        "num_cpus": 0,
        "include_dashboard": False,
        "object_store_memory": 300 << 20,
        "_system_config": KEEP_WORKERS,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(args.machines):
        cluster.add_node(num_cpus=usable_cpus, object_store_memory=300 << 20)
    ray.init(address=cluster.address, log_to_driver=False)
    begun = time.time()
    with Watched() as watched:
        try:
            run(StandIn(settings, args.seconds))
        except Stopped as stopped:
            print(stopped, flush=True)
    ray.shutdown()
    cluster.shutdown()
    store = open_store(settings.output)
    plan, names = Plan.from_json(store.read("_plan.json")), store.names()
    shards_metadata = list(
        read_all_shard_metadata(store, [shard for shard in plan.shards if shard.part in names]).values()
    )
    share, span = busy_share(shards_metadata, replicas)
    first, last = (
        min(r.finished_at - r.seconds for r in shards_metadata),
        max(r.finished_at for r in shards_metadata),
    )
    return {
        "replicas": replicas,
        "shards": len(plan.shards),
        "shards_done": len(shards_metadata),
        "busy": share,
        "documents_per_s": sum(r.documents for r in shards_metadata) / (last - first),
        "idle_ms_per_shard": (1 - share) * span * replicas / len(shards_metadata) * 1e3,
        "driver_cpu_ms_per_shard": watched.cpu_seconds(first, last) / len(shards_metadata) * 1e3,
        "wall_s": time.time() - begun,
        "driver_mib": [watched.mean(1, 0.4, 0.5), watched.mean(1, 0.9, 1.0)],
        "object_store_mib": [watched.mean(2, 0.4, 0.5), watched.mean(2, 0.9, 1.0)],
        "seen": [
            [round(s, 1), rss >> 20, held >> 20]
            for s, rss, held, _ in watched.seen[:: max(1, len(watched.seen) // 60)]
        ],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument(
        "--replicas", type=int, nargs="+", default=[8], help="a run for each, of documents in proportion"
    )
    parser.add_argument("--machines", type=int, default=2)
    parser.add_argument("--shard-documents", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.03, help="of the model, for each document")
    parser.add_argument("--words", type=int, default=70)
    parser.add_argument("--stop-after", type=float, help="seconds after which the run is asked to end")
    args = parser.parse_args(argv)
    rows = []
    for replicas in args.replicas:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(args, replicas, args.documents * replicas // max(args.replicas), Path(folder))
        rows.append(row)
        print(
            f"{replicas} actors, {row['shards_done']:,} of {row['shards']:,} shards: busy {row['busy']:.1%}, "
            f"{row['documents_per_s']:.1f} documents/s, idle {row['idle_ms_per_shard']:.0f} ms a shard, driver "
            f"{row['driver_cpu_ms_per_shard']:.1f} ms of CPU a shard; driver {row['driver_mib'][0]:.0f} then "
            f"{row['driver_mib'][1]:.0f} MiB, object stores {row['object_store_mib'][0]:.1f} then "
            f"{row['object_store_mib'][1]:.1f} MiB",
            flush=True,
        )
    for row in rows[1:]:
        linear = rows[0]["documents_per_s"] * row["replicas"] / rows[0]["replicas"]
        print(
            f"{rows[0]['replicas']} to {row['replicas']} actors: {row['documents_per_s'] / linear:.3f} of linear"
        )
    settings = {
        name: getattr(args, name) for name in ("documents", "machines", "shard_documents", "seconds", "words")
    }
    print(json.dumps({"benchmark": "scale", "machine": machine(), **settings, "rows": rows}))


if __name__ == "__main__":
    main()
