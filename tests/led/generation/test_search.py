"""Searches follow the reference's rules and keep documents apart. Samples depend on the seed alone.

The model of the first half is a function from (document, tokens so far) to scores. A search can then be
compared with a reference implementation over plain lists.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from led.generation.generate import generate
from led.generation.limits import SchedulerLimits
from led.generation.search import BeamSearch, GreedySearch, Hypotheses, SearchConfig, blockwise_topk
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.testing import TINY, spread_weights, tiny_config

V, EOS, PAD, START = 9, 2, 1, 2


def rules(**changes: Any) -> SearchConfig:
    settings = {
        "num_beams": 3,
        "num_return_sequences": 2,
        "prompt_length": 1,
        "max_length": 8,
        "length_penalty": 1.0,
        "early_stopping": False,
        "do_sample": False,
        "eos_token_ids": (EOS,),
        "pad_token_id": PAD,
    }
    return SearchConfig(**{**settings, **changes})


@cache
def scores_after(document: int, tokens: tuple[int, ...]) -> Tensor:
    """(V,) log-probabilities, different for every document and history."""
    seed = random.Random(repr((document, tokens))).randrange(2**31)
    return (2 * torch.randn(V, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


def search_of(rule: SearchConfig) -> BeamSearch | GreedySearch:
    return BeamSearch(rule) if rule.num_beams > 1 else GreedySearch(rule)


def run(rule: SearchConfig, arrivals: dict[int, list[int]], seed: int | None = None) -> dict[int, Hypotheses]:
    """Search. `arrivals` maps a step to the documents that are added before it."""
    search, active, results = search_of(rule), [], {}
    generators: dict[int, torch.Generator | None] = {}
    step = 0
    while active or step <= max(arrivals):
        newcomers = arrivals.get(step, [])
        search.add([[START]] * len(newcomers))
        active += newcomers
        for document in newcomers:
            generators[document] = None if seed is None else torch.Generator().manual_seed(seed)
        step += 1
        if not active:
            continue
        each = len(search.sequences) // len(active)
        histories = [tuple(row[:n].tolist()) for row, n in zip(search.sequences, search.lengths, strict=True)]
        scores = torch.stack([scores_after(active[r // each], h) for r, h in enumerate(histories)])
        output = search.step(scores, [generators[d] for d in active])
        for place, document in enumerate(active):
            if output.is_done[place]:
                results[document] = search.hypotheses(place)
        stay = [place for place in range(len(active)) if not output.is_done[place]]
        search.retain(stay)
        active = [active[place] for place in stay]
    return results


def reference_beam_search(rule: SearchConfig, document: int) -> Hypotheses:
    """The reference's rules, one candidate at a time."""
    nb, P = rule.num_beams, rule.prompt_length
    running = [([START], 0.0 if i == 0 else -1e9) for i in range(nb)]
    finished: list[tuple[list[int], float]] = []
    while True:
        candidates = [
            ([*tokens, v], total + float(score))
            for tokens, total in running
            for v, score in enumerate(scores_after(document, tuple(tokens)))
        ]
        candidates = sorted(candidates, key=lambda c: -c[1])[: max(2, 1 + len(rule.eos_token_ids)) * nb]
        length = len(candidates[0][0])
        ended = [c[0][-1] in rule.eos_token_ids or length >= rule.max_length for c in candidates]
        if not (rule.early_stopping is True and len(finished) == nb):
            new = [(tokens, s / (length - P) ** rule.length_penalty) for tokens, s in candidates[:nb]]
            finished += [c for c, end in zip(new, ended, strict=False) if end]
            finished = sorted(finished, key=lambda c: -c[1])[:nb]
        penalised = [
            (tokens, s - 1e9 if end else s) for (tokens, s), end in zip(candidates, ended, strict=True)
        ]
        running = sorted(penalised, key=lambda c: -c[1])[:nb]
        reach = (
            rule.max_length - P if rule.early_stopping == "never" and rule.length_penalty > 0 else length - P
        )
        full = len(finished) == nb
        beaten = full and running[0][1] / reach**rule.length_penalty <= finished[-1][1]
        if beaten or all(ended) or (rule.early_stopping is True and full):
            best = finished[: rule.num_return_sequences]
            return Hypotheses([tokens for tokens, _ in best], [s for _, s in best])


