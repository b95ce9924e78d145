"""Generated tokens are the reference's for each document, whatever it is decoded with.

Each case is a random model, configuration and batch of documents. The reference decodes the padded batch.
This library decodes the batch, every document alone, and the batch among other documents in few slots, so
that documents come and go while others are half done. Samples are compared one document at a time, since the
documents of a batch share one random generator in the reference.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import pytest
import torch

from led.batch.packed_batch import pack
from led.generation.config import GenerationConfig
from led.generation.generate import generate
from led.generation.limits import SchedulerLimits
from led.generation.scheduler import Scheduler
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.testing import TINY, spread_weights, tiny_config, tiny_model

transformers = pytest.importorskip("transformers", reason="the reference, transformers 5, is not installed")

MODELS, CASES_PER_MODEL, SAMPLED_CASES_PER_MODEL = 9, 60, 40
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"attention_window": [4, 8], "vocab_size": 30},
    {"attention_window": 16, "decoder_layers": 1, "vocab_size": 200},
)


@lru_cache(maxsize=2)
def models(seed: int) -> tuple[LEDForConditionalGeneration, Any]:
    shape = SHAPES[seed % len(SHAPES)]
    reference = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**{**TINY, **shape}))
    spread_weights(reference, seed, scale=3 + seed % 3)
    with torch.no_grad():
        reference.final_logits_bias[0, 2] = (-2.0, 0.0, 2.0)[seed % 3]  # later and earlier ends
    ours = LEDForConditionalGeneration(tiny_config(**shape))
    ours.load_state_dict(reference.state_dict())
    return ours.eval(), reference.eval()


def random_settings(rng: random.Random, vocab_size: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"num_beams": rng.choice([1, 1, 2, 3, 4, 5])}
    if rng.random() < 0.7:
        settings["max_length"] = rng.choice([2, 5, 12, 20])
    else:
        settings["max_new_tokens"] = rng.choice([1, 4, 11])
    choices: dict[str, list[Any]] = {
        "repetition_penalty": [1.0, 1.3, 3.5, 0.8],
        "no_repeat_ngram_size": [0, 1, 2, 3],
        "encoder_no_repeat_ngram_size": [0, 0, 1, 2, 3],
        "min_length": [0, 3, 8],
        "min_new_tokens": [None, 2, 6],
        "forced_bos_token_id": [None, None, 0],
        "forced_eos_token_id": [None, None, 2, [2, 0]],
        "bad_words_ids": [
            None,
            [[5], [7, 9]],
            [[rng.randrange(3, vocab_size)] for _ in range(6)] + [[2], [2, 3]],
        ],
        "eos_token_id": [2, 2, 2, [2, 11]],
        "encoder_repetition_penalty": [None, 1.4, 0.7],
        "sequence_bias": [
            None,
            [[[5], 2.5], [[rng.randrange(3, vocab_size)], -3.0], [[5, 7], 4.0], [[2, 5], -1.0]],
        ],
        "suppress_tokens": [None, [], rng.sample(range(3, vocab_size), 6)],
        "begin_suppress_tokens": [None, [2], [2, *rng.sample(range(3, vocab_size), 6)]],
        "exponential_decay_length_penalty": [None, (1, 1.2), (4, 1.02), (0, 0.9)],
        "remove_invalid_values": [None, True],
        "renormalize_logits": [None, True],
    }
    for name, values in choices.items():
        if rng.random() < 0.3:
            settings[name] = rng.choice(values)
    if settings["num_beams"] > 1:
        settings["length_penalty"] = rng.choice([0.0, 0.8, 1.0, 2.0, -1.0])
        settings["early_stopping"] = rng.choice([True, False, "never"])
        settings["num_return_sequences"] = rng.randint(1, settings["num_beams"])
    return {name: value for name, value in settings.items() if value is not None}


def random_batch(rng: random.Random, vocab_size: int, documents: int) -> dict[str, torch.Tensor]:
    lengths = [rng.choice([1, 2, 7, 8, 9, 15, 16, 17, 40]) for _ in range(documents)]
    shape = (documents, max(lengths))
    batch = {
        name: torch.zeros(shape, dtype=torch.long) for name in ("attention_mask", "global_attention_mask")
    }
    batch["input_ids"] = torch.ones(shape, dtype=torch.long)
    for row, n in enumerate(lengths):
        batch["input_ids"][row, :n] = torch.tensor([rng.randrange(3, vocab_size) for _ in range(n)])
        batch["attention_mask"][row, :n] = 1
        for place in rng.sample(range(n), rng.choice([0, 1, min(3, n)])):
            batch["global_attention_mask"][row, place] = 1
    return batch


def document(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One row without its padding."""
    n = int(batch["attention_mask"][row].sum())
    return {name: x[row : row + 1, :n] for name, x in batch.items()}


