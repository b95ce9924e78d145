"""The composition of a run, spelled once: plan, read, tokenize, predict, commit, manifest, report."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError, RayTaskError

from led.checkpoint import CheckpointError, weight_files
from led.hub import Checkpoint, resolve
from led.tokenizer import LEDTokenizer
from pipeline import __version__
from pipeline.actor import PredictorActor, StopFlag
from pipeline.columns import STATUSES, output_columns
from pipeline.commit import Receipt, finish, read_receipts
from pipeline.config import RunSettings
from pipeline.errors import PipelineError, PlanMismatch, UsageError
from pipeline.failures import check_failures
from pipeline.inputs import InputFile
from pipeline.logs import ProgressLog, event, logging_to
from pipeline.metrics import Metrics
from pipeline.model_inputs import Reading
from pipeline.planning import describe_inputs, plan_inputs
from pipeline.previous import read_previous, since_facts
from pipeline.progress import Progress
from pipeline.reader import ShardReader
from pipeline.report import write_report
from pipeline.shards import PLAN, REPORT, Plan, Shard, differences, remaining
from pipeline.sink import CommitSink
from pipeline.source import ShardSource
from pipeline.stops import Limits, Stop, signals_ask
from pipeline.store import Store, open_store, probe
from pipeline.tally import Tally
from pipeline.tasks import Task
from pipeline.watch import Watch

# Reading and committing wait for disks, not for processors.
_IO_CPUS = 0.2

# How often the output folder is listed: often enough to see shards come, seldom enough for a store with a great many.
_LOOK_S, _LOOKED_AT_PER_S = 2.0, 2000

_LONGEST_SHARD_S = 24 * 3600

# glibc gives freed memory back to the system and faults it in again; a predictor allocates the same shapes all day.
_KEEP_MEMORY = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456"


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
    checkpoint = find_checkpoint(settings)
    plan = build_plan(task, checkpoint, _frozen(store))
    if not settings.accept_unsafe_store:
        probe(store)
    plan = freeze_plan(store, plan)
    left = remaining(plan, store.names())
    missing = {shard.shard_id for shard in left}
    receipts = read_receipts(store, [shard for shard in plan.shards if shard.shard_id not in missing])
    event("begun", output=store.url, plan=plan.fingerprint, documents=plan.documents, shards=len(plan.shards), left=len(left))
    if left:
        check_failures(sum(r.failed_documents for r in receipts.values()), settings.max_failed, plan.documents)
        stop = Stop()
        with signals_ask(stop):
            receipts |= _execute(task, checkpoint, plan, left, receipts.values(), stop, store, this_run, progress_every)
        if stop.error is not None and len(receipts) < len(plan.shards):
            done = sum(r.documents for r in receipts.values())
            raise type(stop.error)(
                f"{stop.error} {done} of {plan.documents} documents are committed; the same command goes on."
            )
    manifest = finish(store, plan, receipts)
    write_report(store, plan, manifest, settings.reference_column, settings.price_per_hour)
    event("finished", **{name: manifest[name] for name in ("documents", "rows", *STATUSES, "failures", "flags")})
    check_failures(manifest["failed_documents"], settings.max_failed, plan.documents)
    return RunResult(manifest, store.url, len(left), f"{store.url}/{REPORT}", plan.skipped)


def find_checkpoint(settings: RunSettings) -> Checkpoint:
    """The checkpoint's files.

    Raises:
        UsageError: there is none, or it has no weights.
    """
    try:
        checkpoint = resolve(settings.model, settings.revision)
        weight_files(checkpoint.folder)
        return checkpoint
    except (FileNotFoundError, CheckpointError) as error:
        raise UsageError(f"--model: {error}") from error


def build_plan(task: Task, checkpoint: Checkpoint, before: Plan | None) -> Plan:
    """The plan of `task` over what its input is now; nothing is written. Files that are as they were `before` are not opened.

    Raises:
        UsageError: the input has no documents, lacks columns or has an id twice, or the settings do not fit the checkpoint.
        CorruptInput: a file cannot be read, and the settings do not say to skip it.
    """
    settings = task.settings
    taken = set(output_columns(task.columns))
    clash = [name for name in settings.passthrough if name in taken]
    if clash:
        raise UsageError(f"--passthrough {', '.join(clash)}: the output has columns of that name; rename the input's.")
    inputs = describe_inputs(settings, before)
    try:
        facts = {
            "code_version": __version__,
            "settings": settings.identity(),
            "weights_sha256": _sha256(weight_files(checkpoint.folder)),
            "tokenizer_sha256": _tokenizer_sha256(checkpoint.folder),
            "reading": asdict(task.reading(checkpoint.folder)),
            "config_sha256": _sha256([checkpoint.folder / "config.json"]),
            **task.facts(checkpoint.folder),
        }
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"--model {settings.model}: {error}") from error
    since = since_facts(settings, facts)
    if since is not None:
        facts["since"] = since
    return plan_inputs(inputs, facts, settings, before)


def freeze_plan(store: Store, plan: Plan) -> Plan:
    """Write the plan once; where there is one already, it must be this one.

    Raises:
        PlanMismatch: the folder belongs to another plan; the message says what differs.
    """
    store.create(PLAN, plan.to_json())
    frozen = Plan.from_json(store.read(PLAN))
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
    before: Iterable[Receipt],
    stop: Stop,
    store: Store,
    this_run: str,
    every: float,
) -> dict[str, Receipt]:
    """Do the shards that are left while they are watched; the receipts of those that were done, by shard id."""
    settings = task.settings
    workers = Workers(task, checkpoint, len(left), this_run)
    tally = Tally(plan.documents, len(plan.shards), workers.pool.actors)
    for receipt in before:
        tally.add(receipt)
    sink = CommitSink(settings.output, {**plan.facts, "model": settings.model, "plan": plan.fingerprint})
    with Progress(settings, every) as progress, plain_errors():
        observers = (Limits(stop, settings, workers.flag.raise_), Metrics(settings, this_run), ProgressLog(), progress)
        with Watch(store, left, tally, observers, min(every, max(_LOOK_S, len(plan.shards) / _LOOKED_AT_PER_S))):
            workers.rows(plan, left).write_datasink(sink, ray_remote_args={"num_cpus": _IO_CPUS})
    return {receipt.shard_id: receipt for receipt in sink.receipts}


class Workers:
    """The cluster as a task uses it: readers and predictors for at most `shards` shards, and the flag that ends their work.

    Raises:
        UsageError: the cluster can never hold them.
        PipelineError: the cluster cannot be joined.
    """

    def __init__(self, task: Task, checkpoint: Checkpoint, shards: int, run: str) -> None:
        self._task, self._checkpoint, self._run = task, checkpoint, run
        with plain_errors():
            _join_cluster(task.settings)
            self.pool = _pool(task.settings, shards)
            self.flag = StopFlag(run)

    def rows(self, plan: Plan, shards: Sequence[Shard]) -> ray.data.Dataset:
        """Read, tokenize and predict `shards`: a block of rows for each, and none once the flag is up."""
        task, settings, revision = self._task, self._task.settings, self._checkpoint.revision
        context = DataContext.get_current()
        context.enable_progress_bars = settings.ray_progress
        context.target_max_block_size = 1 << 50  # a shard is one block, however large
        # A shard of long documents on a slow machine takes hours, and nothing moves meanwhile.
        context.execution_no_progress_timeout_s = max(context.execution_no_progress_timeout_s, _LONGEST_SHARD_S)
        model = settings.model if revision else str(self._checkpoint.folder)
        reader = ShardReader(task, model, revision, Reading(**plan.facts["reading"]), plan.passthrough)
        since = plan.facts.get("since")
        previous = read_previous(since, task.columns) if since else None
        documents = ray.data.read_datasource(
            ShardSource(shards, reader, self.flag, previous), num_cpus=_IO_CPUS, override_num_blocks=len(shards)
        )
        return documents.map_batches(
            PredictorActor,
            fn_constructor_args=(self.flag, task, model, revision, self._run),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(size=self.pool.actors),
            num_cpus=self.pool.cpus,
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
        if isinstance(cause, PipelineError):
            raise cause from None
        raise PipelineError(f"a worker failed: {type(cause).__name__}: {cause}. The same command goes on from here.") from error
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
    own: dict[str, Any] = {} if joined else {"include_dashboard": False, "_metrics_export_port": settings.metrics_port}
    ray.init(address=joined or "local", logging_level=logging.ERROR, log_to_driver=False, **own)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Pool:
    """How many actors, and the CPUs that Ray sets aside for each."""

    actors: int
    cpus: float


def _pool(settings: RunSettings, shards: int) -> Pool:
    """The actors of a run, with CPUs so that reading and committing find room beside them.

    Raises:
        UsageError: the cluster can never hold them.
    """
    cpus, gpus = (ray.cluster_resources().get(name, 0.0) for name in ("CPU", "GPU"))
    most = int(gpus / settings.gpus) if settings.gpus else max(1, int(cpus // settings.threads))
    if not most or (settings.gpus and settings.actors > most):
        raise UsageError(f"--gpus is {settings.gpus:g} for each of {settings.actors or 'the'} model copies; the cluster has "
                         f"{gpus:g} GPUs.")  # fmt: skip
    actors = min(settings.actors or most, shards)
    # An actor leaves room on its own machine too: when others are lost, it must not wait for what nobody has a CPU to read.
    each = min(settings.threads - _IO_CPUS, round((cpus - 4 * _IO_CPUS) / actors, 2))
    if each < 0.1:
        raise UsageError(f"--actors is {settings.actors}; the cluster has {cpus:g} CPUs, room for {int(cpus)} at most.")
    return Pool(actors, each)


def _frozen(store: Store) -> Plan | None:
    return Plan.from_json(store.read(PLAN)) if PLAN in store.names() else None


def _sha256(paths: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _tokenizer_sha256(folder: Path) -> str:
    return hashlib.sha256(LEDTokenizer.from_pretrained(folder).backend.to_str().encode()).hexdigest()
