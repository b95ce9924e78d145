"""The Ray Data pipeline of a run: read tasks, predictor replicas and commit tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from led.checkpoint.hub import Checkpoint
from pipeline.cluster.actor import PredictorActor
from pipeline.cluster.capacity import IO_CPUS, Capacity, blocks_in_flight, bundle_shards, plan_capacity
from pipeline.cluster.control import RunControl
from pipeline.cluster.session import cluster_nodes, join_cluster, translate_ray_errors
from pipeline.cluster.sink import CommitSink
from pipeline.cluster.source import ShardSource, Shared, share
from pipeline.cluster.user_code import send_by_value
from pipeline.monitor.stats import RunStats
from pipeline.output.previous_runs import load_previous_runs
from pipeline.planning.plan import Plan, Shard
from pipeline.schema import split_by_shard
from pipeline.tasks.base import Task
from pipeline.workers.reader import ShardReader

_LONGEST_SHARD_S = 24 * 3600

# glibc returns freed memory to the system and faults it in again, while a replica allocates the same shapes
# all day. In huge pages, decoding reads the KV cache of long documents a sixth faster. Both hold only for the
# first arena, so the thread of the prediction loop must not have one of its own.
_TUNED_ALLOCATOR = (
    "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456:"
    "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
)


@contextmanager
def _own_context() -> Iterator[None]:
    """Within this context, settings of Ray Data do not change those of the caller's own datasets."""
    callers = DataContext.get_current()
    DataContext._set_current(callers.copy())
    try:
        yield
    finally:
        DataContext._set_current(callers)


def replica_environment(threads: int) -> dict[str, Any]:
    """The runtime environment of a replica with this many threads."""
    return {"env_vars": {"OMP_NUM_THREADS": str(threads), "GLIBC_TUNABLES": _TUNED_ALLOCATOR}}


class Workers:
    """Readers, replicas and committers on the cluster, for at most `shards` shards, and the control that all
    of them read.

    Raises:
        UsageError: the cluster can never hold them, or a worker cannot import the task.
        PipelineError: the cluster cannot be joined.
    """

    def __init__(self, task: Task, checkpoint: Checkpoint, shards: int, run: str) -> None:
        self._task, self._checkpoint, self._run = task, checkpoint, run
        settings = task.settings
        with translate_ray_errors():
            join_cluster(settings.ray_address, settings.metrics_port, settings.ray_start_seconds)
            self.capacity: Capacity = plan_capacity(
                cluster_nodes(),
                shards,
                replicas=settings.replicas,
                max_replicas=settings.max_replicas,
                threads=settings.threads,
                gpus=settings.gpus,
            )
            send_by_value(task)
            self.control = RunControl(run)
        self._shared: Shared | None = None

    def count_replicas(self, stats: RunStats, seconds: float) -> None:
        """An observer that updates the number of replicas as an autoscaling cluster grows."""
        capacity = self.capacity
        if capacity.max_replicas > capacity.replicas:
            stats.replicas = min(
                capacity.max_replicas, max(capacity.replicas, self.control.replicas_started())
            )

    def rows(self, plan: Plan, shards: Sequence[Shard]) -> ray.data.Dataset:
        """Read, tokenize and predict `shards`. A block of rows has one shard, or several small ones. After a
        stop request, blocks have no rows."""
        task, settings, capacity = self._task, self._task.settings, self.capacity
        context = DataContext.get_current()  # a copy, see `_own_context`
        context.enable_progress_bars = settings.ray_progress
        context.target_max_block_size = 1 << 50  # a shard is one block, however large
        context.raise_original_map_exception = True
        # A shard of long documents on a slow machine takes hours without any visible progress.
        context.execution_no_progress_timeout_s = max(
            context.execution_no_progress_timeout_s, _LONGEST_SHARD_S
        )
        model, revision = self._checkpoint.source, self._checkpoint.revision
        base_model = self._checkpoint.base_model
        if self._shared is None:
            reader = ShardReader.of_plan(task, plan, model, revision, base_model)
            self._shared = share(reader, load_previous_runs(plan.config["since"], task.schema))
        self.control.reset_replicas()
        bundles = bundle_shards(shards, settings.slots, capacity.replicas)
        documents = ray.data.read_datasource(
            ShardSource(bundles, self._shared, self.control),
            num_cpus=IO_CPUS,
            override_num_blocks=len(bundles),
            concurrency=min(capacity.readers, len(bundles)),
        )
        per_block = sum(shard.documents for shard in shards) // len(bundles)
        in_flight = blocks_in_flight(settings.slots, max(1, per_block))
        weights = {"weights_sha256": plan.config["weights_sha256"]}
        # Ray Data restarts a dead replica and repeats its shard, without limit. `Predictor._predict` breaks
        # the loop, with the crash counts of `workers/crashes.py`.
        return documents.map_batches(
            PredictorActor,
            fn_constructor_args=(self.control, task, model, revision, self._run, weights, base_model),
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
            runtime_env=replica_environment(settings.threads),
        )

    def commit(self, plan: Plan, shards: Sequence[Shard], sink: CommitSink) -> None:
        """Process `shards` and commit each by its name."""
        writers = min(self.capacity.writers, len(shards))
        with _own_context():
            self.rows(plan, shards).write_datasink(
                sink, ray_remote_args={"num_cpus": IO_CPUS}, concurrency=writers
            )

    def tables(self, plan: Plan, shards: Sequence[Shard]) -> Iterator[pa.Table]:
        """Yield each shard's rows as they are done. Nothing is committed."""
        with translate_ray_errors(), _own_context():
            for block in self.rows(plan, shards).iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                yield from split_by_shard(block)
