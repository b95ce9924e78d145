"""From texts to model inputs: prefix, several documents in one input, truncation, global tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from led.pipelines.chunking import truncate
from led.pipelines.global_attention import GlobalTokens
from led.pipelines.joining import Truncation, join
from led.tokenizer.tokenizer import LEDTokenizer

Span = tuple[int, int]


@dataclass(frozen=True)
class InputText:
    """A text, or the texts of several documents that make one input.

    `prefix` is put before the text. `spans` are (start, end) in characters of a single text, end exclusive:
    the tokens that overlap them are global.
    """

    text: str | tuple[str, ...]
    prefix: str = ""
    spans: Sequence[Span] = ()


@dataclass(frozen=True)
class InputRules:
    """What makes a model input of a text, besides the tokenizer."""

    global_tokens: GlobalTokens
    separator: Sequence[int] = ()
    truncation: Truncation = "equal"


@dataclass(frozen=True)
class EncodedInput:
    """A model input. The document begins after `leading` tokens: `<s>` and the prefix.

    `documents` has (tokens kept, tokens cut) of each document if there are several.
    """

    input_ids: list[int]
    global_positions: list[int]
    leading: int = 1
    truncated_tokens: int = 0
    documents: tuple[tuple[int, int], ...] = ()


def encode_inputs(
    tokenizer: LEDTokenizer, inputs: Sequence[InputText], limit: int, rules: InputRules
) -> list[EncodedInput]:
    """The model inputs of these texts, of at most `limit` tokens. `</s>` is kept.

    Raises:
        ValueError: a span is not in its text, or documents cannot be truncated to the limit.
    """
    texts: list[str] = []
    for item in inputs:
        parts = [item.text] if isinstance(item.text, str) else item.text
        # The prefix belongs to the first document. Blank documents have no tokens of their own.
        texts += [
            (item.prefix if i == 0 else "") + (part if part.strip() else "") for i, part in enumerate(parts)
        ]
    encodings = iter(tokenizer.encode_batch(texts))
    encoded = []
    for item in inputs:
        if isinstance(item.text, str):
            encoding = next(encodings)
            ids, dropped = truncate(encoding.ids, limit)
            leading = _leading(encoding.offsets, item.prefix)
            marked = tokens_in_spans(encoding.offsets, item.spans, len(item.text), len(item.prefix))
            counts: tuple[tuple[int, int], ...] = ()
        else:
            if item.spans:
                raise ValueError("spans of global tokens need one text, and this input has a list of texts")
            several = [next(encodings) for _ in item.text]
            leading, marked = _leading(several[0].offsets if several else (), item.prefix), []
            documents = [encoding.ids[1:-1] for encoding in several]
            joined = join(documents, rules.separator, limit - 2, rules.truncation)
            ids = [tokenizer.cls_token_id, *joined.ids, tokenizer.sep_token_id]
            counts = tuple(
                (kept, len(document) - kept) for kept, document in zip(joined.lengths, documents, strict=True)
            )
            dropped = sum(cut for _, cut in counts)
        leading = min(leading, len(ids) - 1)
        positions = rules.global_tokens.positions(ids, leading, marked)
        encoded.append(EncodedInput(ids, positions, leading, dropped, counts))
    return encoded


def _leading(offsets: Sequence[Span], prefix: str) -> int:
    """The tokens before the document: the first special token, and those that begin in the prefix."""
    count = 1
    while prefix and count < len(offsets) - 1 and offsets[count][0] < len(prefix):
        count += 1
    return count


def tokens_in_spans(
    offsets: Sequence[Span], spans: Sequence[Span], length: int, start_of_text: int = 0
) -> list[int]:
    """The indices of the tokens that overlap spans of a text of `length` characters. The text begins at
    character `start_of_text` of what was tokenized.

    Raises:
        ValueError: a span is not in the text.
    """
    for start, end in spans:
        if not 0 <= start < end <= length:
            raise ValueError(
                f"the span ({start}, {end}) of global tokens is not within the text of {length} characters"
            )
    return overlapping(offsets, [(a + start_of_text, b + start_of_text) for a, b in spans])


def overlapping(offsets: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """The indices of the tokens whose characters overlap one of the spans, sorted."""
    found = []
    remaining = sorted(spans)
    first = 0
    furthest = -1  # the end of the spans that begin before the current token ends
    for i, (start, end) in enumerate(offsets):
        while first < len(remaining) and remaining[first][0] < end:
            furthest = max(furthest, remaining[first][1])
            first += 1
        if start < end and start < furthest:
            found.append(i)
    return found
