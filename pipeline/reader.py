"""From a shard to model inputs: rows of documents, tokenized, one table for the whole shard. Knows no Ray.

The table has the shard's name and size, `doc_id`, the passthrough columns, the state of each row and its model input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from led.hub import resolve
from led.tokenizer import LEDTokenizer
from pipeline.batching import by_length
from pipeline.columns import COUNTS, DOC_ID, INPUT, SHARD, STATE
from pipeline.doc_ids import doc_ids
from pipeline.errors import CorruptInput
from pipeline.files import check_unchanged
from pipeline.inputs import read_rows
from pipeline.isolation import Failed, isolate
from pipeline.shards import Shard
from pipeline.tasks import ModelInput, Task

# Characters tokenized together: what the tokenizer holds of a text is a hundred to two hundred times the text.
_TOGETHER = 1 << 20


@lru_cache(maxsize=2)
def _tokenizer(folder: str) -> LEDTokenizer:
    return LEDTokenizer.from_pretrained(folder)


@dataclass(frozen=True)
class ShardReader:
    """Reads and tokenizes shards for one task; `model` and `revision` name the checkpoint whose tokenizer it uses.

    `max_input_tokens` is the longest input, special tokens included; `passthrough` the types of the columns carried over, by
    default those of the file.
    """

    task: Task
    model: str
    revision: str | None
    max_input_tokens: int
    passthrough: pa.Schema | None = None

    def __call__(self, shard: Shard) -> pa.Table:
        """The rows of `shard`, in their order. A row that cannot be read is there, with its reason.

        Raises:
            CorruptInput: the shard's rows cannot be read from the file, and the settings do not say to skip them.
            Unreachable: the file cannot be fetched.
            PlanMismatch: the file is another than was planned.
        """
        settings = self.task.settings
        check_unchanged(shard.path, shard.content)
        wanted = [settings.text_column, *([settings.id_column] if settings.id_column else []), *settings.passthrough]
        try:
            rows = read_rows(shard.path, shard.cut, settings.text_column, wanted, settings.max_document_bytes)
        except CorruptInput as error:
            if settings.on_bad_shard == "fail":
                raise
            return self._skipped(shard, str(error))
        texts, reasons = read_texts(rows.table[settings.text_column], settings.max_document_bytes)
        reasons |= rows.reasons
        readable = [i for i in range(shard.documents) if i not in reasons]
        encoded = isolate([texts[i] or "" for i in readable], self._encode)
        outcomes: list[ModelInput | Failed] = [Failed(reasons.get(i, "")) for i in range(shard.documents)]
        for i, outcome in zip(readable, encoded, strict=True):
            outcomes[i] = outcome
        ids = rows.table[settings.id_column] if settings.id_column else None
        table = self._table(shard, doc_ids(ids, shard.source, shard.start, shard.stop), [_row(o) for o in outcomes])
        for name in reversed(settings.passthrough):
            column = rows.table[name]
            kind = column.type if self.passthrough is None else self.passthrough.field(name).type
            if column.type != kind:  # the document itself, which was read as bytes
                column = pa.chunked_array([pa.array(texts, kind)])
            table = table.add_column(3, pa.field(name, column.type), column)
        return table

    def _skipped(self, shard: Shard, reason: str) -> pa.Table:
        rows = [{"status": "skipped", "stage": "read", "reason": reason}] * shard.documents
        table = self._table(shard, doc_ids(None, shard.source, shard.start, shard.stop), rows)
        for field in reversed(list(self.passthrough or [])):
            table = table.add_column(3, field, pa.nulls(shard.documents, field.type))
        return table

    def _table(self, shard: Shard, ids: Sequence[str], rows: Sequence[dict[str, Any]]) -> pa.Table:
        whole = {"_shard": shard.shard_id, "_documents": shard.documents}
        named = [{**whole, "doc_id": doc_id, **row} for doc_id, row in zip(ids, rows, strict=True)]
        return pa.Table.from_pylist(named, pa.schema([*SHARD, DOC_ID, *STATE, *COUNTS, *INPUT]))

    def _encode(self, texts: Sequence[str]) -> Iterator[tuple[int, ModelInput]]:
        tokenizer = _tokenizer(str(resolve(self.model, self.revision).folder))
        for together in by_length([len(text) for text in texts], _TOGETHER):
            inputs = self.task.encode(tokenizer, [texts[i] for i in together], self.max_input_tokens)
            yield from zip(together, inputs, strict=True)


def read_texts(column: pa.ChunkedArray, longest: int) -> tuple[list[str | None], dict[int, str]]:
    """The texts of a column of text or bytes, and by row why there is none."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    texts: list[str | None] = []
    reasons: dict[int, str] = {}
    # As bytes, because Parquet promises UTF-8 and files break the promise: one bad row would fail all.
    for i, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
        text, reason = _decode(value, longest)
        texts.append(text)
        if reason is not None:
            reasons[i] = reason
    return texts, reasons


def _decode(value: bytes | None, longest: int) -> tuple[str | None, str | None]:
    if value is None:
        return None, "the text is null"
    if len(value) > longest:
        return None, f"the text has more than the {longest} bytes of --max-document-bytes"
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        return None, f"the text is not UTF-8 (byte 0x{value[error.start]:02x} at {error.start})"
    return (text, None) if text.strip() else (None, "the text is empty")


def _row(outcome: ModelInput | Failed) -> dict[str, Any]:
    if isinstance(outcome, Failed):
        return {"status": "failed", "stage": "read", "reason": outcome.reason}
    return {
        "status": "ok",
        "input_ids": outcome.input_ids,
        "global_tokens": outcome.global_tokens,
        "input_tokens": len(outcome.input_ids),
        "truncated_tokens": outcome.truncated_tokens,
        "windows": outcome.windows,
    }
