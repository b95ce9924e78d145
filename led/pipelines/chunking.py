"""Documents longer than a model reads: cut at the end, or read window by window. Pure functions over token
ids.

Units: tokens. A window's `stride` is its overlap with the one before it, as in `LEDTokenizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """A part of a document as the model reads it: `input_ids` with special tokens and, before it, a question.

    The document's tokens `start` to `end`, exclusive, stand in it from place `offset` on.
    """

    input_ids: list[int]
    start: int
    end: int
    offset: int


def truncate(input_ids: Sequence[int], limit: int) -> tuple[list[int], int]:
    """At most `limit` tokens with the last one (`</s>`) kept, and how many were dropped."""
    over = max(0, len(input_ids) - limit)
    return ([*input_ids[: limit - 1], input_ids[-1]] if over else list(input_ids)), over


def chunk_bounds(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """The (start, end) of windows of `room` tokens over `length` tokens, each repeating the last `stride` of
    the one before.

    The last window ends where the document does; a document that fits, or has no tokens, is one window.

    Raises:
        ValueError: the overlap leaves a window nothing new to read.
    """
    if not 0 <= stride < room:
        raise ValueError(
            f"stride is {stride}; it must be at least 0 and below the {room} tokens a window has room for."
        )
    bounds = [(0, min(room, length))]
    while bounds[-1][1] < length:
        start = bounds[-1][1] - stride
        bounds.append((start, min(start + room, length)))
    return bounds


def split(
    document_ids: Sequence[int], before: Sequence[int], after: Sequence[int], limit: int, stride: int
) -> list[Chunk]:
    """The windows of a document (ids without special tokens), each of at most `limit` tokens with `before`
    and `after`.

    Raises:
        ValueError: `before` and `after` leave no room, or the overlap leaves a window nothing new to read.
    """
    room = limit - len(before) - len(after)
    if room < 1:
        raise ValueError(
            f"a question and special tokens of {len(before) + len(after)} tokens leave no room for the document in a window "
            f"of {limit}; shorten the question."
        )
    ids = list(document_ids)
    bounds = chunk_bounds(len(ids), room, min(stride, room - 1))
    return [Chunk([*before, *ids[a:b], *after], a, b, len(before)) for a, b in bounds]


def by_budget(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """The indices of documents of these lengths, longest first, in groups of at most `tokens` tokens or of
    one document."""
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
    """How class scores of windows become those of a document: "max" for several labels at once, any of which
    may stand in one place; "mean" for one label or a value, which the whole document has."""
    return "max" if problem_type == "multi_label_classification" else "mean"
