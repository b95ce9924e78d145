"""A small job without Ray that can be killed anywhere, in a process forked from one that has imported
everything.

The job is the real `pipeline.run` (plan, listing, shard metadata, commit, manifest, success marker, report)
with the real reader and store. Only Ray and the model are replaced. Shards are processed one by one, and a
summary is the reversed tokens of its document.
"""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import s3fs  # noqa: F401 # imported once here, not in every process

from jobs.cli import exit_code
from led.checkpoint.hub import Checkpoint
from pipeline import remote, retry, run as composition
from pipeline.output.commit import PLAN_SHA256, Committed, commit
from pipeline.output.freeze import freeze_plan
from pipeline.output.local import LocalStore
from pipeline.output.open_store import open_store
from pipeline.output.previous_runs import load_previous_runs
from pipeline.output.s3 import ObjectStore
from pipeline.output.store import Store
from pipeline.planning.plan import Plan, Shard
from pipeline.report import page  # noqa: F401 # as s3fs
from pipeline.schema import INPUT
from pipeline.tasks import text_generator  # noqa: F401 # as s3fs; it imports torch
from pipeline.tasks.base import InputLimits, Task
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.reader import ShardReader
from tests.waiting import HANG_S


def task_of(corpus: Path | str, model: Path, output: str, changes: dict[str, Any]) -> Summarize:
    given = {"input": (str(corpus),), "output": output, "model": str(model), "shard_documents": 2}
    return Summarize(SummarizeSettings(**given | changes))


def reverse(table: pa.Table, task: Task) -> pa.Table:
    """The rows of the predictor for a shard, without a model: the reversed token IDs."""
    rows = table.select(task.schema.names).to_pylist()
    for row, ids in zip(rows, table["_input_ids"].to_pylist(), strict=True):
        if ids:
            row |= {
                "summary": str(ids[::-1]),
                "output_tokens": len(ids),
                "finish_reason": "stop",
                "score": 0.0,
            }
            row |= {"flags": []}
    results = pa.Table.from_pylist(rows, task.schema)
    out = table.drop_columns(INPUT.names)
    for field in task.schema:
        out = out.set_column(out.schema.get_field_index(field.name), field, results[field.name])
    return out


def run_to_the_end(task: Task) -> None:
    composition.run(task, composition.Caller(progress_interval_s=1e9))


def one_by_one(
    task: Task, checkpoint: Checkpoint, plan: Plan, shards: Sequence[Shard], *_: Any
) -> dict[str, Committed]:
    settings = task.settings
    store = open_store(settings.output)
    reader = ShardReader(task, settings.model, None, InputLimits(**plan.config["input_limits"]))
    config, since = {**plan.config, "plan": plan.fingerprint}, plan.config.get("since")
    previous = load_previous_runs(since, task.schema) if since else None
    written = {}
    for shard in shards:
        config[PLAN_SHA256] = freeze_plan(store, plan.to_json())
        committed = commit(store, reverse(reader(shard, previous), task), config, plan.task.number)
        if committed.digest is not None:
            written[committed.metadata.part] = committed
    return written


def job(
    corpus: Path | str,
    model: Path,
    output: str,
    environment: dict[str, str],
    death: str,
    changes: dict[str, Any],
) -> None:
    """Run to the end with the exit code of the command, or be killed."""
    os.environ.update(environment)
    composition._execute = one_by_one
    remote.REQUEST_SECONDS = float(environment.get("REQUEST_SECONDS", remote.REQUEST_SECONDS))
    retry.FIRST_PAUSE_S = float(environment.get("FIRST_PAUSE_S", retry.FIRST_PAUSE_S))
    if death:
        prepare_death(death)
    try:
        task = task_of(corpus, model, output, changes)
        os._exit(exit_code(lambda: run_to_the_end(task)))
    except BaseException:
        traceback.print_exc()
        os._exit(99)


def prepare_death(death: str) -> None:
    """Have this process killed at a point, always at the second part.

    `before` or `after` is followed by the beginning of a file name, and means the request that writes it.
    `in reading`, `in predicting` and `in body` (of a file on disk) are further points. `stop before link`
    pauses the process.
    """
    when, _, what = death.partition(" ")
    if death in ("in reading", "in predicting"):
        owner, name = (ShardReader, "__call__") if what == "reading" else (sys.modules[__name__], "reverse")
        _patch(owner, name, before=lambda *_: True, times=2)
    elif death == "in body":
        _patch(os, "fsync", before=_is_part, times=2, strike=_die_with_half)
    elif death == "stop before link":
        _patch(os, "link", before=lambda *args: "part-" in str(args[0]), times=2, strike=_stop)
    else:
        for store in (LocalStore, ObjectStore):
            _patch(
                store,
                "create",
                **{when: lambda _, name, __: name.startswith(what)},
                times=2 if what == "part" else 1,
            )


def _is_part(descriptor: int) -> bool:
    return "/.part-" in os.readlink(f"/proc/self/fd/{descriptor}")


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _die_with_half(descriptor: int) -> None:
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    _die()


def _patch(
    owner: Any,
    name: str,
    before: Callable[..., bool] = lambda *_: False,
    after: Callable[..., bool] = lambda *_: False,
    times: int = 1,
    strike: Callable[..., None] = _die,
) -> None:
    """Call `strike` at the n-th call of a function for which `before` or `after` returns True."""
    original, count = getattr(owner, name), itertools.count(1)

    def patched(*args: Any) -> Any:
        if before(*args) and next(count) == times:
            strike(*args)
        result = original(*args)
        if after(*args) and next(count) == times:
            strike(*args)
        return result

    setattr(owner, name, patched)


class Machine:
    """Runs the job in processes that can be killed. `kill` may be called from any thread."""

    def __init__(self, corpus: Path | str, model: Path, environment: dict[str, str]) -> None:
        self._arguments = (corpus, model)
        self._environment = environment
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.pipeline.crash"])
        self._running: list[Any] = []

    def start(self, output: str, death: str = "", **changes: Any) -> Any:
        """Start a run. `death` is that of `prepare_death`. `changes` are other settings."""
        arguments = (*self._arguments, output, self._environment, death, changes)
        process = self._context.Process(target=job, args=arguments, daemon=True)
        process.start()
        self._running.append(process)
        return process

    def run(self, output: str, death: str = "", **changes: Any) -> int | None:
        """The exit code of a run, negative after a signal. None if it hangs."""
        process = self.start(output, death, **changes)
        process.join(HANG_S)
        self._running.remove(process)
        return process.exitcode  # type: ignore[no-any-return]

    def kill(self) -> None:
        """Kill all runs."""
        for process in self._running:
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGKILL)


def rows_of(store: Store) -> list[dict[str, Any]]:
    """All committed rows, sorted."""
    parts = sorted(name for name in store.names() if name.startswith("part-"))
    rows = [row for part in parts for row in pq.read_table(io.BytesIO(store.read(part))).to_pylist()]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))
