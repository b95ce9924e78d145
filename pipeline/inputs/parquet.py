"""Parquet files.

A file is split between its row groups where possible. Only the requested columns of a row group are fetched,
up to the last row of the split. Rows before the split in the same row group are fetched and dropped, so row
groups of about a shard's size are the cheapest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.inputs.files import FileEntry, open_file
from pipeline.inputs.rows import BATCH_ROWS, FileStats, Rows
from pipeline.inputs.splits import Split, split_row_groups

# Bytes of a column fetched at once. The wait for a reply is then short beside the transfer.
_READ_SIZE = 4 << 20


class Parquet:
    """Parquet files."""

    def inspect(self, entry: FileEntry, documents: int, max_bytes: int) -> FileStats:
        """Reads only the footer."""
        with open_file(entry.path, exact=True) as opened, pq.ParquetFile(opened) as file:
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            if sum(groups) != file.metadata.num_rows or any(rows < 0 for rows in groups):
                raise ValueError(
                    f"its footer counts {file.metadata.num_rows} rows, its row groups {sum(groups)}"
                )
            return FileStats(sum(groups), split_row_groups(groups, documents), file.schema_arrow)

    def stream(
        self, path: str, split: Split, text: str, columns: Sequence[str], max_bytes: int, lists: bool
    ) -> Iterator[Rows]:
        """Reads the row groups that hold rows of the split, from their start to the end of the split."""
        # With these options pyarrow fetches a column piece by piece, and nothing behind the split.
        options = {"pre_buffer": False, "buffer_size": _READ_SIZE, "page_checksum_verification": True}
        with open_file(path, exact=True) as opened, pq.ParquetFile(opened, **options) as file:
            groups, row, first = [], 0, None
            for i in range(file.num_row_groups):
                stop = row + file.metadata.row_group(i).num_rows
                if row < split.stop and stop > split.start:
                    first = row if first is None else first
                    groups.append(i)
                row = stop
            row = first or 0
            for batch in file.iter_batches(min(BATCH_ROWS, split.stop - row), groups, list(columns)):
                table = pa.Table.from_batches([batch])
                begin, end = max(split.start - row, 0), min(split.stop - row, len(table))
                row += len(table)
                if begin < end:
                    yield Rows(table.slice(begin, end - begin))
                if row >= split.stop:
                    return
