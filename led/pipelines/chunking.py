"""Truncate long documents, or split them into chunks. Pure functions over token ids.

Units: tokens. `stride` is the overlap of a chunk with the one before it, as in `LEDTokenizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """A part of a document as model input: `input_ids` with special tokens and, if there is one, a question.

    The document's tokens `start` to `end`, exclusive, begin at index `offset` of `input_ids`.
    """

    input_ids: list[int]
    start: int
    end: int
    offset: int


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
    document_ids: Sequence[int], before: Sequence[int], after: Sequence[int], limit: int, stride: int
) -> list[Chunk]:
    """The chunks of a document (ids without special tokens), each with `before` and `after` around it.

    A chunk has at most `limit` tokens, `before` and `after` included. A stride that is too long is shortened.

    Raises:
        ValueError: `before` and `after` leave no room for the document, or the overlap is negative.
    """
    room = limit - len(before) - len(after)
    if room < 1:
        raise ValueError(
            f"a question and special tokens of {len(before) + len(after)} tokens leave no room for the "
            f"document in a chunk of {limit}; shorten the question."
        )
    ids = list(document_ids)
    bounds = chunk_bounds(len(ids), room, min(stride, room - 1))
    return [Chunk([*before, *ids[a:b], *after], a, b, len(before)) for a, b in bounds]


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
