"""The Ray Data pipeline of a run: read tasks, predictor replicas and commit tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import ray
from ray.data import DataContext

from led.checkpoint.hub import Checkpoint
from pipeline.cluster.actor import PredictorActor
from pipeline.cluster.capacity import IO_CPUS, Capacity, bundle_shards
from pipeline.cluster.control import RunControl
from pipeline.cluster.replicas import predict, prepare_cluster
from pipeline.cluster.session import translate_ray_errors
from pipeline.cluster.sink import CommitSink
from pipeline.cluster.source import ShardSource, Shared, share
from pipeline.monitor.stats import RunStats
from pipeline.output.previous_runs import load_previous_runs
from pipeline.planning.plan import Plan, Shard
from pipeline.schema import split_by_shard
from pipeline.tasks.base import Task
from pipeline.workers.reader import ShardReader

_LONGEST_SHARD_S = 24 * 3600


@contextmanager
def _own_context() -> Iterator[None]:
    """Within this context, settings of Ray Data do not change those of the caller's own datasets."""
    callers = DataContext.get_current()
    DataContext._set_current(callers.copy())
    try:
        yield
    finally:
        DataContext._set_current(callers)


class Workers:
    """Readers, replicas and committers on the cluster, for at most `shards` shards, and the control that all
    of them read.

    Raises:
        UsageError: the cluster can never hold them, or a worker cannot import the task.
        PipelineError: the cluster cannot be joined.
    """

    def __init__(self, task: Task, checkpoint: Checkpoint, shards: int, run: str) -> None:
        self._task, self._checkpoint, self._run = task, checkpoint, run
        with translate_ray_errors():
            self.capacity: Capacity = prepare_cluster(task, shards)
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
        weights = {"weights_sha256": plan.config["weights_sha256"]}
        arguments = (self.control, task, model, revision, self._run, weights, base_model)
        return predict(documents, PredictorActor, arguments, settings, capacity, max(1, per_block))

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
