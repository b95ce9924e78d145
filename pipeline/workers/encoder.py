"""From documents to model inputs: the rows of each document, encoded, or with the reason why they cannot be.

A shard and a batch of a user's own pipeline go through the same code. Does not use Ray.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.batching import by_token_budget
from pipeline.checkpoint import worker_tokenizer
from pipeline.inputs.texts import Text
from pipeline.output.previous_runs import PreviousRuns
from pipeline.schema import COUNTS, DOC_ID, INPUT, PROVENANCE, SHARD, STATE
from pipeline.tasks.base import Document, Failed, InputLimits, ModelInput, RequestedRow, Row, RowInput, Task
from pipeline.workers.bisect import bisect_failures

# Characters tokenized together. The tokenizer takes a hundred to two hundred times the memory of a text.
_BATCH_CHARACTERS = 1 << 20


class DocumentRow(NamedTuple):
    """A row to compute, of document number `document` in the shard."""

    document: int
    doc_id: str
    text: Text
    row: RequestedRow


@dataclass(frozen=True)
class RowEncoder:
    """Encodes documents for one task. `model`, `revision` and `base_model` name the checkpoint whose
    tokenizer it uses, and `tokenizer_sha256` is the hash that the tokenizer must have."""

    task: Task
    model: str
    revision: str | None
    base_model: str | None
    input_limits: InputLimits
    tokenizer_sha256: str | None = None

    def expand(self, ids: Sequence[str], texts: Sequence[Text], values: Sequence[Row]) -> list[DocumentRow]:
        """The rows to compute. A document whose rows cannot be determined gets one row with the reason."""
        requested = []
        for i, (doc_id, text) in enumerate(zip(ids, texts, strict=True)):
            try:
                rows = self.task.expand_rows(Document(doc_id, text.text, values[i]))
                hashes = [_hash(text.text_hash, row) for row in rows]
            except (ValueError, TypeError) as error:
                rows, hashes = [RequestedRow({})], [text.text_hash]
                text = text._replace(reason=text.reason or str(error))
            for n, (row, text_hash) in enumerate(zip(rows, hashes, strict=True)):
                numbered = row._replace(known_columns={**self._number(n), **row.known_columns})
                requested.append(DocumentRow(i, doc_id, text._replace(text_hash=text_hash), numbered))
        return requested

    @property
    def single_row(self) -> Row:
        """The known columns of a document's only row."""
        return self._number(0)

    def _number(self, n: int) -> Row:
        """The number of a document's n-th row, if the task numbers them."""
        number = self.task.number_column
        return {} if number is None else {number: n}

    def rows(self, requested: Sequence[DocumentRow], previous: PreviousRuns | None) -> list[Row]:
        """Each row: reused, or with its model input, or with the reason why it cannot be read."""
        hashes = [row.text.text_hash for row in requested]
        reused: Sequence[Row | None] = [None] * len(requested)
        if previous is not None:
            reused = previous.find([row.doc_id for row in requested], hashes, self.task.schema)
        to_encode = [i for i, row in enumerate(requested) if reused[i] is None and row.text.reason is None]
        documents = [
            RowInput(requested[i].row.text or requested[i].text.text or "", requested[i].row)
            for i in to_encode
        ]
        encoded = dict(zip(to_encode, bisect_failures(documents, self._encode), strict=True))
        rows = []
        for i, row in enumerate(requested):
            outcome = encoded.get(i) or Failed(row.text.reason or "")
            new = {"text_hash": row.text.text_hash, **_row(outcome)}
            rows.append({**(reused[i] or new), **row.row.known_columns})
        return rows

    def table(self, shard_id: str, ids: Sequence[str], rows: Sequence[Row]) -> pa.Table:
        """The rows of a shard as a table, with the task's columns and the model inputs."""
        of_shard = {"_shard": shard_id, "_rows": len(rows)}
        values = [{**of_shard, "doc_id": doc_id, **row} for doc_id, row in zip(ids, rows, strict=True)]
        columns = pa.schema([*SHARD, DOC_ID, *STATE, *COUNTS, *PROVENANCE, *self.task.schema, *INPUT])
        return pa.Table.from_pylist(values, columns)

    def _encode(self, documents: Sequence[RowInput]) -> Iterator[tuple[int, ModelInput]]:
        tokenizer = self.tokenizer()
        characters = [len(document.whole_text) for document in documents]
        for group in by_token_budget(characters, _BATCH_CHARACTERS):
            inputs = self.task.encode(tokenizer, [documents[i] for i in group], self.input_limits)
            yield from zip(group, inputs, strict=True)

    def tokenizer(self) -> LEDTokenizer:
        """The tokenizer on this machine. It is loaded once in each process.

        Raises:
            PipelineError: it is missing.
            PlanMismatch: it differs from the plan.
        """
        special_tokens = self.task.settings.special_tokens
        return worker_tokenizer(
            self.model, self.revision, self.tokenizer_sha256, special_tokens, self.base_model
        )


def _hash(text_hash: str | None, row: RequestedRow) -> str | None:
    """A hash of the text and of what else the row depends on, such as the question."""
    columns = dict(row.known_columns)
    if row.spans:
        columns["spans"] = row.spans
    if row.text is not None:
        columns["input"] = row.text
    if text_hash is None or not columns:
        return text_hash
    both = f"{text_hash} {json.dumps(columns, sort_keys=True, default=str)}"
    return hashlib.blake2b(both.encode(), digest_size=16).hexdigest()


def _row(outcome: ModelInput | Failed) -> Row:
    if isinstance(outcome, Failed):
        return {"status": "failed", "stage": "read", "reason": outcome.reason}
    return {
        "status": "ok",
        "_input_ids": outcome.input_ids,
        "_global_positions": outcome.global_positions,
        "_leading": outcome.leading,
        "_chunks": outcome.chunks,
        "_text": outcome.text,
        "input_tokens": len(outcome.input_ids),
        "truncated_tokens": outcome.truncated_tokens,
        "truncated_characters": outcome.truncated_characters,
        "chunks": len(outcome.chunks) or 1,
        **outcome.columns,
    }
