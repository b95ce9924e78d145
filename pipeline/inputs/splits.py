"""Split files into shards. Pure functions of numbers of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Split:
    """Documents `start` to `stop`, exclusive, of a file. A document is a row, or a group of rows.

    `offset` is the byte at which row `start` begins, or 0 if that is unknown. `members` are the files of the
    rows if the input is a folder of texts. `group_rows` are the rows at which groups begin, and the row after
    the last group. It is empty if documents are rows. `skipped_rows` must be decoded to reach the first row.
    """

    start: int
    stop: int
    offset: int = 0
    members: tuple[str, ...] = ()
    group_rows: tuple[int, ...] = ()
    skipped_rows: int = 0

    @property
    def rows(self) -> int:
        """The number of its rows."""
        return self.group_rows[-1] - self.group_rows[0] if self.group_rows else self.stop - self.start

    def first(self, documents: int) -> Split:
        """Its first `documents` documents."""
        stop = min(self.start + documents, self.stop)
        groups = self.group_rows[: stop - self.start + 1]
        rows = groups[-1] - groups[0] if groups else stop - self.start
        return replace(self, stop=stop, members=self.members[:rows], group_rows=groups)

    def after(self, documents: int) -> Split:
        """The rest after its first `documents` documents, which are rows without an offset."""
        return replace(self, start=self.start + documents, skipped_rows=self.skipped_rows + documents)


def joined(splits: Sequence[Split]) -> Split:
    """Splits of one file that follow one another, as one from its start."""
    members = tuple(member for split in splits for member in split.members)
    groups = [row for split in splits for row in split.group_rows[:-1]]
    groups += splits[-1].group_rows[-1:]
    return Split(0, splits[-1].stop, 0, members, tuple(groups))


def split_rows(rows: int, documents: int) -> tuple[Split, ...]:
    """Splits of `documents` rows each. The last one may be shorter."""
    return tuple(Split(start, min(start + documents, rows)) for start in range(0, rows, documents))


def split_row_groups(groups: Sequence[int], documents: int) -> tuple[Split, ...]:
    """Splits of at most `documents` rows each, along row groups.

    Whole groups share a split while they fit. A larger group is split by itself. No split has part of one
    group and rows of another, so few shards fetch each group, and a bad group affects few shards.
    """
    splits: list[Split] = []
    start = stop = 0  # rows of the whole groups that are not in a split yet
    for rows in groups:
        if stop - start + rows > documents and stop > start:
            splits.append(Split(start, stop))
            start = stop
        stop += rows
        if rows > documents:
            splits += [
                Split(start + c.start, start + c.stop, skipped_rows=c.start)
                for c in split_rows(rows, documents)
            ]
            start = stop
    return (*splits, Split(start, stop)) if stop > start else tuple(splits)
