"""Truncate long documents, or split them into chunks. Pure functions over token ids.

Units: tokens. `stride` is the overlap of a chunk with the one before it, as in `LEDTokenizer`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """A part of a document as model input: `input_ids` with special tokens and, if there is one, a question.

    The document's tokens `start` to `end`, exclusive, begin at index `offset` of `input_ids`. Its tokens at
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


def chunk_bounds(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """The (start, end) of chunks of `room` tokens over `length` tokens, where neighbours overlap by `stride`.

    The last chunk ends with the document. A document that fits, or has no tokens, is one chunk.

    Raises:
        ValueError: the overlap is negative, or as long as a chunk.
    """
    if not 0 <= stride < room:
        raise ValueError(
            f"stride is {stride}; it must be at least 0 and below the {room} tokens a chunk has room for."
        )
    bounds = [(0, min(room, length))]
    while bounds[-1][1] < length:
        start = bounds[-1][1] - stride
        bounds.append((start, min(start + room, length)))
    return bounds


def split(
    input_ids: Sequence[int], leading: int, global_positions: Sequence[int], limit: int, stride: int
) -> list[Chunk]:
    """The chunks of an input, each with the first `leading` tokens and the last token around it.

    A chunk has at most `limit` tokens. A stride that is too long is shortened. A token at one of the
    `global_positions`, which are sorted, is global in every chunk that has it.

    Raises:
        ValueError: the tokens around leave no room for the document, or the overlap is negative.
    """
    room = limit - leading - 1
    if room < 1:
        raise ValueError(
            f"a question or prefix and special tokens of {leading + 1} tokens leave no room for the "
            f"document in a chunk of {limit}; shorten the question or prefix."
        )
    ids = list(input_ids)
    before, document, after = ids[:leading], ids[leading:-1], ids[-1:]
    of_before = [i for i in global_positions if i < leading]
    of_document = [i - leading for i in global_positions if leading <= i < len(ids) - 1]
    last_is_global = len(ids) - 1 in global_positions[-1:]
    chunks = []
    for start, end in chunk_bounds(len(document), room, min(stride, room - 1)):
        inside = of_document[bisect_left(of_document, start) : bisect_left(of_document, end)]
        positions = [*of_before, *(i - start + leading for i in inside)]
        if last_is_global:
            positions.append(leading + end - start)
        chunks.append(Chunk([*before, *document[start:end], *after], start, end, leading, positions))
    return chunks


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
