"""Truncate long documents, or split them into chunks. Pure functions over token ids.

Units: tokens. `stride` is the overlap of a chunk with the one before it, as in `LEDTokenizer`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from led.pipelines.text_breaks import TextBreaks

# Where chunks end: at a fixed number of tokens, or at the end of a paragraph, sentence or word near it.
ChunkEnds = Literal["token", "sentence"]

# The longest document that is read in chunks, in tokens: the largest number that an int32 column holds.
UNLIMITED = 2**31 - 1

# What is done with a document that is longer than a summarizer's input limit.
Overflow = Literal["truncate", "concat", "fuse"]


class Chunk(NamedTuple):
    """The document's tokens `start` to `end`, and the characters of its text that they cover, ends
    exclusive."""

    start: int
    end: int
    first_character: int
    last_character: int


@dataclass(frozen=True)
class ChunkRules:
    """A chunk has at most `tokens` tokens, special tokens and prefix or question included, and repeats at
    least `overlap` tokens of the chunk before it."""

    tokens: int
    overlap: int = 0
    ends: ChunkEnds = "token"


@dataclass(frozen=True)
class ChunkInput:
    """A chunk as model input: `input_ids` with special tokens and, if there is one, a question or prefix.

    The document's tokens `start` to `end`, exclusive, begin at index `offset` of `input_ids`. The tokens at
    `global_positions` have global attention.
    """

    input_ids: list[int]
    start: int
    end: int
    offset: int
    global_positions: list[int]


def truncate(input_ids: Sequence[int], limit: int) -> tuple[list[int], int]:
    """At most `limit` tokens, of which the last is kept (`</s>`), and the number of dropped tokens."""
    over = max(0, len(input_ids) - limit)
    return ([*input_ids[: limit - 1], input_ids[-1]] if over else list(input_ids)), over


def chunk_document(
    text: str, offsets: Sequence[tuple[int, int]], leading: int, rules: ChunkRules
) -> list[Chunk]:
    """The chunks of a document whose tokens have these `offsets` in `text`, in characters.

    Each chunk leaves room for the `leading` tokens before it and the last one after it. With `ends` at
    sentences, chunks of blank text are left out. A document without tokens is one chunk.

    Raises:
        ValueError: the tokens around leave no room for the document, or the overlap is negative.
    """
    room = rules.tokens - leading - 1
    if room < 1:
        raise ValueError(
            f"a question or prefix and special tokens of {leading + 1} tokens leave no room for the "
            f"document in a chunk of {rules.tokens}; shorten the question or prefix."
        )
    stride = min(rules.overlap, room - 1)
    if rules.ends == "token":
        bounds = chunk_bounds(len(offsets), room, stride)
    else:
        breaks = TextBreaks(text, offsets)
        bounds = sentence_bounds(len(offsets), room, stride, breaks)
        bounds = [b for b in bounds if not breaks.is_blank(*b)] or bounds[:1]
    return [Chunk(a, b, *((offsets[a][0], offsets[b - 1][1]) if a < b else (0, 0))) for a, b in bounds]


def chunk_bounds(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """The (start, end) of chunks of `room` tokens over `length` tokens, where neighbours overlap by `stride`.

    The last chunk ends with the document. A document that fits, or has no tokens, is one chunk.

    Raises:
        ValueError: the overlap is negative, or as long as a chunk.
    """
    _check_stride(room, stride)
    bounds = [(0, min(room, length))]
    while bounds[-1][1] < length:
        start = bounds[-1][1] - stride
        bounds.append((start, min(start + room, length)))
    return bounds


def sentence_bounds(length: int, room: int, stride: int, breaks: TextBreaks) -> list[tuple[int, int]]:
    """The (start, end) of chunks of at most `room` tokens, of similar lengths, that end where a paragraph or
    sentence ends.

    The remaining tokens are divided equally, and a chunk ends within a quarter of `room` of its share.
    Neighbours overlap by `stride` tokens or a few more, so that the overlap begins with a sentence. A
    document that fits, or has no tokens, is one chunk.

    Raises:
        ValueError: the overlap is negative, or as long as a chunk.
    """
    _check_stride(room, stride)
    bounds = [(0, min(room, length))] if length <= room else []
    start = previous_end = 0
    while not bounds or bounds[-1][1] < length:
        left = length - start
        if left <= room:
            bounds.append((start, length))
            break
        count = -(-(left - stride) // (room - stride))
        share = -(-(left - stride) // count) + stride
        high = start + min(room, share + room // 8)
        low = max(high - room // 4, previous_end)
        end = breaks.last_in(low, high)
        bounds.append((start, end))
        start = previous_end = end
        if 0 < stride <= room // 3:
            start = breaks.last_in(end - stride - stride // 2, end - stride)
        elif stride:
            start = end - stride
    return bounds


def _check_stride(room: int, stride: int) -> None:
    if not 0 <= stride < room:
        raise ValueError(
            f"stride is {stride}; it must be at least 0 and below the {room} tokens a chunk has room for."
        )


def chunk_inputs(
    input_ids: Sequence[int],
    leading: int,
    global_positions: Sequence[int],
    chunks: Sequence[tuple[int, ...]],
) -> list[ChunkInput]:
    """The model inputs of a document's chunks: each with the first `leading` tokens and the last token around
    the document's tokens from `start` to `end`. These are the first two numbers of each of `chunks`.

    A token at one of the `global_positions`, which are sorted, is global in every chunk that has it.
    """
    ids = list(input_ids)
    before, document, after = ids[:leading], ids[leading:-1], ids[-1:]
    of_before = [i for i in global_positions if i < leading]
    of_document = [i - leading for i in global_positions if leading <= i < len(ids) - 1]
    last_is_global = len(ids) - 1 in global_positions[-1:]
    inputs = []
    for start, end, *_ in chunks:
        inside = of_document[bisect_left(of_document, start) : bisect_left(of_document, end)]
        positions = [*of_before, *(i - start + leading for i in inside)]
        if last_is_global:
            positions.append(leading + end - start)
        inputs.append(ChunkInput([*before, *document[start:end], *after], start, end, leading, positions))
    return inputs


def by_budget(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """The indices of documents of these lengths, longest first, in groups of at most `tokens` tokens.

    A document with more tokens is a group of its own.
    """
    groups: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not groups or lengths[i] > room:
            groups.append([])
            room = tokens
        groups[-1].append(i)
        room -= lengths[i]
    return groups


def default_pooling(problem_type: str | None) -> str:
    """How the class scores of chunks become those of a document: "max" or "mean".

    "max" if a document may have several labels, since each may come from one chunk. "mean" for a single label
    or a value, since these describe the whole document.
    """
    return "max" if problem_type == "multi_label_classification" else "mean"
