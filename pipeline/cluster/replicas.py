"""The replicas of a task on a cluster: how many there are, and how a Ray Data pipeline runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray.data
from ray.data import ActorPoolStrategy

from pipeline.cluster.actor import Replica
from pipeline.cluster.capacity import Capacity, blocks_in_flight, plan_capacity
from pipeline.cluster.session import cluster_nodes, join_cluster
from pipeline.cluster.user_code import send_by_value
from pipeline.settings import RunSettings
from pipeline.tasks.base import Task

# glibc returns freed memory to the system and faults it in again, while a replica allocates the same shapes
# all day. In huge pages, decoding reads the KV cache of long documents a sixth faster. Both hold only for the
# first arena, so the thread of the prediction loop must not have one of its own.
_TUNED_ALLOCATOR = (
    "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456:"
    "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
)


def prepare_cluster(task: Task, shards: int) -> Capacity:
    """Join or start the cluster, send it the code of the task, and plan the replicas for at most `shards`
    shards.

    Raises:
        UsageError: the cluster can never hold a replica, or a worker cannot import the task.
        PipelineError: the cluster cannot be joined.
    """
    settings = task.settings
    join_cluster(settings.ray_address, settings.metrics_port, settings.ray_start_seconds)
    capacity = plan_capacity(
        cluster_nodes(),
        shards,
        replicas=settings.replicas,
        max_replicas=settings.max_replicas,
        threads=settings.threads,
        gpus=settings.gpus,
    )
    send_by_value(task)
    return capacity


def predict(
    blocks: ray.data.Dataset,
    replica: type[Replica],
    arguments: Sequence[Any],
    settings: RunSettings,
    capacity: Capacity,
    documents: int,
) -> ray.data.Dataset:
    """The rows of blocks of about `documents` documents. Each replica is made with these arguments.

    Ray Data restarts a dead replica and repeats its blocks, without limit. `Predictor._predict` breaks the
    loop, with the crash counts of `workers/crashes.py`.
    """
    in_flight = blocks_in_flight(settings.slots, documents)
    return blocks.map_batches(
        replica,
        fn_constructor_args=tuple(arguments),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            min_size=capacity.replicas,
            max_size=capacity.max_replicas,
            initial_size=capacity.replicas,
            max_tasks_in_flight_per_actor=in_flight,
            max_concurrent_calls_per_actor=in_flight,
            enable_true_multi_threading=True,
        ),
        num_cpus=capacity.cpus,
        num_gpus=settings.gpus or None,
        runtime_env={
            "env_vars": {"OMP_NUM_THREADS": str(settings.threads), "GLIBC_TUNABLES": _TUNED_ALLOCATOR}
        },
    )
