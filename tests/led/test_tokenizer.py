"""LEDTokenizer gives the reference's ids for any text, and treats control tokens in a text as text.

The reference is built from the same vocab.json and merges.txt, with the added tokens as the published files state them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from led.tokenizer import SPECIAL_TOKENS, LEDTokenizer

transformers = pytest.importorskip("transformers", reason="the reference, transformers 5, is not installed")

CORPUS = [
    "The report covers 2023 and 2024: revenue rose 12.5% to $1,234,567.",
    "Longformer-Encoder-Decoder reads long documents; it doesn't forget the beginning.",
    "Ein Fluß, ein Café, naïve façade. Привет, мир! 你好,世界。こんにちは 🎉🎉",
    "def f(x):\n    return x + 1\n\n\tindented\r\n",
] * 5

PIECES = [
    "the", " The", "report", "don't", "we'll", "I'm", "'S", "12.5%", "$1,234", "1234567890", "x_y", "CamelCase", "...", "—",
    " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\ufeff", "\u2028", "\x00", "\x01", "\x1b",
    "\x7f", "\x85", "\xad", "é", "e\u0301", "ß", "İ", "ﬁ", "Ⅳ", "½", "②", "你好", "世界。", "こんにちは", "Привет", "שלום",
    "مرحبا", "हिन्दी", "🎉", "👩‍👩‍👧", "🇩🇪", "👍🏽", "𝔘", "\U0010ffff", "\ufffd", "\ue000", "<", ">", "</", "s>", "Ġ", "Ċ",
    "##", "[SEP]",
]  # fmt: skip
SPECIAL_PIECES = [*SPECIAL_TOKENS, " <mask>", "<mask> ", "  <mask>", "</s></s>", " </s> ", "<S>", "< s>", "<mask><mask>"]


def strings(count: int, pieces: list[str], seed: int = 0) -> list[str]:
    """Every piece alone, then random strings of them."""
    rng = random.Random(seed)
    mixed = ["".join(rng.choices(pieces, k=rng.randint(1, 12))) for _ in range(count - len(pieces))]
    return ["", *pieces, *mixed]


PLAIN = strings(400, PIECES)
WITH_SPECIALS = strings(200, [*SPECIAL_PIECES, *PIECES[:12]], seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    LEDTokenizer.learn(CORPUS, vocab_size=420, model_max_length=128).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ours(folder: Path) -> LEDTokenizer:
    return LEDTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    added = {
        f"{role}_token": transformers.AddedToken(token, normalized=True, special=True, lstrip=token == "<mask>")
        for role, token in zip(("bos", "pad", "eos", "unk", "mask"), SPECIAL_TOKENS, strict=True)
    }
    added |= {"cls_token": added["bos_token"], "sep_token": added["eos_token"]}
    vocab, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return transformers.LEDTokenizerFast(vocab=vocab, merges=merges, **added)


def test_learning_gives_the_published_layout(ours: LEDTokenizer) -> None:
    assert len(ours) == 420
    assert [ours.bos_token_id, ours.pad_token_id, ours.eos_token_id, ours.unk_token_id] == [0, 1, 2, 3]
    assert ours.mask_token_id == len(ours) - 1
    assert ours.model_max_length == 128
    assert len(ours.encode(CORPUS[0])) < len(CORPUS[0].encode())  # merges were learned


def test_ids_are_the_references(ours: LEDTokenizer, reference: Any) -> None:
    assert len(PLAIN) >= 300
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
        expected = [reference.decode(row, skip_special_tokens=skip, clean_up_tokenization_spaces=False) for row in rows]
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
def test_truncation_is_the_references_and_keeps_the_end(ours: LEDTokenizer, reference: Any, limit: int) -> None:
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
    yield lambda: tokenizer("a", return_tensors="np"), "'np'"
    yield lambda: tokenizer("a", padding="max_length"), "max_length"


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
