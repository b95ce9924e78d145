"""The columns that rows carry on their way, and those that are written."""

from __future__ import annotations

import pyarrow as pa

# The shard's name and size, and what was measured of the work on it (numbers by name, as JSON), travel with
# the rows to the commit and are not written.
SHARD = pa.schema([pa.field("_shard", pa.string()), pa.field("_rows", pa.int32())])
MEASURED = pa.field("_measured", pa.string())
INTERNAL = [*SHARD.names, MEASURED.name]

# The model input, from the reader to the predictor.
INPUT = pa.schema(
    [
        pa.field("_input_ids", pa.list_(pa.int32())),
        pa.field("_global_tokens", pa.int32()),
        pa.field("_text", pa.large_string()),
    ]
)

STATUSES = ("ok", "failed", "skipped")

# Every row of every task.
DOC_ID = pa.field("doc_id", pa.string())
STATE = pa.schema([pa.field(name, pa.string()) for name in ("status", "stage", "reason")])
COUNTS = pa.schema([pa.field(name, pa.int32()) for name in ("input_tokens", "truncated_tokens", "chunks")])

# Of a task that gives several rows a document: the number of the row among them, from 0.
NUMBER = "question_number"

# What of a row may be worth a look (flags.py).
FLAGS = pa.field("flags", pa.list_(pa.string()))

# What receipts count where a row has it, whichever task's.
COUNTED = (NUMBER, FLAGS.name, "output_tokens")

# The name under which a plan has its questions.
QUESTIONS = "questions"

# What the text (and the question) was, and where the row was made if not in this run: `<plan>/<file>` of the
# run that made it.
PROVENANCE = pa.schema([pa.field("text_hash", pa.string()), pa.field("reused_from", pa.string())])


def output_columns(task: pa.Schema) -> list[str]:
    """The names of a result file's columns, those of the passthrough left out."""
    return [DOC_ID.name, *STATE.names, *COUNTS.names, *PROVENANCE.names, *task.names]
