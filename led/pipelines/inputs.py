"""From texts to model inputs: prefix, several documents in one input, truncation, global tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from led.pipelines.chunking import Chunk, ChunkRules, chunk_document
from led.pipelines.global_attention import GlobalTokens
from led.pipelines.joining import BETWEEN_TEXTS, Joined, Truncation, join, whole_text
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

    `truncated_tokens` is None if the rest of a long text was not tokenized, `truncated_characters` is always
    known. `documents` has (tokens kept, tokens cut) of each document if there are several. `chunks` are the
    parts in which the document is read, if the call has rules for chunks.
    """

    input_ids: list[int]
    global_positions: list[int]
    leading: int = 1
    truncated_tokens: int | None = 0
    truncated_characters: int = 0
    documents: tuple[tuple[int, int | None], ...] = ()
    chunks: tuple[Chunk, ...] = ()


def encode_inputs(
    tokenizer: LEDTokenizer,
    inputs: Sequence[InputText],
    limit: int,
    rules: InputRules,
    chunk_rules: ChunkRules | None = None,
    *,
    count: bool = True,
) -> list[EncodedInput]:
    """The model inputs of these texts, of at most `limit` tokens. `</s>` is kept.

    Without `count`, the rest of a long text is not tokenized, and its tokens are not counted. The characters
    of a chunk are those of `whole_text`.

    Raises:
        ValueError: a span is not in its text, documents cannot be truncated to the limit, or a chunk has no
            room for the document.
    """
    texts: list[str] = []
    for item in inputs:
        parts = [item.text] if isinstance(item.text, str) else item.text
        # The prefix belongs to the first document. Blank documents have no tokens of their own.
        texts += [
            (item.prefix if i == 0 else "") + (part if part.strip() else "") for i, part in enumerate(parts)
        ]
    # These shares depend on the whole lengths of the documents.
    several_texts = any(not isinstance(item.text, str) for item in inputs)
    count = count or (several_texts and rules.truncation in ("equal", "proportional"))
    encodings = iter(tokenizer.encode_texts(texts, limit, count=count))
    encoded = []
    number = 0  # of the item's first text
    for item in inputs:
        if isinstance(item.text, str):
            encoding = next(encodings)
            ids, dropped = encoding.ids, encoding.omitted
            leading = _leading(encoding.offsets, item.prefix)
            marked = tokens_in_spans(encoding.offsets, item.spans, len(item.text), len(item.prefix))
            counts: tuple[tuple[int, int | None], ...] = ()
            start = -len(item.prefix)
            characters = characters_after(encoding.offsets[1:-1], len(item.prefix) + len(item.text), dropped)
            offsets = _shifted(encoding.offsets[leading:-1], start) if chunk_rules else []
        else:
            if item.spans:
                raise ValueError("spans of global tokens need one text, and this input has a list of texts")
            several = [next(encodings) for _ in item.text]
            own_texts = texts[number : number + len(several)]
            leading, marked = _leading(several[0].offsets if several else (), item.prefix), []
            documents = [encoding.ids[1:-1] for encoding in several]
            lengths = [len(encoding.ids) - 2 + (encoding.omitted or 0) for encoding in several]
            joined = join(documents, rules.separator, limit - 2, rules.truncation, lengths)
            ids = [tokenizer.cls_token_id, *joined.ids, tokenizer.sep_token_id]
            counts = tuple(
                (kept, None if encoding.omitted is None else length - kept)
                for kept, encoding, length in zip(joined.lengths, several, lengths, strict=True)
            )
            cuts = [cut for _, cut in counts]
            dropped = None if None in cuts else sum(cut or 0 for cut in cuts)
            characters = sum(
                characters_after(encoding.offsets[1 : kept + 1], len(text), cut)
                for encoding, (kept, cut), text in zip(several, counts, own_texts, strict=True)
            )
            offsets = []
            if chunk_rules is not None:
                offsets = _joined_offsets(
                    item, [e.offsets for e in several], joined, leading, rules.separator
                )
        leading = min(leading, len(ids) - 1)
        positions = rules.global_tokens.positions(ids, leading, marked)
        chunks: Sequence[Chunk] = ()
        if chunk_rules is not None:
            chunks = chunk_document(whole_text(item.text), offsets, leading, chunk_rules)
        encoded.append(EncodedInput(ids, positions, leading, dropped, characters, counts, tuple(chunks)))
        number += 1 if isinstance(item.text, str) else len(item.text)
    return encoded


def characters_after(offsets: Sequence[Span], length: int, omitted: int | None) -> int:
    """The characters after those of the kept tokens, in a text of `length` characters of which `omitted`
    tokens are not kept."""
    if omitted == 0:
        return 0
    return length - (offsets[-1][1] if offsets else 0)


def _shifted(offsets: Sequence[Span], by: int) -> list[Span]:
    return [(start + by, end + by) for start, end in offsets]


def _joined_offsets(
    item: InputText, offsets: Sequence[Sequence[Span]], joined: Joined, leading: int, separator: Sequence[int]
) -> list[Span]:
    """The characters of `whole_text` that each token after the `leading` ones covers. A separator covers
    none."""
    found: list[Span] = []
    start = -len(item.prefix)
    for text, of_text, kept in zip(item.text, offsets, joined.lengths, strict=True):
        if kept:
            # A separator stands before every document but the first.
            found += [(start, start)] * (len(separator) if found else 0)
            found += _shifted(of_text[1 : kept + 1], start)
        if start < 0:
            start = 0
        start += len(text) + len(BETWEEN_TEXTS)
    tokens = len(joined.ids)
    found += [(found[-1][1], found[-1][1])] * (tokens - len(found)) if found else []
    return found[leading - 1 :]


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
