"""A text in pieces has the tokens and offsets of the whole text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

from led.tokenizer import tokenizer as tokenizer_module
from led.tokenizer.pieces import TokenizedText, allows_pieces, encode_in_pieces, pieces
from led.tokenizer.tokenizer import LEDTokenizer

PUBLISHED = Path("demo/checkpoints/led-reports-summary")

# Parts of texts with every kind of white space, and with what a pattern or a special token looks at.
PARTS = st.sampled_from(
    [*"ab1'!.\n \t\x1c\x85\xa0\u2003é漢", "  ", "\r\n", "don't", "'s", "<s>", "</s>", "<mask>", " <mask> "]
)


@pytest.fixture(scope="module")
def tokenizer() -> LEDTokenizer:
    return LEDTokenizer.from_pretrained(PUBLISHED)


@given(st.lists(PARTS, max_size=60).map("".join), st.integers(1, 12))
def test_pieces_cover_the_text_and_are_cut_before_spaces(text: str, size: int) -> None:
    bounds = list(pieces(text, size))
    assert "".join(text[a:b] for a, b in bounds) == text
    assert [a for a, _ in bounds[1:]] == [b for _, b in bounds[:-1]]
    for start, _ in bounds[1:]:
        assert text[start] in " \n" and not text[start - 1].isspace()


@pytest.mark.parametrize("split", [None, True, False])
@given(text=st.lists(PARTS, max_size=60).map("".join), size=st.integers(1, 12))
def test_pieces_have_the_tokens_of_the_whole_text(split: bool | None, text: str, size: int) -> None:
    tokenizer = LEDTokenizer.from_pretrained(PUBLISHED)
    tokenizer.split_special_tokens = split
    [whole] = tokenizer.encode_batch([text])
    assert encode_in_pieces(tokenizer.encode_batch, text, size) == (whole.ids, whole.offsets, 0)


@given(
    text=st.lists(PARTS, max_size=60).map("".join),
    size=st.integers(1, 12),
    most=st.integers(2, 30),
    count=st.booleans(),
)
def test_at_most_so_many_tokens_are_kept_and_the_others_counted(
    tokenizer: LEDTokenizer, text: str, size: int, most: int, count: bool
) -> None:
    [whole] = tokenizer.encode_batch([text])
    found = encode_in_pieces(tokenizer.encode_batch, text, size, most, count=count)
    over = max(0, len(whole) - most)
    if over:
        assert found.ids == [*whole.ids[: most - 1], whole.ids[-1]]
        assert found.offsets == [*whole.offsets[: most - 1], (0, 0)]
    else:
        assert (found.ids, found.offsets) == (whole.ids, whole.offsets)
    assert found.omitted == over or (found.omitted is None and over and not count)


def test_texts_of_all_lengths_are_encoded_as_one_by_one(
    tokenizer: LEDTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_module, "PIECE_CHARACTERS", 50)
    texts = ["", "a pump", "the flow was 3 m " * 40, " ", "of 17 valves " * 9]
    whole = tokenizer.encode_batch(texts)
    assert tokenizer.encode_texts(texts) == [TokenizedText(e.ids, e.offsets, 0) for e in whole]
    limited = tokenizer.encode_texts(texts, 10)
    assert [len(text.ids) for text in limited] == [min(10, len(e)) for e in whole]
    assert [text.omitted for text in limited] == [max(0, len(e) - 10) for e in whole]


def test_the_rest_of_a_long_text_is_not_tokenized_unless_it_is_counted(
    tokenizer: LEDTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    encode = LEDTokenizer.encode_batch

    def counted(self: LEDTokenizer, texts: Any) -> Any:
        sizes.extend(map(len, texts))
        return encode(self, texts)

    tokenizer._allows_pieces()
    monkeypatch.setattr(LEDTokenizer, "encode_batch", counted)
    text = "the flow was 3 m " * 100_000
    [found] = tokenizer.encode_texts([text], 128, count=False)
    assert len(found.ids) == 128 and found.omitted is None
    assert sum(sizes) < 20_000
    sizes.clear()
    [known] = tokenizer.encode_texts([text], 128)
    assert known.ids == found.ids and known.omitted == len(encode(tokenizer, [text])[0]) - 128
    assert max(sizes) < 140_000 and sum(sizes) == len(text)


def test_tokenizers_whose_tokens_depend_on_more_are_not_given_pieces(tokenizer: LEDTokenizer) -> None:
    def changed(**parts: Any) -> bool:
        other = LEDTokenizer.from_pretrained(PUBLISHED)
        for name, part in parts.items():
            setattr(other.backend, name, part)
        return allows_pieces(other.backend, other.encode_batch)

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert changed() and changed(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(), byte_level]))
    assert not changed(normalizer=normalizers.NFC())
    assert not changed(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    assert not changed(pre_tokenizer=pre_tokenizers.Sequence([byte_level, pre_tokenizers.Metaspace()]))
    for token in (AddedToken("<x>", rstrip=True), AddedToken("two words")):
        other = LEDTokenizer.from_pretrained(PUBLISHED)
        other.backend.add_tokens([token])
        assert not allows_pieces(other.backend, other.encode_batch)
    text = "a pump " * 30_000
    other = LEDTokenizer.from_pretrained(PUBLISHED)
    other.backend.normalizer = normalizers.Lowercase()
    [whole] = other.encode_batch([text])
    assert other.encode_texts([text], 100) == [
        TokenizedText([*whole.ids[:99], whole.ids[-1]], [*whole.offsets[:99], (0, 0)], len(whole) - 100)
    ]
