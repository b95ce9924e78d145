"""The order of decoding."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import longest_first


@given(st.lists(st.integers(0, 20), max_size=40))
def test_longest_first_is_a_stable_permutation(lengths: list[int]) -> None:
    order = longest_first(lengths)
    assert sorted(order) == list(range(len(lengths)))
    assert all((-lengths[a], a) < (-lengths[b], b) for a, b in pairwise(order))
