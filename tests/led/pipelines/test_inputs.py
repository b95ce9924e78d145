"""Model inputs are those that the reference's tokenizer and the authors' recipes give."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings, strategies as st

from led.pipelines.chunking import ChunkEnds, ChunkRules
from led.pipelines.global_attention import GlobalAttention
from led.pipelines.inputs import InputRules, InputText, encode_inputs, overlapping
from led.pipelines.joining import Truncation, join, whole_text
from led.tokenizer.tokenizer import LEDTokenizer
from tests.conftest import words


@pytest.fixture(scope="module")
def tokenizer() -> LEDTokenizer:
    tokenizer = LEDTokenizer.learn([words(200, 0)], vocab_size=320)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<doc-sep>"]})
    return tokenizer


def rules(tokenizer: LEDTokenizer, *names: str) -> InputRules:
    separator = [tokenizer.convert_tokens_to_ids("<doc-sep>")]
    return InputRules(GlobalAttention.parse(names).resolve(tokenizer, separator), separator)


def test_a_text_with_separators_of_its_own(tokenizer: LEDTokenizer) -> None:
    text = "the pump failed<doc-sep>the valve<doc-sep>water rose"
    [item] = encode_inputs(tokenizer, [InputText(text)], 1000, rules(tokenizer, "first", "separator"))
    separator = tokenizer.convert_tokens_to_ids("<doc-sep>")
    assert item.input_ids == tokenizer.encode(text) and item.input_ids.count(separator) == 2
    found = [i for i, token in enumerate(item.input_ids) if token == separator]
    assert item.global_positions == [0, *found]
    for limit in range(3, len(item.input_ids)):
        [cut] = encode_inputs(tokenizer, [InputText(text)], limit, rules(tokenizer, "first", "separator"))
        assert cut.input_ids == [*item.input_ids[: limit - 1], 2]
        assert cut.global_positions == [0, *(i for i in found if i < limit - 1)]
        assert cut.truncated_tokens == len(item.input_ids) - limit


@pytest.mark.parametrize("prefix", ["", " ", "summarize: ", "gallery<doc-sep>", "naïve 🎉 "])
def test_a_prefix_is_put_before_the_text(tokenizer: LEDTokenizer, prefix: str) -> None:
    texts = ["the pump", "Größe 🎉", ""]
    inputs = [InputText(text, prefix) for text in texts]
    for text, item in zip(
        texts, encode_inputs(tokenizer, inputs, 1000, rules(tokenizer, "question")), strict=True
    ):
        assert item.input_ids == tokenizer.encode(prefix + text)
        assert item.global_positions == list(range(item.leading))
        before = tokenizer.decode(item.input_ids[1 : item.leading])
        assert before.strip() == prefix.strip()


def test_documents_of_one_input(tokenizer: LEDTokenizer) -> None:
    documents = ("the pump failed", " ", "the valve was stopped", "water rose in the gallery")
    first_only = rules(tokenizer, "first", "separator")
    [item] = encode_inputs(tokenizer, [InputText(documents, "facet: ")], 1000, first_only)
    separator = first_only.separator[0]
    expected = [0, *tokenizer.encode("facet: the pump failed", add_special_tokens=False)]
    for document in documents[2:]:
        expected += [separator, *tokenizer.encode(document, add_special_tokens=False)]
    assert item.input_ids == [*expected, 2]
    assert item.global_positions == [0, *(i for i, token in enumerate(expected) if token == separator)]
    assert [cut for _, cut in item.documents] == [0] * 4 and item.documents[1] == (0, 0)
    whole = len(item.input_ids)
    for limit in range(3, whole):
        [cut] = encode_inputs(tokenizer, [InputText(documents)], limit, first_only)
        assert len(cut.input_ids) <= limit
        assert cut.truncated_tokens == sum(cut for _, cut in cut.documents)
        assert all(i < len(cut.input_ids) - 1 for i in cut.global_positions)


@pytest.mark.parametrize("count", [True, False])
@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=4),
    st.sampled_from(["equal", "proportional", "last", "primera"]),
    st.integers(20, 90),
)
def test_documents_longer_than_the_input_are_joined_by_their_whole_lengths(
    count: bool, sizes: list[int], truncation: Truncation, limit: int
) -> None:
    """Against documents that are tokenized to their ends."""
    tokenizer = learned()
    documents = [" ".join(["pump", "rose", "water"][i % 3] for i in range(size)) for size in sizes]
    chosen = replace(rules(tokenizer, "first"), truncation=truncation)
    whole = [encoding.ids[1:-1] for encoding in tokenizer.encode_batch(documents)]
    expected = join(whole, chosen.separator, limit - 2, truncation)
    with pytest.MonkeyPatch.context() as patch:  # so that these texts are long ones
        patch.setattr("led.tokenizer.tokenizer.PIECE_CHARACTERS", 64)
        [found] = encode_inputs(tokenizer, [InputText(tuple(documents))], limit, chosen, count=count)
    assert found.input_ids == [tokenizer.cls_token_id, *expected.ids, tokenizer.sep_token_id]
    cuts = [len(ids) - kept for ids, kept in zip(whole, expected.lengths, strict=True)]
    for (kept, cut), expected_kept, expected_cut in zip(found.documents, expected.lengths, cuts, strict=True):
        assert kept == expected_kept and cut in ((expected_cut,) if count else (expected_cut, None))
    assert found.truncated_tokens in ((sum(cuts),) if count else (sum(cuts), None))
    assert (found.truncated_characters > 0) == (sum(cuts) > 0)


def test_spans_of_characters_are_global(tokenizer: LEDTokenizer) -> None:
    text = "the Größe of the 🎉 pump"
    for prefix in ("", "query: "):
        [item] = encode_inputs(
            tokenizer,
            [InputText(text, prefix, [(4, 9), (text.index("pump"), len(text))])],
            1000,
            rules(tokenizer, "first"),
        )
        marked = [i for i in item.global_positions if i]
        assert tokenizer.decode([item.input_ids[i] for i in marked]).replace(" ", "") == "Größepump"
    with pytest.raises(ValueError, match=r"the span \(3, 99\) of global tokens is not within the text"):
        encode_inputs(tokenizer, [InputText(text, spans=[(3, 99)])], 1000, rules(tokenizer))
    with pytest.raises(ValueError, match="spans of global tokens need one text"):
        encode_inputs(tokenizer, [InputText(("a", "b"), spans=[(0, 1)])], 1000, rules(tokenizer))


@given(
    st.lists(st.integers(1, 4), max_size=20),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=5),
)
def test_overlaps_are_those_of_trying_each(widths: list[int], starts: list[tuple[int, int]]) -> None:
    offsets, position = [], 0
    for width in widths:
        offsets.append((position, position + width - 1))
        position += width
    spans = [(start, start + length) for start, length in starts]
    expected = [i for i, (s, e) in enumerate(offsets) if any(max(s, a) < min(e, b) for a, b in spans)]
    assert overlapping(offsets, spans) == expected


WORDS = st.sampled_from(
    ["the pump", " ", "", "Größe 🎉", "water rose. The valve failed.\n\nA gallery", "x" * 40]
)


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(WORDS, st.lists(WORDS, min_size=1, max_size=4).map(tuple)),
    st.sampled_from(["", "facet: ", "summarize the pump: "]),
    st.sampled_from(["equal", "proportional", "last"]),
    st.integers(3, 60),
    st.sampled_from(["token", "sentence"]),
)
def test_chunks_cover_the_documents_of_an_input(
    text: str | tuple[str, ...], prefix: str, truncation: Truncation, limit: int, ends: ChunkEnds
) -> None:
    tokenizer = learned()
    chosen = replace(rules(tokenizer, "first"), truncation=truncation)
    item = InputText(text, prefix)
    try:
        [found] = encode_inputs(tokenizer, [item], limit, chosen, ChunkRules(24, 0, ends))
    except ValueError as error:
        assert "leave no room" in str(error)
        return
    whole = whole_text(text)
    assert found.input_ids == encode_inputs(tokenizer, [item], limit, chosen)[0].input_ids
    length = len(found.input_ids) - found.leading - 1
    covered = sum(chunk.end - chunk.start for chunk in found.chunks)
    assert found.chunks[0].start == 0 and covered <= length
    if ends == "token":
        assert covered == length and found.chunks[-1].end == length
    for chunk in found.chunks:
        part = whole[chunk.first_character : chunk.last_character]
        ids = found.input_ids[found.leading + chunk.start : found.leading + chunk.end]
        kept = [i for i in ids if i not in chosen.separator]
        if ends == "sentence" and not found.truncated_tokens:  # characters stay whole, and nothing is cut
            assert "".join(tokenizer.decode(kept).split()) == "".join(part.split())


@cache
def learned() -> LEDTokenizer:
    tokenizer = LEDTokenizer.learn([words(200, 0)], vocab_size=320)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<doc-sep>"]})
    return tokenizer
