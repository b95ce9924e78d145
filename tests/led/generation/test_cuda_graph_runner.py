"""CudaGraphRunner gives the tokens of EagerRunner. On a CPU its steps run without capture."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from led.batch.packed_batch import PackedBatch, pack_documents
from led.generation.config import GenerationConfig
from led.generation.cuda_graph_runner import CudaGraphRunner
from led.generation.limits import SchedulerLimits
from led.generation.logits_processors import build_processors, on_device
from led.generation.memory_budget import kv_cache_bytes
from led.generation.runner import EagerRunner
from led.generation.scheduler import Scheduler
from led.generation.search import BeamSearch, GreedySearch, Hypotheses
from led.heads.conditional_generation import LEDForConditionalGeneration
from led.kv_cache.paged_cross_attention import pages_for
from led.testing import tiny_model

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LENGTHS = [300, 1, 700, 256, 257, 40, 512, 3, 600, 90]
MODES: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 4, "max_new_tokens": 40},
    "greedy": {"max_new_tokens": 40},
    "sampling": {"do_sample": True, "num_return_sequences": 3, "seed": 5, "max_new_tokens": 12},
    "longer than a bucket": {"num_beams": 2, "max_new_tokens": 100, "min_new_tokens": 70},
    "many words": {"num_beams": 2, "max_new_tokens": 9, "bad_words_ids": [[i, i + 1] for i in range(3, 97)]},
    "rules": {"num_beams": 3, "max_new_tokens": 20, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
}


def documents() -> list[PackedBatch]:
    generator = torch.Generator().manual_seed(2)
    ids = [[0, *torch.randint(3, 99, (n,), generator=generator).tolist()][:n] for n in LENGTHS]
    return [pack_documents([one], [[0]]) for one in ids]


def model(scale: float = 16.0, **changes: Any) -> LEDForConditionalGeneration:
    """A model whose texts differ from document to document, if `scale` is large."""
    positions = {"max_encoder_position_embeddings": 1024, "max_decoder_position_embeddings": 128}
    return tiny_model(scale=scale, **positions, **changes)


def generated(scheduler: Scheduler, runner: CudaGraphRunner | None = None) -> dict[int, list[list[int]]]:
    if runner is not None:
        scheduler._runner = runner
    return {number: hypotheses.sequences for number, hypotheses in scheduler.run(documents())}


def scheduler_and_runner(
    settings: dict[str, Any], max_num_seqs: int, memory_bytes: int = 2**30, prompt: list[int] | None = None
) -> tuple[Scheduler, CudaGraphRunner]:
    scheduler = Scheduler(
        model(), GenerationConfig().updated(**settings), SchedulerLimits(max_num_seqs=max_num_seqs), prompt
    )
    rows = max(settings.get("num_beams", 1), settings.get("num_return_sequences", 1))
    longest = len(scheduler.prompt) + settings["max_new_tokens"]
    return scheduler, runner_of(scheduler, max_num_seqs, rows, longest, memory_bytes)


def is_capturable(scheduler: Scheduler) -> bool:
    """Whether a CUDA graph can capture the search and every processor, as the scheduler decides on a GPU."""
    return scheduler._search.capturable and all(p.capturable for p in scheduler._processors)


def runner_of(
    scheduler: Scheduler, max_num_seqs: int, rows: int, longest: int, memory_bytes: int
) -> CudaGraphRunner:
    search = scheduler._search if is_capturable(scheduler) else None
    return CudaGraphRunner(scheduler.model, search, max_num_seqs, rows, longest, memory_bytes)


@pytest.mark.parametrize("max_num_seqs", [1, 3, 16])
@pytest.mark.parametrize("settings", MODES.values(), ids=MODES.keys())
def test_the_tokens_are_those_of_the_eager_runner(settings: dict[str, Any], max_num_seqs: int) -> None:
    scheduler, runner = scheduler_and_runner(settings, max_num_seqs)
    expected = generated(Scheduler(model(), scheduler.config, SchedulerLimits(max_num_seqs=3)))
    assert generated(scheduler, runner) == expected


def test_a_prompt_is_written_before_the_first_step() -> None:
    prompt = [2, 7, 11]
    scheduler, runner = scheduler_and_runner(MODES["beams"], 3, prompt=prompt)
    expected = generated(Scheduler(model(), scheduler.config, SchedulerLimits(max_num_seqs=3), prompt))
    assert generated(scheduler, runner) == expected
    assert all(row[:3] == prompt for rows in expected.values() for row in rows)


def test_hidden_tokens_take_no_page_and_a_fully_masked_document_is_attended_evenly() -> None:
    hidden = torch.ones(600, dtype=torch.bool)
    hidden[10:500] = False
    ids = torch.randint(3, 99, (600,), generator=torch.Generator().manual_seed(2))
    nothing = torch.zeros(600, dtype=torch.bool)
    batches = [PackedBatch(ids, (0, 600), nothing, shown, shown) for shown in (hidden, nothing)]
    scheduler, runner = scheduler_and_runner(MODES["beams"], 2)
    expected = {n: r.sequences for n, r in Scheduler(model(), scheduler.config).run(batches)}
    scheduler._runner = runner
    assert {n: r.sequences for n, r in scheduler.run(batches)} == expected


def test_pages_are_freed_and_limit_the_documents_in_slots() -> None:
    """A pool with only the pages of the longest document decodes everything. In the end all are free."""
    scheduler, runner = scheduler_and_runner(MODES["beams"], 10, memory_bytes=1)
    pool = runner._cross
    assert len(pool._free) == pages_for(1024) == 4
    assert runner.has_room([700, 1]) and not runner.has_room([700, 300])
    expected = generated(Scheduler(model(), scheduler.config))
    assert generated(scheduler, runner) == expected
    assert sorted(pool._free) == [0, 1, 2, 3]


def test_the_pool_takes_the_memory_it_is_given() -> None:
    scheduler, _ = scheduler_and_runner(MODES["beams"], 10)
    given = kv_cache_bytes(scheduler.model.config, 12 * 256, 0, 0, 4) + 10 * kv_cache_bytes(
        scheduler.model.config, 0, 4, 41, 4
    )
    assert len(runner_of(scheduler, 10, 4, 41, given)._cross._free) == 12
    assert len(runner_of(scheduler, 10, 4, 41, 2**40)._cross._free) == 10 * 4


@ON_GPU
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("settings", MODES.values(), ids=MODES.keys())
def test_captured_steps_give_the_tokens_of_the_cpu(settings: dict[str, Any], packed: bool) -> None:
    """The heads have size 16, which the kernels support. Random numbers differ on a GPU, so of sampled texts
    only the number is compared."""
    config = GenerationConfig().updated(**settings)
    expected = generated(Scheduler(model(4.0, d_model=64), config))
    on_gpu = model(4.0, d_model=64).to("cuda")
    found = generated(Scheduler(on_gpu.pack() if packed else on_gpu, config, SchedulerLimits(max_num_seqs=3)))
    if settings.get("do_sample"):
        assert [(n, len(rows)) for n, rows in sorted(found.items())] == [
            (n, len(rows)) for n, rows in sorted(expected.items())
        ]
    else:
        assert found == expected


def test_a_row_may_be_as_long_as_the_decoder_has_positions() -> None:
    """48 is not a multiple of a bucket. The token after the last position is written and never decoded."""
    short = tiny_model(max_encoder_position_embeddings=1024, max_decoder_position_embeddings=48)
    config = GenerationConfig().updated(num_beams=2, max_new_tokens=48, min_new_tokens=48)
    expected = generated(Scheduler(short, config))
    scheduler = Scheduler(short, config)
    assert generated(scheduler, runner_of(scheduler, 4, 2, len(scheduler.prompt) + 48, 2**30)) == expected


def test_constants_of_captured_processors_keep_their_address() -> None:
    """A captured step uses addresses, so none of these tensors may be created again."""
    words = [[[i, j]] for i in range(3, 23) for j in range(3, 23)]
    first = [on_device(tuple(word[0]), torch.device("cpu")).data_ptr() for word in words]
    assert [on_device(tuple(word[0]), torch.device("cpu")).data_ptr() for word in words] == first


@pytest.mark.parametrize("paged", [False, True])
def test_a_run_that_was_left_early_does_not_affect_the_next(paged: bool) -> None:
    scheduler, runner = scheduler_and_runner(MODES["beams"], 3)
    expected = generated(Scheduler(scheduler.model, scheduler.config, SchedulerLimits(max_num_seqs=3)))
    if paged:
        scheduler._runner = runner
    next(scheduler.run(reversed(documents())))
    assert (
        dict((number, hypotheses.sequences) for number, hypotheses in scheduler.run(documents())) == expected
    )


NOT_CAPTURABLE: dict[str, dict[str, Any]] = {
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.2},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 2},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (3, 1.1)},
}


@pytest.mark.parametrize("setting", NOT_CAPTURABLE.values(), ids=NOT_CAPTURABLE)
def test_processors_that_need_the_document_or_the_host_are_not_capturable(setting: dict[str, Any]) -> None:
    [processor] = build_processors(GenerationConfig(**setting), 1)
    assert not processor.capturable
    assert not is_capturable(Scheduler(model(), GenerationConfig(**setting)))


def test_functions_of_the_caller_are_not_capturable() -> None:
    config = GenerationConfig()
    for functions in (([lambda ids, scores: scores], None), ((), lambda number, ids: [5])):
        [processor] = build_processors(config, 1, *functions)
        assert not processor.capturable
        assert not is_capturable(Scheduler(model(), config, None, None, *functions))


def test_other_processors_are_capturable() -> None:
    config = GenerationConfig(
        num_beams=2,
        max_length=20,
        sequence_bias=[[[5], 1.0]],
        repetition_penalty=1.3,
        no_repeat_ngram_size=2,
        bad_words_ids=[[7, 8]],
        min_length=4,
        min_new_tokens=3,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        remove_invalid_values=True,
        suppress_tokens=[9],
        begin_suppress_tokens=[10],
        renormalize_logits=True,
    )
    processors = build_processors(config, 1)
    assert len(processors) == 11 and all(p.capturable for p in processors)
    assert is_capturable(Scheduler(model(), config))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_search_is_capturable_unless_it_samples(num_beams: int) -> None:
    for do_sample in (False, True):
        scheduler = Scheduler(model(), GenerationConfig(num_beams=num_beams, do_sample=do_sample))
        assert isinstance(scheduler._search, BeamSearch if num_beams > 1 else GreedySearch)
        assert scheduler._search.capturable == (not do_sample)


# Documents that end at different steps.

# New tokens of each of the `LENGTHS`, by what ends first.
ENDS = {
    "first slot": [3, 12, 9, 12, 9, 6, 70, 3, 5, 7],
    "middle slot": [12, 3, 9, 7, 12, 5, 9, 6, 11, 3],
    "last slot": [12, 9, 3, 6, 12, 9, 5, 11, 3, 8],
    "two at once": [3, 12, 3, 12, 9, 9, 5, 5, 11, 4],
    "in order": [3, 4, 5, 6, 7, 8, 9, 10, 11, 70],
    "in reverse order": [12, 11, 10, 9, 8, 7, 6, 5, 4, 3],
}
UNEVEN: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3, "num_return_sequences": 3, "no_repeat_ngram_size": 1},
    "greedy": {"no_repeat_ngram_size": 1},
    "sampling": {"do_sample": True, "num_return_sequences": 2, "seed": 3},
}


def ending(ends: list[int], mode: str, limits: SchedulerLimits | None = None) -> Scheduler:
    """A scheduler that forces the end of document i after `ends[i]` new tokens, and no end before."""
    each = 2 if mode == "sampling" else 1  # sampling numbers the rows

    def allowed(number: int, input_ids: torch.Tensor) -> list[int]:
        return [2] if len(input_ids) == ends[number // each] else list(range(3, 99))

    config = GenerationConfig(max_new_tokens=80, decoder_start_token_id=0, **UNEVEN[mode])
    return Scheduler(model(), config, limits, prefix_allowed_tokens_fn=allowed)


@cache
def alone(number: int, end: int, mode: str) -> Hypotheses:
    """What EagerRunner gives for one document that is decoded alone."""
    [(_, hypotheses)] = ending([end], mode).run([documents()[number]])
    return hypotheses


@pytest.mark.parametrize("max_num_seqs", [3, 10])
@pytest.mark.parametrize("mode", UNEVEN)
@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
def test_documents_that_end_at_different_steps_do_not_mix(
    ends: list[int], mode: str, max_num_seqs: int
) -> None:
    """Slots are compacted and refilled while other documents go on. Each document gets what it gets alone."""
    limits = SchedulerLimits(max_num_seqs=max_num_seqs)
    eager, scheduler = ending(ends, mode, limits), ending(ends, mode, limits)
    runner = runner_of(scheduler, max_num_seqs, scheduler._rows, 81, 2**30)
    scheduler._runner = runner
    found = [dict(each.run(documents())) for each in (eager, scheduler)]
    assert len(runner._cross) == 0 and isinstance(eager._runner, EagerRunner)
    for number, end in enumerate(ends):
        expected = alone(number, end, mode)
        assert all(len(row) == 1 + end for row in expected.sequences)
        for hypotheses in (results[number] for results in found):
            assert hypotheses.sequences == expected.sequences
            assert hypotheses.scores == pytest.approx(expected.scores, rel=1e-4)
    beginnings = {tuple(found[0][i].sequences[0][1:4]) for i, end in enumerate(ends) if end > 4}
    assert len(beginnings) > 4, "the documents must have different texts"


OWN_ENDS: dict[str, Any] = {"max_new_tokens": 60, "no_repeat_ngram_size": 2}


@cache
def by_steps(num_beams: int) -> dict[int, tuple[PackedBatch, list[list[int]]]]:
    """Documents with what EagerRunner gives for each alone, by the number of steps it takes."""
    config = GenerationConfig(num_beams=num_beams, **OWN_ENDS)
    generator = torch.Generator().manual_seed(7)
    found: dict[int, tuple[PackedBatch, list[list[int]]]] = {}
    for n in range(250, 266):
        document = pack_documents([torch.randint(3, 99, (n,), generator=generator).tolist()], [[0]])
        scheduler = Scheduler(model(12.0), config)
        [(_, hypotheses)] = scheduler.run([document])
        found.setdefault(int(scheduler.measured["steps"]), (document, hypotheses.sequences))
    assert len(found) >= 5, "the documents must end at different steps"
    return found


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("first_slot", [0, 2, 4])
def test_documents_with_ends_of_their_own_do_not_mix(num_beams: int, first_slot: int) -> None:
    """The same with the search state in the runner's buffer, where the model decides about the ends."""
    alone = by_steps(num_beams)
    first, *others = sorted(alone)[:5]
    order = [*others[:first_slot], first, *others[first_slot:]]
    config = GenerationConfig(num_beams=num_beams, **OWN_ENDS)
    scheduler = Scheduler(model(12.0), config, SchedulerLimits(max_num_seqs=5))
    assert is_capturable(scheduler)
    scheduler._runner = runner_of(scheduler, 5, num_beams, 61, 2**30)
    found = dict(scheduler.run([alone[n][0] for n in order]))
    assert [found[i].sequences for i in range(5)] == [alone[n][1] for n in order]
