"""Where a file is cut into shards: pure functions over numbers of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """Rows `start` to `stop`, end exclusive, of a file.

    `offset` is the byte at which row `start` begins, 0 where it is not known; `members` the files that the
    rows are, of a folder of texts.
    """

    start: int
    stop: int
    offset: int = 0
    members: tuple[str, ...] = ()


def split_rows(rows: int, documents: int) -> tuple[Split, ...]:
    """Ranges of `documents` rows, the last one shorter."""
    return tuple(Split(start, min(start + documents, rows)) for start in range(0, rows, documents))


def split_row_groups(groups: Sequence[int], documents: int) -> tuple[Split, ...]:
    """Ranges of at most `documents` rows over groups of rows: whole groups together while they fit, a larger
    one by itself.

    No range holds a part of one group and a row of another: so a group is fetched by few shards, and a
    bad one spoils few.
    """
    splits: list[Split] = []
    start = stop = 0  # the whole groups gathered so far
    for rows in groups:
        if stop - start + rows > documents and stop > start:
            splits.append(Split(start, stop))
            start = stop
        stop += rows
        if rows > documents:
            splits += [Split(start + c.start, start + c.stop) for c in split_rows(rows, documents)]
            start = stop
    return (*splits, Split(start, stop)) if stop > start else tuple(splits)
