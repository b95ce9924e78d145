"""From a shard to model inputs: rows of documents, tokenized, one table for the whole shard. Knows no Ray.

The table has the shard's name and size, `doc_id`, the passthrough columns, the state of each row and its model input; the
task's columns are filled where a row is carried over from an earlier run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa

from led.hub import resolve
from led.tokenizer import LEDTokenizer
from pipeline.batching import by_length
from pipeline.columns import COUNTS, DOC_ID, INPUT, PROVENANCE, SHARD, STATE
from pipeline.doc_ids import doc_ids
from pipeline.errors import CorruptInput
from pipeline.files import check_unchanged
from pipeline.inputs import read_rows
from pipeline.isolation import Failed, isolate
from pipeline.previous import Previous
from pipeline.shards import Shard
from pipeline.tasks import ModelInput, Row, Task

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

    def __call__(self, shard: Shard, previous: Previous | None = None) -> pa.Table:
        """The rows of `shard`, in their order. A row that cannot be read is there, with its reason; one that stands in
        `previous` is there as it stands.

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
        named = rows.table[settings.id_column] if settings.id_column else None
        ids = doc_ids(named, shard.source, shard.start, shard.stop)
        texts = read_texts(rows.table[settings.text_column], settings.max_document_bytes)
        texts = [text._replace(reason=rows.reasons.get(i, text.reason)) for i, text in enumerate(texts)]
        table = self._table(shard, ids, self._rows(ids, texts, previous))
        for name in reversed(settings.passthrough):
            column = rows.table[name]
            kind = column.type if self.passthrough is None else self.passthrough.field(name).type
            if column.type != kind:  # the document itself, which was read as bytes
                column = pa.chunked_array([pa.array([text.text for text in texts], kind)])
            table = table.add_column(3, pa.field(name, column.type), column)
        return table

    def _rows(self, ids: Sequence[str], texts: Sequence[Text], previous: Previous | None) -> list[Row]:
        """The row of each text: carried over, or with its model input, or with what kept it from being read."""
        hashes = [text.text_hash for text in texts]
        carried: Sequence[Row | None] = [None] * len(texts)
        if previous is not None:
            carried = previous.find(ids, hashes, self.task.columns)
        to_encode = [i for i, text in enumerate(texts) if carried[i] is None and text.reason is None]
        encoded = dict(zip(to_encode, isolate([texts[i].text or "" for i in to_encode], self._encode), strict=True))
        rows = []
        for i, text in enumerate(texts):
            outcome = encoded.get(i) or Failed(text.reason or "")
            rows.append(carried[i] or {"text_hash": text.text_hash, **_row(outcome)})
        return rows

    def _skipped(self, shard: Shard, reason: str) -> pa.Table:
        rows = [{"status": "skipped", "stage": "read", "reason": reason}] * shard.documents
        table = self._table(shard, doc_ids(None, shard.source, shard.start, shard.stop), rows)
        for field in reversed(list(self.passthrough or [])):
            table = table.add_column(3, field, pa.nulls(shard.documents, field.type))
        return table

    def _table(self, shard: Shard, ids: Sequence[str], rows: Sequence[Row]) -> pa.Table:
        whole = {"_shard": shard.shard_id, "_documents": shard.documents}
        named = [{**whole, "doc_id": doc_id, **row} for doc_id, row in zip(ids, rows, strict=True)]
        columns = pa.schema([*SHARD, DOC_ID, *STATE, *COUNTS, *PROVENANCE, *self.task.columns, *INPUT])
        return pa.Table.from_pylist(named, columns)

    def _encode(self, texts: Sequence[str]) -> Iterator[tuple[int, ModelInput]]:
        tokenizer = _tokenizer(str(resolve(self.model, self.revision).folder))
        for together in by_length([len(text) for text in texts], _TOGETHER):
            inputs = self.task.encode(tokenizer, [texts[i] for i in together], self.max_input_tokens)
            yield from zip(together, inputs, strict=True)


class Text(NamedTuple):
    """A document as it was read, why there is none, and a name of its bytes."""

    text: str | None
    reason: str | None
    text_hash: str | None


def read_texts(column: pa.ChunkedArray, longest: int) -> list[Text]:
    """The texts of a column of text or bytes, of at most `longest` bytes each."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    # As bytes, because Parquet promises UTF-8 and files break the promise: one bad row would fail all.
    return [_decode(value, longest) for value in column.cast(pa.large_binary()).to_pylist()]


def _decode(value: bytes | None, longest: int) -> Text:
    if value is None:
        return Text(None, "the text is null", None)
    name = hashlib.blake2b(value, digest_size=16).hexdigest()
    if len(value) > longest:
        return Text(None, f"the text has more than the {longest} bytes of --max-document-bytes", name)
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        return Text(None, f"the text is not UTF-8 (byte 0x{value[error.start]:02x} at {error.start})", name)
    return Text(text, None, name) if text.strip() else Text(None, "the text is empty", name)


def _row(outcome: ModelInput | Failed) -> Row:
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
