"""Join several documents into one input, with a separator between them, within the input limit.

Pure functions over token ids. Units: tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # settings import this module, and --help must stay fast
    from led.tokenizer.tokenizer import LEDTokenizer


# How documents are shortened that together exceed the limit.
Truncation = Literal["equal", "proportional", "last", "primera"]

# Names that checkpoints give to their separator of documents.
_SEPARATOR = re.compile(r"\W*(doc(ument)?[-_ ]?sep(arator)?)\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Joined:
    """Documents as one input without special tokens around it. `lengths` are the tokens kept of each."""

    ids: list[int]
    lengths: list[int]


# What stands between the documents of one input where their texts are counted as one.
BETWEEN_TEXTS = "\n\n"


def whole_text(text: str | Sequence[str]) -> str:
    """The texts of one input as one text."""
    return text if isinstance(text, str) else BETWEEN_TEXTS.join(text)


def own_separator(tokenizer: LEDTokenizer) -> str | None:
    """The token that a checkpoint added to separate documents, such as `<doc-sep>`. None if it has none."""
    return next((token for token in tokenizer.get_added_vocab() if _SEPARATOR.fullmatch(token)), None)


def separator_ids(tokenizer: LEDTokenizer, separator: str | None = None) -> list[int]:
    """The ids of a separator: a token of the vocabulary, or a text. Default: the checkpoint's own token, or
    else its sep token."""
    separator = separator or own_separator(tokenizer) or tokenizer.sep_token
    number = tokenizer.backend.token_to_id(separator)
    return tokenizer.encode(separator, add_special_tokens=False) if number is None else [number]


def join(
    documents: Sequence[Sequence[int]],
    separator: Sequence[int],
    room: int,
    truncation: Truncation,
    lengths: Sequence[int] | None = None,
) -> Joined:
    """Join documents, which are ids without special tokens, into at most `room` tokens.

    `lengths` are those of the documents if only their first `room` tokens are given.

    Documents without tokens are left out. `equal` gives each document an equal share of the room, and passes
    on what a short document leaves. `proportional` shortens all in proportion to their lengths. `last`
    shortens the last ones. `primera` is the recipe of PRIMERA's authors: each document has the nth part of
    the limit less two tokens, nothing is passed on, and a separator follows the last document, too.

    Raises:
        ValueError: `primera` leaves a document no token.
    """
    lengths = lengths or [len(document) for document in documents]
    present = [i for i, length in enumerate(lengths) if length]
    if truncation == "primera":
        kept = _primera_shares(lengths, present, room + 2)
    else:
        # Each document that is kept needs a token, and a separator before it.
        most = (room + len(separator)) // (1 + len(separator))
        present = present[: max(0, most)]
        left = room - len(separator) * max(0, len(present) - 1)
        kept = dict(zip(present, shares([lengths[i] for i in present], left, truncation), strict=True))
    ids: list[int] = []
    for i in present:
        if not kept[i]:
            continue
        if ids and truncation != "primera":
            ids += separator
        ids += documents[i][: kept[i]]
        if truncation == "primera":
            ids += separator
    return Joined(ids, [kept.get(i, 0) for i in range(len(documents))])


def _primera_shares(lengths: Sequence[int], present: Sequence[int], limit: int) -> dict[int, int]:
    share = limit // max(1, len(present)) - 2
    if share < 1:
        raise ValueError(
            f"{len(present)} documents have no room in {limit} tokens if each has an equal part with its "
            "special tokens; use --truncate equal"
        )
    return {i: min(lengths[i], share) for i in present}


def shares(lengths: Sequence[int], room: int, truncation: Truncation) -> list[int]:
    """The tokens to keep of documents of these lengths, together at most `room`."""
    if sum(lengths) <= room:
        return list(lengths)
    kept = [0] * len(lengths)
    if truncation == "proportional":
        kept = [length * room // sum(lengths) for length in lengths]
        # Whole tokens are left over. They go to the documents that lost the largest part of one.
        lost = sorted(range(len(lengths)), key=lambda i: -(lengths[i] * room % sum(lengths)))
        for i in lost[: room - sum(kept)]:
            kept[i] += 1
        return kept
    order = range(len(lengths))
    if truncation == "equal":  # the shortest first, so that each can pass on what it leaves
        order = sorted(order, key=lambda i: lengths[i])  # type: ignore[assignment]
    for done, i in enumerate(order):
        share = room // (len(lengths) - done) if truncation == "equal" else room
        kept[i] = min(lengths[i], share)
        room -= kept[i]
    return kept
