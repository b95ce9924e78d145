"""What a format returns: the statistics of a file, and rows of it. The protocol of a format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from pipeline.inputs.files import FileEntry
from pipeline.inputs.splits import Split

# Rows that a format yields at once.
BATCH_ROWS = 256


@dataclass(frozen=True)
class FileStats:
    """What planning needs of a file: its rows, its splits, its columns."""

    rows: int
    splits: tuple[Split, ...]
    schema: pa.Schema


@dataclass(frozen=True)
class Rows:
    """Some rows of a file: the requested columns, and by row number the reason if the row cannot be read."""

    table: pa.Table
    reasons: dict[int, str] = field(default_factory=dict)


class Format(Protocol):
    """A file format. Errors are those of the libraries. The caller adds the file's name."""

    def inspect(self, entry: FileEntry, documents: int, max_bytes: int) -> FileStats:
        """The statistics of a file, split into shards of at most `documents` rows."""

    def stream(
        self, path: str, split: Split, text: str, columns: Sequence[str], max_bytes: int, lists: bool
    ) -> Iterator[Rows]:
        """Yield the rows of a split. At most `max_bytes` of the column `text` are needed.

        With `lists`, that column may hold lists of texts.
        """


def table_of(
    rows: Sequence[Mapping[str, object]], text: str, columns: Sequence[str], *, lists: bool = False
) -> pa.Table:
    """A table of texts. The column `text` holds bytes, since they may not be UTF-8, or with `lists`
    lists of them."""
    of_text = pa.large_list(pa.large_binary()) if lists else pa.large_binary()
    types = {name: of_text if name == text else pa.string() for name in columns}
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in types.items()})
