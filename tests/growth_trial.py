"""A run on a cluster that grows: Ray's own autoscaler, with machines that are raylets of this one.

It begins with one machine of two CPUs, and --max-actors says that there may be three: the autoscaler must have started them,
and the run must use them.

    python -m tests.growth_trial
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import ray

from benchmarks.scale import MODEL, corpus
from benchmarks.stand_in import StandIn
from infra.local_cluster import FOLDER, PORT, kill, start
from pipeline.commit import read_receipts
from pipeline.config import SummarizeSettings
from pipeline.run import run
from pipeline.shards import PLAN, Plan
from pipeline.store import open_store
from pipeline.verify import verify

ROOT = Path(__file__).parents[1]
HEAD = "f" * 51 + "00000"
MACHINES, CPUS = 3, 2

# What Ray's cluster launcher would fill in, had its package the defaults of this provider.
COMMANDS = ("setup", "head_setup", "worker_setup", "initialization", "head_start_ray", "worker_start_ray")
EMPTY: dict[str, Any] = {
    **{f"{name}_commands": [] for name in COMMANDS},
    **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    **{name: {} for name in ("auth", "file_mounts", "docker")},
    "file_mounts_sync_continuously": False,
}
CONFIG = EMPTY | {
    "cluster_name": "growth",
    "max_workers": MACHINES,
    "upscaling_speed": 10.0,
    "idle_timeout_minutes": 5,
    "provider": {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "launch_multiple": True,
        "head_node_id": HEAD,
        "gcs_address": f"127.0.0.1:{PORT}",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
    },
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": CPUS, "object_store_memory": 300 << 20},
            "node_config": {},
            "min_workers": 1,
            "max_workers": MACHINES,
        },
    },
}
ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}


def main() -> None:
    os.chdir(ROOT)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    (FOLDER / "autoscaler.json").write_text(json.dumps(CONFIG))
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    session = start(
        0, "--head", "--num-cpus", "0", "--port", str(PORT), "--autoscaling-config", str(FOLDER / "autoscaler.json")
    )
    os.environ.clear()
    os.environ.update(before)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            corpus(folder / "corpus", 2400, 70)
            settings = SummarizeSettings(
                input=(str(folder / "corpus"),), output=str(folder / "out"), model=MODEL, flags=False, shard_documents=16,
                ray_address=f"127.0.0.1:{PORT}", max_actors=MACHINES * CPUS,
            )  # fmt: skip
            counts = run(StandIn(settings, 0.2)).manifest
            cpus = sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
            store = open_store(settings.output)
            assert counts["ok"] == 2400 and verify(store).problems == []
            receipts = read_receipts(store, Plan.from_json(store.read(PLAN)).shards).values()
            spans = sorted((receipt.finished_at - receipt.seconds, receipt.finished_at) for receipt in receipts)
            at_once = [sum(begin <= moment < end for begin, end in spans) for moment, _ in spans]
            print(json.dumps({"cpus": cpus, "copies at work at first": at_once[0], "at most": max(at_once)}))
            assert cpus == max(at_once) == MACHINES * CPUS
    finally:
        kill(session)


if __name__ == "__main__":
    main()
