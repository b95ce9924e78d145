"""LEDTokenizer gives the results of both tokenizers of transformers 4.57. Each reads the other's folders."""

from __future__ import annotations

import copy
import importlib.util
import random
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from led.tokenizer.tokenizer import SPECIAL_TOKENS, LEDTokenizer

if importlib.util.find_spec("transformers") is None or version("transformers").split(".")[0] != "4":
    pytest.skip(
        "the reference, transformers 4.57, is not installed: make test-parity", allow_module_level=True
    )

import transformers

PIECES = [
    "the",
    " The",
    "report",
    "don't",
    "we'll",
    "I'm",
    "12.5%",
    "$1,234",
    "x_y",
    "...",
    "—",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    "\U0010ffff",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u200b",
    "\ufeff",
    "\u2028",
    "\x00",
    "\x1b",
    "\x7f",
    "\x85",
    "é",
    "e\u0301",
    "ß",
    "ﬁ",
    "½",
    "你好",
    "世界。",
    "こんにちは",
    "Привет",
    "مرحبا",
    "हिन्दी",
    "🎉",
    "👩‍👩‍👧",
    "🇩🇪",
    "👍🏽",
    "\ufffd",
    "<",
    ">",
    "Ġ",
    "Ċ",
    " .",
    " ,",
    " 's",
    " n't",
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


def strings(count: int, pieces: list[str], seed: int) -> list[str]:
    """Every piece alone, then random strings of them."""
    rng = random.Random(seed)
    return [
        "",
        *pieces,
        *("".join(rng.choices(pieces, k=rng.randint(1, 12))) for _ in range(count - len(pieces))),
    ]


PLAIN = strings(1000, PIECES, seed=0)
WITH_SPECIALS = strings(300, [*SPECIAL_PIECES, *PIECES[:20]], seed=1)
FULL = [text for text in PLAIN if text]
MASKS = {"return_token_type_ids": True, "return_special_tokens_mask": True}
KINDS = ["LEDTokenizer", "LEDTokenizerFast"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.json and merges.txt alone, as the published checkpoints have them."""
    path = tmp_path_factory.mktemp("tokenizer")
    LEDTokenizer.learn(
        [*PIECES, "The report covers 2023 and doesn't forget the end."] * 5, 420
    ).save_vocabulary(path)
    return path


@pytest.fixture(scope="module")
def ours(folder: Path) -> LEDTokenizer:
    """With the reference's default: control tokens in a text are recognized."""
    return LEDTokenizer.from_pretrained(folder, split_special_tokens=False)


@pytest.fixture(scope="module")
def slow(folder: Path) -> Any:
    return transformers.LEDTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def fast(folder: Path) -> Any:
    return transformers.LEDTokenizerFast.from_pretrained(folder)


@pytest.fixture(params=["slow", "fast"])
def reference(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    "options", [MASKS, {"split_special_tokens": True}, {"add_special_tokens": False}], ids=str
)
def test_ids_and_masks_are_the_references(
    ours: LEDTokenizer, reference: Any, options: dict[str, Any]
) -> None:
    # The slow one takes no notice of split_special_tokens in a call.
    texts = PLAIN if "split_special_tokens" in options and not reference.is_fast else [*PLAIN, *WITH_SPECIALS]
    mine, theirs = ours(texts, **options), reference(texts, **options)
    assert set(mine) == set(theirs)
    for name in theirs:
        assert mine[name] == theirs[name], name
    assert ours("the report") == dict(reference("the report"))


def test_pairs_are_the_references(ours: LEDTokenizer, reference: Any) -> None:
    second = FULL if reference.is_fast else PLAIN  # the fast one takes an empty second text for none
    for options in (
        {},
        {"padding": True},
        {"padding": "max_length", "max_length": 150, "padding_side": "left"},
    ):
        mine, theirs = (
            ours(second[::-1], second, **MASKS, **options),
            reference(second[::-1], second, **MASKS, **options),
        )
        for name in theirs:
            assert mine[name] == theirs[name], name
    if not reference.is_fast:
        assert ours("one", "") == dict(reference("one", ""))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("limit", [2, 3, 7, 20])
def test_truncation_is_the_references(folder: Path, reference: Any, side: str, limit: int) -> None:
    if limit == 2 and not reference.is_fast:
        pytest.skip("the slow reference does not cut a text away whole")
    mine = LEDTokenizer.from_pretrained(folder, split_special_tokens=False, truncation_side=side)
    theirs = copy.deepcopy(reference)
    theirs.truncation_side = side
    options = {"truncation": True, "max_length": limit, "padding": "max_length"}
    for name, rows in theirs(PLAIN, **options, **MASKS).items():
        assert mine(PLAIN, **options, **MASKS)[name] == rows
    if limit == 20:
        short = ["the report"] * len(FULL)
        for pairs, strategy in (((short, FULL), "only_second"), ((FULL, short), "only_first")):
            options = {"truncation": strategy, "max_length": limit + 8}
            assert mine(*pairs, **options)["input_ids"] == theirs(*pairs, **options)["input_ids"]


@pytest.mark.parametrize("stride", [0, 3])
def test_windows_and_offsets_are_the_references(ours: LEDTokenizer, fast: Any, stride: int) -> None:
    options: dict[str, Any] = {
        **MASKS,
        "return_offsets_mapping": True,
        "return_overflowing_tokens": True,
        "stride": stride,
    }
    question = ["the report"] * len(FULL)
    for texts, limits in (
        ((PLAIN,), {"max_length": 9, "truncation": True}),
        ((WITH_SPECIALS,), {"max_length": 9, "truncation": True, "padding": True}),
        ((question, FULL), {"max_length": 24, "truncation": "only_second"}),
        ((FULL, question), {"max_length": 24, "truncation": "only_first", "padding": True}),
        ((FULL, FULL[::-1]), {"max_length": 20, "truncation": "longest_first"}),
    ):
        mine, theirs = ours(*texts, **limits, **options), fast(*texts, **limits, **options)
        assert list(mine) == list(theirs)
        for name in theirs:
            assert mine[name] == theirs[name], name
        for row in range(0, len(mine.encodings), 7):
            assert mine.tokens(row) == theirs.tokens(row)
            assert mine.word_ids(row) == theirs.word_ids(row)
            assert mine.sequence_ids(row) == theirs.sequence_ids(row)


def test_words_are_the_references(folder: Path, ours: LEDTokenizer, slow: Any) -> None:
    spaced = transformers.LEDTokenizerFast.from_pretrained(folder, add_prefix_space=True)
    words = [text.split() for text in PLAIN if text.split()]
    options = {"is_split_into_words": True, "split_special_tokens": True}
    mine = ours(words, **options, return_offsets_mapping=True)
    theirs = spaced(words, **options, return_offsets_mapping=True)
    assert mine == dict(theirs)
    assert mine["input_ids"] == slow(words, **options)["input_ids"]
    for spaced_slow in (spaced, transformers.LEDTokenizer.from_pretrained(folder, add_prefix_space=True)):
        texts = FULL if spaced_slow.is_fast else [text for text in FULL if not text[0].isspace()]
        assert LEDTokenizer.from_pretrained(folder, add_prefix_space=True)(texts) == dict(spaced_slow(texts))


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("clean", [True, False])
def test_decoding_is_the_references(ours: LEDTokenizer, reference: Any, skip: bool, clean: bool) -> None:
    rng = random.Random(2)
    rows = ours([*PLAIN, *WITH_SPECIALS])["input_ids"]
    rows += [[rng.randrange(len(ours)) for _ in range(rng.randint(0, 12))] for _ in range(200)]
    options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
    assert ours.batch_decode(rows, **options) == reference.batch_decode(rows, **options)


def test_the_format_around_ids_is_the_references(ours: LEDTokenizer, reference: Any) -> None:
    for ids in (([5, 6],), ([5, 6], [7]), ([], [7])):
        for name in ("build_inputs_with_special_tokens", "create_token_type_ids_from_sequences"):
            assert getattr(ours, name)(*ids) == getattr(reference, name)(*ids)
        options = {
            "truncation": True,
            "max_length": 6,
            "padding": "max_length",
            "return_token_type_ids": True,
        }
        mine, theirs = ours.prepare_for_model(*ids, **options), reference.prepare_for_model(*ids, **options)
        if not reference.is_fast:  # the fast one has the mask of formatted ids alone
            assert ours.get_special_tokens_mask(*ids) == reference.get_special_tokens_mask(*ids)
        assert mine == dict(theirs)
    formatted = ours.encode("a", "b")
    assert ours.get_special_tokens_mask(
        formatted, already_has_special_tokens=True
    ) == reference.get_special_tokens_mask(formatted, already_has_special_tokens=True)


def test_the_vocabulary_is_the_references(ours: LEDTokenizer, reference: Any) -> None:
    assert ours.get_vocab() == reference.get_vocab()
    assert (ours.vocab_size, len(ours)) == (reference.vocab_size, len(reference))
    assert ours.all_special_tokens == reference.all_special_tokens
    assert ours.all_special_ids == reference.all_special_ids
    assert ours.special_tokens_map == reference.special_tokens_map
    assert ours.model_max_length == reference.model_max_length
    for text in PLAIN[:300]:
        tokens = reference.tokenize(text)
        assert ours.tokenize(text) == tokens
        assert ours.convert_tokens_to_ids(tokens) == reference.convert_tokens_to_ids(tokens)
        assert ours.convert_tokens_to_string(tokens) == reference.convert_tokens_to_string(tokens)


def test_padding_features_is_the_references(ours: LEDTokenizer, reference: Any) -> None:
    def features() -> dict[str, list[list[int]]]:
        return {
            "input_ids": [[0, 5, 6, 7, 2], [0, 5, 2]],
            "attention_mask": [[1] * 5, [1] * 3],
            "global_attention_mask": [[1, 0, 0, 0, 0], [1, 0, 0]],
            "special_tokens_mask": [[1, 0, 0, 0, 1], [1, 0, 1]],
            "labels": [[1], [2, 3]],
        }

    for options in (
        {},
        {"padding": False},
        {"padding": "max_length", "max_length": 8},
        {"pad_to_multiple_of": 4},
    ):
        assert ours.pad(features(), **options) == dict(reference.pad(features(), **options))
    assert ours.pad(features())["global_attention_mask"][1] == [1, 0, 0, -1, -1]


@pytest.mark.parametrize("kind", KINDS)
def test_folders_are_exchanged(folder: Path, tmp_path: Path, kind: str) -> None:
    """Their folders are read here, and ours there, with a token after the vocabulary."""
    texts = [*PLAIN, *WITH_SPECIALS, "a <doc-sep> b<doc-sep>"]
    theirs = getattr(transformers, kind).from_pretrained(folder, model_max_length=64)
    theirs.add_special_tokens({"additional_special_tokens": ["<doc-sep>"]})
    theirs.save_pretrained(tmp_path / "theirs")
    mine = LEDTokenizer.from_pretrained(tmp_path / "theirs", split_special_tokens=False)
    assert mine(texts)["input_ids"] == theirs(texts)["input_ids"]
    assert mine.special_tokens_map == theirs.special_tokens_map
    assert (
        mine.model_max_length == 64
        and mine.convert_tokens_to_ids("<doc-sep>") == len(mine) - 1 == theirs.vocab_size
    )
    mine.save_pretrained(tmp_path / "ours")
    for name in KINDS:
        again = getattr(transformers, name).from_pretrained(tmp_path / "ours")
        assert again(texts)["input_ids"] == theirs(texts)["input_ids"]
        assert again.special_tokens_map == theirs.special_tokens_map
        assert again.model_max_length == 64


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_takes_control_tokens_as_text_does_so_there(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    mine = LEDTokenizer.from_pretrained(folder, split_special_tokens=True)
    mine.save_pretrained(tmp_path)
    theirs = getattr(transformers, kind).from_pretrained(tmp_path)
    assert theirs(WITH_SPECIALS)["input_ids"] == mine(WITH_SPECIALS)["input_ids"]
    assert not {0, 1, 2} & {
        number for row in mine(WITH_SPECIALS, add_special_tokens=False)["input_ids"] for number in row
    }
