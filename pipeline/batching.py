"""The order of documents, and batches within a token budget. Pure functions of lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def longest_first(lengths: Sequence[int]) -> list[int]:
    """The indices of `lengths`, longest first. Equal lengths keep their order.

    A document that exceeds the memory then fails early, and neighbors in a packed batch have similar lengths.
    """
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def by_token_budget(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield batches of indices, in order, whose lengths sum to at most `budget`.

    A longer document is a batch of its own.
    """
    batch: list[int] = []
    total = 0
    for i, length in enumerate(lengths):
        if batch and total + length > budget:
            yield batch
            batch, total = [], 0
        batch.append(i)
        total += length
    if batch:
        yield batch
