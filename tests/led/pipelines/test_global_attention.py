"""Rules of global attention name positions of an input, whatever its length."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from led.pipelines.global_attention import GlobalAttention, GlobalTokens
from led.tokenizer.tokenizer import LEDTokenizer
from tests.conftest import words


@pytest.fixture(scope="module")
def tokenizer() -> LEDTokenizer:
    tokenizer = LEDTokenizer.learn([words(200, 0)], vocab_size=320)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<doc-sep>", "<facet>"]})
    return tokenizer


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (["first"], [0]),
        (["none"], []),
        (["prefix:3"], [0, 1, 2]),
        (["prefix:99"], [0, 1, 2, 3, 4, 5, 6, 7]),
        (["every:3"], [0, 3, 6]),
        (["question"], [0, 1]),
        (["separator"], [3, 5]),
        (["first", "separator"], [0, 3, 5]),
        (["tokens:<doc-sep>,<facet>"], [2, 3, 5]),
        (["tokens:<facet>", "every:7", "question"], [0, 1, 2, 7]),
    ],
)
def test_rules(rules: list[str], expected: list[int], tokenizer: LEDTokenizer) -> None:
    sep, facet = tokenizer.convert_tokens_to_ids(["<doc-sep>", "<facet>"])
    ids = [0, 5, facet, sep, 6, sep, 7, 2]
    resolved = GlobalAttention.parse(rules).resolve(tokenizer, [sep])
    assert resolved.positions(ids, leading=2) == expected
    assert resolved.positions(ids, leading=2, marked=[4, 8]) == sorted({*expected, 4})


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(0, 40), st.integers(0, 9), st.integers(0, 9))
def test_positions_are_those_of_trying_each(ids: list[int], first: int, every: int, leading: int) -> None:
    tokens = GlobalTokens(first, every, True, frozenset({3, 5}))
    expected = [
        i
        for i, token in enumerate(ids)
        if i < first or i < leading or token in (3, 5) or (every and i % every == 0)
    ]
    assert tokens.positions(ids, leading) == expected


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["all"], "'all' is not a rule; use first, none, separator"),
        (["first:2"], "'first:2' has a value, but first takes none"),
        (["none", "first"], "none excludes every other rule"),
        (["prefix:0"], "'prefix:0' has no number; write a whole number of at least 1"),
        (["every:x"], "'every:x' has no number"),
        (["every:2", "every:3"], "every:N may be given once"),
        (["tokens:"], "'tokens:' names no token"),
        (["column:"], "column:NAME needs the name of a column"),
    ],
)
def test_malformed_rules_are_refused(rules: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GlobalAttention.parse(rules)


def test_tokens_that_the_checkpoint_lacks_are_refused(tokenizer: LEDTokenizer) -> None:
    with pytest.raises(ValueError, match="the global token '<none>' is not in the vocabulary"):
        GlobalAttention.parse(["tokens:<none>"]).resolve(tokenizer, [2])
    with pytest.raises(ValueError, match="the document separator has 2 tokens; global attention on sep"):
        GlobalAttention.parse(["separator"]).resolve(tokenizer, [5, 6])
