"""From texts to encodings: what a call was given, what it may not ask for, and where texts are cut.

A text is a string, or a list of words; an item of a batch is a text or a pair of them. All lengths count
tokens. Nothing here changes the tokenizer it is given, so that threads can share one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer, models

from led.tokenizer.batch_encoding import check_side, round_up

UNLIMITED = int(1e30)
# From here on a limit means that none is known: published files state 1e30 in several roundings.
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
    """The items of a call, and whether it was given one item rather than a list."""

    items: list[Any]
    single: bool


@dataclass(frozen=True)
class Limits:
    """How one call cuts and pads: `truncation` None, "longest_first", "only_first" or "only_second";
    `padding` None, "longest" or "max_length"; `max_length` None only where neither needs it; `windows` where
    the rest of a text follows."""

    padding: str | None
    truncation: str | None
    max_length: int | None
    stride: int
    pad_to_multiple_of: int | None
    padding_side: str
    truncation_side: str
    windows: bool = False

    def width(self, longest: int) -> int | None:
        """The number of columns for a batch whose longest row has `longest` tokens; None where nothing is
        padded."""
        if self.padding is None:
            return None
        wanted = longest if self.padding == "longest" or self.max_length is None else self.max_length
        return round_up(wanted, self.pad_to_multiple_of)


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
    windows: bool = False,
) -> Limits:
    """The limits of a call from its arguments and the tokenizer's own limit.

    Raises:
        ValueError: a value is unknown or out of range, or two of them exclude each other.
    """
    for name, value, least in (
        ("max_length", max_length, 0),
        ("stride", stride, 0),
        ("pad_to_multiple_of", pad_to_multiple_of, 1),
    ):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ValueError(f"{name} is {value!r}; it must be a whole number of tokens, {least} or more.")
    check_side(padding_side, "padding_side")
    check_side(truncation_side, "truncation_side")
    # A bare max_length asks for truncation, as in the reference.
    if max_length is not None and truncation is None and padding is False:
        truncation = True
    pad, truncate = _choice("padding", padding, _PADDING), _choice("truncation", truncation, _TRUNCATION)
    limit = model_max_length if max_length is None else max_length
    if limit > _NO_LIMIT:
        if pad == "max_length":
            raise ValueError(
                "padding='max_length' needs max_length: this tokenizer states no limit of its own."
            )
        limit, truncate = None, None
    if pad and truncate and pad_to_multiple_of and limit % pad_to_multiple_of:
        raise ValueError(
            f"texts are cut to max_length={limit}, no multiple of pad_to_multiple_of={pad_to_multiple_of}; "
            f"pass max_length={round_up(limit, pad_to_multiple_of)}."
        )
    return Limits(
        pad, truncate, limit, stride or 0, pad_to_multiple_of, padding_side, truncation_side, windows
    )


def _choice(name: str, value: Any, known: Mapping[Any, str | None]) -> str | None:
    if not isinstance(value, str | bool | None) or value not in known:
        raise ValueError(
            f"{name} is {value!r}; it must be one of {', '.join(repr(k) for k in known if k is not None)}."
        )
    return known[value]


def read_texts(text: Any, text_pair: Any, is_split_into_words: bool) -> TextBatch:
    """The items of `text` and `text_pair`: one text or several, each a string or, split into words, a list of
    strings.

    Raises:
        ValueError: something is no string, or there are not as many second texts as first ones.
    """
    single = isinstance(text, str) or (
        is_split_into_words
        and isinstance(text, list | tuple)
        and not any(isinstance(item, list | tuple) for item in text)
    )
    if single:
        items = [text if text_pair is None else (text, text_pair)]
    else:
        items = _listed(text, "text")
        if text_pair is not None:
            seconds = _listed(text_pair, "text_pair")
            if len(seconds) != len(items):
                raise ValueError(
                    f"{len(items)} texts were given with {len(seconds)} second texts; give one for each."
                )
            items = list(zip(items, seconds, strict=True))
    return TextBatch([_item(item, number, is_split_into_words) for number, item in enumerate(items)], single)


def _listed(texts: Any, name: str) -> list[Any]:
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise ValueError(
            f"{name} is a {type(texts).__name__}; give a string for one text, or a list of strings for several."
        )
    return list(texts)


def _item(item: Any, number: int, is_split_into_words: bool) -> Any:
    """`item` as the backend takes it: a text, or a pair of texts as a tuple."""
    if _is_text(item, is_split_into_words):
        return list(item) if is_split_into_words else item
    if (
        isinstance(item, list | tuple)
        and len(item) == 2
        and all(_is_text(text, is_split_into_words) for text in item)
    ):
        return tuple(list(text) if is_split_into_words else text for text in item)
    wanted = "a list of words" if is_split_into_words else "a string"
    hint = (
        ""
        if is_split_into_words or not isinstance(item, list | tuple)
        else " Pass is_split_into_words=True for words."
    )
    raise ValueError(f"text {number} is {_brief(item)}; it must be {wanted}, or a pair of them.{hint}")


def _is_text(text: Any, is_split_into_words: bool) -> bool:
    if is_split_into_words:
        return isinstance(text, list | tuple) and all(isinstance(word, str) for word in text)
    return isinstance(text, str)


def _brief(value: Any) -> str:
    shown = repr(value)
    return f"a {type(value).__name__} ({shown if len(shown) < 60 else shown[:57] + '...'})"


def encode_items(
    backend: Tokenizer,
    items: Sequence[Any],
    limits: Limits,
    *,
    add_special_tokens: bool,
    split_special_tokens: bool,
    is_split_into_words: bool,
) -> list[Encoding]:
    """One encoding per item, cut to the limits; what a cut leaves out is in its `overflowing`, with `stride`
    tokens repeated.

    Raises:
        ValueError: a text cannot be cut to the limits, or is no Unicode text.
    """
    whole = variant(
        backend, split_special_tokens=split_special_tokens, is_split_into_words=is_split_into_words
    )
    if limits.truncation is None:
        return _encode(whole, items, add_special_tokens, is_split_into_words)
    raw = copy_of(whole)
    sides = [side for item in items for side in (item if isinstance(item, tuple) else (item,))]
    encoded = iter(_encode(raw, sides, False, is_split_into_words))
    encodings = []
    for number, item in enumerate(items):
        pair = isinstance(item, tuple)
        room = room_for(limits, whole.num_special_tokens_to_add(pair) if add_special_tokens else 0)
        first, second = next(encoded), next(encoded) if pair else None
        kept = kept_lengths(len(first), None if second is None else len(second), room, limits, number)
        for side, length in zip((first, second), kept, strict=True):
            if side is not None and length is not None and length < len(side):
                side.truncate(length, limits.stride, limits.truncation_side)
        encodings.append(whole.post_process(first, second, add_special_tokens))
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
            "a text holds half of a surrogate pair, which is no Unicode text; read the file as UTF-8, "
            "or replace it with text.encode('utf-8', 'replace').decode()."
        ) from error


def room_for(limits: Limits, specials: int) -> int:
    """The tokens that are left for the texts of an item once its `specials` are counted.

    Raises:
        ValueError: there is no room for the special tokens, or every window would only repeat the one before.
    """
    assert limits.max_length is not None
    room = limits.max_length - specials
    if room < 0:
        raise ValueError(
            f"max_length is {limits.max_length}, and the special tokens alone take {specials}; "
            f"pass max_length={specials} or more, or add_special_tokens=False."
        )
    if limits.stride and limits.stride >= room:
        raise ValueError(
            f"stride is {limits.stride}, and max_length={limits.max_length} leaves {room} tokens of text in a "
            "window; the stride must be smaller, or the max_length larger."
        )
    return room


def kept_lengths(
    first: int, second: int | None, room: int, limits: Limits, number: int = 0
) -> tuple[int, int | None]:
    """How many tokens of each text are kept, `first + second` at most `room`; `number` names the item in
    errors.

    "longest_first" takes from the longer text until both are equally long, then from both; of an odd room the
    second text gets the odd token, or the first where it was the longer one.

    Raises:
        ValueError: only one text may be cut and it is too short for that, or a window is empty or no
            longer than the stride.
    """
    if limits.truncation == "only_second" and second is None:
        raise ValueError(
            f"truncation='only_second' needs pairs, and text {number} is alone; pass text_pair, or truncation=True."
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
                f"truncation={limits.truncation!r} cannot shorten text {number} enough: the text that stays whole "
                f"takes {whole} of {room} tokens; pass a larger max_length, or another truncation."
            )
        kept = (room - second, second) if limits.truncation == "only_first" else (first, room - first)
    for length, before in zip(kept, (first, second), strict=True):
        if length is None or before is None or length == before:
            continue
        if limits.windows and length == 0:
            raise ValueError(
                f"the windows of text {number} have no room for its tokens: max_length is {limits.max_length}; "
                "pass a larger max_length, or leave out return_overflowing_tokens."
            )
        if 0 < length <= limits.stride:
            raise ValueError(
                f"stride is {limits.stride}, and text {number} has windows of {length} tokens; "
                "the stride must be smaller, or the max_length larger."
            )
    return kept


def _share(first: int, second: int, room: int) -> tuple[int, int]:
    """The longest-first shares of a room too small for both."""
    short = min(first, second)
    long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (long, short) if first > second else (short, long)


def variant(backend: Tokenizer, *, split_special_tokens: bool, is_split_into_words: bool) -> Tokenizer:
    """`backend` itself where it reads control tokens and words as asked, else a copy that does.

    Words are written with a space before each, as they stand in a text.
    """
    if backend.encode_special_tokens == split_special_tokens and not is_split_into_words:
        return backend
    other = copy_of(backend)
    other.post_processor = backend.post_processor
    other.encode_special_tokens = split_special_tokens
    if is_split_into_words:
        set_flags(other, add_prefix_space=True)
    return other


def copy_of(backend: Tokenizer) -> Tokenizer:
    """A tokenizer with the same tokens and no format; the vocabulary itself is shared, so a copy takes no
    time."""
    copy = Tokenizer(backend.model)
    if backend.normalizer is not None:
        copy.normalizer = backend.normalizer
    copy.pre_tokenizer, copy.decoder = backend.pre_tokenizer, backend.decoder
    added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
    copy.add_tokens([added[number] for number in sorted(added)])
    copy.encode_special_tokens = backend.encode_special_tokens
    return copy


def set_flags(backend: Tokenizer, **flags: bool) -> None:
    """Set `add_prefix_space` or `trim_offsets` in the parts of `backend` that know it."""
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
    # The ByteLevel pre-tokenizer carries a trim_offsets of its own, which nothing reads.
    return {key: flags.get(key, _flagged(value, flags)) for key, value in state.items()}
