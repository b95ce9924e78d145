"""Groups: rows of one key, one after another in a file, as one document with a list of texts.

Planning reads the column of keys once. A split then states the rows at which its groups begin, so a reader
fetches only its own rows. The other columns have the values of a group's first row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pyarrow as pa

from pipeline.errors import UsageError, listed
from pipeline.inputs.files import FileEntry, partitions
from pipeline.inputs.rows import BATCH_ROWS, FileStats, Format, Request, Rows
from pipeline.inputs.splits import Split, joined, split_rows
from pipeline.inputs.types import field_type


def inspect_groups(
    file_format: Format, entry: FileEntry, key: str, documents: int, request: Request
) -> FileStats:
    """The statistics of a file whose documents are groups. `rows` counts them.

    Raises:
        UsageError: the file has no column `key`.
    """
    stats = file_format.inspect(entry, documents, request)
    whole = joined(stats.splits) if stats.splits else Split(0, 0)
    in_path = partitions(entry.path)
    if key in in_path or not stats.rows:
        bounds = [0, stats.rows] if stats.rows else [0]
    elif field_type(stats.schema, key) is None:
        raise UsageError(
            f"{entry.path} has no column {key!r}; it has {listed(stats.schema.names)}. Name one with "
            "--group-by."
        )
    elif (times := stats.schema.names.count(key)) > 1:
        raise UsageError(f"column {key!r} stands {times} times in {entry.path}; rename one of them.")
    else:
        keys = (
            value
            for rows in file_format.stream(entry.path, whole, Request((key,), max_bytes=request.max_bytes))
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


def stream_groups(file_format: Format, path: str, split: Split, request: Request) -> Iterator[Rows]:
    """Yield the groups of a split as rows, with a list of texts each.

    A group with a row that cannot be read has that row's reason.
    """
    inner = Split(split.group_rows[0], split.group_rows[-1], 0, split.members)
    bounds = [row - inner.start for row in split.group_rows]
    tables: list[pa.Table] = []
    reasons: dict[int, str] = {}
    done = rows_ahead = 0  # the groups that were yielded, and the rows of later ones that were read
    for rows in file_format.stream(path, inner, replace(request, lists=False)):
        begin = bounds[done] + rows_ahead
        reasons |= {begin + i: reason for i, reason in rows.reasons.items()}
        tables.append(rows.table)
        rows_ahead += len(rows.table)
        complete = bisect_right(bounds, bounds[done] + rows_ahead) - 1
        if complete - done >= BATCH_ROWS or (complete == len(bounds) - 1 and complete > done):
            table = pa.concat_tables(tables)
            of_groups = bounds[done : complete + 1]
            yield _groups(table, of_groups, reasons, request.text)
            rest = table.slice(of_groups[-1] - of_groups[0])
            tables, rows_ahead, done = [rest], len(rest), complete


def _groups(table: pa.Table, bounds: Sequence[int], reasons: Mapping[int, str], text: str) -> Rows:
    """Groups that begin at row `bounds[0]` of all, which is row 0 of the table."""
    of_groups = {}
    for i, (first, last) in enumerate(pairwise(bounds)):
        found = next((row for row in range(first, last) if row in reasons), None)
        if found is not None:
            of_groups[i] = f"row {found - first + 1} of the group: {reasons[found]}"
    offsets = pa.array([row - bounds[0] for row in bounds], pa.int64())
    firsts = table.take(offsets[:-1])
    arrays = []
    for name in table.column_names:
        if name == text:
            # As bytes, with offsets of 64 bits: an array of texts holds at most 2 GiB.
            values = table[name].slice(0, bounds[-1] - bounds[0]).cast(pa.large_binary())
            arrays.append(pa.LargeListArray.from_arrays(offsets, values.combine_chunks()))
        else:
            arrays.append(firsts[name])
    return Rows(pa.table(arrays, table.column_names), of_groups)