def rows_of(sequences: torch.Tensor, pad: int = 1) -> list[list[int]]:
    """The rows without their padding on the right."""
    result = []
    for row in sequences.tolist():
        while row and row[-1] == pad:
            row.pop()
        result.append(row)
    return result


def reference_rows(
    reference: Any, batch: dict[str, torch.Tensor], settings: dict[str, Any]
) -> tuple[list[list[int]], list[float]]:
    """Sequences and scores of the reference.

    Its encoder processors treat padding as part of a document. With these, it decodes one document at a time.
    """
    parts = [batch]
    if settings.get("encoder_no_repeat_ngram_size") or settings.get("encoder_repetition_penalty"):
        parts = [document(batch, row) for row in range(len(batch["input_ids"]))]
    rows, scores = [], []
    for part in parts:
        out = reference.generate(**part, **settings, return_dict_in_generate=True, output_scores=True)
        rows += rows_of(out.sequences)
        scores += out.sequences_scores.tolist() if settings["num_beams"] > 1 else [0.0] * len(out.sequences)
    return rows, scores


def agree(
    ours: tuple[list[list[int]], list[float]], theirs: tuple[list[list[int]], list[float]], beams: bool
) -> str:
    """ "same", "tie" if different tokens have the same score, or a description of the difference."""
    kinds = set()
    for mine, my_score, other, other_score in zip(*ours, *theirs, strict=True):
        if beams and abs(my_score - other_score) > 1e-5 * max(1.0, abs(other_score)):
            return f"scores {my_score} and {other_score}: {mine} and {other}"
        if mine != other:
            if not beams:
                return f"{mine} and {other}"
            kinds.add("tie")
    return "tie" if kinds else "same"


@pytest.mark.parametrize("model_seed", range(MODELS))
def test_tokens_are_the_references(model_seed: int, record_property: Any) -> None:
    ours, reference = models(model_seed)
    rng = random.Random(1000 + model_seed)
    ties = 0
    for case in range(CASES_PER_MODEL):
        settings = random_settings(rng, ours.config.vocab_size)
        batch = random_batch(rng, ours.config.vocab_size, rng.randint(1, 4))
        beams, each = settings["num_beams"] > 1, settings.get("num_return_sequences", 1)
        expected = reference_rows(reference, batch, settings)

        def decode(
            part: dict[str, torch.Tensor], settings: dict[str, Any] = settings, **how: Any
        ) -> tuple[list[list[int]], list[float]]:
            out = generate(ours, **part, **settings, **how)
            return rows_of(out.sequences), out.sequences_scores.tolist()

        alone = [decode(document(batch, row)) for row in range(len(batch["input_ids"]))]
        strangers = random_batch(rng, ours.config.vocab_size, 3)
        crowd = {}
        for name, x in batch.items():
            rows = [*strangers[name], *x]
            crowd[name] = torch.nn.utils.rnn.pad_sequence(rows, True, 1 if name == "input_ids" else 0)
        crowded = decode(crowd, limits=SchedulerLimits(max_num_seqs=2, max_num_batched_tokens=20))
        got = {
            "batch": decode(batch),
            "alone": ([r for rows, _ in alone for r in rows], [s for _, scores in alone for s in scores]),
            "crowd": (crowded[0][3 * each :], crowded[1][3 * each :]),
        }
        for how, rows in got.items():
            verdict = agree(rows, expected, beams)
            assert verdict in ("same", "tie"), f"case {case}, {how}, {settings}: {verdict}"
            ties += verdict == "tie"
    record_property("exact_score_ties", ties)
    print(f"{CASES_PER_MODEL} cases, {ties} comparisons of {3 * CASES_PER_MODEL} with an exact tie of scores")
    assert ties <= 0.02 * 3 * CASES_PER_MODEL


