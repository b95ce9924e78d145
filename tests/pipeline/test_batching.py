"""What goes together and in which order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import by_token_budget, longest_first


@given(st.lists(st.integers(0, 20), max_size=40))
def test_longest_first_is_a_stable_permutation(lengths: list[int]) -> None:
    order = longest_first(lengths)
    assert sorted(order) == list(range(len(lengths)))
    assert all((-lengths[a], a) < (-lengths[b], b) for a, b in pairwise(order))


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 25))
def test_what_goes_together_keeps_its_order_and_the_limit(lengths: list[int], most: int) -> None:
    together = list(by_token_budget(lengths, most))
    assert [i for group in together for i in group] == list(range(len(lengths)))
    assert all(len(group) == 1 or sum(lengths[i] for i in group) <= most for group in together)
    for group, after in pairwise(together):
        assert sum(lengths[i] for i in group) + lengths[after[0]] > most
