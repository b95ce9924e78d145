"""From a shard to model inputs: Parquet rows, tokenized, one table for the whole shard. Knows no Ray.

The table has the shard's name and size, `doc_id`, the passthrough columns, the state of each row and its model input.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from led.hub import resolve
from led.tokenizer import LEDTokenizer
from pipeline.columns import COUNTS, DOC_ID, INPUT, SHARD, STATE
from pipeline.inputs import read_rows
from pipeline.shards import Shard
from pipeline.tasks import ModelInput, Task


@lru_cache(maxsize=2)
def _tokenizer(folder: str) -> LEDTokenizer:
    return LEDTokenizer.from_pretrained(folder)


@dataclass(frozen=True)
class ShardReader:
    """Reads and tokenizes shards for one task; `model` and `revision` name the checkpoint whose tokenizer it uses.

    `max_input_tokens` is the longest input, special tokens included.
    """

    task: Task
    model: str
    revision: str | None
    max_input_tokens: int

    def __call__(self, shard: Shard) -> pa.Table:
        """The rows of `shard`, in their order. A row that cannot be read is there, failed, with its reason.

        Raises:
            CorruptInput: the shard's rows cannot be read from the file.
        """
        settings = self.task.settings
        wanted = [settings.text_column, *([settings.id_column] if settings.id_column else []), *settings.passthrough]
        source = read_rows(shard.path, shard.start, shard.stop, wanted)
        texts = source[settings.text_column].to_pylist()
        reasons = [_unreadable(text) for text in texts]
        readable = [i for i, reason in enumerate(reasons) if reason is None]
        inputs = dict(zip(readable, self._encode([texts[i] for i in readable]), strict=True))
        rows: list[dict[str, Any]] = []
        for i, (doc_id, reason) in enumerate(zip(self._doc_ids(source, shard), reasons, strict=True)):
            found = inputs.get(i)
            row: dict[str, Any] = {"_shard": shard.shard_id, "_documents": shard.documents, "doc_id": doc_id}
            if found is None:
                rows.append(row | {"status": "failed", "stage": "read", "reason": reason})
                continue
            rows.append(
                row
                | {
                    "status": "ok",
                    "input_ids": found.input_ids,
                    "global_tokens": found.global_tokens,
                    "input_tokens": len(found.input_ids),
                    "truncated_tokens": found.truncated_tokens,
                    "windows": found.windows,
                }
            )
        table = pa.Table.from_pylist(rows, pa.schema([*SHARD, DOC_ID, *STATE, *COUNTS, *INPUT]))
        for name in reversed(settings.passthrough):
            table = table.add_column(3, source.schema.field(name), source[name])
        return table

    def _encode(self, texts: list[str]) -> list[ModelInput]:
        tokenizer = _tokenizer(str(resolve(self.model, self.revision).folder))
        return self.task.encode(tokenizer, texts, self.max_input_tokens)

    def _doc_ids(self, source: pa.Table, shard: Shard) -> list[str]:
        column = self.task.settings.id_column
        if column is None:
            return [f"{Path(shard.path).name}:{row}" for row in range(shard.start, shard.stop)]
        named = source[column].to_pylist()
        return [f"{Path(shard.path).name}:{shard.start + i}" if v is None else str(v) for i, v in enumerate(named)]


def _unreadable(text: str | None) -> str | None:
    """Why a text cannot be read, or None where it can."""
    if text is None:
        return "the text is null"
    if not text.strip():
        return "the text is empty"
    return None