def sampling_settings(rng: random.Random) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "do_sample": True,
        "temperature": rng.choice([0.7, 1.0, 2.5]),
        "top_k": rng.choice([0, 3, 50]),
    }
    choices: dict[str, list[Any]] = {
        "top_p": [0.3, 0.9],
        "min_p": [0.0, 0.05, 0.5],
        "top_h": [0.3, 0.8],
        "typical_p": [0.2, 0.9],
        "epsilon_cutoff": [1e-3, 0.1],
        "eta_cutoff": [1e-3, 0.1],
    }
    return settings | {name: rng.choice(values) for name, values in choices.items() if rng.random() < 0.3}


@pytest.mark.parametrize("model_seed", range(MODELS))
def test_a_documents_samples_are_the_references(model_seed: int) -> None:
    ours, reference = models(model_seed)
    rng = random.Random(2000 + model_seed)
    impossible = 0
    for case in range(SAMPLED_CASES_PER_MODEL):
        settings = random_settings(rng, ours.config.vocab_size) | sampling_settings(rng)
        if settings["num_beams"] == 1:
            settings["num_return_sequences"] = rng.randint(1, 4)
        part = random_batch(rng, ours.config.vocab_size, 1)
        torch.manual_seed(case)
        try:
            expected = reference_rows(reference, part, settings)
        except (RuntimeError, ValueError):  # these settings forbid every token
            impossible += 1
            with pytest.raises((RuntimeError, ValueError)):
                generate(ours, **part, **settings)
            continue
        torch.manual_seed(case)
        out = generate(ours, **part, **settings)
        verdict = agree(
            (rows_of(out.sequences), out.sequences_scores.tolist()), expected, settings["num_beams"] > 1
        )
        assert verdict == "same", f"case {case}, {settings}: {verdict}"
    assert impossible <= 0.1 * SAMPLED_CASES_PER_MODEL


