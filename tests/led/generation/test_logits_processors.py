"""Every processor gives the reference's scores, row by row, for rows of different lengths.

The reference takes a table of rows of equal length. Here each row of a ragged table is compared with the
reference's call on that row alone. The columns after a row's end hold random tokens on purpose.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from led.generation.config import GenerationConfig
from led.generation.logits_processors import (
    Rows,
    bad_words,
    build_processors,
    custom_processors,
    encoder_no_repeat_ngram,
    encoder_repetition_penalty,
    epsilon_cutoff,
    eta_cutoff,
    exponential_decay,
    forced_token,
    min_length,
    min_p,
    no_repeat_ngram,
    prefix_allowed_tokens,
    repetition_penalty,
    sequence_bias,
    suppress_at,
    top_h,
    top_k,
    top_p,
    typical_p,
)
from led.testing import TINY

transformers = pytest.importorskip("transformers", reason="the reference, transformers 5, is not installed")
reference = pytest.importorskip("transformers.generation.logits_process")

V, COLUMNS, EOS = 12, 14, [2, 7]
SEEDS = range(25)


def random_rows(seed: int, per_document: int = 2, lengths: str = "ragged") -> tuple[Rows, Tensor]:
    """Rows over few tokens, so that n-grams repeat. The rows of a document have equal length."""
    rng, g = random.Random(seed), torch.Generator().manual_seed(seed)
    documents = 3
    n = (
        [rng.randint(1, COLUMNS) for _ in range(documents)]
        if lengths == "ragged"
        else [rng.randint(1, COLUMNS)] * documents
    )
    sequences = torch.randint(0, 4 + seed % 3, (documents * per_document, COLUMNS), generator=g)
    texts = [torch.randint(0, 5, (rng.randint(1, 9),), generator=g) for _ in range(documents)]
    scores = 3 * torch.randn(documents * per_document, V, generator=g)
    lengths_R = torch.tensor(n).repeat_interleave(per_document)
    limits = torch.full_like(lengths_R, COLUMNS)
    return Rows(sequences, lengths_R, limits, texts, range(documents)), scores


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
@pytest.mark.parametrize("penalty", [1.4, 0.6])
@pytest.mark.parametrize("seed", SEEDS)
def test_encoder_repetition_penalty(seed: int, penalty: float, per_document: int) -> None:
    rows, scores = random_rows(seed, per_document)

    def expected(row: int) -> Any:
        return reference.EncoderRepetitionPenaltyLogitsProcessor(
            penalty, rows.documents[row // per_document][None]
        )

    assert_same(rows, scores, encoder_repetition_penalty(rows, scores, penalty), expected)


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


@pytest.mark.parametrize("seed", SEEDS)
def test_sequence_bias(seed: int) -> None:
    rows, scores = random_rows(seed)
    scores[0, :4] = -torch.inf
    biases = [
        ([5], 1.5),
        ([11], -4.0),
        ([0, 1], 2.0),
        ([1, 1], -0.5),
        ([1], 3.0),
        ([0, 0, 0, 2], 9.0),
        ([1] * COLUMNS, 5.0),
    ]
    processor = reference.SequenceBiasLogitsProcessor([list(pair) for pair in biases])
    assert_same(rows, scores, sequence_bias(rows, scores, biases), lambda row: processor)


def test_of_two_biases_for_a_sequence_the_last_counts() -> None:
    rows, scores = random_rows(0)
    assert torch.equal(
        sequence_bias(rows, scores, [([3], 9.0), ([3], 1.0)]), sequence_bias(rows, scores, [([3], 1.0)])
    )


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


@pytest.mark.parametrize("factor", [1.2, 3.0, 0.5, 1.0])
@pytest.mark.parametrize("start", [0, 3, COLUMNS])
@pytest.mark.parametrize("seed", range(8))
def test_exponential_decay(seed: int, start: int, factor: float) -> None:
    rows, scores = random_rows(seed)
    scores[0, 2], scores[1, 7] = -torch.inf, torch.inf
    processor = reference.ExponentialDecayLengthPenalty((start, factor), EOS, 1)
    assert_same(rows, scores, exponential_decay(rows, scores, 1 + start, factor, EOS), lambda row: processor)


@pytest.mark.parametrize("seed", SEEDS)
def test_suppressed_tokens_at_the_beginning(seed: int) -> None:
    rows, scores = random_rows(seed)
    begin = int(rows.lengths[0])
    processor = reference.SuppressTokensAtBeginLogitsProcessor([1, 5], begin)
    assert_same(rows, scores, suppress_at(rows, scores, begin, [1, 5]), lambda row: processor)


def choose_allowed(batch_id: int, input_ids: Tensor) -> list[int]:
    """Depends on the number, the length and the last token. Number 1 allows what the test forbids."""
    return (
        [0, 1] if batch_id == 1 else sorted({(batch_id + len(input_ids)) % V, (int(input_ids[-1]) + 3) % V})
    )


@pytest.mark.parametrize("beams", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_prefix_allowed_tokens(seed: int, beams: bool) -> None:
    rows, scores = random_rows(seed)
    # Document 1, row 1: in beams nothing is forced while another beam may go on.
    scores[2 if beams else 1 : 4 - seed % 2, :2] = -torch.inf
    got = prefix_allowed_tokens(rows, scores, choose_allowed, beams)
    for number, group in enumerate(rows.by_document()):
        n = int(rows.lengths[group.start])
        for row in [group] if beams else [slice(r, r + 1) for r in range(group.start, group.stop)]:
            first = number if beams else row.start
            processor = reference.PrefixConstrainedLogitsProcessor(
                lambda i, ids, first=first: choose_allowed(first + i, ids), 2 if beams else 1
            )
            assert torch.equal(got[row], processor(rows.sequences[row, :n], scores[row].clone()))


def test_documents_keep_their_numbers_whoever_else_is_there() -> None:
    rows, scores = random_rows(0)
    seen: list[int] = []
    moved = replace(rows, numbers=[4, 0, 7])
    prefix_allowed_tokens(moved, scores, lambda i, ids: seen.append(i) or [1], beams=True)
    assert seen == [4, 4, 0, 0, 7, 7]


def test_no_allowed_token_is_an_error() -> None:
    rows, scores = random_rows(0)
    with pytest.raises(ValueError, match="no token for batch_id 0; it must return at least one"):
        prefix_allowed_tokens(rows, scores, lambda i, ids: [], beams=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_given_processors_see_one_document_at_a_time_without_what_stands_behind(seed: int) -> None:
    rows, scores = random_rows(seed)
    theirs = [reference.RepetitionPenaltyLogitsProcessor(1.4), reference.NoRepeatNGramLogitsProcessor(2)]
    got = custom_processors(rows, scores, theirs)
    assert_same(rows, scores, got, lambda row: lambda ids, s: theirs[1](ids, theirs[0](ids, s)))


def test_a_given_processor_may_write_in_place() -> None:
    rows, scores = random_rows(0)
    before = scores.clone()
    assert torch.equal(custom_processors(rows, scores, [lambda ids, s: s.mul_(2)]), 2 * before)
    assert torch.equal(scores, before)


@pytest.mark.parametrize(("returned", "found"), [(None, "None"), (torch.zeros(1), r"\(1,\)")])
def test_a_given_processor_must_return_scores(returned: Any, found: str) -> None:
    rows, scores = random_rows(0)
    with pytest.raises(ValueError, match=rf"returned {found}; it must return scores of shape \(2, {V}\)"):
        custom_processors(rows, scores, [lambda ids, s: returned])


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


# Name: (the reference's, ours, values).
WARPERS: dict[str, tuple[Any, Any, list[float]]] = {
    "min_p": (reference.MinPLogitsWarper, min_p, [0.0, 0.02, 0.3, 1.0]),
    "typical_p": (reference.TypicalLogitsWarper, typical_p, [0.01, 0.4, 0.9, 0.999]),
    "epsilon_cutoff": (reference.EpsilonLogitsWarper, epsilon_cutoff, [1e-3, 0.05, 0.4, 0.99]),
    "eta_cutoff": (reference.EtaLogitsWarper, eta_cutoff, [1e-3, 0.05, 0.4, 0.99]),
}


def with_forbidden(drawn: Tensor) -> list[Tensor]:
    """Scores with some tokens forbidden: as drawn, with ties, and as log-probabilities."""
    drawn[0, 3:] = -torch.inf
    drawn[1, 1:] = -torch.inf
    return [drawn, drawn.round(), drawn.log_softmax(-1)]


@pytest.mark.parametrize("name", WARPERS)
@pytest.mark.parametrize("seed", range(12))
def test_sampling_keeps_what_the_reference_keeps(seed: int, name: str) -> None:
    rows, drawn = random_rows(seed)
    theirs, ours, values = WARPERS[name]
    for value, keep, scores in itertools.product(values, [1, 2, 3, V + 1], with_forbidden(drawn)):
        processor = theirs(value, min_tokens_to_keep=keep)
        assert_same(rows, scores, ours(scores, value, keep), lambda row, processor=processor: processor)


@pytest.mark.parametrize("h", [0.01, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_top_h(seed: int, h: float) -> None:
    rows, drawn = random_rows(seed)
    for scores in with_forbidden(drawn):
        assert_same(rows, scores, top_h(scores, h), lambda row: reference.TopHLogitsWarper(h))


def test_top_h_looks_at_the_hundred_likeliest() -> None:
    scores = 0.1 * torch.randn(3, 300, generator=torch.Generator().manual_seed(0))
    for h in (0.5, 1.0):
        got = top_h(scores, h)
        assert torch.equal(got, reference.TopHLogitsWarper(h)(None, scores))
        assert int(got.isfinite().sum(-1).max()) <= 100


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
    {
        "min_p": 0.9,
        "typical_p": 0.1,
        "top_h": 0.1,
        "epsilon_cutoff": 0.9,
        "eta_cutoff": 0.9,
    },  # without sampling, nothing
    {
        "do_sample": True,
        "min_p": 0.02,
        "typical_p": 0.95,
        "epsilon_cutoff": 1e-3,
        "eta_cutoff": 1e-3,
        "top_h": 0.95,
    },
    {
        "do_sample": True,
        "min_p": 0.5,
        "typical_p": 0.1,
        "eta_cutoff": 0.5,
        "num_beams": 2,
        "renormalize_logits": True,
    },
    {
        "do_sample": True,
        "epsilon_cutoff": 0.5,
        "top_h": 0.5,
        "eos_token_id": [2, 7],
        "num_beams": 3,
        "temperature": 1.5,
    },
    {
        "sequence_bias": [[[5], 2.0], [[0, 1], -3.0]],
        "encoder_repetition_penalty": 1.5,
        "repetition_penalty": 1.7,
    },
    {"suppress_tokens": [5, 6], "begin_suppress_tokens": [3], "forced_eos_token_id": [2, 7]},
    {
        "begin_suppress_tokens": [3],
        "forced_bos_token_id": 0,
        "suppress_tokens": [],
        "renormalize_logits": True,
    },
    {
        "exponential_decay_length_penalty": (2, 1.3),
        "eos_token_id": [2, 7],
        "remove_invalid_values": True,
        "min_length": 9,
    },
    {
        "remove_invalid_values": True,
        "suppress_tokens": [4],
        "no_repeat_ngram_size": 1,
        "do_sample": True,
        "top_k": 3,
    },
)


def reference_processors(settings: dict[str, Any], encoder_input_ids: Tensor) -> Any:
    """The processors that the reference's `generate` applies, for a prompt of one token."""
    ids = {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    model = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**TINY))
    theirs = transformers.GenerationConfig(**{**ids, "top_k": 50, "max_length": COLUMNS, **settings})
    theirs, _ = model._prepare_generation_config(theirs)
    theirs = model._prepare_generated_length(
        theirs, False, "min_length" not in settings, "input_ids", 1, encoder_input_ids
    )
    model._prepare_special_tokens(theirs, True, device="cpu")
    return model._get_logits_processor(theirs, input_ids_seq_length=1, encoder_input_ids=encoder_input_ids)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("seed", range(10))
