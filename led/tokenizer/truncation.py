"""From texts to encodings: checks of a call's arguments, and truncation.

A text is a string or a list of words. An item of a batch is a text or a pair of texts. All lengths are in
tokens. The tokenizer is not modified, so threads can share it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer, models

from led.tokenizer.batch_encoding import check_side, round_up

UNLIMITED = int(1e30)
# Larger limits count as none. Published files have 1e30 with different rounding errors.
_NO_LIMIT = int(1e20)
_PADDING = {
    False: None,
    None: None,
    "do_not_pad": None,
    True: "longest",
    "longest": "longest",
    "max_length": "max_length",
}
_TRUNCATION = {
    False: None,
    None: None,
    "do_not_truncate": None,
    True: "longest_first",
    "longest_first": "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
}


@dataclass(frozen=True)
class TextBatch:
    """The items of a call. `single` is true if the caller passed one item instead of a list."""

    items: list[Any]
    single: bool


@dataclass(frozen=True)
class Limits:
    """How one call truncates and pads.

    `truncation` is None, "longest_first", "only_first" or "only_second". `padding` is None, "longest" or
    "max_length". `max_length` is None only if neither needs it. With `overflow`, the truncated part of a text
    is returned in further rows.
    """

    padding: str | None
    truncation: str | None
    max_length: int | None
    stride: int
    pad_to_multiple_of: int | None
    padding_side: str
    truncation_side: str
    overflow: bool = False

    def width(self, longest: int) -> int | None:
        """The number of columns of a batch whose longest row has `longest` tokens. None without padding."""
        if self.padding is None:
            return None
        columns = longest if self.padding == "longest" or self.max_length is None else self.max_length
        return round_up(columns, self.pad_to_multiple_of)


def read_limits(
    *,
    padding: Any,
    truncation: Any,
    max_length: Any,
    stride: Any,
    pad_to_multiple_of: Any,
    padding_side: str,
    truncation_side: str,
    model_max_length: int,
    overflow: bool = False,
) -> Limits:
    """The limits of a call, from its arguments and the tokenizer's own limit.

    Raises:
        ValueError: a value is unknown or out of range, or two values contradict each other.
    """
    for name, value, least in (
        ("max_length", max_length, 0),
        ("stride", stride, 0),
        ("pad_to_multiple_of", pad_to_multiple_of, 1),
    ):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least} tokens.")
    check_side(padding_side, "padding_side")
    check_side(truncation_side, "truncation_side")
    # As in the reference, max_length alone implies truncation.
    if max_length is not None and truncation is None and padding is False:
        truncation = True
    pad, truncate = _choice("padding", padding, _PADDING), _choice("truncation", truncation, _TRUNCATION)
    limit = model_max_length if max_length is None else max_length
    if limit > _NO_LIMIT:
        if pad == "max_length":
            raise ValueError(
                "padding='max_length' needs max_length, because this tokenizer has no limit of its own."
            )
        limit, truncate = None, None
    if pad and truncate and pad_to_multiple_of and limit % pad_to_multiple_of:
        raise ValueError(
            f"max_length is {limit}; it must be a multiple of pad_to_multiple_of={pad_to_multiple_of}. For "
            f"example, pass max_length={round_up(limit, pad_to_multiple_of)}."
        )
    return Limits(
        pad, truncate, limit, stride or 0, pad_to_multiple_of, padding_side, truncation_side, overflow
    )


def _choice(name: str, value: Any, known: Mapping[Any, str | None]) -> str | None:
    if not isinstance(value, str | bool | None) or value not in known:
        raise ValueError(
            f"{name} is {value!r}; it must be one of {', '.join(repr(k) for k in known if k is not None)}."
        )
    return known[value]


def read_texts(text: Any, text_pair: Any, is_split_into_words: bool) -> TextBatch:
    """The items of `text` and `text_pair`, which are one text or several.

    Each text is a string, or with `is_split_into_words` a list of strings.

    Raises:
        ValueError: a text is not a string, or the numbers of first and second texts differ.
    """
    single = isinstance(text, str) or (
        is_split_into_words
        and isinstance(text, list | tuple)
        and not any(isinstance(item, list | tuple) for item in text)
    )
    if single:
        items = [text if text_pair is None else (text, text_pair)]
    else:
        items = _as_list(text, "text")
        if text_pair is not None:
            seconds = _as_list(text_pair, "text_pair")
            if len(seconds) != len(items):
                raise ValueError(
                    f"there are {len(items)} texts and {len(seconds)} second texts; pass one for each."
                )
            items = list(zip(items, seconds, strict=True))
    return TextBatch([_item(item, number, is_split_into_words) for number, item in enumerate(items)], single)


def _as_list(texts: Any, name: str) -> list[Any]:
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise ValueError(
            f"{name} is a {type(texts).__name__}; pass a string for one text, or a list of strings for "
            "several."
        )
    return list(texts)


def _item(item: Any, number: int, is_split_into_words: bool) -> Any:
    """`item` as the backend needs it: a text, or a pair of texts as a tuple."""
    if _is_text(item, is_split_into_words):
        return list(item) if is_split_into_words else item
    if (
        isinstance(item, list | tuple)
        and len(item) == 2
        and all(_is_text(text, is_split_into_words) for text in item)
    ):
        return tuple(list(text) if is_split_into_words else text for text in item)
    rule = "a list of words" if is_split_into_words else "a string"
    hint = (
        ""
        if is_split_into_words or not isinstance(item, list | tuple)
        else " Pass is_split_into_words=True for words."
    )
    raise ValueError(f"text {number} is {_brief(item)}; it must be {rule}, or a pair of them.{hint}")


def _is_text(text: Any, is_split_into_words: bool) -> bool:
    if is_split_into_words:
        return isinstance(text, list | tuple) and all(isinstance(word, str) for word in text)
    return isinstance(text, str)


def _brief(value: Any) -> str:
    shown = repr(value)
    return f"a {type(value).__name__} ({shown if len(shown) < 60 else shown[:57] + '...'})"


def encode_items(
    tokenizer: Tokenizer,
    items: Sequence[Any],
    limits: Limits,
    *,
    add_special_tokens: bool,
    is_split_into_words: bool,
) -> list[Encoding]:
    """One encoding per item, truncated to the limits. `tokenizer` is a `variant` for this call.

    The truncated part is in the encoding's `overflowing`, with `stride` tokens repeated.

    Raises:
        ValueError: a text cannot be truncated to the limits, or is not valid Unicode.
    """
    if limits.truncation is None:
        return _encode(tokenizer, items, add_special_tokens, is_split_into_words)
    without_format = copy_of(tokenizer)
    texts = [text for item in items for text in (item if isinstance(item, tuple) else (item,))]
    encoded = iter(_encode(without_format, texts, False, is_split_into_words))
    encodings = []
    for number, item in enumerate(items):
        pair = isinstance(item, tuple)
        room = room_for(limits, tokenizer.num_special_tokens_to_add(pair) if add_special_tokens else 0)
        first, second = next(encoded), next(encoded) if pair else None
        kept = kept_lengths(len(first), None if second is None else len(second), room, limits, number)
        for encoding, length in zip((first, second), kept, strict=True):
            if encoding is not None and length is not None and length < len(encoding):
                encoding.truncate(length, limits.stride, limits.truncation_side)
        encodings.append(tokenizer.post_process(first, second, add_special_tokens))
    return encodings


def _encode(
    backend: Tokenizer, items: Sequence[Any], add_special_tokens: bool, is_split_into_words: bool
) -> list[Encoding]:
    try:
        return backend.encode_batch(
            list(items), is_pretokenized=is_split_into_words, add_special_tokens=add_special_tokens
        )
    except (TypeError, UnicodeEncodeError) as error:
        raise ValueError(
            "a text holds half of a surrogate pair, which is not valid Unicode. Read the file as UTF-8, or "
            "replace it with text.encode('utf-8', 'replace').decode()."
        ) from error


def room_for(limits: Limits, specials: int) -> int:
    """The number of tokens left for the texts of an item that has `specials` special tokens.

    Raises:
        ValueError: the special tokens do not fit, or every chunk would only repeat the previous one.
    """
    assert limits.max_length is not None
    room = limits.max_length - specials
    if room < 0:
        raise ValueError(
            f"max_length is {limits.max_length}, and the special tokens alone take {specials}; pass "
            f"max_length={specials} or more, or add_special_tokens=False."
        )
    if limits.stride and limits.stride >= room:
        raise ValueError(
            f"stride is {limits.stride}, and max_length={limits.max_length} leaves {room} tokens of text in "
            "a chunk; pass a smaller stride or a larger max_length."
        )
    return room


def kept_lengths(
    first: int, second: int | None, room: int, limits: Limits, number: int = 0
) -> tuple[int, int | None]:
    """The number of tokens to keep of each text, together at most `room`.

    `number` identifies the item in error messages. "longest_first" shortens the longer text until both are
    equally long, then both. If `room` is odd, the longer text gets the extra token, or the second if both are
    equally long.

    Raises:
        ValueError: only one text may be truncated and it is too short, or a chunk is empty or not longer
            than the stride.
    """
    if limits.truncation == "only_second" and second is None:
        raise ValueError(
            f"truncation='only_second' needs pairs, and text {number} is a single text; pass text_pair, or "
            "truncation=True."
        )
    if first + (second or 0) <= room:
        return first, second
    if second is None:
        kept: tuple[int, int | None] = (room, None)
    elif limits.truncation == "longest_first":
        kept = _share(first, second, room)
    else:
        whole = second if limits.truncation == "only_first" else first
        if room <= whole:
            raise ValueError(
                f"truncation={limits.truncation!r} cannot shorten text {number} enough; the text that is not "
                f"truncated takes {whole} of {room} tokens. Pass a larger max_length, or another truncation."
            )
        kept = (room - second, second) if limits.truncation == "only_first" else (first, room - first)
    for length, original in zip(kept, (first, second), strict=True):
        if length is None or original is None or length == original:
            continue
        if limits.overflow and length == 0:
            raise ValueError(
                f"max_length is {limits.max_length}, so the chunks of text {number} have no room for its "
                "tokens; pass a larger max_length, or leave out return_overflowing_tokens."
            )
        if 0 < length <= limits.stride:
            raise ValueError(
                f"stride is {limits.stride}, and text {number} has chunks of {length} tokens; pass a smaller "
                "stride or a larger max_length."
            )
    return kept


def _share(first: int, second: int, room: int) -> tuple[int, int]:
    """The longest-first shares of a room that is too small for both texts."""
    short = min(first, second)
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (long, short) if first > second else (short, long)


def variant(
    backend: Tokenizer,
    *,
    split_special_tokens: bool | None,
    control_tokens: Collection[str],
    is_split_into_words: bool,
) -> Tokenizer:
    """`backend` itself if it has these settings already, otherwise a copy that has them.

    True splits every special token that occurs in a text, False splits none, and None splits
    `control_tokens` alone. With `is_split_into_words`, each word gets a space before it, as in running text.
    """
    added = backend.get_added_tokens_decoder().values()
    kept = {token.content for token in added if token.special and token.content not in control_tokens}
    kept = kept if split_special_tokens is None else set()
    split = split_special_tokens is not False
    if backend.encode_special_tokens == split and not kept and not is_split_into_words:
        return backend
    copy = copy_of(backend, kept)
    copy.post_processor = backend.post_processor
    copy.encode_special_tokens = split
    if is_split_into_words:
        set_flags(copy, add_prefix_space=True)
    return copy


def copy_of(backend: Tokenizer, kept: Collection[str] = ()) -> Tokenizer:
    """A copy of the tokenizer that adds no special tokens. Both share the vocabulary, so copying is cheap.

    The special tokens in `kept` become ordinary added tokens, which are never split.
    """
    copy = Tokenizer(backend.model)
    if backend.normalizer is not None:
        copy.normalizer = backend.normalizer
    copy.pre_tokenizer, copy.decoder = backend.pre_tokenizer, backend.decoder
    added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
    copy.add_tokens(
        [with_special(token, False) if token.content in kept else token for _, token in sorted(added.items())]
    )
    copy.encode_special_tokens = backend.encode_special_tokens
    return copy


def with_special(token: AddedToken, special: bool) -> AddedToken:
    """The same token as a special token, or as an ordinary added token."""
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=special,
    )


def set_flags(backend: Tokenizer, **flags: bool) -> None:
    """Set `add_prefix_space` or `trim_offsets` in the parts of `backend` that have this setting."""
    shell = json.loads(Tokenizer(models.BPE()).to_str())
    for name in ("pre_tokenizer", "post_processor"):
        part = getattr(backend, name)
        shell[name] = None if part is None else _flagged(json.loads(part.__getstate__()), flags)
    parts = Tokenizer.from_str(json.dumps(shell))
    for name in ("pre_tokenizer", "post_processor"):
        if shell[name] is not None:
            setattr(backend, name, getattr(parts, name))


def _flagged(state: Any, flags: Mapping[str, bool]) -> Any:
    if isinstance(state, list):
        return [_flagged(part, flags) for part in state]
    if not isinstance(state, dict):
        return state
    # The ByteLevel pre-tokenizer has a trim_offsets, too. It has no effect.
    return {key: flags.get(key, _flagged(value, flags)) for key, value in state.items()}
