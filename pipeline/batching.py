"""What goes together and in which order: pure functions over lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def longest_first(lengths: Sequence[int]) -> list[int]:
    """The places of `lengths` from the longest to the shortest, equal ones in their order.

    The document that will not fit is met first, neighbours in a packed batch are alike, and the short ones
    fill the end.
    """
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def by_token_budget(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """The places of `lengths` in their order, as many together as sum to at most `most`; a longer one stands
    alone."""
    together: list[int] = []
    total = 0
    for i, length in enumerate(lengths):
        if together and total + length > most:
            yield together
            together, total = [], 0
        together.append(i)
        total += length
    if together:
        yield together