def test_a_configuration_asks_for_the_references_processors_in_its_order(
    seed: int, settings: dict[str, Any]
) -> None:
    rows, scores = random_rows(seed)
    got = scores.clone()
    for processor in build_processors(GenerationConfig(**settings), prompt_length=1):
        got = processor.apply(rows, got)
    for group, document in zip(rows.by_document(), rows.documents, strict=True):
        processors = reference_processors(settings, document[None])
        n = int(rows.lengths[group.start])
        expected = processors(rows.sequences[group, :n], scores[group].clone())
        torch.testing.assert_close(got[group], expected, atol=0, rtol=1e-6)


@pytest.mark.parametrize("prompt", [1, 2])
@pytest.mark.parametrize("forced_bos", [None, 0])
def test_the_first_token_written_is_where_the_reference_looks_for_it(
    prompt: int, forced_bos: int | None
) -> None:
    model = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**TINY))
    theirs = transformers.GenerationConfig(begin_suppress_tokens=[3], forced_bos_token_id=forced_bos)
    theirs, _ = model._prepare_generation_config(theirs)
    expected = model._get_logits_processor(theirs, input_ids_seq_length=prompt)
    config = GenerationConfig(begin_suppress_tokens=[3], forced_bos_token_id=forced_bos)
    for n in range(1, 5):
        table, limits = torch.zeros(1, 9, dtype=torch.long), torch.tensor([9])
        rows = Rows(table, torch.tensor([n]), limits, [torch.tensor([5])])
        got = torch.ones(1, V)
        for processor in build_processors(config, prompt_length=prompt):
            got = processor.apply(rows, got)
        assert torch.equal(got, expected(rows.sequences[:, :n], torch.ones(1, V)))


def test_given_functions_have_their_place_in_the_order() -> None:
    """The allowed ids come before a forced token. Processors of the caller come after every rule and before
    those of sampling. Normalization comes last."""
    rows, scores = random_rows(0, lengths="even")
    n = int(rows.lengths[0])
    seen: list[Tensor] = []

    def note(input_ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(scores.clone())
        return scores

    config = GenerationConfig(
        suppress_tokens=[4],
        do_sample=True,
        temperature=0.5,
        top_k=0,
        renormalize_logits=True,
        forced_eos_token_id=9,
    )
    forced = torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor(9), 0.0)
    free = torch.full_like(scores, -torch.inf).index_copy(1, torch.tensor([3]), scores[:, 3:4])
    for max_length, expected in ((n + 1, forced), (n + 2, free)):
        seen.clear()
        got = scores
        limited = replace(rows, max_lengths=torch.full_like(rows.lengths, max_length))
        for processor in build_processors(config, 1, [note], lambda i, ids: [3, 4]):
            got = processor.apply(limited, got)
        assert torch.equal(torch.cat(seen), expected)
        assert torch.equal(got, (expected / 0.5).log_softmax(-1))
