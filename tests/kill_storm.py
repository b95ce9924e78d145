"""Kills random processes of a cluster of three raylets: workers, replicas, raylets and drivers.

Each run is one job. If its driver is killed, the same command is run again, until a driver succeeds. In half
of the runs, two drivers compete. Then the rows are compared with those of an undisturbed run, and the files
with their content when they first appeared. Runs alternate between a disk and S3 (radosgw if it is installed,
otherwise moto's server).

    python -m tests.kill_storm --kills 100
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from pipeline.cluster.session import KEEP_WORKERS
from pipeline.output.open_store import open_store
from pipeline.output.store import Store
from pipeline.output.verify import status, verify
from tests.conftest import make_checkpoint, words
from tests.pipeline.crash import rows_of
from tests.pipeline.s3 import KEYS, NO_RADOSGW, moto_server, radosgw_server
from tests.pipeline.same_rows import same_row

ROOT = Path(__file__).parents[1]
KILLS_IN_A_RUN = 12
KINDS = {"worker": 4, "replica": 4, "driver": 2, "raylet": 1}
LONGEST_RUN_S, STALLED_S = 600.0, 90.0


class Raylets:
    """A head and two more raylets, each with two CPUs."""

    def __init__(self) -> None:
        head = {"num_cpus": 2, "object_store_memory": 200 << 20, "_system_config": KEEP_WORKERS}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._others = [self._add() for _ in range(2)]
        self.address: str = self._cluster.address

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=2, object_store_memory=200 << 20)

    def kill_one(self, rng: random.Random) -> None:
        """Kill a raylet other than the head's."""
        os.kill(_raylet(rng.choice(self._others)), signal.SIGKILL)

    def heal(self) -> None:
        """Replace every dead raylet."""
        for node in [
            node for node in self._others if node.all_processes["raylet"][0].process.poll() is not None
        ]:
            self._others.remove(node)
            self._cluster.remove_node(node, allow_graceful=False)
            self._others.append(self._add())

    def processes(self) -> dict[str, list[int]]:
        """The pids of replicas, and of all other workers with Ray's internal actors.

        The agents of the raylets are left out, because a raylet dies with its agent.
        """
        raylets = {_raylet(node) for node in [self._cluster.head_node, *self._others]}
        found: dict[str, list[int]] = {"replica": [], "worker": []}
        for entry in Path("/proc").iterdir():
            try:
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent in raylets and title.startswith("ray::") and "Agent" not in title:
                found["replica" if "MapWorker" in title or "Predictor" in title else "worker"].append(
                    int(entry.name)
                )
        return found

    def close(self) -> None:
        """Stop the cluster."""
        self._cluster.shutdown()


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


