"""A small job without Ray that can be killed anywhere, in a process forked from one that has everything imported.

The composition is the real one (`pipeline.run.run`: plan, listing, receipts, commit, manifest, end mark, report) over the real
reader and store; only Ray and the model are left out: shards are done one after the other, and a summary is its document's
tokens backwards.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import s3fs  # noqa: F401 # imported here, it is not imported again by every process that is to be killed

from led.hub import Checkpoint
from pipeline import run as composition
from pipeline.columns import COUNTS, INPUT, SECONDS
from pipeline.commit import Receipt, commit
from pipeline.config import RunSettings, SummarizeSettings
from pipeline.reader import ShardReader
from pipeline.shards import Plan, Shard
from pipeline.store import Store, open_store
from pipeline.tasks import Summarize, Task


def task_of(corpus: Path, model: Path, output: str) -> Summarize:
    return Summarize(SummarizeSettings(input=(str(corpus),), output=output, model=str(model), shard_documents=2))


def reverse(table: pa.Table, task: Task) -> pa.Table:
    """What the predictor makes of a shard, without a model: the token ids backwards."""
    rows = [
        {"summary": str(ids[::-1]), "output_tokens": len(ids), "finish_reason": "stop", "score": 0.0} if ids else {}
        for ids in table["input_ids"].to_pylist()
    ]
    made = pa.Table.from_pylist(rows, task.columns)
    out = table.drop_columns(INPUT.names)
    for field in task.columns:
        out = out.append_column(field, made[field.name])
    assert set(COUNTS.names) <= set(out.column_names)
    return out.append_column(SECONDS, pa.array([0.0] * len(out), SECONDS.type))


def one_by_one(task: Task, checkpoint: Checkpoint, plan: Plan, shards: Sequence[Shard], settings: RunSettings) -> list[Receipt]:
    store = open_store(settings.output)
    reader = ShardReader(task, settings.model, None, plan.facts["max_input_tokens"])
    facts = {**plan.facts, "plan": plan.fingerprint}
    return [commit(store, reverse(reader(shard), task), facts) for shard in shards]


def job(corpus: Path, model: Path, output: str, environment: dict[str, str]) -> None:
    """Run to the end or be killed; whatever is raised is told and ends with exit code 1."""
    os.environ.update(environment)
    composition._execute = one_by_one
    try:
        composition.run(task_of(corpus, model, output), progress_every=1e9)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class Machine:
    """Runs the job in processes that can be killed; `kill` may be called from any thread."""

    def __init__(self, corpus: Path, model: Path, environment: dict[str, str]) -> None:
        self._arguments = (corpus, model)
        self._environment = environment
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.pipeline.crash"])
        self._running: list[Any] = []

    def start(self, output: str) -> Any:
        process = self._context.Process(target=job, args=(*self._arguments, output, self._environment), daemon=True)
        process.start()
        self._running.append(process)
        return process

    def run(self, output: str, seconds: float = 60.0) -> int | None:
        """The exit code of one run, negative where a signal ended it; None where it did not end in time."""
        process = self.start(output)
        process.join(seconds)
        self._running.remove(process)
        return process.exitcode  # type: ignore[no-any-return]

    def kill(self) -> None:
        """Kill whatever runs now, without a word."""
        for process in self._running:
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGKILL)


def rows_of(store: Store) -> list[dict[str, Any]]:
    """Every committed row, by id."""
    parts = sorted(name for name in store.names() if name.startswith("part-"))
    rows = [row for part in parts for row in pq.read_table(io.BytesIO(store.read(part))).to_pylist()]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))
