"""The composition of a run, spelled once: plan, read, tokenize, predict, commit, manifest, report."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError, RayTaskError

from led.hub import Checkpoint
from pipeline import __version__
from pipeline.cluster.actor import PredictorActor
from pipeline.cluster.control import Board
from pipeline.checkpoint import checkpoint_facts, find_checkpoint
from pipeline.schema import COUNTED, STATUSES, output_columns
from pipeline.output.commit import finish, read_receipts
from pipeline.settings import RunSettings
from pipeline.errors import PipelineError, PlanMismatch, TooManyFailures, UsageError, one_line
from pipeline.monitor.failures import check_failures
from pipeline.stop_time import hour_of
from pipeline.inputs.read import InputFile
from pipeline.logs import ProgressLog, event, logging_to
from pipeline.monitor.prometheus import Metrics
from pipeline.tasks.base import Reading
from pipeline.planning.build import describe_inputs, plan_inputs
from pipeline.cluster.capacity import IO_CPUS, Machine, Pool, make_pool
from pipeline.output.previous_runs import read_previous, since_facts
from pipeline.monitor.progress import Progress
from pipeline.workers.reader import ShardReader
from pipeline.report.page import check_reference, try_report
from pipeline.planning.plan import MANIFEST, PLAN, REPORT, Plan, Shard, differences, remaining
from pipeline.cluster.sink import CommitSink
from pipeline.cluster.source import ShardSource, Shared, share
from pipeline.monitor.limits import Limits, Stop, signals_ask
from pipeline.output.store import Store, open_store, probe
from pipeline.monitor.stats import Tally, Totals
from pipeline.tasks.all import Task
from pipeline.monitor.watcher import Watch

# How often the output folder is listed: often enough to see shards come, seldom enough for a store with a great many.
_LOOK_S, _LOOKED_AT_PER_S = 2.0, 2000

_LONGEST_SHARD_S = 24 * 3600

# Ray ends a process that waits for a second, where there are more of them than CPUs; the next shard would wait for another to
# import everything again. Clusters of others say so by RAY_idle_worker_killing_time_threshold_ms (docs/cluster.md).
KEEP_PROCESSES = {"idle_worker_killing_time_threshold_ms": 3_600_000}

# What Ray Data adds to the text of an error: how often it tried, and how to let it try more often.
_ADDED = re.compile(r"(^|\n|\\n|: ')Failed to .* after \d+/\d+ attempts.*", re.DOTALL)

# Where `ray job submit` unpacks a working directory.
_UPLOADED = "/runtime_resources/working_dir_files/"

# glibc gives freed memory back to the system and faults it in again; a predictor allocates the same shapes all day.
# In huge pages, decoding reads memories of long documents a sixth faster.
_KEEP_MEMORY = (
    "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456:"
    "glibc.malloc.hugetlb=1"
)


@dataclass(frozen=True)
class RunResult:
    """A finished run: its manifest, where its rows are, how many shards this run did itself, its report.

    `files_skipped` are the files that could not be planned, with the reason of each.
    """

    manifest: dict[str, Any]
    output: str
    shards_done: int
    report: str
    files_skipped: list[InputFile]


def run(task: Task, progress_every: float = 30.0) -> RunResult:
    """Run `task` over its corpus, or go on where an earlier run stopped.

    Raises:
        UsageError: settings, input, model and output do not fit together; nothing was run.
        TooManyFailures: more documents failed than the settings allow.
        Stopped: the run ended at a shard border, as it was asked to.
        PipelineError: the run failed; what is committed stays.
    """
    this_run = uuid.uuid4().hex[:12]
    with logging_to(task.settings.log_file, this_run):
        try:
            return _run(task, this_run, progress_every)
        except (PipelineError, KeyboardInterrupt) as error:
            event("ended", error=f"{type(error).__name__}: {error}")
            raise


def _run(task: Task, this_run: str, progress_every: float) -> RunResult:
    settings = task.settings
    store = open_store(settings.output)
    if _UPLOADED in store.url:
        raise UsageError(f"--output {settings.output} lies in the copy of the working directory that the cluster made for this "
                         "job, and goes with it; give a whole path or s3://bucket/folder.")  # fmt: skip
    checkpoint = find_checkpoint(settings)
    before = _frozen(store)
    plan = build_plan(task, checkpoint, before)
    check_reference(plan, settings.reference_column)
    if not settings.accept_unsafe_store:
        probe(store)
    plan = freeze_plan(store, plan, before)
    left = remaining(plan, store.names())
    event("begun", output=store.url, plan=plan.fingerprint, documents=plan.documents, shards=len(plan.shards), left=len(left))
    if left:
        missing = {shard.shard_id for shard in left}
        before_this = read_receipts(store, [shard for shard in plan.shards if shard.shard_id not in missing]).values()
        so_far, then = Totals.of(before_this), "The same command with a higher --max-failed goes on."
        check_failures(so_far.counts["failed_documents"], settings.max_failed, plan.documents, so_far.failures, then)
        stop = Stop()
        with signals_ask(stop):
            _execute(task, checkpoint, plan, left, so_far, stop, store, this_run, progress_every)
        if stop.error is not None and (undone := remaining(plan, store.names())):
            done = plan.documents - sum(shard.documents for shard in undone)
            raise type(stop.error)(
                f"{stop.error} {done} of {plan.documents} documents are committed; {_next_step(stop.error, settings)} goes on."
            )
    manifest = finish(store, plan)
    report = try_report(
        store, plan, manifest,
        reference_column=settings.reference_column, price_per_hour=settings.price_per_hour, gpus=settings.gpus,
    )  # fmt: skip
    event("finished", **{name: manifest[name] for name in ("documents", "rows", *STATUSES, "failures", "flags")})
    then = f"The run is finished all the same; {store.url}/{REPORT if report else MANIFEST} has more."
    check_failures(manifest["failed_documents"], settings.max_failed, plan.documents, manifest["failures"], then)
    return RunResult(manifest, store.url, len(left), f"{store.url}/{REPORT}" if report else "not written", plan.skipped)


def _next_step(error: PipelineError, settings: RunSettings) -> str:
    """The command that goes on with a run which ended with this error."""
    if isinstance(error, TooManyFailures):
        return "the same command with a higher --max-failed"
    now = time.time()
    until = hour_of(settings.stop_at, now)
    return "the same command" if until is None or until > now else "the same command with a later --stop-at"


def build_plan(task: Task, checkpoint: Checkpoint, before: Plan | None) -> Plan:
    """The plan of `task` over what its input is now; nothing is written. Files that are as they were `before` are not opened.

    Raises:
        UsageError: the input has no documents, lacks columns or has an id twice, or the settings do not fit the checkpoint.
        CorruptInput: a file cannot be read, and the settings do not say to skip it.
    """
    settings = task.settings
    taken = {*output_columns(task.columns), *COUNTED}
    clash = [name for name in settings.passthrough if name in taken]
    if clash:
        raise UsageError(f"--passthrough {', '.join(clash)}: the output has columns of that name; rename the input's.")
    inputs = describe_inputs(settings, before)
    try:
        facts = {
            "code_version": __version__,
            "settings": settings.identity(),
            "reading": asdict(task.reading(checkpoint.folder)),
            **checkpoint_facts(checkpoint.folder),
            **task.facts(checkpoint.folder),
        }
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"--model {settings.model}: {error}") from error
    facts["since"] = since_facts(settings, facts)
    if settings.on_duplicate_id == "keep":
        facts["duplicates_kept"] = True
    return plan_inputs(inputs, facts, settings, before)


def freeze_plan(store: Store, plan: Plan, before: Plan | None = None) -> Plan:
    """Write the plan once; where one was `before`, or is there by now, it must be this one.

    Raises:
        PlanMismatch: the folder belongs to another plan; the message says what differs.
    """
    if before is None:  # a store that writes over what exists must not be asked to
        store.create(PLAN, plan.to_json())
    frozen = before or Plan.from_json(store.read(PLAN))
    changed = differences(frozen, plan)
    if changed:
        shown = "\n  ".join(changed[:20])
        more = f"\n  and {len(changed) - 20} more" if len(changed) > 20 else ""
        raise PlanMismatch(
            f"{store.url} holds a run with another plan:\n  {shown}{more}\n"
            "Give the settings of that run to go on with it, or another --output to begin a new one."
        )
    return frozen


def _execute(
    task: Task,
    checkpoint: Checkpoint,
    plan: Plan,
    left: Sequence[Shard],
    done: Totals,
    stop: Stop,
    store: Store,
    this_run: str,
    every: float,
) -> None:
    """Do the shards that are left while they are watched, and added to what was `done` before."""
    settings = task.settings
    workers = Workers(task, checkpoint, len(left), this_run)
    tally = Tally(plan.documents, len(plan.shards), workers.pool.actors, all=done)
    # In an order that means nothing: what is done first then speaks for what is left.
    left = sorted(left, key=lambda shard: shard.shard_id)
    with Progress(settings, every) as progress, plain_errors():
        observers = (Limits(stop, settings, workers.board.stop), Metrics(settings, this_run), ProgressLog(), progress)
        look = min(every, max(_LOOK_S, len(plan.shards) / _LOOKED_AT_PER_S))
        with Watch(store, left, tally, (workers.count, *observers), look):
            wave = workers.pool.wave
            for first in range(0, len(left), wave):
                sink = CommitSink(store.url, {**plan.facts, "model": settings.model, "plan": plan.fingerprint})
                workers.rows(plan, left[first : first + wave]).write_datasink(
                    sink, ray_remote_args={"num_cpus": IO_CPUS}, concurrency=min(workers.pool.writers, len(left[first:]))
                )
                if stop.error is not None:
                    break


class Workers:
    """The cluster as a task uses it: readers and predictors for at most `shards` shards, and the board that they all see.

    Raises:
        UsageError: the cluster can never hold them.
        PipelineError: the cluster cannot be joined.
    """

    def __init__(self, task: Task, checkpoint: Checkpoint, shards: int, run: str) -> None:
        self._task, self._checkpoint, self._run = task, checkpoint, run
        settings = task.settings
        with plain_errors():
            _join_cluster(settings)
            self.pool: Pool = make_pool(
                _machines(), shards,
                actors=settings.actors, max_actors=settings.max_actors, threads=settings.threads, gpus=settings.gpus,
            )  # fmt: skip
            self.board = Board(run)
        self._shared: Shared | None = None

    def count(self, tally: Tally, seconds: float) -> None:
        """Tell the tally how many model copies there are, where they come as the cluster grows."""
        if self.pool.most > self.pool.actors:
            tally.actors = min(self.pool.most, max(self.pool.actors, self.board.arrived()))

    def rows(self, plan: Plan, shards: Sequence[Shard]) -> ray.data.Dataset:
        """Read, tokenize and predict `shards`: a block of rows for each, and none once the flag is up."""
        task, settings, revision = self._task, self._task.settings, self._checkpoint.revision
        context = DataContext.get_current()
        context.enable_progress_bars = settings.ray_progress
        context.target_max_block_size = 1 << 50  # a shard is one block, however large
        context.raise_original_map_exception = True
        # A shard of long documents on a slow machine takes hours, and nothing moves meanwhile.
        context.execution_no_progress_timeout_s = max(context.execution_no_progress_timeout_s, _LONGEST_SHARD_S)
        model = settings.model if revision else str(self._checkpoint.folder)
        if self._shared is None:
            reading, tokenizer = Reading(**plan.facts["reading"]), plan.facts["tokenizer_sha256"]
            reader = ShardReader(task, model, revision, reading, plan.passthrough, tokenizer)
            self._shared = share(reader, read_previous(plan.facts["since"], task.columns))
        self.board.forget_arrivals()
        documents = ray.data.read_datasource(
            ShardSource(shards, self._shared, self.board),
            num_cpus=IO_CPUS,
            override_num_blocks=len(shards),
            concurrency=min(self.pool.readers, len(shards)),
        )
        pool = self.pool
        return documents.map_batches(
            PredictorActor,
            fn_constructor_args=(
                self.board,
                task,
                model,
                revision,
                self._run,
                {"weights_sha256": plan.facts["weights_sha256"]},
            ),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(min_size=pool.actors, max_size=pool.most, initial_size=pool.actors),
            num_cpus=pool.cpus,
            num_gpus=settings.gpus or None,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(settings.threads), "GLIBC_TUNABLES": _KEEP_MEMORY}},
        )

    def tables(self, plan: Plan, shards: Sequence[Shard]) -> Iterator[pa.Table]:
        """Each shard's rows as they are done, to whoever called; nothing is committed."""
        with plain_errors():
            yield from self.rows(plan, shards).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


