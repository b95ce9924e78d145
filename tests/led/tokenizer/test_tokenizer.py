"""LEDTokenizer gives the reference's ids for any text, and treats control tokens in a text as text.

The reference is built from the same vocab.json and merges.txt, with the added tokens as the published files
state them.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from led.checkpoint.hub import Checkpoint
from led.tokenizer.tokenizer import SPECIAL_TOKENS, LEDTokenizer, LEDTokenizerFast

transformers = pytest.importorskip("transformers", reason="the reference, transformers 5, is not installed")

CORPUS = [
    "The report covers 2023 and 2024: revenue rose 12.5% to $1,234,567.",
    "Longformer-Encoder-Decoder reads long documents; it doesn't forget the beginning.",
    "Ein Fluß, ein Café, naïve façade. Привет, мир! 你好,世界。こんにちは 🎉🎉",
    "def f(x):\n    return x + 1\n\n\tindented\r\n",
] * 5

PIECES = [
    "the",
    " The",
    "report",
    "don't",
    "we'll",
    "I'm",
    "'S",
    "12.5%",
    "$1,234",
    "1234567890",
    "x_y",
    "CamelCase",
    "...",
    "—",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u200b",
    "\ufeff",
    "\u2028",
    "\x00",
    "\x01",
    "\x1b",
    "\x7f",
    "\x85",
    "\xad",
    "é",
    "e\u0301",
    "ß",
    "İ",
    "ﬁ",
    "Ⅳ",
    "½",
    "②",
    "你好",
    "世界。",
    "こんにちは",
    "Привет",
    "שלום",
    "مرحبا",
    "हिन्दी",
    "🎉",
    "👩‍👩‍👧",
    "🇩🇪",
    "👍🏽",
    "𝔘",
    "\U0010ffff",
    "\ufffd",
    "\ue000",
    "<",
    ">",
    "</",
    "s>",
    "Ġ",
    "Ċ",
    "##",
    "[SEP]",
]
SPECIAL_PIECES = [
    *SPECIAL_TOKENS,
    " <mask>",
    "<mask> ",
    "  <mask>",
    "</s></s>",
    " </s> ",
    "<S>",
    "< s>",
    "<mask><mask>",
]


def strings(count: int, pieces: list[str], seed: int = 0) -> list[str]:
    """Every piece alone, then random strings of them."""
    rng = random.Random(seed)
    mixed = ["".join(rng.choices(pieces, k=rng.randint(1, 12))) for _ in range(count - len(pieces))]
    return ["", *pieces, *mixed]


# "</" may meet "s>": such texts are among those with special tokens.
MIXED = strings(1100, PIECES)
PLAIN = [text for text in MIXED if not any(token in text for token in SPECIAL_TOKENS)]
WITH_SPECIALS = [*strings(200, [*SPECIAL_PIECES, *PIECES[:12]], seed=1), *sorted(set(MIXED) - set(PLAIN))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    LEDTokenizer.learn(CORPUS, vocab_size=420, model_max_length=128).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ours(folder: Path) -> LEDTokenizer:
    return LEDTokenizer.from_pretrained(folder)


def reference_of(folder: Path, **options: Any) -> Any:
    added = {
        f"{role}_token": transformers.AddedToken(
            token, normalized=True, special=True, lstrip=token == "<mask>"
        )
        for role, token in zip(("bos", "pad", "eos", "unk", "mask"), SPECIAL_TOKENS, strict=True)
    }
    added |= {"cls_token": added["bos_token"], "sep_token": added["eos_token"]}
    vocab, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return transformers.LEDTokenizerFast(vocab=vocab, merges=merges, **added, **options)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return reference_of(folder)


def test_learning_gives_the_published_layout(ours: LEDTokenizer) -> None:
    assert len(ours) == 420
    assert [ours.bos_token_id, ours.pad_token_id, ours.eos_token_id, ours.unk_token_id] == [0, 1, 2, 3]
    assert ours.mask_token_id == len(ours) - 1
    assert ours.model_max_length == 128
    assert len(ours.encode(CORPUS[0])) < len(CORPUS[0].encode())  # merges were learned


def test_ids_are_the_references(ours: LEDTokenizer, reference: Any) -> None:
    assert len(PLAIN) >= 1000
    for text in PLAIN:
        assert ours.encode(text) == reference(text)["input_ids"], repr(text)


def test_ids_of_a_pair_are_the_references(ours: LEDTokenizer, reference: Any) -> None:
    for first, second in zip(PLAIN, reversed(PLAIN), strict=True):
        if second:
            assert ours.encode(first, second) == reference(first, second)["input_ids"], repr((first, second))


def test_an_empty_second_text_is_still_a_pair(ours: LEDTokenizer) -> None:
    a = ours.encode("one")[1:-1]
    assert ours.encode("one", "") == [0, *a, 2, 2, 2]


def test_offsets_are_the_references(ours: LEDTokenizer, reference: Any) -> None:
    for text, encoding in zip(PLAIN, ours.encode_batch(PLAIN), strict=True):
        assert encoding.offsets == reference(text, return_offsets_mapping=True)["offset_mapping"], repr(text)


def test_control_tokens_in_a_text_are_text(ours: LEDTokenizer, reference: Any) -> None:
    for text in WITH_SPECIALS:
        ids = ours.encode(text)
        assert not set(ids[1:-1]) & set(ours.all_special_ids), repr(text)
        assert ids == reference(text, split_special_tokens=True)["input_ids"], repr(text)
        assert ours.decode(ids[1:-1]) == text


def test_control_tokens_are_read_where_asked_for(folder: Path, reference: Any) -> None:
    control = LEDTokenizer.from_pretrained(folder, split_special_tokens=False)
    for text in WITH_SPECIALS:
        assert control.encode(text) == reference(text)["input_ids"], repr(text)
    assert control.encode("</s> <mask>")[1:-1] == [2, control.mask_token_id]


def test_decoding_gives_the_text_back(ours: LEDTokenizer) -> None:
    for text in PLAIN:
        assert ours.decode(ours.encode(text), skip_special_tokens=True) == text
        assert ours.decode(ours.encode(text)) == f"<s>{text}</s>"


def test_decoding_any_ids_is_the_references(ours: LEDTokenizer, reference: Any) -> None:
    rng = random.Random(0)
    rows = [[rng.randrange(len(ours)) for _ in range(rng.randint(0, 12))] for _ in range(200)]
    for skip in (True, False):
        expected = [
            reference.decode(row, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            for row in rows
        ]
        assert ours.batch_decode(rows, skip_special_tokens=skip) == expected
    assert ours.decode(torch.tensor(rows[0])) == ours.decode(rows[0])
    assert "\ufffd" in "".join(ours.batch_decode(rows))  # some bytes were no UTF-8


@pytest.mark.parametrize("kept", [("tokenizer.json",), ("vocab.json", "merges.txt")], ids=str)
def test_either_set_of_files_is_the_whole_tokenizer(
    folder: Path, tmp_path: Path, ours: LEDTokenizer, kept: tuple[str, ...]
) -> None:
    for name in kept:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    for split in (True, False):
        whole = LEDTokenizer.from_pretrained(folder, split_special_tokens=split)
        part = LEDTokenizer.from_pretrained(tmp_path, split_special_tokens=split)
        for text in [*PLAIN, *WITH_SPECIALS]:
            assert part.encode(text, text) == whole.encode(text, text)
        assert part.all_special_ids == whole.all_special_ids


def test_the_limit_of_the_folder_is_kept_and_used_only_for_truncation(folder: Path, tmp_path: Path) -> None:
    tokenizer, text = LEDTokenizer.from_pretrained(folder), "word " * 300
    assert len(tokenizer(text)["input_ids"]) > 128
    assert len(tokenizer(text, truncation=True)["input_ids"]) == 128
    tokenizer.save_pretrained(tmp_path)
    assert LEDTokenizer.from_pretrained(tmp_path).model_max_length == 128
    (tmp_path / "tokenizer_config.json").unlink()
    unlimited = LEDTokenizer.from_pretrained(tmp_path)
    assert len(unlimited(text, truncation=True)["input_ids"]) == len(unlimited(text)["input_ids"])


@pytest.mark.parametrize("limit", [2, 3, 4, 7, 100])
def test_truncation_is_the_references_and_keeps_the_end(
    ours: LEDTokenizer, reference: Any, limit: int
) -> None:
    for text in PLAIN[-40:]:
        ids = ours.encode(text, max_length=limit)
        assert ids == reference(text, max_length=limit, truncation=True)["input_ids"]
        assert len(ids) <= limit and ids[0] == 0 and ids[-1] == 2
    assert len(ours.encode("not cut " * 40)) > 100  # a cut is for one call


@pytest.mark.parametrize("limit", [6, 9, 20])
def test_a_pair_is_cut_as_the_reference_cuts_it(ours: LEDTokenizer, reference: Any, limit: int) -> None:
    for first, second in zip(PLAIN[-40:], PLAIN[-80:-40], strict=True):
        expected = reference(first, second, max_length=limit, truncation=True)["input_ids"]
        assert ours.encode(first, second, max_length=limit) == expected


def test_padding_is_on_the_right(ours: LEDTokenizer) -> None:
    texts = ["one", "one two three", ""]
    batch = ours(texts, padding=True, return_tensors="pt")
    for row, text in enumerate(texts):
        ids = ours.encode(text)
        rest = batch["input_ids"].shape[1] - len(ids)
        assert batch["input_ids"][row].tolist() == ids + [1] * rest
        assert batch["attention_mask"][row].tolist() == [1] * len(ids) + [0] * rest
    assert batch["input_ids"].dtype == torch.long
    assert ours(texts, padding="max_length", max_length=30, return_tensors="pt")["input_ids"].shape == (3, 30)


def test_padding_hides_tokens_in_the_global_mask() -> None:
    tokenizer = LEDTokenizer.learn(CORPUS, vocab_size=300)
    features = {
        "input_ids": [[0, 5, 6, 7, 2], [0, 5, 2]],
        "attention_mask": [[1] * 5, [1] * 3],
        "global_attention_mask": [[0] * 5, [1, 0, 0]],
    }
    padded = tokenizer.pad(features)
    assert padded["global_attention_mask"] == [[0] * 5, [1, 0, 0, -1, -1]]
    assert padded["input_ids"][1] == [0, 5, 2, 1, 1]
    assert features["input_ids"][1] == [0, 5, 2]  # what was given stays


def test_one_text_gives_one_row_and_several_give_several(ours: LEDTokenizer) -> None:
    assert ours("one")["input_ids"] == ours.encode("one")
    assert ours(["one"])["input_ids"] == [ours.encode("one")]
    assert ours("one", return_tensors="pt")["input_ids"].tolist() == [ours.encode("one")]
    assert ours(["a", "b"], ["c", "d"])["input_ids"] == [ours.encode("a", "c"), ours.encode("b", "d")]
    assert ours([])["input_ids"] == []


def errors(tokenizer: LEDTokenizer) -> Iterator[tuple[Any, str]]:
    yield lambda: tokenizer(["a", "b"], ["c"]), "2 texts .* 1 second"
    yield lambda: tokenizer(["a", "a b c d"], return_tensors="pt"), "padding=True"
    yield lambda: tokenizer("a", return_tensors="tf"), "'tf'.*'np'"
    yield lambda: tokenizer("a", padding="max_length"), "max_length"
    yield lambda: tokenizer(), "neither text nor text_target"
    yield lambda: tokenizer(text_target="a", text_pair="b"), "without text"
    yield lambda: tokenizer(5), "a int; pass a string"
    yield lambda: tokenizer(["a", 5]), r"text 1 is a int \(5\)"
    yield lambda: tokenizer([["a", "b", "c"]]), "is_split_into_words=True"
    yield lambda: tokenizer("a", ["b"]), "pair of them"
    yield lambda: tokenizer(["a"], "b"), "text_pair is a str"
    yield lambda: tokenizer("a", ["b", "c"], is_split_into_words=True), "text 0"
    yield lambda: tokenizer("\ud800"), "surrogate"
    yield lambda: tokenizer("a", truncation=True, max_length=1), "take 2; pass max_length=2"
    yield lambda: tokenizer("a", "b", truncation=True, max_length=3), "take 4; pass max_length=4"
    yield lambda: tokenizer("a", truncation=True, max_length=-1), "max_length is -1"
    yield lambda: tokenizer("a", truncation=True, max_length=True), "max_length is True"
    yield lambda: tokenizer("a", truncation=True, max_length=4.0), "max_length is 4.0"
    yield lambda: tokenizer("a b c", truncation=True, max_length=6, stride=4), "stride is 4.*leaves 4"
    yield lambda: tokenizer("a", stride=-1), "stride is -1"
    yield lambda: tokenizer("a", truncation="only_second", max_length=9), "needs pairs"
    yield (
        lambda: tokenizer("a b c d e f", "b c", truncation="only_second", max_length=9),
        "cannot shorten text 0",
    )
    yield (
        lambda: tokenizer("a", "b c d e f g", truncation="only_first", max_length=9),
        "cannot shorten text 0",
    )
    yield (
        lambda: tokenizer("a b c", "b c d e f g", truncation="only_second", max_length=11, stride=4),
        "chunks of . tokens",
    )
    yield (
        lambda: tokenizer("a", truncation=True, max_length=2, return_overflowing_tokens=True),
        "no room for its tokens",
    )
    yield lambda: tokenizer("a", truncation="longest"), "truncation is 'longest'.*'only_first'"
    yield lambda: tokenizer("a", padding="longest_first"), "padding is 'longest_first'.*'max_length'"
    yield lambda: tokenizer("a", padding=1), "padding is 1"
    yield lambda: tokenizer("a", padding=True, padding_side="top"), "padding_side is 'top'"
    yield lambda: tokenizer("a", padding=True, pad_to_multiple_of=0), "pad_to_multiple_of is 0"
    yield (
        lambda: tokenizer("a", padding=True, truncation=True, max_length=9, pad_to_multiple_of=8),
        "pass max_length=16",
    )
    yield lambda: tokenizer.pad({"attention_mask": [[1]]}), "attention_mask; padding needs input_ids"
    yield (
        lambda: tokenizer.pad([{"input_ids": [1], "labels": [1]}, {"input_ids": [1]}]),
        "feature 1 lacks labels",
    )
    yield (
        lambda: tokenizer.pad({"input_ids": [[1, 2], [1]], "attention_mask": [[1], [1]]}),
        "row 0 of attention_mask has 1",
    )
    yield (
        lambda: tokenizer.pad({"input_ids": [[1, 2], [1]], "attention_mask": [[1, 1]]}),
        "attention_mask has 1 rows for 2",
    )
    yield lambda: tokenizer.pad("a"), "a str"
    yield (
        lambda: tokenizer.pad({"input_ids": [[1, 2], [1]], "labels": [[1, 2], [1]]}, return_tensors="pt"),
        "labels",
    )
    yield lambda: tokenizer.decode([1, -100]), "-100.*pad_token_id"
    yield lambda: tokenizer.decode([[1], [2]]), "batch_decode"
    yield (
        lambda: tokenizer.get_special_tokens_mask([0], [1], already_has_special_tokens=True),
        "first argument alone",
    )
    yield lambda: tokenizer.add_special_tokens({"end_token": "a"}), "end_token.*eos_token"
    yield lambda: setattr(tokenizer, "pad_token", "[PAD]"), "add_special_tokens"
    yield lambda: tokenizer.pad({"input_ids": [[1]]}).tokens(), "from features"


def test_errors_say_what_to_do() -> None:
    for call, message in errors(LEDTokenizer.learn(CORPUS, vocab_size=300)):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_vocabulary_without_the_special_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks <s>, <pad>, </s>, <unk>, <mask>"):
        LEDTokenizer(Tokenizer(models.BPE({"a": 0}, [])))


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        LEDTokenizer.from_pretrained(tmp_path)


def test_digits_can_be_kept_apart(tmp_path: Path) -> None:
    numbers = ["1234 1234 1234 12 12 year 1234"] * 30
    split, merged = (LEDTokenizer.learn(numbers, vocab_size=300, split_digits=flag) for flag in (True, False))
    assert len(merged.encode("1234")) < len(split.encode("1234")) == 4 + 2
    split.save_pretrained(tmp_path)
    assert LEDTokenizer.from_pretrained(tmp_path).encode("year 1234") == split.encode("year 1234")


OPTIONS: list[dict[str, Any]] = [
    {},
    {"add_special_tokens": False},
    {"padding": True},
    {"padding": "longest", "padding_side": "left", "pad_to_multiple_of": 8},
    {"truncation": True, "max_length": 9},
    {"max_length": 7},
    {"truncation": "longest_first", "max_length": 12, "padding": "max_length"},
    {"truncation": True, "max_length": 16, "padding": "max_length", "pad_to_multiple_of": 8},
    {"truncation": True, "max_length": 5, "add_special_tokens": False},
    {"truncation": True, "max_length": 10, "stride": 3, "return_overflowing_tokens": True},
    {"truncation": True, "max_length": 10, "stride": 3, "return_overflowing_tokens": True, "padding": True},
    {
        "truncation": True,
        "max_length": 4,
        "stride": 2,
        "return_overflowing_tokens": True,
        "add_special_tokens": False,
    },
]
PAIR_OPTIONS: list[dict[str, Any]] = [
    {},
    {"add_special_tokens": False, "padding": True},
    {"truncation": True, "max_length": 9},
    {"truncation": True, "max_length": 4},
    {"truncation": True, "max_length": 15, "padding": "max_length", "padding_side": "left"},
    {"truncation": True, "max_length": 18, "stride": 2, "return_overflowing_tokens": True},
]
MASKS = {
    "return_token_type_ids": True,
    "return_special_tokens_mask": True,
    "return_offsets_mapping": True,
    "return_length": True,
}


def assert_same_batch(ours: Any, reference: Any) -> None:
    """All entries are equal and in the same order, and so are the details of every encoding."""
    assert list(ours) == list(reference)
    for name in ours:
        assert ours[name] == reference[name], name
    assert len(ours.encodings) == len(reference.encodings)
    for row, (a, b) in enumerate(zip(ours.encodings, reference.encodings, strict=True)):
        assert ours.tokens(row) == reference.tokens(row)
        assert ours.word_ids(row) == reference.word_ids(row)
        assert ours.sequence_ids(row) == reference.sequence_ids(row)
        for text in range(a.n_sequences):
            assert [a.char_to_token(c, text) for c in range(24)] == [
                b.char_to_token(c, text) for c in range(24)
            ]
        assert [a.token_to_chars(t) for t in range(len(a))] == [b.token_to_chars(t) for t in range(len(b))]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_call_is_the_references(ours: LEDTokenizer, reference: Any, options: dict[str, Any]) -> None:
    assert_same_batch(ours(PLAIN, **options, **MASKS), reference(PLAIN, **options, **MASKS))
    assert_same_batch(
        ours(WITH_SPECIALS, split_special_tokens=False, **options, **MASKS),
        reference(WITH_SPECIALS, split_special_tokens=False, **options, **MASKS),
    )
    assert ours("the report", **options) == dict(reference("the report", **options))
    assert ours("the report", **options, **MASKS) == dict(reference("the report", **options, **MASKS))


@pytest.mark.parametrize("options", PAIR_OPTIONS, ids=str)
def test_a_call_for_pairs_is_the_references(
    ours: LEDTokenizer, reference: Any, options: dict[str, Any]
) -> None:
    first, second = PLAIN[::-1], PLAIN
    assert_same_batch(ours(first, second, **options, **MASKS), reference(first, second, **options, **MASKS))
    assert_same_batch(
        ours(list(zip(first, second, strict=True)), **options, **MASKS),
        reference(first, second, **options, **MASKS),
    )
    assert ours("the report", "covers", **options, **MASKS) == dict(
        reference("the report", "covers", **options, **MASKS)
    )


@pytest.mark.parametrize("strategy", ["only_first", "only_second"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_windows_over_one_text_of_a_pair_are_the_references(
    folder: Path, ours: LEDTokenizer, reference: Any, strategy: str, side: str
) -> None:
    sided = LEDTokenizer.from_pretrained(folder, truncation_side=side, padding_side=side)
    question, rows = "the report", [text for text in PLAIN if text]
    pairs = (rows, [question] * len(rows)) if strategy == "only_first" else ([question] * len(rows), rows)
    options = {
        "truncation": strategy,
        "max_length": 24,
        "stride": 5,
        "return_overflowing_tokens": True,
        "padding": True,
    }
    other = copy.deepcopy(reference)
    other.truncation_side = other.padding_side = side
    assert_same_batch(sided(*pairs, **options, **MASKS), other(*pairs, **options, **MASKS))
    singles = {"max_length": 9, "truncation": True, "stride": 2, "return_overflowing_tokens": True}
    assert_same_batch(sided(rows, **singles, **MASKS), other(rows, **singles, **MASKS))


@pytest.mark.parametrize("options", [*OPTIONS[:2], OPTIONS[4], OPTIONS[9]], ids=str)
def test_words_are_read_with_a_space_before_each(
    folder: Path, ours: LEDTokenizer, spaced_reference: Any, options: dict[str, Any]
) -> None:
    rows = [text.split(" ") for text in PLAIN]
    expected = spaced_reference(rows, is_split_into_words=True, **options, **MASKS)
    assert_same_batch(ours(rows, is_split_into_words=True, **options, **MASKS), expected)
    one = ours(rows[-1], is_split_into_words=True, **options)
    assert one == dict(spaced_reference(rows[-1], is_split_into_words=True, **options))
    pairs = (rows[:50], rows[50:100])
    expected = spaced_reference(*pairs, is_split_into_words=True, **MASKS)
    assert_same_batch(ours(*pairs, is_split_into_words=True, **MASKS), expected)


def test_add_prefix_space_is_the_references(folder: Path, spaced_reference: Any) -> None:
    spaced = LEDTokenizer.from_pretrained(folder, add_prefix_space=True)
    assert_same_batch(spaced(PLAIN, **MASKS), spaced_reference(PLAIN, **MASKS))


@pytest.fixture(scope="module")
def spaced_reference(folder: Path) -> Any:
    return reference_of(folder, add_prefix_space=True)


def test_tensors_are_the_references(ours: LEDTokenizer, reference: Any) -> None:
    for kind, equal in (("pt", torch.equal), ("np", np.array_equal)):
        mine, theirs = (
            tokenizer(PLAIN[:60], padding=True, return_tensors=kind, **MASKS, text_target=PLAIN[:60])
            for tokenizer in (ours, reference)
        )
        assert list(mine) == list(theirs)
        for name in mine:
            assert type(mine[name]) is type(theirs[name]) and mine[name].dtype == theirs[name].dtype, name
            assert equal(mine[name], theirs[name]), name
    assert ours("a", return_tensors="np").input_ids.shape == (1, 3)
    assert ours("", add_special_tokens=False, return_tensors="pt").input_ids.dtype == torch.long


def test_targets_give_labels(ours: LEDTokenizer, reference: Any) -> None:
    for call in (
        lambda t: t("a", text_target="b c"),
        lambda t: t(["a", "b"], text_target=["b c", "d"]),
        lambda t: t(text_target="b c"),
        lambda t: t("a", text_target="b c", text_pair_target="d", max_length=5, truncation=True),
    ):
        assert call(ours) == dict(call(reference))


def test_a_batch_is_a_dict_with_attributes(ours: LEDTokenizer, reference: Any) -> None:
    batch, other = (
        tokenizer(["one two", "three"], ["x", "y"], padding=True, return_tensors="pt")
        for tokenizer in (ours, reference)
    )
    assert isinstance(batch, dict) and {**batch}.keys() == {"input_ids", "attention_mask"}
    assert batch.input_ids is batch["input_ids"]
    assert batch.to("cpu") is batch
    assert batch.n_sequences == other.n_sequences == 2
    assert batch.is_fast
    assert batch[1].ids == other[1].ids
    assert [row.ids for row in batch[:1]] == [row.ids for row in other[:1]]
    assert ours.pad({"input_ids": [[5], [6]]})[1:] == {"input_ids": [[6]], "attention_mask": [[1]]}
    assert batch.token_to_chars(1, -2) == batch.token_to_chars(1, len(batch[1]) - 2)
    for token in (1, 5, 0):
        assert batch.token_to_chars(1, token) == other.token_to_chars(1, token)
        assert batch.token_to_word(1, token) == other.token_to_word(1, token)
        assert batch.token_to_sequence(1, token) == other.token_to_sequence(1, token)
    assert batch.char_to_token(4) == other.char_to_token(4)
    assert batch.char_to_token(0, 0, 1) == other.char_to_token(0, 0, 1)
    assert batch.char_to_word(0, 5) == other.char_to_word(0, 5)
    assert batch.word_to_tokens(0, 1) == other.word_to_tokens(0, 1)
    assert batch.word_to_chars(0, 1) == other.word_to_chars(0, 1)
    again = pickle.loads(pickle.dumps(batch))
    assert again.tokens(1) == batch.tokens(1) and torch.equal(again.input_ids, batch.input_ids)
    with pytest.raises(AttributeError, match="no labels; it has input_ids, attention_mask"):
        _ = batch.labels
    with pytest.raises(IndexError, match=r"row 7 .* 2 rows"):
        batch.tokens(7)
    with pytest.raises(IndexError, match="counted from 0"):
        batch.char_to_token(0, -1)
    with pytest.raises(IndexError, match="token 99"):
        batch.token_to_chars(0, 99)


def features() -> dict[str, list[list[int]]]:
    return {
        "input_ids": [[0, 5, 6, 7, 2], [0, 5, 2]],
        "attention_mask": [[1] * 5, [1] * 3],
        "token_type_ids": [[0] * 5, [0] * 3],
        "special_tokens_mask": [[1, 0, 0, 0, 1], [1, 0, 1]],
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": False},
        {"padding_side": "left"},
        {"padding": "max_length", "max_length": 9},
        {"padding": "max_length", "max_length": 4},
        {"pad_to_multiple_of": 4},
        {"return_tensors": "pt"},
        {"return_tensors": "np"},
    ],
    ids=str,
)
def test_padding_features_is_the_references(
    ours: LEDTokenizer, reference: Any, options: dict[str, Any]
) -> None:
    rows = [dict(zip(features(), values, strict=True)) for values in zip(*features().values(), strict=True)]
    given: list[Callable[[], Any]] = [
        features,
        lambda: rows,
        lambda: {"input_ids": features()["input_ids"]},
        lambda: {"input_ids": [0, 5, 2]},
        lambda: [{"input_ids": torch.tensor(row)} for row in features()["input_ids"]],
        lambda: ours(["a", "a b c"]),
    ]
    for make in given:
        ragged = options.get("padding") is False or options.get("max_length") == 4
        if ragged and isinstance(make(), list) and make() is not rows:
            continue  # tensors of different lengths make no batch
        mine, theirs = ours.pad(make(), **options), reference.pad(make(), **options)
        assert list(mine) == list(theirs)
        for name in mine:
            assert type(mine[name]) is type(theirs[name])
            assert (
                np.array_equal(mine[name], theirs[name])
                if options.get("return_tensors")
                else np.all([np.array_equal(a, b) for a, b in zip(mine[name], theirs[name], strict=True)])
            )
    assert ours.pad({**features(), "labels": [[1], [2, 3]]})["labels"] == [[1], [2, 3]]


def test_decoding_is_the_references_with_every_flag(ours: LEDTokenizer, reference: Any) -> None:
    texts = [*PLAIN, *WITH_SPECIALS, "Hello , it 's  fine . I 'm , he 've ! they n't ' quote ' you 're ?"]
    rows = [ids for split in (True, False) for ids in ours(texts, split_special_tokens=split)["input_ids"]]
    for skip in (True, False):
        expected = [reference.decode(row, skip_special_tokens=skip) for row in rows]
        assert ours.batch_decode(rows, skip_special_tokens=skip) == expected
        cleaned = [reference.clean_up_tokenization(text) for text in expected]
        assert ours.batch_decode(rows, skip_special_tokens=skip, clean_up_tokenization_spaces=True) == cleaned
    assert ours.decode(5) == reference.decode(5)
    assert (
        ours.decode(np.array([5, 6]))
        == ours.decode([torch.tensor(5), torch.tensor(6)])
        == ours.decode([5, 6])
    )
    for row, text in zip(ours(PLAIN)["input_ids"], PLAIN, strict=True):
        tokens = ours.convert_ids_to_tokens(row)
        assert tokens == reference.convert_ids_to_tokens(row)
        assert ours.convert_ids_to_tokens(row, skip_special_tokens=True) == reference.convert_ids_to_tokens(
            row, skip_special_tokens=True
        )
        assert ours.tokenize(text) == reference.tokenize(text)
        assert ours.convert_tokens_to_ids(tokens) == row
        assert ours.convert_tokens_to_string(tokens) == reference.convert_tokens_to_string(tokens)


def test_the_vocabulary_is_the_references(ours: LEDTokenizer, reference: Any) -> None:
    assert LEDTokenizerFast is LEDTokenizer
    assert ours.get_vocab() == reference.get_vocab()
    assert (ours.vocab_size, len(ours), ours.is_fast) == (
        reference.vocab_size,
        len(reference),
        reference.is_fast,
    )
    assert ours.all_special_tokens == reference.all_special_tokens
    assert ours.all_special_ids == reference.all_special_ids
    assert ours.special_tokens_map == reference.special_tokens_map
    for name in ("bos", "eos", "cls", "sep", "pad", "unk", "mask"):
        for attribute in (f"{name}_token", f"{name}_token_id"):
            assert getattr(ours, attribute) == getattr(reference, attribute)
    assert ours.convert_tokens_to_ids("no such token") == ours.unk_token_id
    assert ours.convert_ids_to_tokens(0) == "<s>"
    assert (ours.num_special_tokens_to_add(), ours.num_special_tokens_to_add(pair=True)) == (2, 4)
    assert (ours.max_len_single_sentence, ours.max_len_sentences_pair) == (126, 124)
    assert ours.get_added_vocab() == reference.get_added_vocab()


def test_the_format_around_ids(ours: LEDTokenizer) -> None:
    a, b = ours.encode("one two", add_special_tokens=False), ours.encode("three", add_special_tokens=False)
    for given, call in (((a,), ours("one two", **MASKS)), ((a, b), ours("one two", "three", **MASKS))):
        assert ours.build_inputs_with_special_tokens(*given) == call["input_ids"]
        assert ours.get_special_tokens_mask(*given) == call["special_tokens_mask"]
        assert (
            ours.get_special_tokens_mask(call["input_ids"], already_has_special_tokens=True)
            == call["special_tokens_mask"]
        )
        assert ours.create_token_type_ids_from_sequences(*given) == call["token_type_ids"]
        for options in (
            {"max_length": 5},
            {"max_length": 12, "padding": "max_length"},
            {"return_special_tokens_mask": True},
        ):
            texts = ("one two", "three")[: len(given)]
            assert ours.prepare_for_model(*given, **options) == ours(*texts, **options)
    assert ours.prepare_for_model(a, return_tensors="pt", prepend_batch_axis=True)["input_ids"].shape == (
        1,
        len(a) + 2,
    )
    assert ours.encode_plus("one") == ours("one")
    assert ours.batch_encode_plus([("one", "two")]) == ours(["one"], ["two"])


def test_tokens_are_added_as_in_the_reference(folder: Path, reference: Any) -> None:
    mine, theirs = LEDTokenizer.from_pretrained(folder, split_special_tokens=False), copy.deepcopy(reference)
    for tokenizer in (mine, theirs):
        assert tokenizer.add_tokens(["<new>", AddedToken("<strip>", lstrip=True, rstrip=True)]) == 2
        assert tokenizer.add_tokens("report") == 1  # in no vocabulary yet, or it would be 0
        assert (
            tokenizer.add_special_tokens({"pad_token": "[PAD]", "additional_special_tokens": ["<doc-sep>"]})
            == 2
        )
    assert len(mine) == len(theirs) == 425
    assert (mine.pad_token, mine.pad_token_id) == (theirs.pad_token, theirs.pad_token_id)
    assert (
        mine.all_special_ids[-1]
        == theirs.convert_tokens_to_ids("<doc-sep>")
        == mine.additional_special_tokens_ids[0]
    )
    texts = ["the <new> report <strip> x <doc-sep> y", "<doc-sep>[PAD]"]
    for options in ({}, {"truncation": True, "max_length": 5}, {"padding": True}):
        assert_same_batch(mine(texts, **options), theirs(texts, **options))


def test_threads_share_a_tokenizer(ours: LEDTokenizer) -> None:
    truncate = [ours(text, truncation=True, max_length=6)["input_ids"] for text in PLAIN]
    whole = [ours(text)["input_ids"] for text in PLAIN]
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(ours, text, truncation=limit is not None, max_length=limit)
            for text in PLAIN
            for limit in (6, None)
        ]
    assert [job.result()["input_ids"] for job in jobs[::2]] == truncate
    assert [job.result()["input_ids"] for job in jobs[1::2]] == whole


def test_a_folder_of_ours_is_read_by_the_reference(folder: Path, ours: LEDTokenizer) -> None:
    theirs = transformers.LEDTokenizerFast.from_pretrained(folder)
    assert theirs(PLAIN)["input_ids"] == ours(PLAIN)["input_ids"]
    split = theirs(WITH_SPECIALS, split_special_tokens=True)
    assert split["input_ids"] == ours(WITH_SPECIALS)["input_ids"]
    assert theirs.model_max_length == ours.model_max_length == 128
    assert theirs.special_tokens_map == ours.special_tokens_map


def with_doc_sep(folder: Path) -> LEDTokenizer:
    tokenizer = LEDTokenizer.from_pretrained(folder, split_special_tokens=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<doc-sep>"]})
    return tokenizer


def test_a_folder_of_the_reference_is_read(folder: Path, reference: Any, tmp_path: Path) -> None:
    theirs = copy.deepcopy(reference)
    theirs.add_special_tokens({"extra_special_tokens": ["<doc-sep>"]})
    theirs.save_pretrained(tmp_path)
    mine = LEDTokenizer.from_pretrained(tmp_path, split_special_tokens=False)
    texts = [*PLAIN, *WITH_SPECIALS, "a <doc-sep> b"]
    assert mine(texts)["input_ids"] == theirs(texts)["input_ids"]
    assert mine.additional_special_tokens == ["<doc-sep>"]
    ours_again = tmp_path / "again"
    mine.save_pretrained(ours_again)
    third = transformers.LEDTokenizerFast.from_pretrained(ours_again)
    assert third(texts)["input_ids"] == theirs(texts)["input_ids"]


@pytest.mark.parametrize("told", ["added_tokens.json", "tokenizer_config.json"])
def test_a_token_after_the_vocabulary_keeps_its_id(folder: Path, tmp_path: Path, told: str) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"additional_special_tokens": ["<doc-sep>"]})
    )
    content = (
        {"<doc-sep>": 420}
        if told == "added_tokens.json"
        else {"added_tokens_decoder": {"420": {"content": "<doc-sep>"}}}
    )
    (tmp_path / told).write_text(json.dumps(content))
    tokenizer = LEDTokenizer.from_pretrained(tmp_path, split_special_tokens=False)
    assert tokenizer.encode("<doc-sep> a", add_special_tokens=False)[0] == 420
    assert tokenizer.all_special_ids[-1] == 420
    assert LEDTokenizer.from_pretrained(tmp_path).encode("<doc-sep> a")[1] == 420
    assert 420 not in LEDTokenizer.from_pretrained(tmp_path, split_special_tokens=True).encode("<doc-sep> a")
    (tmp_path / told).write_text(json.dumps(content).replace("420", "500"))
    with pytest.raises(ValueError, match="listed with id 500, but the vocabulary gives it 420"):
        LEDTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("split", [None, True, False])
def test_which_special_tokens_of_a_text_are_tokens(folder: Path, tmp_path: Path, split: bool | None) -> None:
    tokenizer = LEDTokenizer.from_pretrained(folder, additional_special_tokens=["<doc-sep>"])
    tokenizer.split_special_tokens = split
    tokenizer.save_pretrained(tmp_path)
    states = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert states.get("split_special_tokens") is split
    loaded = LEDTokenizer.from_pretrained(tmp_path)
    assert loaded.split_special_tokens is split
    added, text = loaded.additional_special_tokens_ids[0], "a<doc-sep>b</s> <mask> c"
    for tokenizer_ in (tokenizer, loaded):
        for ids in (tokenizer_(text)["input_ids"], tokenizer_.encode_batch([text])[0].ids):
            assert (added in ids) == (split is not True)
            assert (ids.count(loaded.eos_token_id) == 2) == (split is False)
            assert (loaded.mask_token_id in ids) == (split is False)
    assert loaded.decode(loaded.encode("a<doc-sep>b"), skip_special_tokens=True) == (
        "a<doc-sep>b" if split else "ab"
    )
    theirs = transformers.LEDTokenizerFast.from_pretrained(tmp_path)
    plain = "a report<doc-sep>the report <doc-sep> x"
    assert loaded(plain)["input_ids"] == theirs(plain, split_special_tokens=bool(split))["input_ids"]


def test_tokens_that_are_added_later_are_tokens(ours: LEDTokenizer) -> None:
    tokenizer = copy.deepcopy(ours)
    assert len(tokenizer.encode("a<new>b")) > 5
    tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
    assert tokenizer.encode("a<new>b")[2] == tokenizer.convert_tokens_to_ids("<new>")
    assert tokenizer(["a<new>"], is_split_into_words=False)["input_ids"][0][2] == len(tokenizer) - 1


def test_flags_of_special_tokens_are_honoured(folder: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())

    def tokens(**given: Any) -> list[str]:
        tokenizer = LEDTokenizer.from_pretrained(tmp_path, split_special_tokens=False, **given)
        return tokenizer.convert_ids_to_tokens(tokenizer.encode("a <mask> b", add_special_tokens=False))

    assert tokens() == ["a", "<mask>", "Ġ", "b"]
    token = {"content": "<mask>", "lstrip": False, "rstrip": True, "normalized": True, "single_word": False}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": token}))
    assert tokens() == ["a", "Ġ", "<mask>", "b"]
    assert tokens(mask_token=AddedToken("<mask>", lstrip=True)) == ["a", "<mask>", "Ġ", "b"]
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": "<mask>"}))
    assert tokens() == ["a", "<mask>", "Ġ", "b"]


def test_settings_come_from_the_call_before_the_files(folder: Path, tmp_path: Path) -> None:
    tokenizer = LEDTokenizer.from_pretrained(
        folder,
        model_max_length=64,
        padding_side="left",
        truncation_side="left",
        clean_up_tokenization_spaces=True,
        pad_token="<unk>",
        model_input_names=["input_ids"],
    )
    tokenizer.save_pretrained(tmp_path)
    for again in (tokenizer, LEDTokenizer.from_pretrained(tmp_path)):
        assert (again.model_max_length, again.padding_side, again.truncation_side) == (64, "left", "left")
        assert again(["a", "a b"], padding=True) == {
            "input_ids": [[3, 3, *again.encode("a")], again.encode("a b")]
        }
        assert again.decode(again.encode("a ."), skip_special_tokens=True) == "a."


def test_the_vocabulary_can_be_saved_alone(ours: LEDTokenizer, tmp_path: Path) -> None:
    paths = ours.save_vocabulary(tmp_path, "led")
    assert paths == (str(tmp_path / "led-vocab.json"), str(tmp_path / "led-merges.txt"))
    assert all(Path(path).is_file() for path in paths)
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        ours.save_vocabulary(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "tokenizer.json is not a tokenizer file"),
        ("tokenizer_config.json", "{", "tokenizer_config.json is not JSON"),
        ("tokenizer_config.json", "[]", "holds a list; it must be a JSON object"),
        (
            "tokenizer_config.json",
            '{"model_max_length": "many"}',
            "model_max_length is 'many'.*tokenizer_config.json",
        ),
        ("tokenizer_config.json", '{"padding_side": "top"}', "padding_side is 'top'"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', "added_tokens_decoder must map ids"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"420": {"lstrip": 1}}}', "added token 420"),
        ("special_tokens_map.json", '{"pad_token": 5}', "pad_token is 5"),
        ("special_tokens_map.json", '{"additional_special_tokens": "x"}', "must be a list of tokens"),
        ("added_tokens.json", '{"<x>": "y"}', "'<x>' has the id 'y'"),
        ("vocab.json", "[]", "do not form a vocabulary"),
        ("vocab.json", '{"a": 0}', "lacks <s>, <pad>|do not form"),
        ("merges.txt", "#version: 0.2\nnot a merge", "do not form a vocabulary"),
    ],
)
def test_malformed_files_are_named(
    folder: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    for kept in ("vocab.json", "merges.txt"):
        (tmp_path / kept).write_bytes((folder / kept).read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        LEDTokenizer.from_pretrained(tmp_path)
    assert "side" in message or str(tmp_path) in str(caught.value)


def test_a_published_name_is_resolved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def resolve(model: str, revision: str | None, **options: Any) -> Checkpoint:
        asked.append((model, revision, options))
        return Checkpoint(folder, revision, str(folder))

    monkeypatch.setattr("led.tokenizer.tokenizer.resolve", resolve)
    LEDTokenizer.from_pretrained("owner/name", revision="v1", cache_dir="c", local_files_only=True)
    assert asked == [
        (
            "owner/name",
            "v1",
            {"base_model": None, "cache_dir": "c", "local_files_only": True, "weights": False},
        )
    ]


def test_any_options_give_a_batch_within_the_limit_or_say_what_is_wrong(ours: LEDTokenizer) -> None:
    rng, given = random.Random(3), 0
    choices = {
        "truncation": [True, None, "only_first", "only_second"],
        "max_length": [0, 1, 2, 3, 4, 5, 6, 9, 20],
        "stride": [0, 0, 1, 2, 9],
        "padding": [False, True, "max_length"],
        "add_special_tokens": [True, False],
        "return_overflowing_tokens": [True, False],
    }
    for _ in range(2000):
        options = {name: rng.choice(values) for name, values in choices.items()}
        texts = rng.choices(PLAIN, k=2)
        try:
            batch = ours(texts, rng.choices(PLAIN, k=2) if rng.random() < 0.5 else None, **options)
        except ValueError:
            continue
        given += 1
        truncate = options["truncation"] or not options["padding"]
        assert not truncate or all(len(row) <= options["max_length"] for row in batch["input_ids"])
    assert given > 500


def test_an_unknown_keyword_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(TypeError, match=r"has no argument max_lenght; it accepts .*model_max_length"):
        LEDTokenizer.from_pretrained(folder, max_lenght=5)
    with pytest.raises(ValueError, match="'strict'"):
        LEDTokenizer.from_pretrained(folder, errors="strict")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        LEDTokenizer.from_pretrained(folder / "none")


def test_a_collator_of_the_reference_can_use_it(ours: LEDTokenizer) -> None:
    collator = transformers.DataCollatorForSeq2Seq(ours, label_pad_token_id=-100)
    rows = [dict(ours(text, text_target=text)) for text in ("one", "one two three")]
    batch = collator(rows)
    assert batch["labels"].shape == batch["input_ids"].shape
    assert (batch["labels"] == -100).sum() == (batch["attention_mask"] == 0).sum() > 0


@pytest.mark.parametrize("kind", ["unigram", "wordpiece", "wordlevel"])
def test_tokenizers_that_are_not_bpe_are_saved(tmp_path: Path, kind: str) -> None:
    names = [*SPECIAL_TOKENS, "▁the", "▁pump", "▁", "a", "p", "u", "m"]
    if kind == "unigram":
        backend = Tokenizer(models.Unigram([(name, -float(i)) for i, name in enumerate(names)], unk_id=3))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
    else:
        vocab = {name: i for i, name in enumerate(names)}
        model = models.WordPiece if kind == "wordpiece" else models.WordLevel
        backend = Tokenizer(model(vocab, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = LEDTokenizer.from_pretrained(tmp_path)
    texts = ["the pump", "a map", "the  zpump"]
    expected = [[0, *backend.encode(text, add_special_tokens=False).ids, 2] for text in texts]
    assert tokenizer(texts)["input_ids"] == expected
    paths = tokenizer.save_pretrained(tmp_path / "saved")
    assert all(Path(path).is_file() for path in paths)
    loaded = LEDTokenizer.from_pretrained(tmp_path / "saved")
    assert loaded(texts)["input_ids"] == expected
    assert loaded.batch_decode(expected, skip_special_tokens=True) == tokenizer.batch_decode(
        expected, skip_special_tokens=True
    )
