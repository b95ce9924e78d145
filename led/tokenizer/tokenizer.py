"""LEDTokenizer: the byte-level BPE of the published checkpoints, built on the `tokenizers` library.

The format of one text is `<s> A </s>`, that of a pair `<s> A </s></s> B </s>`. Offsets count characters of
the input text and exclude a token's leading space. Special tokens have the offsets (0, 0).

Calls, arguments and results are those of the reference's LEDTokenizer and LEDTokenizerFast, with two
differences:
  - if a document contains the characters of a control token, such as `</s>` or `<mask>`, they are text,
    unless `split_special_tokens` is False. Special tokens that a checkpoint added, such as `<doc-sep>`, are
    tokens, unless it is True
  - a pair with an empty second text is still a pair

With `is_split_into_words`, each word gets a space before it. Truncation and padding are on the right unless
`truncation_side` or `padding_side` is set. Threads may share a tokenizer if none of them adds tokens or sets
attributes.

    tokenizer = LEDTokenizer.from_pretrained("allenai/led-base-16384")
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer, models, pre_tokenizers, trainers

from led.checkpoint.hub import resolve
from led.tokenizer.backend_checks import panics_as_errors
from led.tokenizer.batch_encoding import (
    BatchEncoding,
    as_columns,
    as_lists,
    check_side,
    check_tensor_type,
    pad_rows,
    tensor_type_of,
)
from led.tokenizer.files import (
    SPECIAL_TOKENS,
    TokenizerParts,
    build_backend,
    read_folder,
    write_folder,
    write_vocabulary,
)
from led.tokenizer.pieces import PIECE_CHARACTERS, TokenizedText, allows_pieces, encode_in_pieces
from led.tokenizer.special_tokens import Vocabulary
from led.tokenizer.truncation import (
    UNLIMITED,
    Limits,
    TextBatch,
    encode_items,
    kept_lengths,
    read_limits,
    read_texts,
    room_for,
    variant,
)

__all__ = ["SPECIAL_TOKENS", "BatchEncoding", "LEDTokenizer", "LEDTokenizerFast", "build_backend"]

# If no more tokens are counted than are kept, a piece has so many characters for each of them, but not fewer
# than the least.
_CHARACTERS_PER_TOKEN, _LEAST_PIECE = 8, 1 << 14

# The entries that a call can return, in the order of the result.
_COLUMNS: dict[str, Callable[[Encoding], Any]] = {
    "input_ids": lambda encoding: encoding.ids,
    "token_type_ids": lambda encoding: encoding.type_ids,
    "attention_mask": lambda encoding: encoding.attention_mask,
    "special_tokens_mask": lambda encoding: encoding.special_tokens_mask,
    "offset_mapping": lambda encoding: encoding.offsets,
    "length": len,
}


class LEDTokenizer(Vocabulary):
    """Converts text to token ids and back.

    `model_max_length` is the checkpoint's limit in tokens, or unlimited. It is used only by truncation and
    by padding to "max_length". `roles` and `additional_special_tokens` are as in `Vocabulary`.

    `split_special_tokens` says which special tokens are plain text if they occur in a text: all (True), none
    (False), or by default (None) only those of a role, such as `</s>`.

    Raises:
        ValueError: the vocabulary lacks one of these tokens, or a side is not "right" or "left".
    """

    pad_token_type_id = 0
    is_fast = True

    def __init__(
        self,
        backend: Tokenizer,
        model_max_length: int | None = None,
        *,
        split_special_tokens: bool | None = None,
        roles: Mapping[str, str] | None = None,
        additional_special_tokens: Sequence[str] = (),
        padding_side: str = "right",
        truncation_side: str = "right",
        clean_up_tokenization_spaces: bool = False,
        model_input_names: Sequence[str] = ("input_ids", "attention_mask"),
    ) -> None:
        super().__init__(backend, roles, additional_special_tokens, clean_up_tokenization_spaces)
        check_side(padding_side, "padding_side")
        check_side(truncation_side, "truncation_side")
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = split_special_tokens is not False
        self.split_special_tokens = split_special_tokens
        self._variants: dict[Hashable, Tokenizer] = {}
        self._in_pieces: dict[int, bool] = {}  # by the id of a variant
        self.model_max_length = int(model_max_length or UNLIMITED)
        self.padding_side, self.truncation_side = padding_side, truncation_side
        self.model_input_names = list(model_input_names)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        base_model: str | None = None,
        **overrides: Any,
    ) -> LEDTokenizer:
        """The tokenizer of a model folder or of a published checkpoint.

        `overrides` replace special tokens and settings of the files. Special tokens are given as text or
        AddedToken, for example `pad_token="<pad>"`. The settings are `model_max_length`, `padding_side`,
        `truncation_side`, `add_prefix_space`, `trim_offsets`, `clean_up_tokenization_spaces`,
        `split_special_tokens` and `model_input_names`.

        Raises:
            FileNotFoundError: the checkpoint cannot be found or downloaded, or has no tokenizer.
            TypeError: a keyword is unknown.
            ValueError: a file is malformed, or the vocabulary lacks a special token.
        """
        folder = resolve(
            str(model),
            revision,
            base_model=base_model,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            weights=False,
        ).folder
        parts = read_folder(folder, overrides)
        return cls(
            parts.backend,
            roles=parts.roles,
            additional_special_tokens=parts.extra,
            **parts.settings,
        )

    @classmethod
    def learn(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        model_max_length: int | None = None,
        *,
        split_digits: bool = False,
    ) -> LEDTokenizer:
        """Train a tokenizer on `texts`. `vocab_size` counts its entries, including special tokens.

        With `split_digits`, no merge joins two digits, so a small model can copy a number digit by digit.
        """
        digits: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.Sequence(
            [*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            special_tokens=list(SPECIAL_TOKENS[:-1]),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        learner.train_from_iterator(texts, trainer)
        merges = json.loads(learner.to_str())["model"]["merges"]
        vocab = learner.get_vocab()
        backend = build_backend({**vocab, "<mask>": len(vocab)}, [tuple(pair) for pair in merges])
        return cls(backend, model_max_length)

    # Files

    def save_pretrained(self, folder: str | Path, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write vocab.json, merges.txt, tokenizer.json, tokenizer_config.json and special_tokens_map.json.

        `added_tokens.json` is written, too, if there are tokens after the vocabulary. Returns the paths.
        """
        settings: dict[str, Any] = {
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "model_input_names": self.model_input_names,
        }
        if self.split_special_tokens is not None:
            settings["split_special_tokens"] = self.split_special_tokens
        if self.model_max_length < UNLIMITED:
            settings["model_max_length"] = self.model_max_length
        parts = TokenizerParts(self.backend, self._roles, self.additional_special_tokens, settings)
        paths = write_folder(Path(folder), parts, filename_prefix=filename_prefix)
        return tuple(map(str, paths))

    def save_vocabulary(self, folder: str | Path, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write vocab.json and merges.txt, without added tokens, into an existing folder. Other models than
        BPE have other files. Returns the paths.

        Raises:
            FileNotFoundError: the folder does not exist.
        """
        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"the folder {folder} does not exist; create it first, or use save_pretrained."
            )
        return tuple(map(str, write_vocabulary(Path(folder), self.backend, filename_prefix)))

    # Texts to ids

    def encode_batch(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[Encoding]:
        """Encodings of texts or pairs, with special tokens and without truncation."""
        with panics_as_errors():
            return self._variant(self.split_special_tokens).encode_batch(list(texts))

    def encode_texts(
        self, texts: Sequence[str], max_tokens: int | None = None, *, count: bool = True
    ) -> list[TokenizedText]:
        """Ids and offsets of texts, with special tokens.

        At most `max_tokens` of each are returned, of which the last is the last special token. A long text is
        tokenized in pieces, in bounded memory. Without `count`, the rest of a text that has enough tokens is
        not tokenized.
        """
        found: dict[int, TokenizedText] = {}
        size = PIECE_CHARACTERS
        if not count and max_tokens is not None:
            size = min(size, max(_LEAST_PIECE, _CHARACTERS_PER_TOKEN * max_tokens))
        long = [i for i, text in enumerate(texts) if len(text) > size]
        if long and self._allows_pieces():
            for i in long:
                found[i] = encode_in_pieces(self.encode_batch, texts[i], size, max_tokens, count=count)
        short = [i for i in range(len(texts)) if i not in found]
        for i, encoding in zip(short, self.encode_batch([texts[i] for i in short]), strict=True):
            ids, offsets = encoding.ids, encoding.offsets
            omitted = 0 if max_tokens is None else max(0, len(ids) - max_tokens)
            if omitted and max_tokens is not None:
                ids, offsets = ([*whole[: max_tokens - 1], whole[-1]] for whole in (ids, offsets))
            found[i] = TokenizedText(ids, offsets, omitted)
        return [found[i] for i in range(len(texts))]

    def _allows_pieces(self) -> bool:
        backend = self._variant(self.split_special_tokens)
        key = id(backend)
        if key not in self._in_pieces:
            self._in_pieces[key] = allows_pieces(backend, self.encode_batch)
        return self._in_pieces[key]

    def _variant(self, split_special_tokens: bool | None, is_split_into_words: bool = False) -> Tokenizer:
        """The backend for texts with this setting. Copies are kept until the tokens change."""
        control = self.control_tokens
        key = split_special_tokens, is_split_into_words, control, len(self.backend.get_added_tokens_decoder())
        if key not in self._variants:
            self._variants[key] = variant(
                self.backend,
                split_special_tokens=split_special_tokens,
                control_tokens=control,
                is_split_into_words=is_split_into_words,
            )
        return self._variants[key]

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Model inputs of one text or pair, or of a list of them.

        A text is a string, or with `is_split_into_words` a list of words. `text_target` is returned as
        `labels`. Without `text`, its model inputs are returned instead.

        `truncation` shortens texts to `max_length` tokens (default: `model_max_length`) and keeps the special
        tokens. True and "longest_first" shorten the longer text of a pair. "only_first" and "only_second"
        shorten that text alone. `max_length` without `padding` and `truncation` implies truncation. With
        `return_overflowing_tokens`, the rest of a text follows in further rows. They repeat `stride` tokens,
        and `overflow_to_sample_mapping` has the number of each row's text.

        `padding` fills rows to the longest of the batch (True or "longest") or to "max_length". One text
        gives flat lists, or with `return_tensors` ("pt" or "np") a batch of one. `verbose` has no effect,
        because there are no warnings.

        Raises:
            ValueError: arguments contradict each other, an item is not a text, or a text cannot be
                truncated enough.
        """
        if text is None and text_target is None:
            raise ValueError("neither text nor text_target was given; pass one of them.")
        for name, first, second in (
            ("text", text, text_pair),
            ("text_target", text_target, text_pair_target),
        ):
            if first is None and second is not None:
                raise ValueError(f"a second text was given without {name}; pass both.")
        check_tensor_type(return_tensors)
        limits = self._limits(
            padding,
            truncation,
            max_length,
            stride,
            pad_to_multiple_of,
            padding_side,
            return_overflowing_tokens,
        )
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens

        requested = {
            "input_ids": True,
            "token_type_ids": self._is_returned("token_type_ids", return_token_type_ids),
            "attention_mask": self._is_returned("attention_mask", return_attention_mask),
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
            "length": return_length,
        }

        def inputs(first: Any, second: Any) -> BatchEncoding:
            batch = read_texts(first, second, is_split_into_words)
            encodings = encode_items(
                self._variant(split, is_split_into_words),
                batch.items,
                limits,
                add_special_tokens=add_special_tokens,
                is_split_into_words=is_split_into_words,
            )
            return self._inputs(
                batch,
                encodings,
                limits,
                [name for name, is_returned in requested.items() if is_returned],
                return_overflowing_tokens,
                return_tensors,
            )

        if text is None:
            return inputs(text_target, text_pair_target)
        result = inputs(text, text_pair)
        if text_target is not None:
            result["labels"] = inputs(text_target, text_pair_target)["input_ids"]
        return result

    def _inputs(
        self,
        batch: TextBatch,
        encodings: list[Encoding],
        limits: Limits,
        names: Sequence[str],
        overflow: bool,
        return_tensors: str | None,
    ) -> BatchEncoding:
        """The named columns of padded encodings. With `overflow`, every chunk of a text is a row."""
        text_numbers = [
            number for number, encoding in enumerate(encodings) for _ in range(1 + len(encoding.overflowing))
        ]
        if overflow:
            encodings = [chunk for encoding in encodings for chunk in (encoding, *encoding.overflowing)]
        width = limits.width(max(map(len, encodings), default=0))
        if width is not None:
            for encoding in encodings:
                encoding.pad(
                    width, direction=limits.padding_side, pad_id=self.pad_token_id, pad_token=self.pad_token
                )
        columns: dict[str, Any] = {
            name: [_COLUMNS[name](encoding) for encoding in encodings] for name in names
        }
        if overflow:
            columns["overflow_to_sample_mapping"] = text_numbers
        elif batch.single and return_tensors is None:
            # The reference returns the length of one text in a list, too.
            columns = {name: rows if name == "length" else rows[0] for name, rows in columns.items()}
        return BatchEncoding(columns, encodings, return_tensors)

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """The same as calling the tokenizer with one text or pair."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Sequence[Any], **options: Any) -> BatchEncoding:
        """The same as calling the tokenizer with a list of texts, or of pairs as tuples."""
        return self(batch_text_or_text_pairs, **options)

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> list[int]:
        """The ids of one text or pair, with special tokens. The options are those of the call."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of one text or pair. Special tokens are added only with `add_special_tokens`."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def prepare_for_model(
        self,
        ids: Sequence[int],
        pair_ids: Sequence[int] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        prepend_batch_axis: bool = False,
    ) -> BatchEncoding:
        """Model inputs of ids that have no special tokens yet, as one flat row.

        Ids are truncated and padded as in the call.

        Raises:
            ValueError: arguments contradict each other, or the ids cannot be truncated enough.
        """
        limits = self._limits(padding, truncation, max_length, 0, pad_to_multiple_of, padding_side)
        first, second = list(ids), None if pair_ids is None else list(pair_ids)
        if limits.truncation:
            room = room_for(
                limits, self.num_special_tokens_to_add(second is not None) if add_special_tokens else 0
            )
            kept = kept_lengths(len(first), None if second is None else len(second), room, limits)
            first = _truncated(first, kept[0], limits.truncation_side)
            second = None if second is None else _truncated(second, kept[1], limits.truncation_side)
        row = (
            self.build_inputs_with_special_tokens(first, second)
            if add_special_tokens
            else first + (second or [])
        )
        features: dict[str, Any] = {"input_ids": row}
        if self._is_returned("token_type_ids", return_token_type_ids):
            features["token_type_ids"] = [0] * len(row)
        if return_special_tokens_mask:
            features["special_tokens_mask"] = (
                self.get_special_tokens_mask(first, second) if add_special_tokens else [0] * len(row)
            )
        padded = self.pad(
            features,
            padding=limits.padding or False,
            max_length=limits.max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
        )
        if return_length:
            padded["length"] = len(padded["input_ids"])
        return padded.convert_to_tensors(return_tensors, prepend_batch_axis)

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad features, which are a dict of rows, a list of dicts or one flat row.

        Ids are padded with the padding token, `attention_mask` and `token_type_ids` with 0, and
        `special_tokens_mask` with 1. `global_attention_mask` is padded with -1, which hides a token. Other
        features, such as labels, are not padded. A missing `attention_mask` is added. If the ids are tensors,
        the result has tensors.

        Raises:
            ValueError: features are malformed, or rows of different lengths cannot become tensors.
        """
        limits = self._limits(padding, False, max_length, 0, pad_to_multiple_of, padding_side)
        check_tensor_type(return_tensors)
        columns = as_columns(encoded_inputs)
        tensor_type = return_tensors or tensor_type_of(columns["input_ids"])
        columns = {name: as_lists(rows) for name, rows in columns.items()}
        flat = bool(columns["input_ids"]) and not isinstance(columns["input_ids"][0], list)
        if flat:
            columns = {name: [row] for name, row in columns.items()}
        if self._is_returned("attention_mask", return_attention_mask) and "attention_mask" not in columns:
            columns["attention_mask"] = [[1] * len(row) for row in columns["input_ids"]]
        width = limits.width(max((len(row) for row in columns["input_ids"]), default=0))
        if width is not None:
            columns = pad_rows(columns, width, self.pad_token_id, limits.padding_side)
        if flat:
            columns = {name: rows[0] for name, rows in columns.items()}
        return BatchEncoding(columns, tensor_type=tensor_type)

    def _limits(
        self,
        padding: Any,
        truncation: Any,
        max_length: Any,
        stride: Any,
        pad_to_multiple_of: Any,
        padding_side: str | None,
        overflow: bool = False,
    ) -> Limits:
        return read_limits(
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=self.padding_side if padding_side is None else padding_side,
            truncation_side=self.truncation_side,
            model_max_length=self.model_max_length,
            overflow=overflow,
        )

    def _is_returned(self, name: str, option: bool | None) -> bool:
        """Whether a call returns this column. For None, `model_input_names` decides."""
        return name in self.model_input_names if option is None else option

    # The format

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """The number of special tokens that are added to one text or to a pair."""
        return self.backend.num_special_tokens_to_add(pair)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The ids of one text or of a pair, with special tokens."""
        cls_id, sep_id = self.cls_token_id, self.sep_token_id
        return [
            cls_id,
            *token_ids_0,
            sep_id,
            *([] if token_ids_1 is None else [sep_id, *token_ids_1, sep_id]),
        ]

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each special token and 0 for each token of a text.

        Describes the ids with special tokens added, or with `already_has_special_tokens` the ids as they are.

        Raises:
            ValueError: ids that already have special tokens are passed as two rows.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise ValueError(
                    "ids that already have special tokens are one row; pass them as the first argument alone."
                )
            special = set(self.all_special_ids)
            return [int(int(token) in special) for token in token_ids_0]
        return [
            1,
            *[0] * len(token_ids_0),
            1,
            *([] if token_ids_1 is None else [1, *[0] * len(token_ids_1), 1]),
        ]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """A zero for each of the ids with special tokens, because LED has one token type."""
        return [0] * len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1))

    @property
    def max_len_single_sentence(self) -> int:
        """The tokens of one text that fit into `model_max_length`."""
        return self.model_max_length - self.num_special_tokens_to_add(False)

    @property
    def max_len_sentences_pair(self) -> int:
        """The tokens of a pair that fit into `model_max_length`."""
        return self.model_max_length - self.num_special_tokens_to_add(True)


def _truncated(ids: list[int], length: int | None, side: str) -> list[int]:
    """The ids truncated to `length` on this side."""
    if length is None or length >= len(ids):
        return ids
    return ids[:length] if side == "right" else ids[len(ids) - length :]


LEDTokenizerFast = LEDTokenizer