class Storm:
    """Kills processes, and counts what was killed, lost, duplicated and incomplete."""

    def __init__(self, corpus: Path, model: Path, seed: int) -> None:
        self.raylets = Raylets()
        self.rng = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self._job = [
            "--input",
            corpus,
            "--model",
            model,
            "--shard-documents",
            2,
            "--ray-address",
            self.raylets.address,
            "--min-new-tokens",
            40,
            "--max-new-tokens",
            40,
            "--replicas",
            2,
            "--overflow",
            "fuse",
        ]

    def start(self, output: str) -> subprocess.Popen[bytes]:
        """Start a driver."""
        words = [sys.executable, ROOT / "jobs/summarize_corpus.py", *self._job, "--output", output]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [str(w) for w in words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def undisturbed(self, output: str) -> list[dict[str, Any]]:
        """The rows of an undisturbed run."""
        assert self.start(output).wait(LONGEST_RUN_S) == 0
        return rows_of(open_store(output))

    def run(self, output: str, drivers: int, expected: list[dict[str, Any]], most: int) -> None:
        """Run one job with `drivers` drivers and up to `most` kills, and check its output."""
        store, first_seen = open_store(output), dict[str, bytes]()
        running = [self.start(output) for _ in range(drivers)]
        begun = moved = struck = time.monotonic()
        kills = 0
        while not any(driver.poll() == 0 for driver in running):
            assert time.monotonic() - begun < LONGEST_RUN_S, (
                f"{output} did not end in {LONGEST_RUN_S} seconds"
            )
            for i, driver in enumerate(running):
                code = driver.poll()
                if code is not None:
                    if code != -signal.SIGKILL:
                        self.found["failed drivers that were restarted"] += 1
                    running[i] = self.start(output)
            time.sleep(self.rng.uniform(0.2, 2.0))
            self.raylets.heal()
            # Most kills wait until a shard was committed, because a kill before any work tests little.
            if kills < most and (moved > struck or self.rng.random() < 0.1):
                kills += self.kill(running)
                struck = time.monotonic()
            for name in store.names():
                if name.startswith("part-") and name not in first_seen:
                    first_seen[name] = store.read(name)
                    moved = time.monotonic()
            if time.monotonic() - moved > STALLED_S:  # Ray may wait for an internal actor that was killed
                moved = time.monotonic()
                self.found["stalls ended by killing the drivers"] += 1
                for driver in running:
                    driver.kill()
        for driver in running:
            driver.wait(LONGEST_RUN_S)
        self.found["runs"] += 1
        self.count(store, first_seen, expected)

    def kill(self, drivers: Sequence[subprocess.Popen[bytes]]) -> int:
        """Kill one process of a random kind, if one exists. Returns the number of kills."""
        kind = self.rng.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "raylet":
            self.raylets.kill_one(self.rng)
        else:
            alive = (
                [d.pid for d in drivers if d.poll() is None]
                if kind == "driver"
                else self.raylets.processes()[kind]
            )
            if not alive:
                return 0
            try:
                os.kill(self.rng.choice(alive), signal.SIGKILL)
            except ProcessLookupError:
                return 0
        self.killed[kind] += 1
        print(f"{time.strftime('%X')} a {kind}", end="; ", flush=True)
        return 1

    def count(self, store: Store, first_seen: dict[str, bytes], expected: list[dict[str, Any]]) -> None:
        """Compare the output with the expected rows."""
        rows = rows_of(store)
        ids, wanted = Counter(row["doc_id"] for row in rows), {row["doc_id"] for row in expected}
        self.found["documents"] += len(wanted)
        self.found["lost"] += len(wanted - ids.keys())
        self.found["duplicated"] += sum(times > 1 for times in ids.values())
        found = {row["doc_id"]: row for row in rows}
        self.found["other rows"] += sum(not same_row(found.get(row["doc_id"]), row) for row in expected)
        self.found["incomplete"] += len(verify(store).problems) + (not status(store).finished)
        self.found["changed"] += sum(store.read(name) != content for name, content in first_seen.items())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--documents", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with moto_server() if NO_RADOSGW else radosgw_server(folder / "radosgw") as url:
            os.environ.update({**KEYS, "AWS_ENDPOINT_URL": url})
            fsspec.filesystem("s3").mkdir("storm")
            (folder / "corpus").mkdir()
            # Every third document is longer than the model's limit, and is read in chunks.
            lengths = [3 + n % 60 if n % 3 else 500 for n in range(args.documents)]
            texts = [words(length, n) if n % 29 else None for n, length in enumerate(lengths)]
            ids = [f"d{n}" for n in range(args.documents)]
            pq.write_table(
                pa.table({"doc_id": ids, "text": texts}), folder / "corpus" / "a.parquet", row_group_size=50
            )
            storm = Storm(folder / "corpus", make_checkpoint(folder / "model"), args.seed)
            expected = storm.undisturbed(f"{folder}/undisturbed")
            while storm.killed.total() < args.kills:
                n = storm.found["runs"]
                output = f"s3://storm/{n}" if n % 2 else f"{folder}/{n}"
                storm.run(
                    output, 1 + n // 2 % 2, expected, min(KILLS_IN_A_RUN, args.kills - storm.killed.total())
                )
                print(f"\n{output}: {dict(storm.killed)}, {dict(storm.found)}", flush=True)
            storm.raylets.close()
    print(
        json.dumps(
            {
                "killed": dict(storm.killed),
                "kills": storm.killed.total(),
                "s3": NO_RADOSGW or "radosgw",
                **storm.found,
            }
        )
    )
    bad = {
        what: storm.found[what]
        for what in ("lost", "duplicated", "other rows", "incomplete", "changed")
        if storm.found[what]
    }
    if bad:
        raise SystemExit(f"the storm found {bad}")


if __name__ == "__main__":
    main()
