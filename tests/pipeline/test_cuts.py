"""Every row in exactly one range, and no range that holds a part of a group beside rows of another."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs.splits import Cut, cut_groups, cut_rows


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 15))
def test_groups_are_whole_or_alone(groups: list[int], documents: int) -> None:
    cuts = cut_groups(groups, documents)
    assert [row for cut in cuts for row in range(cut.start, cut.stop)] == list(range(sum(groups)))
    assert all(0 < cut.stop - cut.start <= documents for cut in cuts)
    ends = list(accumulate(groups))
    begins = [end - rows for end, rows in zip(ends, groups, strict=True)]
    for cut in cuts:
        touched = [(b, e) for b, e in zip(begins, ends, strict=True) if b < cut.stop and e > cut.start]
        assert len(touched) == 1 or all(cut.start <= b and e <= cut.stop for b, e in touched)


def test_small_groups_come_together_and_large_ones_are_cut() -> None:
    assert cut_groups([2, 2, 2, 9, 1], 4) == (Cut(0, 4), Cut(4, 6), Cut(6, 10), Cut(10, 14), Cut(14, 15), Cut(15, 16))
    assert cut_rows(5, 2) == (Cut(0, 2), Cut(2, 4), Cut(4, 5))
