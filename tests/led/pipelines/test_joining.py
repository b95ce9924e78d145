"""Documents are joined within the limit, and every token is either kept or counted."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from led.pipelines.joining import Truncation, join, own_separator, separator_ids, shares
from led.tokenizer.tokenizer import LEDTokenizer
from tests.conftest import words

SEPARATOR = -1


@given(
    st.lists(st.integers(0, 30), max_size=12),
    st.integers(1, 90),
    st.sampled_from(["equal", "proportional", "last"]),
)
def test_joined_documents_are_prefixes_with_separators_between(
    lengths: list[int], room: int, truncation: Truncation
) -> None:
    documents = [[100 * number + i for i in range(length)] for number, length in enumerate(lengths)]
    joined = join(documents, [SEPARATOR], room, truncation)
    assert len(joined.ids) <= room
    kept = [document[:length] for document, length in zip(documents, joined.lengths, strict=True)]
    expected: list[int] = []
    for document in kept:
        expected += [*([SEPARATOR] if expected and document else []), *document]
    assert joined.ids == expected
    separators = max(0, sum(length > 0 for length in lengths) - 1)
    if sum(lengths) + separators <= room:
        assert joined.lengths == lengths
    elif len(lengths) * 2 <= room:  # nothing of the room is wasted
        assert len(joined.ids) == room or not all(joined.lengths)


@pytest.mark.parametrize(
    ("truncation", "expected"),
    [("equal", [6, 3, 5, 6]), ("proportional", [10, 1, 4, 5]), ("last", [20, 0, 0, 0])],
)
def test_shares(truncation: Truncation, expected: list[int]) -> None:
    assert shares([40, 3, 16, 20], 20, truncation) == expected


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(0, 200))
def test_equal_shares_pass_on_what_short_documents_leave(lengths: list[int], room: int) -> None:
    kept = shares(lengths, room, "equal")
    assert sum(kept) == min(room, sum(lengths))
    cut = [k for k, length in zip(kept, lengths, strict=True) if k < length]
    whole = [k for k, length in zip(kept, lengths, strict=True) if k == length]
    assert not cut or (max(cut) - min(cut) <= 1 and all(k <= max(cut) for k in whole))


def test_the_recipe_of_primera() -> None:
    documents = [[1] * 3, [], [2] * 9, [3] * 2]
    joined = join(
        documents, [SEPARATOR], 22, "primera"
    )  # a limit of 24 tokens, 8 for each of three documents
    assert joined.ids == [1, 1, 1, SEPARATOR, *[2] * 6, SEPARATOR, 3, 3, SEPARATOR]
    assert joined.lengths == [3, 0, 6, 2]
    with pytest.raises(ValueError, match="10 documents have no room in 24 tokens"):
        join([[1]] * 10, [SEPARATOR], 22, "primera")


def test_more_documents_than_tokens() -> None:
    joined = join([[i] * 2 for i in range(20)], [SEPARATOR], 9, "equal")
    assert joined.ids == [0, -1, 1, -1, 2, -1, 3, -1, 4] and joined.lengths == [1] * 5 + [0] * 15
    assert join([[], []], [SEPARATOR], 9, "equal").ids == []


@pytest.mark.parametrize("name", ["<doc-sep>", "<DOC_SEP>", "[docsep]", "<document_separator>"])
def test_the_separator_of_a_checkpoint_is_found(name: str) -> None:
    tokenizer = LEDTokenizer.learn([words(200, 0)], vocab_size=320)
    assert own_separator(tokenizer) is None and separator_ids(tokenizer) == [tokenizer.sep_token_id]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<other>", name]})
    assert own_separator(tokenizer) == name
    assert separator_ids(tokenizer) == [tokenizer.convert_tokens_to_ids(name)]
    assert separator_ids(tokenizer, "</s>") == [2]
    assert separator_ids(tokenizer, " and ") == tokenizer.encode(" and ", add_special_tokens=False)
