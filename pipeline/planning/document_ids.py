"""The names of documents: from their column, or made from file and row; and none of them twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.settings import RunSettings
from pipeline.inputs.splits import Split
from pipeline.planning.count_duplicates import count_duplicates
from pipeline.errors import CorruptInput, UsageError
from pipeline.inputs.read import read_rows, stream_rows
from pipeline.planning.plan import Plan, Shard


def document_ids(column: pa.ChunkedArray | None, source: str, start: int, stop: int) -> list[str]:
    """The names of rows `start` to `stop`: those of the id column, and `<source>:<row>` where there is none."""
    named: list[Any] = [None] * (stop - start)
    if column is not None:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        named = (column if pa.types.is_integer(column.type) else column.cast(pa.large_binary())).to_pylist()
    ids = [name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name for name in named]
    return [f"{source}:{start + i}" if name is None else str(name) for i, name in enumerate(ids)]


def check_duplicate_ids(plan: Plan, settings: RunSettings) -> None:
    """See that no two documents of a plan have one name, by reading the id columns.

    Raises:
        UsageError: two have.
        CorruptInput: names cannot be read, and the settings do not say to skip what cannot.
    """
    shards: dict[str, list[Shard]] = {}
    for shard in plan.shards:
        shards.setdefault(shard.path, []).append(shard)
    count, examples = count_duplicates([partial(_ids, of_file, settings) for of_file in shards.values()])
    if count:
        raise UsageError(
            f"{count} doc_ids stand for more than one document, such as {', '.join(examples)}; "
            "name a column that tells documents apart with --id-column, or keep them with --on-duplicate-id keep."
        )


def _ids(shards: Sequence[Shard], settings: RunSettings) -> Iterator[list[str]]:
    """The names of a file's documents: in one go where it can be read, around the bad shards where it cannot."""
    column, first = settings.id_column, shards[0]
    if column is None:  # rows of one file differ by their number, so only files need comparing
        yield [first.source]
        return
    members = tuple(member for shard in shards for member in shard.members)
    row = 0
    try:
        for rows in stream_rows(first.path, Split(0, shards[-1].stop, 0, members), "", [column], settings.max_document_bytes):
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
