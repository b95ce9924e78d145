"""The order of documents, and batches within a token budget."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, strategies as st

from pipeline.batching import by_token_budget, longest_first


@given(st.lists(st.integers(0, 20), max_size=40))
def test_longest_first_is_a_stable_permutation(lengths: list[int]) -> None:
    order = longest_first(lengths)
    assert sorted(order) == list(range(len(lengths)))
    assert all((-lengths[a], a) < (-lengths[b], b) for a, b in pairwise(order))


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 25))
def test_batches_keep_the_order_and_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(by_token_budget(lengths, budget))
    assert [i for batch in batches for i in batch] == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= budget for batch in batches)
    for batch, following in pairwise(batches):
        assert sum(lengths[i] for i in batch) + lengths[following[0]] > budget
