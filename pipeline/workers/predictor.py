"""The predictor: loads a model once and turns tables of model inputs into tables of rows.

The Ray actor is a thin subclass of it. This class does not use Ray, so a test can call it directly.
"""

from __future__ import annotations

import json
import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from led.pipelines.chunking import Chunk
from pipeline.batching import longest_first
from pipeline.checkpoint import worker_checkpoint
from pipeline.logs import event
from pipeline.schema import COUNTS, INPUT, MEASURED, PROVENANCE, STATE, split_by_shard
from pipeline.tasks.base import Failed, ModelInput, Row, Task
from pipeline.workers.crashes import ALONE_AFTER, ONE_BY_ONE_AFTER, QUARANTINE_REASON, CrashCounts
from pipeline.workers.prediction_loop import Outcomes, Predicted, PredictionLoop

logger = logging.getLogger(__name__)

# Bytes in a unit of getrusage: macOS counts bytes, Linux kibibytes.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Predictor:
    """A task with its model in memory. Called with the model inputs of shards, it returns their rows.

    Calls from several threads share the model (see `PredictionLoop`).

    `run` identifies the run for the crash counts. Without it, as outside a cluster, crashes are not counted.
    `hashes` are the plan's checkpoint hashes, which the checkpoint must match. `base_model` is the base of a
    LoRA adapter.
    """

    def __init__(
        self,
        task: Task,
        model: str,
        revision: str | None,
        run: str | None = None,
        hashes: Mapping[str, Any] | None = None,
        base_model: str | None = None,
    ) -> None:
        self.task, self.run = task, run
        self.loop = PredictionLoop(
            lambda: task.load(worker_checkpoint(model, revision, hashes or {}, base_model))
        )

    def __call__(self, block: pa.Table, is_stopped: Callable[[], bool] = lambda: False) -> pa.Table:
        """The rows of the shards of a block: model inputs dropped, the task's columns filled, measurements
        added.

        A shard has no rows if `is_stopped` before its first document is processed.
        """
        shards = [self._submit(table, is_stopped) for table in split_by_shard(block)]
        tables = [table for rows in shards if (table := rows()) is not None]
        return pa.concat_tables(tables) if tables else block.slice(0, 0)

    def _submit(self, table: pa.Table, is_stopped: Callable[[], bool]) -> Callable[[], pa.Table | None]:
        """Submit the documents of a shard. Returns a function that waits for its rows, None after a stop
        request."""
        shard_id = table["_shard"][0].as_py()
        state = table.select(STATE.names).to_pylist()
        columns = table.select([*INPUT.names, *COUNTS.names, *PROVENANCE.names]).to_pylist()
        todo = [
            i for i, row in enumerate(state) if row["status"] == "ok" and columns[i]["reused_from"] is None
        ]
        order = [todo[i] for i in longest_first([columns[i]["input_tokens"] for i in todo])]
        documents = [
            ModelInput(
                c["_input_ids"],
                c["_global_positions"],
                c["_leading"],
                c["truncated_tokens"],
                c["truncated_characters"],
                [Chunk(*chunk) for chunk in c["_chunks"]],
                c["_text"],
            )
            for c in (columns[i] for i in order)
        ]
        waiting = self._predict(shard_id, documents, is_stopped)

        def rows() -> pa.Table | None:
            predicted = waiting()
            return None if predicted is None else self._rows(table, state, order, predicted)

        return rows

    def _rows(
        self, table: pa.Table, state: list[Row], order: Sequence[int], predicted: Predicted
    ) -> pa.Table:
        """The rows of a shard, with the outcomes of its rows in this order."""
        results: list[Row] = table.select(self.task.schema.names).to_pylist()
        for i, outcome in zip(order, predicted.outcomes, strict=True):
            score = self.task.score_column
            # As when activations overflow.
            if isinstance(outcome, dict) and score and math.isnan(outcome.get(score) or 0.0):
                outcome = Failed(f"the model computed a {score} that is not a number (NaN)")
            if isinstance(outcome, Failed):
                logger.warning("a document failed: %s", outcome.reason)
                state[i] = {"status": "failed", "stage": "predict", "reason": outcome.reason}
            else:
                results[i] |= outcome
        out = table.drop_columns(INPUT.names)
        for filled in (pa.Table.from_pylist(state, STATE), pa.Table.from_pylist(results, self.task.schema)):
            for field in filled.schema:
                out = out.set_column(out.schema.get_field_index(field.name), field, filled[field.name])
        measured = json.loads(table[MEASURED.name][0].as_py()) | predicted.measured
        measured["predict_seconds"] = predicted.seconds
        measured["finished_at"] = time.time()
        measured["hardware"] = self.loop.loaded.hardware
        measured["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT
        column = pa.array([json.dumps(measured)] * len(out), MEASURED.type)
        return out.set_column(out.schema.get_field_index(MEASURED.name), MEASURED, column)

    def _predict(
        self, shard_id: str, documents: Sequence[ModelInput], is_stopped: Callable[[], bool]
    ) -> Callable[[], Predicted | None]:
        """Submit documents: to the stream of all shards, alone if an earlier attempt at this shard crashed,
        or one by one if several did. Waiting for them returns None after a stop request."""
        counts = CrashCounts(self.run, shard_id) if self.run is not None else None
        crashes, quarantined = counts.read() if counts else (0, set())

        def start() -> bool:
            if is_stopped():
                return False
            event("shard started", shard=shard_id, documents=len(documents))
            if counts:
                counts.start()
            return True

        alone: Callable[[], Outcomes] | None = None
        if counts and crashes >= ONE_BY_ONE_AFTER:
            alone = partial(self._predict_one_by_one, documents, counts, quarantined)
        elif crashes >= ALONE_AFTER:
            alone = partial(self.loop.bisect, documents)
        waiting = self.loop.submit(documents, start, alone)

        def wait() -> Predicted | None:
            predicted = waiting()
            if counts and predicted is not None:
                counts.finish()
            return predicted

        return wait

    def _predict_one_by_one(
        self, documents: Sequence[ModelInput], counts: CrashCounts, quarantined: set[int]
    ) -> Outcomes:
        outcomes: Outcomes = []
        for i, document in enumerate(documents):
            if i in quarantined:
                outcomes.append(Failed(QUARANTINE_REASON))
            else:
                counts.start_document(i)
                outcomes += self.loop.bisect([document])
        return outcomes
