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
class Request:
    """What to read of every row: these `columns`, of which `text` holds the document.

    `a.b` is the field b of a column of records. At most `max_bytes` of a text are needed. With `lists`, the
    column `text` may hold lists of texts. `types` are those of some of the columns, as the plan has them.
    Without a type, a column of JSON lines is read as text. `optional` are columns that a file may lack.
    """

    columns: tuple[str, ...]
    text: str = ""
    max_bytes: int = 1 << 62
    lists: bool = False
    types: tuple[tuple[str, pa.DataType], ...] = ()
    optional: tuple[str, ...] = ()


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

    def inspect(self, entry: FileEntry, documents: int, request: Request) -> FileStats:
        """The statistics of a file, split into shards of at most `documents` rows. The types of the
        requested columns are those that all their values have."""

    def stream(self, path: str, split: Split, request: Request) -> Iterator[Rows]:
        """Yield the rows of a split."""


def table_of(rows: Sequence[Mapping[str, object]], request: Request) -> pa.Table:
    """A table of texts, and of columns with types of their own. The column `text` holds bytes, since they may
    not be UTF-8, or with `lists` lists of them."""
    of_text = pa.large_list(pa.large_binary()) if request.lists else pa.large_binary()
    types = dict.fromkeys(request.columns, pa.string()) | dict(request.types)
    kinds = [of_text if name == request.text else types[name] for name in request.columns]
    arrays = [
        pa.array([row.get(name) for row in rows], kind)
        for name, kind in zip(request.columns, kinds, strict=True)
    ]
    return pa.table(arrays, list(request.columns))
