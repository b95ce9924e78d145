"""Chunks cover a document, overlap by the stride and fit the limit. Truncation keeps the last token."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from led.pipelines.chunking import by_budget, chunk_bounds, split, truncate


@given(st.integers(0, 500), st.integers(1, 60), st.data())
def test_chunks_cover_every_token_and_overlap_by_the_stride(
    length: int, room: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(0, room - 1))
    bounds = chunk_bounds(length, room, stride)
    assert bounds[0][0] == 0 and bounds[-1][1] == length
    for (_, end), (start, next_end) in pairwise(bounds):
        assert end - start == stride and next_end > end
    assert all(end - start <= room for start, end in bounds)
    assert all(end - start == room for start, end in bounds[:-1])


@given(st.lists(st.integers(5, 99), max_size=200), st.integers(0, 20), st.integers(3, 50), st.integers(0, 60))
def test_a_chunk_is_the_question_then_the_document_then_the_end(
    ids: list[int], before: int, limit: int, stride: int
) -> None:
    if limit - before - 1 < 1:
        with pytest.raises(
            ValueError, match=f"a question or prefix and special tokens of {before + 1} tokens leave no room"
        ):
            split([*[0] * before, *ids, 2], before, [], limit, stride)
        return
    whole = [*[0] * before, *ids, 2]
    global_positions = [i for i in range(len(whole)) if i % 3 == 0 or i == len(whole) - 1]
    chunks = split(whole, before, global_positions, limit, stride)
    for chunk in chunks:
        expected = [
            *(i for i in range(before) if i in global_positions),
            *(
                i - chunk.start
                for i in range(before + chunk.start, before + chunk.end)
                if i in global_positions
            ),
            len(chunk.input_ids) - 1,
        ]
        assert chunk.global_positions == expected
        assert len(chunk.input_ids) <= limit
        assert chunk.input_ids == [0] * chunk.offset + ids[chunk.start : chunk.end] + [2]
    assert chunks[-1].end == len(ids) and (len(chunks) == 1) == (len(ids) <= limit - before - 1)


@pytest.mark.parametrize("stride", [-1, 4, 5])
def test_an_overlap_as_long_as_a_chunk_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride is {stride}; it must be at least 0 and below the 4 tokens"):
        chunk_bounds(10, 4, stride)


@given(st.lists(st.integers(1, 99), min_size=1), st.integers(1, 120))
def test_truncation_keeps_the_last_token_and_counts(ids: list[int], limit: int) -> None:
    kept, over = truncate(ids, limit)
    assert len(kept) == min(limit, len(ids)) and over == len(ids) - len(kept)
    assert kept[-1] == ids[-1] and kept[:-1] == ids[: len(kept) - 1]


@given(st.lists(st.integers(1, 50)), st.integers(1, 100))
def test_groups_hold_every_document_once_longest_first_within_the_budget(
    lengths: list[int], tokens: int
) -> None:
    groups = by_budget(lengths, tokens)
    order = [i for group in groups for i in group]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert all(len(group) == 1 or sum(lengths[i] for i in group) <= tokens for group in groups)
