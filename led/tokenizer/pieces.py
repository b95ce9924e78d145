"""Long texts, tokenized in pieces.

The tokenizer takes about 150 bytes of memory for a byte of text, and reads a text to its end. Pieces bound
the memory, and tokenizing can stop as soon as there are enough tokens.

A byte-level BPE splits a text at white space before it merges bytes, so a text may be cut before a space that
follows another character. The tokens and offsets are then those of the whole text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tokenizers import Encoding, Tokenizer

# Characters of a piece, and of a text that is tokenized at once.
PIECE_CHARACTERS = 1 << 17

# Only these two spaces are white space for all regular expressions, and every white space of `tokenizers` is
# one of Python.
_CUT = re.compile(r"(?<=\S)(?=[ \n])")

# A text with cuts of every kind, on which pieces are compared with the whole.
_SAMPLE = "It's 10,5 %\n\n  of 3 pumps' flow (née Ω) ... <s>a</s> b\tc \x1c d\xa0e\u2003f's don't 漢字 x\n y "

_Encode = Callable[[Sequence[str]], list[Encoding]]


class TokenizedText(NamedTuple):
    """The ids and offsets of a text with its special tokens. `omitted` tokens were left out before the last
    one. It is None if the rest of the text was not tokenized."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    omitted: int | None = 0


def pieces(text: str, size: int) -> Iterator[tuple[int, int]]:
    """The (start, end) of pieces of about `size` characters. A piece ends where the text may be cut."""
    start = 0
    while start < len(text):
        match = _CUT.search(text, start + size) if start + size < len(text) else None
        end = match.start() if match else len(text)
        yield start, end
        start = end


def allows_pieces(backend: Tokenizer, encode: _Encode) -> bool:
    """Whether a text and its pieces have the same tokens, by the parts of the tokenizer and by a trial."""
    if backend.normalizer is not None or backend.pre_tokenizer is None:
        return False
    for token in backend.get_added_tokens_decoder().values():
        if token.rstrip or re.search(r"\s", token.content):
            return False
    if not _splits_at_spaces(json.loads(backend.pre_tokenizer.__getstate__())):
        return False
    [whole] = encode([_SAMPLE])
    found = encode_in_pieces(encode, _SAMPLE, 1)
    return (found.ids, found.offsets) == (whole.ids, whole.offsets)


def _splits_at_spaces(parts: dict[str, Any]) -> bool:
    if parts["type"] == "Sequence":
        *before, last = parts["pretokenizers"] or [{"type": "none"}]
        return all(part["type"] in ("Digits", "ByteLevel") for part in before) and _splits_at_spaces(last)
    return parts["type"] == "ByteLevel" and parts.get("use_regex", True)


def encode_in_pieces(
    encode: _Encode, text: str, size: int, max_tokens: int | None = None, *, count: bool = False
) -> TokenizedText:
    """The encoding of a text from pieces of about `size` characters, one after another.

    At most `max_tokens` are returned, with special tokens. Later pieces are then tokenized only to `count`
    their tokens.
    """
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    last, omitted = 0, 0
    for start, end in pieces(text, size) if text else [(0, 0)]:
        [encoding] = encode([text[start:end]])
        room = len(encoding) if max_tokens is None else max_tokens - 1 - (len(ids) or 1)
        if not ids:
            ids.append(encoding.ids[0])
            offsets.append(encoding.offsets[0])
        last = encoding.ids[-1]
        tokens = len(encoding) - 2
        kept = max(0, min(tokens, room))
        if kept:
            ids += encoding.ids[1 : kept + 1]
            offsets += [(a + start, b + start) for a, b in encoding.offsets[1 : kept + 1]]
        omitted += tokens - kept
        if omitted and not count and end < len(text):
            return TokenizedText([*ids, last], [*offsets, (0, 0)], None)
    return TokenizedText([*ids, last], [*offsets, (0, 0)], omitted)
