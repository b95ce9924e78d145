"""Every processor gives the reference's scores, row by row, for rows of different lengths.

The reference reads a table of equally long rows; here each row of a ragged table is compared with the reference's call on
that row alone. What stands behind a row's end is noise on purpose.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from led.generation import GenerationConfig
from led.logits_processors import (
    Rows,
    bad_words,
    build_processors,
    encoder_no_repeat_ngram,
    forced_token,
    min_length,
    no_repeat_ngram,
    repetition_penalty,
    top_k,
    top_p,
)
from led.testing import TINY

transformers = pytest.importorskip("transformers", reason="the reference, transformers 5, is not installed")
reference = pytest.importorskip("transformers.generation.logits_process")

V, COLUMNS, EOS = 12, 14, [2, 7]
SEEDS = range(25)


def random_rows(seed: int, per_document: int = 2, lengths: str = "ragged") -> tuple[Rows, Tensor]:
    """Rows over few tokens, so that n-grams repeat; the rows of a document are equally long."""
    rng, g = random.Random(seed), torch.Generator().manual_seed(seed)
    documents = 3
    n = [rng.randint(1, COLUMNS) for _ in range(documents)] if lengths == "ragged" else [rng.randint(1, COLUMNS)] * documents
    sequences = torch.randint(0, 4 + seed % 3, (documents * per_document, COLUMNS), generator=g)
    texts = [torch.randint(0, 5, (rng.randint(1, 9),), generator=g) for _ in range(documents)]
    scores = 3 * torch.randn(documents * per_document, V, generator=g)
    return Rows(sequences, torch.tensor(n).repeat_interleave(per_document), texts), scores


def assert_same(rows: Rows, scores: Tensor, got: Tensor, expected: Callable[[int], Any]) -> None:
    """`expected(row)` is the reference's processor for that row."""
    before = scores.clone()
    for row, n in enumerate(rows.lengths.tolist()):
        alone = expected(row)(rows.sequences[row : row + 1, :n], scores[row : row + 1].clone())
        torch.testing.assert_close(got[row : row + 1], alone, atol=0, rtol=1e-6)
    assert torch.equal(scores, before), "the scores given were changed in place"


@pytest.mark.parametrize("penalty", [1.3, 3.5, 0.8])
@pytest.mark.parametrize("seed", SEEDS)
def test_repetition_penalty(seed: int, penalty: float) -> None:
    rows, scores = random_rows(seed)
    processor = reference.RepetitionPenaltyLogitsProcessor(penalty)
    assert_same(rows, scores, repetition_penalty(rows, scores, penalty), lambda row: processor)


