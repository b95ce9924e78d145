"""From a shard to model inputs: rows of documents, tokenized, one table for the whole shard. Knows no Ray.

The table has the shard's name and size, `doc_id`, the passthrough columns, the state of each row and its model input; the
task's columns are filled where a row is carried over from an earlier run.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from led.tokenizer import LEDTokenizer
from pipeline.batching import by_length
from pipeline.checkpoint import worker_tokenizer
from pipeline.schema import COUNTS, DOC_ID, INPUT, MEASURED, NUMBER, PROVENANCE, SHARD, STATE
from pipeline.planning.document_ids import doc_ids
from pipeline.errors import CorruptInput
from pipeline.inputs.files import check_unchanged
from pipeline.inputs.formats import values_of
from pipeline.inputs.read import read_rows
from pipeline.workers.bisect import Failed, isolate
from pipeline.tasks.base import Document, ModelInput, Reading, Row
from pipeline.output.previous_runs import Previous
from pipeline.planning.plan import Shard
from pipeline.tasks.all import Task

# Characters tokenized together: what the tokenizer holds of a text is a hundred to two hundred times the text.
_TOGETHER = 1 << 20


@dataclass(frozen=True)
class ShardReader:
    """Reads and tokenizes shards for one task; `model` and `revision` name the checkpoint whose tokenizer it uses.

    `reading` says how long documents are read; `passthrough` the types of the columns carried over, by default those of the
    file; `tokenizer_sha256` which tokenizer it must be.
    """

    task: Task
    model: str
    revision: str | None
    reading: Reading
    passthrough: pa.Schema | None = None
    tokenizer_sha256: str | None = None

    def __call__(self, shard: Shard, previous: Previous | None = None) -> pa.Table:
        """The rows of `shard`, in their order; where the task gives several of a document, they follow one another. A row
        that cannot be read is there, with its reason; one that stands in `previous` is there as it stands.

        Raises:
            CorruptInput: the shard's rows cannot be read from the file, and the settings do not say to skip them.
            Unreachable: the file cannot be fetched.
            PlanMismatch: the file, or the tokenizer, is another than was planned.
            PipelineError: this machine has no such checkpoint.
        """
        begun = time.monotonic()
        table = self._read(shard, previous)
        measured: dict[str, float] = {"read_seconds": time.monotonic() - begun}
        if previous is not None:
            read = table[DOC_ID.name].filter(pc.not_equal(table["status"], "skipped"))
            if (new := previous.count_new(read.to_pylist())) is not None:
                measured["new_rows"] = new
        return table.append_column(MEASURED, pa.array([json.dumps(measured)] * len(table), MEASURED.type))

    def _read(self, shard: Shard, previous: Previous | None) -> pa.Table:
        settings = self.task.settings
        self._tokenizer()  # where there is none, no document is to blame
        check_unchanged(shard.path, shard.content)
        named_columns = [settings.id_column] if settings.id_column else []
        carried = [column for _, column in settings.carried_columns]
        try:
            wanted = [settings.text_column, *named_columns, *carried]
            rows = read_rows(shard.path, shard.cut, settings.text_column, wanted, settings.max_document_bytes)
        except CorruptInput as error:
            if settings.on_bad_shard == "fail":
                raise
            return self._skipped(shard, str(error))
        named = rows.table[settings.id_column] if settings.id_column else None
        ids = doc_ids(named, shard.source, shard.start, shard.stop)
        texts = read_texts(rows.table[settings.text_column], settings.max_document_bytes)
        texts = [text._replace(reason=rows.reasons.get(i, text.reason)) for i, text in enumerate(texts)]
        asked = self._asked(ids, texts, values_of(shard.path, rows.table.select(dict.fromkeys(carried))))
        places = [row.place for row in asked]
        table = self._table(shard, [row.doc_id for row in asked], self._rows(asked, previous))
        for name in reversed(settings.passthrough):
            column = rows.table[name]
            kind = column.type if self.passthrough is None else self.passthrough.field(name).type
            if column.type != kind:  # the document itself, which was read as bytes
                column = pa.chunked_array([pa.array([text.text for text in texts], kind)])
            if len(places) != len(column):
                column = column.take(pa.array(places))
            table = table.add_column(3, pa.field(name, column.type), column)
        return table

    def _asked(self, ids: Sequence[str], texts: Sequence[Text], values: Sequence[Row]) -> list[_Asked]:
        """The rows to make, each of the document at a place of the shard."""
        asked = []
        for place, (doc_id, text) in enumerate(zip(ids, texts, strict=True)):
            try:
                rows = self.task.rows_of(values[place])
            except ValueError as error:
                rows, text = [self._first()], text._replace(reason=text.reason or str(error))
            asked += [_Asked(place, doc_id, text._replace(text_hash=_hash_with(text.text_hash, row)), row) for row in rows]
        return asked

    def _first(self) -> Row:
        """What is known of a document's only row, where nothing else is."""
        return {NUMBER: 0} if NUMBER in self.task.columns.names else {}

    def _rows(self, asked: Sequence[_Asked], previous: Previous | None) -> list[Row]:
        """Each row: carried over, or with its model input, or with what kept it from being read."""
        hashes = [row.text.text_hash for row in asked]
        carried: Sequence[Row | None] = [None] * len(asked)
        if previous is not None:
            carried = previous.find([row.doc_id for row in asked], hashes, self.task.columns)
        to_encode = [i for i, row in enumerate(asked) if carried[i] is None and row.text.reason is None]
        documents = [Document(asked[i].text.text or "", asked[i].given) for i in to_encode]
        encoded = dict(zip(to_encode, isolate(documents, self._encode), strict=True))
        rows = []
        for i, row in enumerate(asked):
            outcome = encoded.get(i) or Failed(row.text.reason or "")
            rows.append({**(carried[i] or {"text_hash": row.text.text_hash, **_row(outcome)}), **row.given})
        return rows

    def _skipped(self, shard: Shard, reason: str) -> pa.Table:
        rows = [{"status": "skipped", "stage": "read", "reason": reason, **self._first()}] * shard.documents
        table = self._table(shard, doc_ids(None, shard.source, shard.start, shard.stop), rows)
        for field in reversed(list(self.passthrough or [])):
            table = table.add_column(3, field, pa.nulls(shard.documents, field.type))
        return table

    def _table(self, shard: Shard, ids: Sequence[str], rows: Sequence[Row]) -> pa.Table:
        whole = {"_shard": shard.shard_id, "_rows": len(rows)}
        named = [{**whole, "doc_id": doc_id, **row} for doc_id, row in zip(ids, rows, strict=True)]
        columns = pa.schema([*SHARD, DOC_ID, *STATE, *COUNTS, *PROVENANCE, *self.task.columns, *INPUT])
        return pa.Table.from_pylist(named, columns)

    def _encode(self, documents: Sequence[Document]) -> Iterator[tuple[int, ModelInput]]:
        tokenizer = self._tokenizer()
        for together in by_length([len(document.text) for document in documents], _TOGETHER):
            inputs = self.task.encode(tokenizer, [documents[i] for i in together], self.reading)
            yield from zip(together, inputs, strict=True)

    def _tokenizer(self) -> LEDTokenizer:
        return worker_tokenizer(self.model, self.revision, self.tokenizer_sha256)


class Text(NamedTuple):
    """A document as it was read, why there is none, and a name of its bytes."""

    text: str | None
    reason: str | None
    text_hash: str | None


class _Asked(NamedTuple):
    """A row to make: of the document at `place` of the shard, with what is known of it beforehand."""

    place: int
    doc_id: str
    text: Text
    given: Row


def _hash_with(text_hash: str | None, given: Mapping[str, Any]) -> str | None:
    """The name of a text and of what is asked of it."""
    asked = {name: value for name, value in given.items() if name != NUMBER}
    if text_hash is None or not asked:
        return text_hash
    both = f"{text_hash} {json.dumps(asked, sort_keys=True)}"
    return hashlib.blake2b(both.encode(), digest_size=16).hexdigest()


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
        "_input_ids": outcome.input_ids,
        "_global_tokens": outcome.global_tokens,
        "_text": outcome.text,
        "input_tokens": len(outcome.input_ids),
        "truncated_tokens": outcome.truncated_tokens,
        "windows": outcome.windows,
    }
