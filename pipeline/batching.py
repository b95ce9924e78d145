"""In which order documents are decoded: pure functions over lengths."""

from __future__ import annotations

from collections.abc import Sequence


def longest_first(lengths: Sequence[int]) -> list[int]:
    """The places of `lengths` from the longest to the shortest, equal ones in their order.

    The document that will not fit is met first, neighbours in a packed batch are alike, and the short ones fill the end.
    """
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
