"""Document IDs: from a column, or made from file and row. No ID may occur twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.errors import CorruptInput, UsageError
from pipeline.inputs.read import read_rows, stream_rows
from pipeline.inputs.splits import joined
from pipeline.planning.duplicates import duplicate_ids
from pipeline.planning.plan import Plan, Shard
from pipeline.settings import RunSettings


def document_ids(column: pa.ChunkedArray | None, source: str, start: int, stop: int) -> list[str]:
    """The IDs of rows `start` to `stop`: those of the column, and `<source>:<row>` without a column or for a
    null."""
    values: list[Any] = [None] * (stop - start)
    if column is not None:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        values = (column if pa.types.is_integer(column.type) else column.cast(pa.large_binary())).to_pylist()
    ids = [
        value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value for value in values
    ]
    return [f"{source}:{start + i}" if value is None else str(value) for i, value in enumerate(ids)]


def check_duplicate_ids(plan: Plan, settings: RunSettings, id_column: str | None) -> None:
    """Check that no document ID of a plan occurs twice, by reading the column of IDs.

    Raises:
        UsageError: an ID occurs twice.
        CorruptInput: IDs cannot be read, and --on-bad-shard is fail.
    """
    shards: dict[str, list[Shard]] = {}
    for shard in plan.shards:
        shards.setdefault(shard.path, []).append(shard)
    count, examples = duplicate_ids(
        [partial(_ids, of_file, settings, id_column) for of_file in shards.values()]
    )
    if count and settings.group_column:
        raise UsageError(
            f"{count} keys of --group-by {settings.group_column} occur in several places, such as "
            f"{', '.join(examples)}; the rows of a key must follow one another in one file: sort the corpus "
            "by that column. Or keep the parts apart by --on-duplicate-id keep."
        )
    if count:
        raise UsageError(
            f"{count} document IDs occur more than once, such as {', '.join(examples)}; name a column with "
            "unique IDs by --id-column, or keep the duplicates by --on-duplicate-id keep."
        )


def _ids(shards: Sequence[Shard], settings: RunSettings, column: str | None) -> Iterator[list[str]]:
    """The IDs of a file's documents: in one pass if the file is readable, otherwise around its bad shards."""
    first = shards[0]
    if column is None:  # IDs of one file differ by the row, so only the files need comparing
        yield [first.source]
        return
    row = 0
    try:
        split = joined([shard.split for shard in shards])
        for rows in stream_rows(first.path, split, "", [column], settings.max_document_bytes):
            count = len(rows.table)
            yield document_ids(rows.table[column], first.source, row, row + count)
            row += count
    except CorruptInput:
        if settings.on_bad_shard == "fail":
            raise
        for shard in shards:
            if shard.start >= row:
                with suppress(CorruptInput):
                    rows = read_rows(shard.path, shard.split, "", [column], settings.max_document_bytes)
                    yield document_ids(rows.table[column], shard.source, shard.start, shard.stop)
