"""Parquet files.

A file is split between its row groups where possible. Only the requested columns of a row group are fetched,
up to the last row of the split. Rows before the split in the same row group must be decoded to reach it. A
process keeps its position in a row group, so shards that follow one another decode it once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.inputs.cursors import CURSORS
from pipeline.inputs.files import FileEntry, current_entry, open_file
from pipeline.inputs.rows import BATCH_ROWS, FileStats, Request, Rows
from pipeline.inputs.splits import Split, split_row_groups
from pipeline.inputs.types import cast_columns, select_fields

# Bytes of a column fetched at once. The wait for a reply is then short beside the transfer.
_READ_SIZE = 4 << 20

# Bytes of a row group decoded at once.
_BATCH_BYTES = 32 << 20

# Rows decoded at once for a smaller split.
_LEAST_ROWS = 16

# Timestamps in 96 bits, as older Spark and Impala write them, reach beyond the years 1677 to 2262 of 64-bit
# nanoseconds. In nanoseconds pyarrow would read another date.
_TYPES = {"coerce_int96_timestamp_unit": "us"}


class Parquet:
    """Parquet files."""

    def inspect(self, entry: FileEntry, documents: int, request: Request) -> FileStats:
        """Reads only the footer."""
        with open_file(entry.path, exact=True) as opened, pq.ParquetFile(opened, **_TYPES) as file:
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            if sum(groups) != file.metadata.num_rows or any(rows < 0 for rows in groups):
                raise ValueError(
                    f"its footer counts {file.metadata.num_rows} rows, its row groups {sum(groups)}"
                )
            return FileStats(sum(groups), split_row_groups(groups, documents), file.schema_arrow)

    def stream(self, path: str, split: Split, request: Request) -> Iterator[Rows]:
        """Reads the row groups that hold rows of the split."""
        entry = current_entry(path)
        columns, types = request.columns, dict(request.types)
        rows = CURSORS.read(
            (entry, columns), lambda: _RowGroups(entry, split, columns), split.start, split.stop
        )
        for batch in rows:
            yield Rows(cast_columns(batch.table, types), batch.reasons)


class _RowGroups:
    """A cursor over the row groups that hold rows of a split."""

    def __init__(self, entry: FileEntry, split: Split, columns: Sequence[str]) -> None:
        # With these options pyarrow fetches a column piece by piece, and nothing behind the last batch.
        options = {
            "pre_buffer": False,
            "buffer_size": _READ_SIZE,
            "page_checksum_verification": True,
            **_TYPES,
        }
        with ExitStack() as stack:
            opened = stack.enter_context(open_file(entry.path, exact=True))
            footer = _footer(entry)
            file = stack.enter_context(pq.ParquetFile(opened, metadata=footer.metadata, **options))
            bounds = footer.bounds
            first, last = bisect_right(bounds, split.start) - 1, bisect_left(bounds, split.stop)
            groups = range(min(first, file.num_row_groups), min(last, file.num_row_groups))
            self.position: int = bounds[groups[0]] if groups else 0
            self.end: int = bounds[groups[-1] + 1] if groups else 0
            self._batches = file.iter_batches(
                _batch_rows(file, groups, split, columns), groups, list(columns)
            )
            self._columns = list(columns)
            self._ahead: pa.Table | None = None
            self._stack = stack.pop_all()

    def read(self, start: int, stop: int) -> Iterator[Rows]:
        while self.position < stop:
            if self._ahead is None:
                batch = next(self._batches, None)
                if batch is None:
                    return
                self._ahead = select_fields(pa.Table.from_batches([batch]), self._columns)
            table = self._ahead
            begin, end = max(start - self.position, 0), min(stop - self.position, len(table))
            self._ahead = table.slice(end) if end < len(table) else None
            self.position += min(end, len(table))
            if begin < end:
                yield Rows(table.slice(begin, end - begin))

    def close(self) -> None:
        self._batches, self._ahead = iter(()), None
        self._stack.close()


class _Footer(NamedTuple):
    """The metadata of a file, the row at which each row group begins, and the number of rows."""

    metadata: pq.FileMetaData
    bounds: list[int]


@lru_cache(maxsize=4)
def _footer(entry: FileEntry) -> _Footer:
    """The footer of a file. Parsing that of a million rows in small row groups takes a while."""
    with open_file(entry.path, exact=True) as opened, pq.ParquetFile(opened) as file:
        rows = (file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
        return _Footer(file.metadata, list(accumulate(rows, initial=0)))


def _batch_rows(file: pq.ParquetFile, groups: Sequence[int], split: Split, columns: Sequence[str]) -> int:
    """Rows to decode at once: as many as the split has, but at most `BATCH_ROWS` and about `_BATCH_BYTES`."""
    size = rows = 0
    prefixes = tuple(f"{name}." for name in columns)
    for i in groups:
        group = file.metadata.row_group(i)
        rows += group.num_rows
        of_group = (group.column(j) for j in range(group.num_columns))
        size += sum(
            column.total_uncompressed_size
            for column in of_group
            if f"{column.path_in_schema}.".startswith(prefixes)
        )
    wanted = max(_LEAST_ROWS, split.rows)
    return max(1, min(BATCH_ROWS, wanted, _BATCH_BYTES * rows // max(1, size)))
