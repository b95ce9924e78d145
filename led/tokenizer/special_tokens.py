"""Vocabulary: the tokens of a tokenizer, their ids, the special tokens, and decoding of ids to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

from tokenizers import AddedToken, Tokenizer

from led.tokenizer.batch_encoding import as_lists
from led.tokenizer.files import EXTRA, ROLES, SPECIAL_TOKENS, added_tokens, set_format

# Spaces that word-level tokenization leaves before punctuation and contractions. Replaced in this order.
_SPACED = {
    " .": ".",
    " ?": "?",
    " !": "!",
    " ,": ",",
    " ' ": "'",
    " n't": "n't",
    " 'm": "'m",
    " 's": "'s",
    " 've": "'ve",
    " 're": "'re",
}


class _Role:
    """The token of a role, such as `pad_token`. It can be set to another token of the vocabulary."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: Vocabulary, owner: type) -> str:
        return tokenizer._roles[self.name]

    def __set__(self, tokenizer: Vocabulary, token: str) -> None:
        tokenizer._set_role(self.name, str(token))


class _RoleId:
    """The id of a role's token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, tokenizer: Vocabulary, owner: type) -> int:
        return tokenizer._role_ids[self.name]


class Vocabulary:
    """The tokens of a `tokenizers` backend, and the roles of its special tokens.

    `roles` maps `bos_token`, `eos_token`, `cls_token`, `sep_token`, `pad_token`, `unk_token` and `mask_token`
    to tokens. `additional_special_tokens` have no role.

    Raises:
        ValueError: the vocabulary lacks one of these tokens.
    """

    bos_token, eos_token, cls_token, sep_token, pad_token, unk_token, mask_token = (_Role() for _ in range(7))
    bos_token_id, eos_token_id, cls_token_id, sep_token_id = (_RoleId() for _ in range(4))
    pad_token_id, unk_token_id, mask_token_id = (_RoleId() for _ in range(3))

    def __init__(
        self,
        backend: Tokenizer,
        roles: Mapping[str, str] | None = None,
        additional_special_tokens: Sequence[str] = (),
        clean_up_tokenization_spaces: bool = False,
    ) -> None:
        self._roles = {**ROLES, **(roles or {})}
        ids = {role: backend.token_to_id(token) for role, token in self._roles.items()}
        missing = {self._roles[role] for role, number in ids.items() if number is None}
        if missing:
            names = sorted(missing, key=[*SPECIAL_TOKENS, *sorted(missing)].index)
            raise ValueError(
                f"the vocabulary lacks {', '.join(names)}; LED needs {', '.join(SPECIAL_TOKENS)}."
            )
        self._role_ids = {role: number for role, number in ids.items() if number is not None}
        self.backend = backend
        self.additional_special_tokens = list(additional_special_tokens)
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces

    def __len__(self) -> int:
        return self.backend.get_vocab_size()

    @property
    def vocab_size(self) -> int:
        """The number of entries in the vocabulary, without added tokens."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def check_embedding(self, rows: int) -> None:
        """Check that an embedding of `rows` rows has one for every token.

        Raises:
            ValueError: it has fewer.
        """
        highest = max(self.backend.get_vocab().values(), default=-1)
        if highest >= rows:
            raise ValueError(
                f"the tokenizer has the id {highest} ({self.backend.id_to_token(highest)!r}), but the "
                f"model's embedding has {rows} rows (vocab_size in config.json). Use the checkpoint's "
                "own tokenizer, or extend the model by resize_token_embeddings."
            )

    def get_vocab(self) -> dict[str, int]:
        """The id of every token, including added tokens."""
        return self.backend.get_vocab()

    def get_added_vocab(self) -> dict[str, int]:
        """The ids of the added tokens, which are never split."""
        return {content: self.convert_tokens_to_ids(content) for content in added_tokens(self.backend)}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by id. They are never split."""
        return dict(sorted(self.backend.get_added_tokens_decoder().items()))

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """The token of each role, and the list of additional special tokens if there are any."""
        return {
            **self._roles,
            **({EXTRA[0]: list(self.additional_special_tokens)} if self.additional_special_tokens else {}),
        }

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, without duplicates."""
        return list(dict.fromkeys([*(self._roles[role] for role in ROLES), *self.additional_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    @property
    def control_tokens(self) -> frozenset[str]:
        """The tokens of the roles. Other special tokens are those that a checkpoint added."""
        return frozenset(self._roles.values())

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """The ids of `additional_special_tokens`."""
        return self.convert_tokens_to_ids(self.additional_special_tokens)

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens that are never split. Returns how many of them the vocabulary lacked.

        Those are added after the vocabulary, and the model's embedding must be extended by as many rows.
        """
        tokens = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        return self.backend.add_special_tokens(tokens) if special_tokens else self.backend.add_tokens(tokens)

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_additional_special_tokens: bool = True
    ) -> int:
        """Set the tokens of roles, or the list `additional_special_tokens`.

        Missing tokens are added to the vocabulary. Returns how many it lacked.

        Raises:
            ValueError: a role is unknown.
        """
        if unknown := sorted(set(special_tokens_dict) - {*ROLES, *EXTRA}):
            raise ValueError(
                f"{', '.join(unknown)} is not a special token's role; use one of {', '.join(ROLES)}, "
                f"{EXTRA[0]}."
            )
        added = 0
        for role, value in special_tokens_dict.items():
            tokens = list(value) if role in EXTRA else [value]
            added += self.add_tokens(tokens, special_tokens=True)
            names = [t if isinstance(t, str) else t.content for t in tokens]
            if role in EXTRA:
                kept = [] if replace_additional_special_tokens else self.additional_special_tokens
                self.additional_special_tokens = list(dict.fromkeys([*kept, *names]))
            else:
                self._set_role(role, names[0])
        return added

    def _set_role(self, role: str, token: str) -> None:
        number = self.backend.token_to_id(token)
        if number is None:
            raise ValueError(
                f"{role} is {token!r}, which is not in the vocabulary; use add_special_tokens({{{role!r}: "
                f"{token!r}}})."
            )
        self._roles[role], self._role_ids[role] = token, number
        if role in ("cls_token", "sep_token"):
            set_format(self.backend, self.cls_token, self.sep_token)

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str] | tuple[str, ...]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: str | list[str] | tuple[str, ...]) -> int | list[int]:
        """The id of a token, or the ids of several. Unknown tokens have the id of `unk_token`."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        number = self.backend.token_to_id(tokens)
        return self.unk_token_id if number is None else number

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str | None: ...
    @overload
    def convert_ids_to_tokens(
        self, ids: Iterable[int], skip_special_tokens: bool = False
    ) -> list[str | None]: ...
    def convert_ids_to_tokens(self, ids: int | Iterable[int], skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of several. None for ids outside the vocabulary."""
        if isinstance(ids, int):
            return self.backend.id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.backend.id_to_token(int(number)) for number in ids if int(number) not in skipped]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of these tokens, joined."""
        return self.backend.decoder.decode(tokens)

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """The text of one row of ids. Invalid UTF-8 becomes the replacement character.

        `clean_up_tokenization_spaces` removes the space before punctuation and English contractions. For
        None, the tokenizer's own setting applies.

        Raises:
            ValueError: there are several rows of ids, or an id is negative.
        """
        ids = as_lists(token_ids["input_ids"] if isinstance(token_ids, Mapping) else token_ids)
        ids = [ids] if isinstance(ids, int) else list(ids)
        if ids and isinstance(ids[0], list | tuple):
            raise ValueError(f"decode takes one row of ids but got {len(ids)} rows; use batch_decode.")
        if negative := next((number for number in ids if number < 0), None):
            raise ValueError(
                f"{negative} is not a token id; replace ignored labels with pad_token_id "
                f"({self.pad_token_id}) first."
            )
        text = self.backend.decode([int(number) for number in ids], skip_special_tokens=skip_special_tokens)
        clean = (
            self.clean_up_tokenization_spaces
            if clean_up_tokenization_spaces is None
            else clean_up_tokenization_spaces
        )
        return self.clean_up_tokenization(text) if clean else text

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The texts of several rows of ids, as in `decode`."""
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in sequences]

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """`text` without the spaces before punctuation and English contractions."""
        for spaced, joined in _SPACED.items():
            text = text.replace(spaced, joined)
        return text
