"""Groups: rows of one key, one after another in a file, as one document with a list of texts.

Planning reads the column of keys once. A split then states the rows at which its groups begin, so a reader
fetches only its own rows. The other columns have the values of a group's first row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pyarrow as pa

from pipeline.errors import UsageError
from pipeline.inputs.files import FileEntry, partitions
from pipeline.inputs.rows import BATCH_ROWS, FileStats, Format, Rows
from pipeline.inputs.splits import Split, joined, split_rows


def inspect_groups(
    file_format: Format, entry: FileEntry, key: str, documents: int, max_bytes: int
) -> FileStats:
    """The statistics of a file whose documents are groups. `rows` counts them.

    Raises:
        UsageError: the file has no column `key`.
    """
    stats = file_format.inspect(entry, documents, max_bytes)
    whole = joined(stats.splits) if stats.splits else Split(0, 0)
    in_path = partitions(entry.path)
    if key in in_path:
        bounds = [0, stats.rows] if stats.rows else [0]
    elif key not in stats.schema.names:
        raise UsageError(
            f"{entry.path} has no column {key!r}; it has {', '.join(stats.schema.names)}. Name one with "
            "--group-by."
        )
    else:
        keys = (
            value
            for rows in file_format.stream(entry.path, whole, "", [key], max_bytes, False)
            for value in rows.table[key].to_pylist()
        )
        bounds = group_bounds(keys)
    reachable = [split.start - split.skipped_rows for split in stats.splits if not split.offset]
    splits = []
    for split in split_rows(len(bounds) - 1, documents):
        first, last = bounds[split.start], bounds[split.stop]
        splits.append(
            replace(
                split,
                members=whole.members[first:last],
                group_rows=tuple(bounds[split.start : split.stop + 1]),
                skipped_rows=first - reachable[bisect_right(reachable, first) - 1],
            )
        )
    return FileStats(len(bounds) - 1, tuple(splits), stats.schema)


def group_bounds(keys: Iterator[Any]) -> list[int]:
    """The row at which each group begins, and the number of rows. A row without a key is a group of its
    own."""
    bounds: list[int] = []
    before, rows = None, 0
    for value in keys:
        if value is None or value != before:
            bounds.append(rows)
        before = value
        rows += 1
    return [*bounds, rows]


def stream_groups(
    file_format: Format, path: str, split: Split, text: str, columns: Sequence[str], max_bytes: int
) -> Iterator[Rows]:
    """Yield the groups of a split as rows, with a list of texts each.

    A group with a row that cannot be read has that row's reason.
    """
    first, last = split.group_rows[0], split.group_rows[-1]
    inner = Split(first, last, 0, split.members)
    sizes = [stop - start for start, stop in pairwise(split.group_rows)]
    pending: list[tuple[dict[str, Any], str | None]] = []
    groups: list[list[tuple[dict[str, Any], str | None]]] = []
    schema: pa.Schema | None = None
    for rows in file_format.stream(path, inner, text, columns, max_bytes, False):
        schema = rows.table.schema
        pending += [(row, rows.reasons.get(i)) for i, row in enumerate(rows.table.to_pylist())]
        while sizes and len(pending) >= sizes[0]:
            count = sizes.pop(0)
            groups.append(pending[:count])
            pending = pending[count:]
        while len(groups) >= BATCH_ROWS:
            yield _table(groups[:BATCH_ROWS], schema, text)
            groups = groups[BATCH_ROWS:]
    if groups and schema is not None:
        yield _table(groups, schema, text)


def _table(groups: Sequence[list[tuple[dict[str, Any], str | None]]], schema: pa.Schema, text: str) -> Rows:
    reasons = {}
    for i, group in enumerate(groups):
        reason = next((f"row {n + 1} of the group: {r}" for n, (_, r) in enumerate(group) if r), None)
        if reason is not None:
            reasons[i] = reason
    columns = {}
    for field in schema:
        if field.name == text:
            kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            values = [[row[text] for row, _ in group] for group in groups]
            columns[text] = pa.array(values, pa.large_list(kind))
        else:
            columns[field.name] = pa.array([group[0][0][field.name] for group in groups], field.type)
    return Rows(pa.table(columns), reasons)
