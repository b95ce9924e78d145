"""A run from start to end: plan, process the remaining shards, write the manifest and the report."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from led.checkpoint.hub import Checkpoint
from pipeline.checkpoint import find_checkpoint
from pipeline.cluster.dataset import Workers
from pipeline.cluster.session import translate_ray_errors
from pipeline.cluster.sink import CommitSink
from pipeline.errors import PipelineError, TooManyFailures, UsageError, escape_controls
from pipeline.logs import event, logging_to
from pipeline.monitor.limits import RunLimits, StopRequest, check_failures, stop_on_signals
from pipeline.monitor.progress import Progress, ProgressLog
from pipeline.monitor.prometheus import PrometheusMetrics
from pipeline.monitor.stats import RunStats, Totals
from pipeline.monitor.watcher import Observer, ProgressWatcher
from pipeline.output.commit import Committed, finish, read_all_shard_metadata
from pipeline.output.freeze import check_same_plan, existing_plan, freeze_plan
from pipeline.output.open_store import open_store
from pipeline.output.sign_key import read_key
from pipeline.output.store import Store, probe
from pipeline.output.tables import check_table, register_run
from pipeline.planning.plan import MANIFEST, REPORT, Plan, Shard, execution_order, remaining
from pipeline.prepare import build_plan
from pipeline.report.page import check_reference, try_report
from pipeline.schema import STATUSES, output_schema
from pipeline.settings import RunSettings
from pipeline.stop_time import parse_stop_time
from pipeline.tasks.base import Task

# Seconds between listings of the output folder, and shards per second of that interval: a store with many
# shards is listed less often.
_INTERVAL_S, _SHARDS_PER_S = 2.0, 2000

# Where `ray job submit` unpacks a working directory.
_UPLOADED = "/runtime_resources/working_dir_files/"


@dataclass(frozen=True)
class RunResult:
    """A finished run: its plan, its manifest, its output folder, the number of shards this run computed, its
    report, and the version of the table in which it is registered."""

    plan: Plan
    manifest: dict[str, Any]
    output: str
    shards_done: int
    report: str
    table_version: str = ""


@dataclass(frozen=True)
class Caller:
    """How a run reports to its caller, and how the caller stops it.

    A request to `stop` ends the run after the shards in flight. `handles_signals` says that SIGINT and
    SIGTERM make one. `shows_progress` says that the progress line is shown on stderr, at least every
    `progress_interval_s` seconds. `observers` are called as shards are committed.
    """

    stop: StopRequest = field(default_factory=StopRequest)
    handles_signals: bool = True
    shows_progress: bool = True
    progress_interval_s: float = 30.0
    observers: tuple[Observer, ...] = ()


def run(task: Task, caller: Caller | None = None) -> RunResult:
    """Run `task` over its corpus, or resume a run that was interrupted.

    Raises:
        UsageError: settings, input, model and output do not fit together. Nothing was run.
        TooManyFailures: more documents failed than --max-failed allows.
        Stopped: the run stopped gracefully at a shard boundary.
        PipelineError: the run failed. Committed shards stay.
    """
    run_id = uuid.uuid4().hex[:12]
    with logging_to(task.settings.log_file, run_id):
        try:
            return _run(task, run_id, caller or Caller())
        except (PipelineError, KeyboardInterrupt) as error:
            event("ended", error=f"{type(error).__name__}: {error}")
            raise


def _run(task: Task, run_id: str, caller: Caller) -> RunResult:
    settings = task.settings
    store = open_store(settings.output)
    key = read_key(settings.sign_key) if settings.sign_key else None
    if _UPLOADED in store.url:
        raise UsageError(
            f"--output {settings.output} is inside the cluster's copy of the job's working directory, which "
            "the cluster deletes; give an absolute path or s3://bucket/folder."
        )
    checkpoint = find_checkpoint(settings)
    previous = existing_plan(store)
    plan = build_plan(task, checkpoint, previous)
    check_reference(plan, settings.reference_column)
    probe(store, must_refuse=not settings.accept_unsafe_store)
    if settings.table is not None:
        schema = output_schema(task.schema, plan.passthrough)
        check_table(settings.table, settings.table_mode, store, schema)
    if previous is not None:
        check_same_plan(store, previous, plan)
        plan = previous
    todo = remaining(plan, store.names())
    counts = {"documents": plan.documents, "shards": len(plan.shards), "remaining": len(todo)}
    in_force = task.describe_settings(checkpoint.folder)
    event("started", output=store.url, plan=plan.fingerprint, settings=in_force, **counts)
    written: dict[str, Committed] = {}
    if todo:
        if plan.left_out:
            print(escape_controls(plan.left_out_note), file=sys.stderr, flush=True)
        if in_force:
            print(f"settings: {in_force}", file=sys.stderr, flush=True)
        written = _process(task, checkpoint, plan, todo, store, run_id, caller)
    freeze_plan(store, plan.to_json())
    manifest = finish(store, plan, written, key)
    registered = ""
    if settings.table is not None:
        registered = register_run(settings.table, settings.table_mode, store, plan, manifest)
        event("registered", table=settings.table, version=registered)
    report = try_report(
        store,
        plan,
        manifest,
        reference_column=settings.reference_column,
        price_per_hour=settings.price_per_hour,
        gpus=settings.gpus,
    )
    event(
        "finished", **{name: manifest[name] for name in ("documents", "rows", *STATUSES, "failures", "flags")}
    )
    advice = f"The run finished nevertheless; see {store.url}/{REPORT if report else MANIFEST}."
    check_failures(
        manifest["failed_documents"], settings.max_failed, plan.documents, manifest["failures"], advice
    )
    address = f"{store.url}/{REPORT}" if report else "not written"
    return RunResult(plan, manifest, store.url, len(todo), address, registered)


def _process(
    task: Task,
    checkpoint: Checkpoint,
    plan: Plan,
    todo: Sequence[Shard],
    store: Store,
    run_id: str,
    caller: Caller,
) -> dict[str, Committed]:
    """Process the remaining shards until they are done or a stop is requested. Returns the files that
    were written, by name.

    Raises:
        Stopped: a signal, --stop-at or --max-cost requested a stop.
        TooManyFailures: --max-failed is exceeded.
    """
    settings = task.settings
    todo_ids = {shard.shard_id for shard in todo}
    committed = read_all_shard_metadata(
        store, [shard for shard in plan.shards if shard.shard_id not in todo_ids]
    )
    totals = Totals.of(committed.values())
    advice = "Rerun the same command with a higher --max-failed to resume."
    check_failures(
        totals.counts["failed_documents"], settings.max_failed, plan.documents, totals.failures, advice
    )
    stop = caller.stop
    with stop_on_signals(stop) if caller.handles_signals else nullcontext():
        written = _execute(task, checkpoint, plan, todo, totals, store, run_id, caller)
    if stop.error is not None and (undone := remaining(plan, store.names())):
        done = plan.documents - sum(shard.documents for shard in undone)
        counts = f"{done} of {plan.documents} documents are committed"
        raise type(stop.error)(
            f"{stop.error} {counts}; rerun {_next_command(stop.error, settings)} to resume."
        )
    return written


def _next_command(error: PipelineError, settings: RunSettings) -> str:
    """The command that resumes a run which stopped with this error."""
    if isinstance(error, TooManyFailures):
        return "the same command with a higher --max-failed"
    now = time.time()
    stop_time = parse_stop_time(settings.stop_at, now)
    return (
        "the same command"
        if stop_time is None or stop_time > now
        else "the same command with a later --stop-at"
    )


def _execute(
    task: Task,
    checkpoint: Checkpoint,
    plan: Plan,
    todo: Sequence[Shard],
    committed: Totals,
    store: Store,
    run_id: str,
    caller: Caller,
) -> dict[str, Committed]:
    """Run Ray Data over the shards, a group of shards at a time, while a watcher reports progress and checks
    limits."""
    settings, stop = task.settings, caller.stop
    workers = Workers(task, checkpoint, len(todo), run_id)
    event("cluster ready", replicas=workers.capacity.replicas)
    stats = RunStats(plan.documents, len(plan.shards), workers.capacity.replicas, all=committed)
    todo = execution_order(todo)
    interval_s = min(caller.progress_interval_s, max(_INTERVAL_S, len(plan.shards) / _SHARDS_PER_S))
    config = {**plan.config, "model": settings.model, "plan": plan.fingerprint}
    sink = CommitSink(store.url, config, plan.to_json(), plan.task.number)
    with Progress(settings, caller.progress_interval_s) as progress, translate_ray_errors():
        limits = RunLimits(stop, settings, workers.control.stop)
        observers: tuple[Observer, ...] = (
            workers.count_replicas,
            limits,
            PrometheusMetrics(settings, run_id),
            ProgressLog(),
            *([progress] if caller.shows_progress else []),
            *caller.observers,
        )
        with ProgressWatcher(store, todo, stats, observers, interval_s):
            group = workers.capacity.shards_per_group
            for first in range(0, len(todo), group):
                workers.commit(plan, todo[first : first + group], sink)
                if stop.error is not None:
                    break
    return sink.written
