"""BatchEncoding, the result of a tokenizer call, and the padding of features.

A BatchEncoding holds model inputs as lists, arrays or tensors. It also maps tokens back to characters.

Letters: L tokens of a row. A row's side is "right" or "left".
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tokenizers import Encoding

if TYPE_CHECKING:
    import torch

# Padding values by feature. Rows of all other features are not padded.
FILL = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1, "global_attention_mask": -1}


class CharSpan(NamedTuple):
    """Characters `start` to `end` of a text. The end is exclusive."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` to `end` of a row. The end is exclusive."""

    start: int
    end: int


class BatchEncoding(dict[str, Any]):
    """A dict of model inputs. Its entries can be read as attributes, too.

    `encodings` holds one `tokenizers.Encoding` per row. It is None if the batch was not built from texts.
    `batch[0]` is the first encoding and `batch[:2]` are the first two. Without encodings, `batch[:2]` is a
    dict of the first two rows.
    """

    encodings: list[Encoding] | None = None

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encodings: Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
    ) -> None:
        super().__init__(data or {})
        self.encodings = None if encodings is None else list(encodings)
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"this batch has no {name}; it has {', '.join(self) or 'no entries'}."
            ) from None

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int):
            return self._encoding(key)
        if isinstance(key, slice):
            if self.encodings is not None:
                return self.encodings[key]
            return {name: rows[key] for name, rows in self.items()}
        return super().__getitem__(key)

    def convert_to_tensors(
        self, tensor_type: str | None = None, prepend_batch_axis: bool = False
    ) -> BatchEncoding:
        """Convert every entry in place: "pt" gives tensors, "np" arrays. None keeps lists.

        Raises:
            ValueError: the type is unknown, or rows of an entry have different lengths.
        """
        check_tensor_type(tensor_type)
        if tensor_type is not None:
            for name, rows in self.items():
                self[name] = as_tensor(name, [rows] if prepend_batch_axis else rows, tensor_type)
        return self

    def to(self, device: str | int | torch.device, *, non_blocking: bool = False) -> BatchEncoding:
        """Move every tensor to `device` in place."""
        for name, value in self.items():
            if _is_tensor(value):
                self[name] = value.to(device, non_blocking=non_blocking)
        return self

    @property
    def is_fast(self) -> bool:
        """Whether tokens can be mapped back to characters."""
        return self.encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """1 for single texts, 2 for pairs. None without encodings."""
        return self.encodings[0].n_sequences if self.encodings else None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row, length L."""
        return self._encoding(batch_index).tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row: 0 for the first text, 1 for the second, None for special tokens."""
        return self._encoding(batch_index).sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row, the number of its word in the text. None for special tokens."""
        return self._encoding(batch_index).word_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The text of a pair to which a token belongs, 0 or 1. One index alone is a token of row 0."""
        row, token = self._token(batch_or_token_index, token_index)
        return row.token_to_sequence(token)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The number of the word to which a token belongs. One index alone is a token of row 0."""
        row, token = self._token(batch_or_token_index, token_index)
        return row.token_to_word(token)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters of a token, or None for a special token. One index alone is a token of row 0."""
        row, token = self._token(batch_or_token_index, token_index)
        span = row.token_to_chars(token)
        return None if span is None else CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that covers a character of a text, or None for a space between tokens.

        One index alone is a character of row 0.
        """
        row, char = self._row_and_index(batch_or_char_index, char_index)
        return row.char_to_token(char, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The number of the word that covers a character. One index alone is a character of row 0."""
        row, char = self._row_and_index(batch_or_char_index, char_index)
        return row.char_to_word(char, sequence_index)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word, or None if it was truncated. One index alone is a word of row 0."""
        row, word = self._row_and_index(batch_or_word_index, word_index)
        span = row.word_to_tokens(word, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word, or None if it was truncated. One index alone is a word of row 0."""
        row, word = self._row_and_index(batch_or_word_index, word_index)
        span = row.word_to_chars(word, sequence_index)
        return None if span is None else CharSpan(*span)

    def _encoding(self, batch_index: int) -> Encoding:
        if self.encodings is None:
            raise ValueError(
                "this batch was built from features, not from texts. Use the batch that the tokenizer call "
                "returned."
            )
        if not -len(self.encodings) <= batch_index < len(self.encodings):
            raise IndexError(f"row {batch_index} is out of range; the batch has {len(self.encodings)} rows.")
        return self.encodings[batch_index]

    def _row_and_index(self, batch_or_item: int, item: int | None) -> tuple[Encoding, int]:
        """The row of a character or word, and its index in the row. One index alone belongs to row 0."""
        row, index = (0, batch_or_item) if item is None else (batch_or_item, item)
        if index < 0:
            raise IndexError(f"character or word {index} is out of range; they are counted from 0.")
        return self._encoding(row), index

    def _token(self, batch_or_token: int, token: int | None) -> tuple[Encoding, int]:
        """The row of a token, and its index in the row. One index alone belongs to row 0.

        Negative indices count from the end.
        """
        row, index = (0, batch_or_token) if token is None else (batch_or_token, token)
        encoding = self._encoding(row)
        position = index + len(encoding) if index < 0 else index
        if not 0 <= position < len(encoding):
            raise IndexError(f"token {index} is out of range; the row has {len(encoding)} tokens.")
        return encoding, position


