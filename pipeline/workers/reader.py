"""Read and tokenize a shard: one table of model inputs for the whole shard. Does not use Ray.

The table has the shard's ID and size, `doc_id`, the passthrough columns, the state of each row and its model
input. The task's columns are filled for rows that are reused from an earlier run.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from led.pipelines.joining import whole_text
from pipeline.errors import CorruptInput
from pipeline.inputs.files import check_unchanged
from pipeline.inputs.formats import column_values
from pipeline.inputs.read import read_rows
from pipeline.inputs.texts import Text, is_list, read_texts
from pipeline.output.previous_runs import PreviousRuns
from pipeline.planning.document_ids import document_ids
from pipeline.planning.plan import Plan, Shard
from pipeline.schema import CHUNKED_ROWS, DOC_ID, MEASURED
from pipeline.settings import PASSTHROUGH_FLAG
from pipeline.tasks.base import InputLimits, Task
from pipeline.workers.encoder import RowEncoder


@dataclass(frozen=True)
class ShardReader:
    """Reads and tokenizes shards for one task. `model` and `revision` name the checkpoint whose tokenizer it
    uses.

    `passthrough` has the types of the copied columns, by default those of the file. `tokenizer_sha256` is the
    hash that the tokenizer must have. `base_model` is the base of a LoRA adapter. `id_column` is the column
    with the document IDs, if it is not that of the settings.
    """

    task: Task
    model: str
    revision: str | None
    input_limits: InputLimits
    passthrough: pa.Schema | None = None
    tokenizer_sha256: str | None = None
    base_model: str | None = None
    id_column: str | None = None

    @property
    def _encoder(self) -> RowEncoder:
        checkpoint = self.model, self.revision, self.base_model
        return RowEncoder(self.task, *checkpoint, self.input_limits, self.tokenizer_sha256)

    @classmethod
    def of_plan(
        cls, task: Task, plan: Plan, model: str, revision: str | None = None, base_model: str | None = None
    ) -> ShardReader:
        """A reader for the shards of a plan."""
        limits, tokenizer = InputLimits(**plan.config["input_limits"]), plan.config["tokenizer_sha256"]
        return cls(task, model, revision, limits, plan.passthrough, tokenizer, base_model, plan.id_column)

    def __call__(self, shard: Shard, previous: PreviousRuns | None = None) -> pa.Table:
        """The rows of `shard`, in order. Several rows of one document follow one another.

        A row that cannot be read has its reason. A row that `previous` has is reused as it is.

        Raises:
            CorruptInput: the rows cannot be read, and --on-bad-shard is fail.
            Unreachable: the file cannot be fetched.
            PlanMismatch: the file or the tokenizer differs from the plan.
            PipelineError: the checkpoint is missing on this machine.
        """
        start = time.monotonic()
        table = self._read(shard, previous)
        chunked = pc.sum(pc.greater(table["chunks"], 1)).as_py() or 0
        measured: dict[str, float] = {"read_seconds": time.monotonic() - start, CHUNKED_ROWS: chunked}
        if previous is not None:
            read = table[DOC_ID.name].filter(pc.not_equal(table["status"], "skipped"))
            if (new := previous.count_new(read.to_pylist())) is not None:
                measured["new_rows"] = new
        return table.append_column(MEASURED, pa.array([json.dumps(measured)] * len(table), MEASURED.type))

    def _read(self, shard: Shard, previous: PreviousRuns | None) -> pa.Table:
        settings, encoder = self.task.settings, self._encoder
        encoder.tokenizer()  # loaded first: a missing tokenizer is not the fault of a document
        check_unchanged(shard.path, shard.content)
        id_column = self.id_column or settings.document_id_column
        copied = list(settings.passthrough) if self.passthrough is None else self.passthrough.names
        needed = [column for flag, column in settings.extra_columns if flag != PASSTHROUGH_FLAG]
        try:
            columns = [settings.text_column, *([id_column] if id_column else []), *copied, *needed]
            rows = read_rows(
                shard.path,
                shard.split,
                settings.text_column,
                columns,
                settings.max_document_bytes,
                lists=settings.joins_documents,
                types=self.passthrough or (),
            )
        except CorruptInput as error:
            if settings.on_bad_shard == "fail":
                raise
            return self._skipped(shard, str(error))
        id_values = rows.table[id_column] if id_column else None
        ids = document_ids(id_values, shard.source, shard.start, shard.stop)
        column = rows.table[settings.text_column]
        texts = read_texts(column, settings.max_document_bytes, lists=settings.joins_documents)
        texts = [text._replace(reason=rows.reasons.get(i, text.reason)) for i, text in enumerate(texts)]
        values = column_values(shard.path, rows.table.select(list(dict.fromkeys(needed))))
        requested = encoder.expand(ids, texts, values)
        documents = [row.document for row in requested]
        rows_read = encoder.rows(requested, previous)
        table = encoder.table(shard.shard_id, [row.doc_id for row in requested], rows_read)
        for name in reversed(copied):
            column = rows.table[name]
            kind = column.type if self.passthrough is None else self.passthrough.field(name).type
            if name == settings.text_column and column.type != kind:  # it was read as bytes
                column = pa.chunked_array([pa.array([_as_column(text, kind) for text in texts], kind)])
            if len(documents) != len(column):
                column = repeat_rows(column, documents)
            table = table.add_column(3, pa.field(name, column.type), column)
        return table

    def _skipped(self, shard: Shard, reason: str) -> pa.Table:
        row = {"status": "skipped", "stage": "read", "reason": reason, **self._encoder.single_row}
        ids = document_ids(None, shard.source, shard.start, shard.stop)
        table = self._encoder.table(shard.shard_id, ids, [row] * shard.documents)
        for field in reversed(list(self.passthrough or [])):
            table = table.add_column(3, field, pa.nulls(shard.documents, field.type))
        return table


def repeat_rows(column: pa.ChunkedArray, rows: Sequence[int]) -> pa.ChunkedArray:
    """The values of a column at these rows, as slices of it. `take` would copy them into one array, which
    holds at most 2 GiB of texts."""
    ends = list(accumulate(map(len, column.chunks)))
    found = ((row, bisect_right(ends, row)) for row in rows)
    slices = [column.chunk(i).slice(row - ends[i] + len(column.chunk(i)), 1) for row, i in found]
    return pa.chunked_array(slices, column.type)


def _as_column(text: Text, kind: pa.DataType) -> Any:
    """The text as a value of the text column. The texts of a group become one."""
    return text.text if text.text is None or is_list(kind) else whole_text(text.text)
