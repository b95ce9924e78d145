"""Where a text may be cut into chunks: after a paragraph, a sentence or a word. Units: tokens.

Only the text near a cut is searched, so the cost does not grow with the length of a chunk.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

# Best first. A match ends where the next part begins.
_BREAKS = (
    re.compile(r"\n[^\S\n]*\n\s*"),  # a blank line
    re.compile(r"[.!?…][\"'”’»)\]]*\s+|[。！？][”’」』）]*\s*|\n\s*"),  # a sentence or line
    re.compile(r"\s+"),  # a word
)


class TextBreaks:
    """The breaks of a text whose tokens have these `offsets`, the (start, end) of each in characters."""

    def __init__(self, text: str, offsets: Sequence[tuple[int, int]]) -> None:
        self._text, self._offsets = text, offsets

    def last_in(self, low: int, high: int) -> int:
        """The best place for a cut after token `low` and at most at token `high`: the last end of a
        paragraph, else of a sentence, else of a word, else of a character, else `high`.

        A cut at i is before token i. `high` is below the number of tokens.
        """
        offsets = self._offsets
        first, last = offsets[low][0], offsets[high][0]
        window = self._text[first : last + 1]
        for pattern in _BREAKS:
            ends = [first + m.end() for m in pattern.finditer(window) if m.end() < len(window)]
            for character in reversed(ends):
                # The first token of the next part, whose offsets may or may not include the space before it.
                token = bisect_right(offsets, character, lo=low, hi=high + 1, key=lambda o: o[1])
                if low < token <= high:
                    return token
        cut = high
        while cut - 1 > low and offsets[cut][0] < offsets[cut - 1][1]:
            cut -= 1  # a character of several tokens
        return cut if offsets[cut][0] >= offsets[cut - 1][1] else high

    def is_blank(self, start: int, end: int) -> bool:
        """Whether the tokens from `start` to `end`, exclusive, are only white space."""
        if start >= end:
            return False
        return not self._text[self._offsets[start][0] : self._offsets[end - 1][1]].strip()