def check_tensor_type(tensor_type: str | None) -> None:
    """Check a tensor type.

    Raises:
        ValueError: it is not None, "pt" or "np".
    """
    if tensor_type not in (None, "pt", "np"):
        raise ValueError(
            f"return_tensors is {tensor_type!r}; it must be None (lists), 'pt' (torch) or 'np' (numpy)."
        )


def check_side(side: str, name: str) -> None:
    """Check a side of a row.

    Raises:
        ValueError: it is not "right" or "left".
    """
    if side not in ("right", "left"):
        raise ValueError(f"{name} is {side!r}; it must be 'right' or 'left'.")


def as_tensor(name: str, value: Any, tensor_type: str) -> Any:
    """`value` as a torch tensor or a numpy array. Integers have 64 bits.

    Raises:
        ValueError: rows have different lengths, or an entry is not a number.
    """
    if isinstance(value, np.ndarray) if tensor_type == "np" else _is_tensor(value):
        return value
    try:
        array = _array(as_lists(value))
        return _as_torch(array) if tensor_type == "pt" else array
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"the entries of {name} do not form a tensor; they must be numbers in rows of equal length. Pass "
            "padding=True (and truncation=True to truncate), or pad or remove this feature."
        ) from error


def _array(value: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    if array.dtype == object:
        raise ValueError("ragged")
    return array if array.size else array.astype(np.int64)


def _is_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor. This does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _as_torch(array: np.ndarray[Any, Any]) -> torch.Tensor:
    import torch

    return torch.from_numpy(array)


def _kind(value: Any) -> str | None:
    return "pt" if _is_tensor(value) else "np" if isinstance(value, np.ndarray | np.generic) else None


def as_lists(value: Any) -> Any:
    """`value` with tensors and arrays as plain lists, alone or as rows of a list."""
    if _kind(value):
        return value.tolist()
    if isinstance(value, list | tuple) and value and (isinstance(value[0], list) or _kind(value[0])):
        return [as_lists(row) for row in value]
    return value


def tensor_type_of(value: Any) -> str | None:
    """The tensor type of `value` or of its first row: "pt", "np" or None."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return _kind(value)


def as_columns(features: Any) -> dict[str, Any]:
    """A dict of rows, from a dict of rows or from a list of dicts as in a data collator.

    Raises:
        ValueError: `features` have another type, a dict lacks a key of the first one, or input_ids are
            missing.
    """
    if isinstance(features, Mapping):
        columns = dict(features)
    elif isinstance(features, list | tuple) and all(isinstance(row, Mapping) for row in features):
        names = list(features[0]) if features else ["input_ids"]
        for number, row in enumerate(features):
            if missing := [name for name in names if name not in row]:
                raise ValueError(
                    f"feature {number} lacks {', '.join(missing)}; pass dicts with the same keys as the "
                    "first one."
                )
        columns = {name: [row[name] for row in features] for name in names}
    else:
        raise ValueError(f"features are a {type(features).__name__}; pass a dict of rows or a list of dicts.")
    if "input_ids" not in columns:
        raise ValueError(
            f"features have {', '.join(map(str, columns)) or 'no entries'}; padding needs input_ids."
        )
    return columns


def pad_rows(columns: Mapping[str, Any], width: int, pad_token_id: int, side: str) -> dict[str, Any]:
    """Pad the rows of ids and of their masks to `width` tokens. Other features, such as labels, are kept.

    Raises:
        ValueError: a mask and the ids differ in the number of rows, or in the length of a row.
    """
    lengths = [len(row) for row in columns["input_ids"]]
    fill = {"input_ids": pad_token_id, **FILL}
    for name in sorted(FILL.keys() & columns.keys()):
        if len(columns[name]) != len(lengths):
            raise ValueError(
                f"{name} has {len(columns[name])} rows for {len(lengths)} rows of input_ids; pass one for "
                "each."
            )
        for number, (row, length) in enumerate(zip(columns[name], lengths, strict=True)):
            if len(row) != length and not (name == "global_attention_mask" and len(row) < length):
                raise ValueError(
                    f"row {number} of {name} has {len(row)} entries for {length} tokens; pass one for each."
                )
    return {
        name: [fill_up(row, width, fill[name], side) for row in rows] if name in fill else rows
        for name, rows in columns.items()
    }


def fill_up(row: Sequence[int], width: int, value: int, side: str) -> list[int]:
    """`row` with `value` added on `side` up to `width` entries. Longer rows are not changed."""
    padding = [value] * (width - len(row))
    return [*padding, *row] if side == "left" else [*row, *padding]


def round_up(length: int, multiple: int | None) -> int:
    """The smallest multiple of `multiple` that is at least `length`. For None, `length` itself."""
    return length if multiple is None else -(-length // multiple) * multiple