def assert_same(mine: Hypotheses, other: Hypotheses) -> None:
    assert mine.sequences == other.sequences
    assert mine.scores == pytest.approx(other.scores, rel=1e-5)


BEAM_RULES = [
    rules(
        num_beams=nb,
        num_return_sequences=min(2, nb),
        length_penalty=penalty,
        early_stopping=stop,
        eos_token_ids=eos,
    )
    for nb in (2, 4)
    for penalty in (0.0, 1.0, 2.0, -1.0)
    for stop in (True, False, "never")
    for eos in ((EOS,), (EOS, 5))
]


@pytest.mark.parametrize("rule", BEAM_RULES, ids=range(len(BEAM_RULES)))
def test_beam_search_follows_the_reference_implementation(rule: SearchConfig) -> None:
    documents = list(range(6))
    results = run(rule, {0: documents})
    for document in documents:
        assert_same(results[document], reference_beam_search(rule, document))


SAMPLED = [rules(do_sample=True), rules(do_sample=True, num_beams=1, num_return_sequences=3)]
SEARCHES = [rules(), rules(early_stopping=True), rules(num_beams=1, num_return_sequences=1), *SAMPLED]


@pytest.mark.parametrize("rule", SEARCHES, ids=["beams", "beams, early", "greedy", "beam sample", "sample"])
def test_documents_are_independent_whenever_they_come_and_go(rule: SearchConfig) -> None:
    seed = 5 if rule.do_sample else None
    alone = {d: run(rule, {0: [d]}, seed)[d] for d in range(8)}
    for arrivals in ({0: list(range(8))}, {0: [3, 0], 2: [1], 3: [2, 7, 5], 4: [], 12: [6, 4]}):
        together = run(rule, arrivals, seed)
        assert together.keys() == alone.keys()
        for d, result in together.items():
            assert_same(result, alone[d])


def test_documents_finish_at_different_steps() -> None:
    """Otherwise the tests of independence would prove little."""
    assert len({len(run(rules(), {0: [d]})[d].sequences[0]) for d in range(8)}) > 2


def test_a_retained_search_keeps_the_documents_in_the_order_given() -> None:
    search = BeamSearch(rules())
    search.add([[10], [11], [12]])
    search.retain([2, 0])
    assert search.sequences[:, 0].tolist() == [12] * 3 + [10] * 3


def test_greedy_takes_the_best_token_and_pads_after_the_end() -> None:
    search = GreedySearch(rules(num_beams=1, num_return_sequences=2, max_length=5))
    search.add([[START]])
    sure = torch.full((2, V), -5.0)
    for tokens in ([4, EOS], [6, 7], [EOS, 8]):
        scores = sure.clone()
        scores[[0, 1], tokens] = 5.0
        output = search.step(scores, [None])
    assert search.sequences[:, :4].tolist() == [[START, 4, 6, EOS], [START, EOS, PAD, PAD]]
    assert output.next_tokens.tolist() == [EOS, PAD]
    assert output.is_done.tolist() == [True]
    assert search.hypotheses(0).sequences == [[START, 4, 6, EOS], [START, EOS]]


def test_the_first_of_equal_tokens_wins_in_greedy_search() -> None:
    search = GreedySearch(rules(num_beams=1, num_return_sequences=1))
    search.add([[START]])
    assert search.step(torch.tensor([[0.0, 3.0, 1.0, 3.0]]), [None]).next_tokens.tolist() == [1]


@pytest.mark.parametrize(
    "rule", [rules(), rules(num_beams=1, num_return_sequences=1)], ids=["beams", "greedy"]
)
def test_no_sequence_outgrows_max_length(rule: SearchConfig) -> None:
    search = search_of(rule)
    search.add([[START]])
    never_ends = torch.zeros(len(search.sequences), V)
    never_ends[:, EOS] = -torch.inf
    done = [bool(search.step(never_ends, [None]).is_done) for _ in range(rule.max_length - 1)]
    assert done == [False] * (rule.max_length - 2) + [True]
    assert all(len(row) == rule.max_length for row in search.hypotheses(0).sequences)


# Sampling with a model.