def favour(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Depends on the row's last token and its length."""
    favoured = (input_ids[:, -1:] + input_ids.shape[1]) % scores.shape[1]
    return scores.scatter_add(1, favoured, torch.full_like(scores, 3.0))


def some_tokens(batch_id: int, input_ids: torch.Tensor) -> list[int]:
    """Depends on the number, the length and the last token. The end is allowed at every third length."""
    start = (5 * batch_id + len(input_ids) + int(input_ids[-1])) % 12
    return list(range(3 + start, 11 + start)) + [2] * (len(input_ids) % 3 == 0)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("model_seed", range(4))
def test_given_functions_are_called_as_by_the_reference(model_seed: int, do_sample: bool) -> None:
    ours, reference = models(model_seed)
    rng = random.Random(3000 + model_seed)
    functions: dict[str, Any] = {"logits_processor": [favour], "prefix_allowed_tokens_fn": some_tokens}
    for case in range(8):
        settings: dict[str, Any] = {
            "num_beams": rng.choice([1, 2, 4]),
            "max_length": 9,
            "do_sample": do_sample,
        }
        if settings["num_beams"] > 1 or do_sample:
            settings["num_return_sequences"] = 2
        batch = random_batch(rng, ours.config.vocab_size, 1 if do_sample else 3)
        torch.manual_seed(case)
        expected = rows_of(reference.generate(**batch, **settings, **functions))
        torch.manual_seed(case)
        packed = pack(**batch, shape=tuple(batch["input_ids"].shape), device=torch.device("cpu"), trim=True)
        scheduler = Scheduler(
            ours, GenerationConfig(**settings), SchedulerLimits(max_num_seqs=2), **functions
        )
        results = dict(scheduler.run(packed.documents()))
        got = [row for d in sorted(results) for row in results[d].sequences]
        assert [[token for token in row if token != 1] for row in got] == expected, f"case {case}, {settings}"


@pytest.mark.parametrize("eos", [2, [2, 3]])
def test_no_mask_is_inferred_where_padding_ends_a_text(eos: int | list[int]) -> None:
    """Some published checkpoints have one token for both, and their texts end with it."""
    ours, reference = models(1)
    ids = torch.tensor([[0, 5, 6, 2, 7, 8, 9, 2], [0, 9, 5, 2, 2, 2, 2, 2]])
    for pad in (1, 2):
        how = {"pad_token_id": pad, "eos_token_id": eos, "num_beams": 2, "max_new_tokens": 8}
        expected = reference.generate(ids, return_dict_in_generate=True, output_scores=True, **how)
        found = ours.generate(ids, return_dict_in_generate=True, **how)
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-4, rtol=0)
        width = min(found.sequences.shape[1], expected.sequences.shape[1])
        assert torch.equal(found.sequences[:, :width], expected.sequences[:, :width])


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3, "no_repeat_ngram_size": 2}])
def test_embeddings_states_and_other_names_give_the_same_tokens(settings: dict[str, Any]) -> None:
    model = tiny_model(seed=7)
    ids = torch.randint(5, 99, (3, 21), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    is_global = torch.eye(3, 21, dtype=torch.long)
    given: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 12, **settings}
    expected = model.generate(ids, global_attention_mask=is_global, **given)
    embeddings = model.get_input_embeddings()(ids)
    encoded = model.get_encoder()(ids, mask, is_global)
    results = {
        "inputs": model.generate(inputs=ids, global_attention_mask=is_global, **given),
        "numpy": model.generate(ids.numpy(), global_attention_mask=is_global, **given),
        "embeddings": model.generate(inputs_embeds=embeddings, global_attention_mask=is_global, **given),
        "states": model.generate(encoder_outputs=encoded, **given),
        "tuple": model.generate(encoder_outputs=(encoded.last_hidden_state,), **given),
    }
    for name, tokens in results.items():
        assert torch.equal(tokens, expected), name


def test_a_config_of_the_reference_is_taken() -> None:
    transformers = pytest.importorskip(
        "transformers", reason="the reference, transformers 5, is not installed"
    )
    model, ids = tiny_model(seed=7), torch.arange(5, 25)[None]
    theirs = transformers.GenerationConfig(num_beams=2, max_new_tokens=9, length_penalty=2.0)
    settings: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 9, "length_penalty": 2.0}
    assert torch.equal(model.generate(ids, generation_config=theirs), model.generate(ids, **settings))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": torch.arange(5, 9)}, r"input_ids has the shape \(4,\); .* pass input_ids\[None\]"),
        ({}, "nothing to generate from: give input_ids, inputs_embeds or encoder_outputs"),
        ({"input_ids": torch.ones(1, 4), "inputs": torch.ones(1, 4)}, "inputs and input_ids were both given"),
        ({"input_ids": torch.full((1, 4), 5), "generation_config": 3}, "generation_config is a int; give a"),
        (
            {"inputs_embeds": torch.ones(1, 4, 32), "encoder_no_repeat_ngram_size": 2},
            "compare with the document's tokens; give input_ids, too",
        ),
    ],
)
def test_calls_that_cannot_be_taken_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model().generate(**given)