@pytest.mark.parametrize("size", [1, 2, 3, 5, COLUMNS, COLUMNS + 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_no_repeat_ngram(seed: int, size: int) -> None:
    rows, scores = random_rows(seed)
    processor = reference.NoRepeatNGramLogitsProcessor(size)
    assert_same(rows, scores, no_repeat_ngram(rows, scores, size), lambda row: processor)


@pytest.mark.parametrize("per_document", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", SEEDS)
def test_encoder_no_repeat_ngram(seed: int, size: int, per_document: int) -> None:
    rows, scores = random_rows(seed, per_document)

    def expected(row: int) -> Any:
        return reference.EncoderNoRepeatNGramLogitsProcessor(size, rows.documents[row // per_document])

    assert_same(rows, scores, encoder_no_repeat_ngram(rows, scores, size), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_bad_words(seed: int) -> None:
    rows, scores = random_rows(seed)
    words = [[5], [11], [0, 1], [1, 1], [3, 2, 0], [0, 0, 0, 2], [1] * COLUMNS]
    processor = reference.NoBadWordsLogitsProcessor(words)
    assert_same(rows, scores, bad_words(rows, scores, words), lambda row: processor)


@pytest.mark.parametrize("shortest", [1, 5, COLUMNS])
@pytest.mark.parametrize("seed", SEEDS)
def test_min_length(seed: int, shortest: int) -> None:
    rows, scores = random_rows(seed)
    processor = reference.MinLengthLogitsProcessor(shortest, torch.tensor(EOS))
    assert_same(rows, scores, min_length(rows, scores, shortest, EOS), lambda row: processor)


@pytest.mark.parametrize("seed", SEEDS)
def test_forced_tokens(seed: int) -> None:
    rows, scores = random_rows(seed)
    rows.lengths[:2] = 1
    bos = reference.ForcedBOSTokenLogitsProcessor(0)
    assert_same(rows, scores, forced_token(rows, scores, 1, [0]), lambda row: bos)
    due = int(rows.lengths[-1])
    eos = reference.ForcedEOSTokenLogitsProcessor(due + 1, EOS)
    assert_same(rows, scores, forced_token(rows, scores, due, EOS), lambda row: eos)


@pytest.mark.parametrize("k", [1, 2, 5, V, V + 9])
@pytest.mark.parametrize("seed", SEEDS)
def test_top_k_keeps_ties(seed: int, k: int) -> None:
    rows, drawn = random_rows(seed)
    processor = reference.TopKLogitsWarper(k)
    for scores in (drawn, drawn.round(), torch.zeros_like(drawn)):
        assert_same(rows, scores, top_k(scores, k), lambda row: processor)


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("seed", SEEDS)
def test_top_p_cuts_ties_as_the_reference_does(seed: int, p: float, keep: int) -> None:
    rows, drawn = random_rows(seed)
    drawn[0, 3:] = -torch.inf
    processor = reference.TopPLogitsWarper(p, min_tokens_to_keep=keep)
    for scores in (drawn, drawn.round()):
        assert_same(rows, scores, top_p(scores, p, keep), lambda row: processor)


def test_top_k_keeps_what_equals_the_last() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0]])
    assert top_k(scores, 2).isfinite().tolist() == [[True, False, True, True, True]]


def test_top_p_keeps_at_least_p_and_at_least_one() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert top_p(scores, 0.7).isfinite().tolist() == [[True, True, False, False]]
    assert top_p(scores, 0.81).isfinite().tolist() == [[True, True, True, False]]
    assert top_p(torch.zeros(1, 4), 0.5).isfinite().sum() == 2  # p itself is enough
    assert top_p(scores, 1e-9).isfinite().tolist() == [[True, False, False, False]]
    assert top_p(scores, 1e-9, keep=2).isfinite().tolist() == [[True, True, False, False]]


SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "min_length": 6},
    {"bad_words_ids": [[5], [0, 1], [2]], "no_repeat_ngram_size": 1, "forced_bos_token_id": 0},
    {"forced_eos_token_id": 2, "min_new_tokens": 4, "min_length": 12, "repetition_penalty": 0.7},
    {"eos_token_id": [2, 7], "min_length": 9, "bad_words_ids": [[2], [7], [7, 2]]},
    {"bad_words_ids": [[2]]},
    {"do_sample": True, "top_k": 4, "top_p": 0.8, "temperature": 0.7, "repetition_penalty": 1.5},
    {"do_sample": True, "top_k": 1, "top_p": 0.1, "temperature": 2.5, "num_beams": 2},
    {"do_sample": True, "top_k": 1, "eos_token_id": [2, 7], "num_beams": 3},
    {"do_sample": True},
)


def reference_processors(settings: dict[str, Any], encoder_input_ids: Tensor) -> Any:
    """What the reference's generate would apply, for a prompt of one token."""
    ids = {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    model = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**TINY))
    theirs = transformers.GenerationConfig(**{**ids, "top_k": 50, "max_length": COLUMNS, **settings})
    theirs, _ = model._prepare_generation_config(theirs)
    theirs = model._prepare_generated_length(theirs, False, "min_length" not in settings, "input_ids", 1, encoder_input_ids)
    model._prepare_special_tokens(theirs, True, device="cpu")
    return model._get_logits_processor(theirs, input_ids_seq_length=1, encoder_input_ids=encoder_input_ids)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("seed", range(10))
def test_a_configuration_asks_for_the_references_processors_in_its_order(seed: int, settings: dict[str, Any]) -> None:
    rows, scores = random_rows(seed, lengths="even")
    got = scores.clone()
    for process in build_processors(GenerationConfig(**settings), prompt_length=1, max_length=COLUMNS):
        got = process(rows, got)
    processors = reference_processors(settings, rows.documents[0])
    n = int(rows.lengths[0])
    expected = processors(rows.sequences[:, :n], scores.clone())
    torch.testing.assert_close(got, expected, atol=0, rtol=1e-6)
