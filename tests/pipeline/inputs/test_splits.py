"""Every row is in exactly one split. No split has part of a row group and rows of another."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given, strategies as st

from pipeline.inputs.splits import Split, split_row_groups, split_rows


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 15))
def test_groups_are_whole_or_alone(groups: list[int], documents: int) -> None:
    splits = split_row_groups(groups, documents)
    assert [row for split in splits for row in range(split.start, split.stop)] == list(range(sum(groups)))
    assert all(0 < split.stop - split.start <= documents for split in splits)
    ends = list(accumulate(groups))
    begins = [end - rows for end, rows in zip(ends, groups, strict=True)]
    for split in splits:
        touched = [(b, e) for b, e in zip(begins, ends, strict=True) if b < split.stop and e > split.start]
        assert len(touched) == 1 or all(split.start <= b and e <= split.stop for b, e in touched)


def test_small_groups_share_a_split_and_large_ones_are_split() -> None:
    assert split_row_groups([2, 2, 2, 9, 1], 4) == (
        Split(0, 4),
        Split(4, 6),
        Split(6, 10),
        Split(10, 14, skipped_rows=4),
        Split(14, 15, skipped_rows=8),
        Split(15, 16),
    )
    assert split_rows(5, 2) == (Split(0, 2), Split(2, 4), Split(4, 5))
