"""The predictor: a plain callable that loads a model once and turns tables of model inputs into tables of rows.

It becomes the actor; it knows no Ray, and a test may call it as it is.
"""

from __future__ import annotations

import json
import logging
import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.workers.crashes import CAREFUL_AFTER, REASON, Attempts
from pipeline.batching import longest_first
from pipeline.checkpoint import worker_checkpoint
from pipeline.schema import COUNTS, INPUT, MEASURED, PROVENANCE, STATE
from pipeline.workers.bisect import Failed, isolate
from pipeline.logs import event
from pipeline.tasks.base import ModelInput, Row
from pipeline.tasks.all import Task

logger = logging.getLogger(__name__)


class Predictor:
    """A task with its model in memory, from a table of one shard to the rows of that shard.

    `run` names the run whose deaths are noted (attempts.py); without it, and outside a cluster, none are. `facts` are those of
    the plan, which the checkpoint must be that of.
    """

    def __init__(
        self, task: Task, model: str, revision: str | None, run: str | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        self.task, self.run = task, run
        self.loaded = task.load(worker_checkpoint(model, revision, facts or {}))

    def __call__(self, table: pa.Table) -> pa.Table:
        """The shard's rows in their order: the model input gone, the task's columns filled, what was measured added."""
        begun, before = time.monotonic(), self.loaded.measured
        shard_id = table["_shard"][0].as_py()
        event("shard begun", shard=shard_id, rows=len(table))
        state = table.select(STATE.names).to_pylist()
        columns = table.select([*INPUT.names, *COUNTS.names, *PROVENANCE.names]).to_pylist()
        alive = [i for i, row in enumerate(state) if row["status"] == "ok" and columns[i]["origin"] is None]
        order = [alive[i] for i in longest_first([columns[i]["input_tokens"] for i in alive])]
        documents = [
            ModelInput(c["_input_ids"], c["_global_tokens"], c["truncated_tokens"], c["windows"], c["_text"])
            for c in (columns[i] for i in order)
        ]
        results: list[Row] = table.select(self.task.columns.names).to_pylist()
        for i, outcome in zip(order, self._outcomes(shard_id, documents), strict=True):
            if isinstance(outcome, Failed):
                logger.warning("a document failed: %s", outcome.reason)
                state[i] = {"status": "failed", "stage": "predict", "reason": outcome.reason}
            else:
                results[i] |= outcome
        made = pa.Table.from_pylist(results, self.task.columns)
        new_state = pa.Table.from_pylist(state, STATE)
        out = table.drop_columns(INPUT.names)
        for columns_of in (new_state, made):
            for field in columns_of.schema:
                out = out.set_column(out.schema.get_field_index(field.name), field, columns_of[field.name])
        measured = json.loads(table[MEASURED.name][0].as_py())
        measured |= {name: value - before.get(name, 0) for name, value in self.loaded.measured.items()}
        measured["predict_seconds"] = time.monotonic() - begun
        measured["finished_at"] = time.time()
        measured["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        column = pa.array([json.dumps(measured)] * len(out), MEASURED.type)
        return out.set_column(out.schema.get_field_index(MEASURED.name), MEASURED, column)

    def _outcomes(self, shard_id: str, documents: Sequence[ModelInput]) -> list[Row | Failed]:
        """What comes of each document: of all together, or of each alone where this process's predecessors died of them."""
        if self.run is None:
            return self._isolated(documents)
        attempts = Attempts(self.run, shard_id)
        deaths, given_up = attempts.begin()
        if deaths < CAREFUL_AFTER:
            outcomes = self._isolated(documents)
        else:
            outcomes = self._one_by_one(documents, attempts, given_up)
        attempts.end()
        return outcomes

    def _one_by_one(self, documents: Sequence[ModelInput], attempts: Attempts, given_up: set[int]) -> list[Row | Failed]:
        outcomes: list[Row | Failed] = []
        for i, document in enumerate(documents):
            if i in given_up:
                outcomes.append(Failed(REASON))
            else:
                attempts.alone(i)
                outcomes += self._isolated([document])
        return outcomes

    def _isolated(self, documents: Sequence[ModelInput]) -> list[Row | Failed]:
        return isolate(documents, self.loaded.predict, fatal=self.loaded.fatal, between=self.loaded.make_room)