@cache
def models() -> tuple[LEDForConditionalGeneration, Any]:
    transformers = pytest.importorskip(
        "transformers", reason="the reference, transformers 5, is not installed"
    )
    reference = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**TINY))
    spread_weights(reference, seed=4)
    reference.final_logits_bias[0, EOS] = 1.0
    ours = LEDForConditionalGeneration(tiny_config())
    ours.load_state_dict(reference.state_dict())
    return ours.eval(), reference.eval()


def documents() -> dict[str, Tensor]:
    ids = torch.randint(3, 99, (5, 21), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([21, 4, 9, 1, 16])
    mask = (torch.arange(21) < lengths[:, None]).long()
    return {
        "input_ids": ids * mask + (1 - mask),
        "attention_mask": mask,
        "global_attention_mask": mask * (ids % 7 == 0),
    }


SAMPLINGS: tuple[dict[str, Any], ...] = (
    {},
    {"num_return_sequences": 3},
    {"num_return_sequences": 3, "top_k": 5, "top_p": 0.8, "temperature": 1.7},
    {"top_k": 0, "temperature": 0.5, "no_repeat_ngram_size": 2},
    {"num_beams": 2, "num_return_sequences": 1},
    {
        "num_beams": 4,
        "num_return_sequences": 3,
        "top_k": 20,
        "top_p": 0.9,
        "temperature": 1.3,
        "length_penalty": 0.5,
    },
)


@pytest.mark.parametrize("settings", SAMPLINGS, ids=str)
def test_a_seeded_sample_is_the_same_alone_and_among_strangers(settings: dict[str, Any]) -> None:
    ours, _ = models()
    batch, each = documents(), settings.get("num_return_sequences", 1)
    how = {"do_sample": True, "max_length": 14, "seed": 11, **settings}
    crowded = generate(
        ours, **batch, **how, limits=SchedulerLimits(max_num_seqs=2, max_num_batched_tokens=20)
    )
    for row in range(5):
        n = int(batch["attention_mask"][row].sum())
        alone = generate(ours, **{name: x[row : row + 1, :n] for name, x in batch.items()}, **how)
        here = slice(row * each, (row + 1) * each)
        width = alone.sequences.shape[1]
        assert torch.equal(crowded.sequences[here, :width], alone.sequences)
        assert (crowded.sequences[here, width:] == PAD).all()
        torch.testing.assert_close(crowded.sequences_scores[here], alone.sequences_scores)


@pytest.mark.parametrize("settings", SAMPLINGS, ids=str)
def test_a_seeded_sample_of_one_document_is_the_references(settings: dict[str, Any]) -> None:
    ours, reference = models()
    batch, seen = documents(), set()
    for row in range(5):
        n = int(batch["attention_mask"][row].sum())
        alone = {name: x[row : row + 1, :n] for name, x in batch.items()}
        for seed in range(4):
            how = {"do_sample": True, "max_length": 14, **settings}
            torch.manual_seed(seed)
            expected = reference.generate(**alone, **how)
            assert torch.equal(generate(ours, **alone, **how, seed=seed).sequences, expected), (row, seed)
            seen.add(tuple(expected[0].tolist()))
    assert len(seen) > 5  # chance is at work


def test_without_a_seed_chance_is_torchs() -> None:
    ours, _ = models()
    batch = {name: x[:1] for name, x in documents().items()}
    torch.manual_seed(3)
    first = generate(ours, **batch, do_sample=True).sequences
    second = generate(ours, **batch, do_sample=True).sequences
    torch.manual_seed(3)
    assert torch.equal(generate(ours, **batch, do_sample=True).sequences, first)
    assert first.shape != second.shape or not torch.equal(first, second)


@pytest.mark.parametrize("numbers", [1, 255, 8 * 256, 9 * 256, 9 * 256 + 1, 4 * 50265])
@pytest.mark.parametrize("documents", [0, 1, 5])
def test_the_best_are_those_of_topk(numbers: int, documents: int) -> None:
    scores = torch.randn(documents, numbers, generator=torch.Generator().manual_seed(numbers))
    scores[:, ::3] = -torch.inf
    count = min(8, numbers)
    values, places = blockwise_topk(scores, count)
    expected = scores.topk(count)
    assert torch.equal(values, expected.values)
    reached = values > -torch.inf
    assert torch.equal(places[reached], expected.indices[reached])
