"""The composition of a run, spelled once: plan, read, tokenize, predict, commit, manifest, report."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import threading
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError, RayTaskError

from led.checkpoint import CheckpointError, weight_files
from led.hub import Checkpoint, resolve
from led.tokenizer import LEDTokenizer
from pipeline import __version__
from pipeline.columns import output_columns
from pipeline.commit import Receipt, finish, read_receipts
from pipeline.config import RunSettings
from pipeline.errors import PipelineError, PlanMismatch, UsageError
from pipeline.failures import FailureWatch, check_failures
from pipeline.inputs import InputFile
from pipeline.model_inputs import Reading
from pipeline.planning import describe_inputs, plan_inputs
from pipeline.predictor import Predictor
from pipeline.previous import read_previous, since_facts
from pipeline.progress import Progress
from pipeline.reader import ShardReader
from pipeline.report import write_report
from pipeline.shards import PLAN, REPORT, Plan, Shard, differences, remaining
from pipeline.sink import CommitSink
from pipeline.source import ShardSource
from pipeline.store import Store, open_store, probe
from pipeline.tasks import Task

# Reading and committing wait for disks, not for processors.
_IO_CPUS = 0.2

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
        PipelineError: the run failed; what is committed stays.
    """
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
    if left:
        before = plan.documents - sum(shard.documents for shard in left)
        watch = FailureWatch(plan, store, receipts.values(), settings.max_failed, progress_every)
        with watch, Progress(plan, store, before, progress_every):
            receipts |= {r.shard_id: r for r in _execute(task, checkpoint, plan, left, settings)}
    manifest = finish(store, plan, receipts)
    write_report(store, plan, manifest, task)
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


def _execute(task: Task, checkpoint: Checkpoint, plan: Plan, shards: Sequence[Shard], settings: RunSettings) -> list[Receipt]:
    """Read, tokenize, predict and commit `shards` on the cluster; the receipts."""
    try:
        _join_cluster(settings.ray_address)
        actors, cpus = _share_cpus(settings, len(shards))
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.target_max_block_size = 1 << 50  # a shard is one block, however large
        # A shard of long documents on a slow machine takes hours, and nothing moves meanwhile.
        context.execution_no_progress_timeout_s = max(context.execution_no_progress_timeout_s, _LONGEST_SHARD_S)
        model = settings.model if checkpoint.revision else str(checkpoint.folder)
        reader = ShardReader(task, model, checkpoint.revision, Reading(**plan.facts["reading"]), plan.passthrough)
        this_run = uuid.uuid4().hex
        since = plan.facts.get("since")
        previous = read_previous(since, task.columns) if since else None
        sink = CommitSink(settings.output, {**plan.facts, "model": settings.model, "plan": plan.fingerprint})
        documents = ray.data.read_datasource(
            ShardSource(shards, reader, previous), num_cpus=_IO_CPUS, override_num_blocks=len(shards)
        )
        rows = documents.map_batches(
            Predictor,
            fn_constructor_args=(task, model, checkpoint.revision, this_run),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(size=actors),
            num_cpus=cpus,
            num_gpus=settings.gpus or None,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(settings.threads), "GLIBC_TUNABLES": _KEEP_MEMORY}},
        )
        rows.write_datasink(sink, ray_remote_args={"num_cpus": _IO_CPUS})
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
    return sink.receipts


def _join_cluster(address: str | None) -> None:
    """Join the cluster of `address` or of the job, or start one on this machine; signals stay the caller's."""
    if ray.is_initialized():
        return
    joined = address or os.environ.get("RAY_ADDRESS")
    if not joined:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    handler = signal.getsignal(signal.SIGTERM)
    # Without an address Ray would join whichever cluster was last started on this machine.
    ray.init(
        address=joined or "local", include_dashboard=None if joined else False, logging_level=logging.ERROR, log_to_driver=False
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _share_cpus(settings: RunSettings, shards: int) -> tuple[int, float]:
    """How many actors, and the CPUs Ray sets aside for each, so that reading and committing find room beside them.

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
    return actors, each


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