@contextmanager
def plain_errors() -> Iterator[None]:
    """What Ray raises, as the error of a run: that of the worker where it is one of ours."""
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        text = _ADDED.sub("", str(cause))
        if isinstance(cause, PipelineError):
            raise type(cause)(text) from None
        says = f"{type(cause).__name__}: {one_line(Exception(text)).rstrip('.')}" if text else type(cause).__name__
        raise PipelineError(f"a worker failed: {says}. The same command goes on from here.") from error
    except RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise PipelineError(f"the cluster failed: {last} The same command goes on from here.") from error


def _join_cluster(settings: RunSettings) -> None:
    """Join the cluster that is named or that of the job, or start one on this machine; signals stay the caller's."""
    if ray.is_initialized():
        return
    joined = settings.ray_address or os.environ.get("RAY_ADDRESS")
    if not joined:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    handler = signal.getsignal(signal.SIGTERM)
    # Without an address Ray would join whichever cluster was last started on this machine.
    own: dict[str, Any] = {} if joined else {
        "include_dashboard": False, "_metrics_export_port": settings.metrics_port, "_system_config": KEEP_PROCESSES,
    }  # fmt: skip
    try:
        _check_reachable(joined)
        ray.init(address=joined or "local", logging_level=logging.ERROR, log_to_driver=False, **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise PipelineError(f"the cluster {joined or 'of this machine'} cannot be joined: {one_line(error)} Check "
                            "--ray-address, and that it runs the same versions of Ray and Python.") from error  # fmt: skip
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Of a run that is asked to end, the last tasks are fewer than might be at work.
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")


def _check_reachable(address: str | None) -> None:
    """See that somebody listens at `host:port`; Ray would wait for minutes, and not always end."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "//" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _machines() -> list[Machine]:
    """The machines that are there."""
    given = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Machine(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in given]


def _frozen(store: Store) -> Plan | None:
    return Plan.from_json(store.read(PLAN)) if PLAN in store.names() else None
