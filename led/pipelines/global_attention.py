"""Which tokens of an input have global attention (arXiv:2004.05150, section 3.1), as a setting.

    first         the first token, `<s>`
    none          no token
    separator     the separators between the documents of one input
    question      the tokens before the document: `<s>`, and a question or prefix
    prefix:N      the first N tokens
    every:N       every Nth token, beginning with the first
    tokens:A,B    every occurrence of these tokens of the vocabulary
    column:NAME   the tokens that overlap the character spans in this input column

Several rules together make every token global that one of them names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:  # settings import this module, and --help must stay fast
    from led.tokenizer.tokenizer import LEDTokenizer


_RULES = "first, none, separator, question, prefix:N, every:N, tokens:A,B or column:NAME"


@dataclass(frozen=True)
class GlobalTokens:
    """The rules of a checkpoint and a task, with token ids: which positions of an input are global.

    The first `first` tokens, every token whose position is a multiple of `every` (0 for none), the tokens
    before the document if `question` is set, and every token in `token_ids`.
    """

    first: int = 0
    every: int = 0
    question: bool = False
    token_ids: frozenset[int] = frozenset()

    def positions(self, input_ids: Sequence[int], leading: int = 1, marked: Sequence[int] = ()) -> list[int]:
        """The global positions of an input, sorted. The document begins after `leading` tokens.

        `marked` are further tokens of the document. Those that were cut off are left out.
        """
        length = len(input_ids)
        found = {position for position in marked if position < length - 1}  # the last token is </s>
        found.update(range(min(length, max(self.first, leading if self.question else 0))))
        if self.every:
            found.update(range(0, length, self.every))
        if self.token_ids:
            found.update(i for i, token in enumerate(input_ids) if token in self.token_ids)
        return sorted(found)


@dataclass(frozen=True)
class GlobalAttention:
    """The rules as a user writes them. `column` names the column with character spans."""

    first: int = 0
    every: int = 0
    question: bool = False
    separator: bool = False
    tokens: tuple[str, ...] = ()
    column: str | None = None

    @classmethod
    def parse(cls, rules: Sequence[str]) -> Self:
        """The rules in these texts.

        Raises:
            ValueError: a rule is unknown or malformed, or contradicts another.
        """
        first = every = 0
        question = separator = False
        tokens: list[str] = []
        column = None
        for rule in rules:
            name, colon, value = rule.partition(":")
            if name in ("first", "none", "separator", "question") and colon:
                raise ValueError(f"{rule!r} has a value, but {name} takes none")
            if name == "none":
                if len(rules) > 1:
                    raise ValueError(f"none excludes every other rule, and {len(rules)} rules were given")
            elif name == "first":
                first = max(first, 1)
            elif name == "question":
                question = True
            elif name == "separator":
                separator = True
            elif name == "prefix":
                first = max(first, _count(rule, value))
            elif name == "every":
                if every:
                    raise ValueError("every:N may be given once")
                every = _count(rule, value)
            elif name == "tokens":
                names = [token for token in value.split(",") if token]
                if not names:
                    raise ValueError(f"{rule!r} names no token; write tokens:<doc-sep>")
                tokens += names
            elif name == "column":
                if not value or column is not None:
                    raise ValueError("column:NAME needs the name of a column, and may be given once")
                column = value
            else:
                raise ValueError(f"{rule!r} is not a rule; use {_RULES}")
        return cls(first, every, question, separator, tuple(tokens), column)

    def resolve(self, tokenizer: LEDTokenizer, separator_ids: Sequence[int]) -> GlobalTokens:
        """The rules with the ids of this tokenizer. `separator_ids` are those of a separator.

        Raises:
            ValueError: a token is not in the vocabulary, or the separator is not a single token.
        """
        ids = set()
        for token in self.tokens:
            number = tokenizer.backend.token_to_id(token)
            if number is None:
                raise ValueError(
                    f"the global token {token!r} is not in the vocabulary; name a token such as "
                    f"{tokenizer.sep_token}"
                )
            ids.add(number)
        if self.separator:
            if len(separator_ids) != 1:
                raise ValueError(
                    f"the document separator has {len(separator_ids)} tokens; global attention on separators "
                    "needs one that is a single token"
                )
            ids.update(separator_ids)
        return GlobalTokens(self.first, self.every, self.question, frozenset(ids))


def _count(rule: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{rule!r} has no number; write a whole number of at least 1, as in prefix:16")
    return int(value)
