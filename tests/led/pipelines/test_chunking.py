"""Chunks cover a document, overlap by the stride and fit the limit. They may end at sentences.

Truncation keeps the last token.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given, strategies as st

from led.pipelines.chunking import (
    ChunkRules,
    by_budget,
    chunk_bounds,
    chunk_document,
    chunk_inputs,
    sentence_bounds,
    truncate,
)
from led.pipelines.text_breaks import TextBreaks


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
    offsets = [(i, i + 1) for i in range(len(ids))]
    rules = ChunkRules(limit, stride)
    if limit - before - 1 < 1:
        with pytest.raises(
            ValueError, match=f"a question or prefix and special tokens of {before + 1} tokens leave no room"
        ):
            chunk_document("x" * len(ids), offsets, before, rules)
        return
    bounds = [(c.start, c.end) for c in chunk_document("x" * len(ids), offsets, before, rules)]
    whole = [*[0] * before, *ids, 2]
    global_positions = [i for i in range(len(whole)) if i % 3 == 0 or i == len(whole) - 1]
    chunks = chunk_inputs(whole, before, global_positions, bounds)
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


# Pieces of a text, each one token.
PIECES = st.sampled_from(["word", " word", ". ", ".", "\n", "\n\n", " ", "é", "。", '?" ', "  \n \n"])


def offsets_of(pieces: list[str]) -> list[tuple[int, int]]:
    ends = list(accumulate(map(len, pieces)))
    return list(zip([0, *ends[:-1]], ends, strict=True)) if pieces else []


@given(st.lists(PIECES, max_size=300), st.integers(1, 60), st.data())
def test_chunks_that_end_at_sentences_cover_every_token(
    pieces: list[str], room: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(0, room - 1))
    offsets = offsets_of(pieces)
    bounds = sentence_bounds(len(offsets), room, stride, TextBreaks("".join(pieces), offsets))
    assert bounds[0][0] == 0 and bounds[-1][1] == len(offsets)
    for (_, end), (start, next_end) in pairwise(bounds):
        assert stride <= end - start <= stride + stride // 2 and next_end > end
    assert all(end - start <= room for start, end in bounds)
    assert (len(bounds) == 1) == (len(offsets) <= room)


def cuts(text: str, room: int, **rules: Any) -> list[str]:
    """The chunks of a text whose characters are tokens."""
    offsets = [(i, i + 1) for i in range(len(text))]
    chunks = chunk_document(text, offsets, 1, ChunkRules(room + 2, ends="sentence", **rules))
    return [text[c.first_character : c.last_character] for c in chunks]


@pytest.mark.parametrize(
    "expected",
    [
        # A paragraph goes before a later sentence, and a sentence before a later word.
        ["One two three four five six.\n\n", "Seven. Eight nine ten eleven twelve."],
        [
            "One two three four five six seven. ",
            "Eight nine ten eleven twelve ",
            "thirteen fourteen fifteen.",
        ],
        ["One two three four five six seven ", "eight nine ten eleven twelve ", "thirteen fourteen fifteen"],
        ["abcdefghijklmnopqrstuvwxyzabcde", "fghijklmnopqrstuvwxyz"],
        [
            "これは文です。これも文です。これも文です。これは文です。",
            "これも文です。これも文です。これは文です",
        ],
    ],
)
def test_a_chunk_ends_at_the_best_break_near_the_limit(expected: list[str]) -> None:
    assert cuts("".join(expected), 40) == expected


def test_chunks_have_similar_lengths() -> None:
    """A document a little longer than a chunk has no tiny last chunk."""
    text = "One two. " * 100
    lengths = [len(part) for part in cuts(text, len(text) - 5)]
    assert len(lengths) == 2 and min(lengths) > 0.3 * len(text)


def test_an_overlap_begins_with_a_sentence() -> None:
    parts = cuts("One two. " * 100, 300, overlap=40)
    assert len(parts) > 3 and all(part.startswith("One") for part in parts)


def test_blank_chunks_are_left_out() -> None:
    text = "One two. " * 10 + "\n" * 400 + "Three four. " * 10
    parts = cuts(text, 100)
    assert all(part.strip() for part in parts)
    assert "".join(parts).count("One") == 10 and "".join(parts).count("Three") == 10
    assert len(cuts("\n" * 300, 100)) == 1


def test_a_character_of_several_tokens_stays_whole() -> None:
    offsets = [(i // 3, i // 3 + 1) for i in range(90)]
    bounds = sentence_bounds(90, 16, 0, TextBreaks("水" * 30, offsets))
    assert all(start % 3 == 0 for start, _ in bounds)


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
