"""The columns of rows within a run, and those that are written."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

# The shard's ID and size, and measurements of its processing (numbers by name, as JSON). The commit receives
# them with the rows and does not write them.
SHARD = pa.schema([pa.field("_shard", pa.string()), pa.field("_rows", pa.int32())])
MEASURED = pa.field("_measured", pa.string())
INTERNAL = [*SHARD.names, MEASURED.name]

# The model input, from the reader to the predictor.
INPUT = pa.schema(
    [
        pa.field("_input_ids", pa.list_(pa.int32())),
        pa.field("_global_positions", pa.list_(pa.int32())),
        pa.field("_leading", pa.int32()),
        pa.field("_chunks", pa.list_(pa.list_(pa.int32(), 4))),
        pa.field("_text", pa.large_string()),
    ]
)

# The measurement of a shard that counts rows of several chunks.
CHUNKED_ROWS = "chunked_rows"

STATUSES = ("ok", "failed", "skipped")

# Every row of every task.
DOC_ID = pa.field("doc_id", pa.string())
STATE = pa.schema([pa.field(name, pa.string()) for name in ("status", "stage", "reason")])
COUNTS = pa.schema(
    [
        pa.field("input_tokens", pa.int32()),
        pa.field("truncated_tokens", pa.int32()),
        pa.field("truncated_characters", pa.int32()),
        pa.field("chunks", pa.int32()),
    ]
)

# The counts of what was cut off a document. The tokens are null if they were not counted.
TRUNCATED = ("truncated_tokens", "truncated_characters")

# The quality flags of a row (tasks/quality.py).
FLAGS = pa.field("flags", pa.list_(pa.string()))

# Columns of some tasks that the shard metadata counts.
COUNTED = (FLAGS.name, "output_tokens")

# Columns of runs that choose the global tokens, join several documents, or take a prefix from a column. Each
# struct of `documents` is one document of the input.
GLOBAL_TOKENS = pa.field("global_tokens", pa.int32())
DOCUMENTS = pa.field(
    "documents",
    pa.list_(pa.struct([pa.field("input_tokens", pa.int32()), pa.field("truncated_tokens", pa.int32())])),
)
PREFIX = pa.field("prefix", pa.string())

# Columns of summaries of documents of any length. The partial summaries name the characters that they cover.
LEVELS = pa.schema([pa.field("levels", pa.int32()), pa.field("level_tokens", pa.list_(pa.int32()))])
PARTIAL_SUMMARIES = pa.field(
    "partial_summaries",
    pa.list_(
        pa.struct(
            [
                pa.field("start", pa.int32()),
                pa.field("end", pa.int32()),
                pa.field("summary", pa.string()),
            ]
        )
    ),
)

# A hash of the text and question. For a row that an earlier run computed, also `<plan>/<file>` of that run.
PROVENANCE = pa.schema([pa.field("text_hash", pa.string()), pa.field("reused_from", pa.string())])


@dataclass(frozen=True)
class TaskInfo:
    """What a plan says about its task, so that commit, verify, report and evaluate need to know no tasks.

    `title` heads the report. `result` is the column that a report shows and `evaluate` compares, in the way
    that `evaluation` names. `score` is the column that says how likely the model finds it. `number` is the
    column that numbers the rows of a document from 0, None if each has one. `hashes_text_alone` says that the
    `text_hash` of a row depends on the document's text alone.
    """

    title: str = ""
    result: str = "summary"
    score: str | None = None
    number: str | None = None
    evaluation: str = "texts"
    hashes_text_alone: bool = True


def first_rows(table: pa.Table, number: str | None) -> pa.Table:
    """The first row of each document. `number` is the column that numbers the rows of a document, if there
    is one."""
    return table if number is None else table.filter(pc.equal(table[number], 0))


def split_by_shard(block: pa.Table) -> list[pa.Table]:
    """The rows of each shard of a block, in order. Those of a shard follow one another."""
    if not len(block):
        return []
    names = block[SHARD.names[0]].combine_chunks()
    firsts = [0, *(i + 1 for i in pc.indices_nonzero(pc.not_equal(names[1:], names[:-1])).to_pylist())]
    return [block.slice(a, b - a) for a, b in pairwise([*firsts, len(block)])]


def output_schema(task: pa.Schema, passthrough: pa.Schema) -> pa.Schema:
    """The columns of a result file, with passthrough columns."""
    own = [DOC_ID, *STATE, *COUNTS, *PROVENANCE, *task]
    names = {field.name for field in own}
    return pa.schema([*own, *(field for field in passthrough if field.name not in names)])


def output_columns(task: pa.Schema) -> list[str]:
    """The column names of a result file, without passthrough columns."""
    return [DOC_ID.name, *STATE.names, *COUNTS.names, *PROVENANCE.names, *task.names]
