"""Steps over pages and fixed rows give what steps over a growing cache give; recorded as CUDA graphs where
there is a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from led.batch.packed_batch import PackedBatch, pack_documents
from led.generation.config import GenerationConfig
from led.generation.cuda_graph_runner import CudaGraphRunner
from led.generation.logits_processors import may_be_recorded, on_device
from led.generation.memory_budget import kv_cache_bytes
from led.generation.scheduler import Scheduler, SchedulerLimits
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


def model(**changes: Any) -> LEDForConditionalGeneration:
    return tiny_model(max_encoder_position_embeddings=1024, max_decoder_position_embeddings=128, **changes)


def generated(loop: Scheduler, stepper: CudaGraphRunner | None = None) -> dict[int, list[list[int]]]:
    if stepper is not None:
        loop._stepper = stepper
    return {number: result.sequences for number, result in loop.run(documents())}


def loop_and_stepper(
    settings: dict[str, Any], in_flight: int, memory_bytes: int = 2**30, prompt: list[int] | None = None
) -> tuple[Scheduler, CudaGraphRunner]:
    loop = Scheduler(
        model(), GenerationConfig().updated(**settings), SchedulerLimits(documents=in_flight), prompt
    )
    rows = max(settings.get("num_beams", 1), settings.get("num_return_sequences", 1))
    longest = len(loop.prompt) + settings["max_new_tokens"]
    return loop, stepper_of(loop, in_flight, rows, longest, memory_bytes)


def stepper_of(
    loop: Scheduler, in_flight: int, rows: int, longest: int, memory_bytes: int
) -> CudaGraphRunner:
    search = loop._search if may_be_recorded(loop.config, (), None) else None
    return CudaGraphRunner(loop.model, search, in_flight, rows, longest, memory_bytes)


@pytest.mark.parametrize("in_flight", [1, 3, 16])
@pytest.mark.parametrize("settings", MODES.values(), ids=MODES.keys())
def test_pages_give_what_a_growing_cache_gives(settings: dict[str, Any], in_flight: int) -> None:
    loop, stepper = loop_and_stepper(settings, in_flight)
    expected = generated(Scheduler(model(), loop.config, SchedulerLimits(documents=3)))
    assert generated(loop, stepper) == expected


def test_a_prompt_is_written_before_the_first_step() -> None:
    prompt = [2, 7, 11]
    loop, stepper = loop_and_stepper(MODES["beams"], 3, prompt=prompt)
    expected = generated(Scheduler(model(), loop.config, SchedulerLimits(documents=3), prompt))
    assert generated(loop, stepper) == expected
    assert all(row[:3] == prompt for rows in expected.values() for row in rows)


def test_hidden_tokens_take_no_page_and_a_document_of_them_is_read_evenly() -> None:
    hidden = torch.ones(600, dtype=torch.bool)
    hidden[10:500] = False
    ids = torch.randint(3, 99, (600,), generator=torch.Generator().manual_seed(2))
    nothing = torch.zeros(600, dtype=torch.bool)
    batches = [PackedBatch(ids, (0, 600), nothing, shown, shown) for shown in (hidden, nothing)]
    loop, stepper = loop_and_stepper(MODES["beams"], 2)
    expected = {n: r.sequences for n, r in Scheduler(model(), loop.config).run(batches)}
    loop._stepper = stepper
    assert {n: r.sequences for n, r in loop.run(batches)} == expected


def test_pages_come_back_and_bound_what_is_held() -> None:
    """A pool of the longest document's pages decodes everything, and is whole again at the end."""
    loop, stepper = loop_and_stepper(MODES["beams"], 10, memory_bytes=1)
    pool = stepper._memories
    assert len(pool._free) == pages_for(1024) == 4
    assert stepper.has_room([700, 1]) and not stepper.has_room([700, 300])
    expected = generated(Scheduler(model(), loop.config))
    assert generated(loop, stepper) == expected
    assert sorted(pool._free) == [0, 1, 2, 3]


def test_the_pool_takes_the_memory_it_is_given() -> None:
    loop, _ = loop_and_stepper(MODES["beams"], 10)
    given = kv_cache_bytes(loop.model.config, 12 * 256, 0, 0, 4) + 10 * kv_cache_bytes(
        loop.model.config, 0, 4, 41, 4
    )
    assert len(stepper_of(loop, 10, 4, 41, given)._memories._free) == 12
    assert len(stepper_of(loop, 10, 4, 41, 2**40)._memories._free) == 10 * 4


@ON_GPU
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("settings", MODES.values(), ids=MODES.keys())
def test_recorded_steps_give_the_cpu_s_tokens(settings: dict[str, Any], packed: bool) -> None:
    """With heads of 16, which our kernels take. Chance is another on a GPU, so sampled texts are only as many
    and as long."""
    config = GenerationConfig().updated(**settings)
    expected = generated(Scheduler(model(d_model=64), config))
    on_gpu = model(d_model=64).to("cuda")
    found = generated(Scheduler(on_gpu.pack() if packed else on_gpu, config, SchedulerLimits(documents=3)))
    if settings.get("do_sample"):
        assert [(n, len(rows)) for n, rows in sorted(found.items())] == [
            (n, len(rows)) for n, rows in sorted(expected.items())
        ]
    else:
        assert found == expected


def test_a_row_may_be_as_long_as_the_decoder_has_positions() -> None:
    """48 are no multiple of a bucket; the token behind the last position is written and never fed."""
    short = tiny_model(max_encoder_position_embeddings=1024, max_decoder_position_embeddings=48)
    config = GenerationConfig().updated(num_beams=2, max_new_tokens=48, min_new_tokens=48)
    expected = generated(Scheduler(short, config))
    loop = Scheduler(short, config)
    assert generated(loop, stepper_of(loop, 4, 2, len(loop.prompt) + 48, 2**30)) == expected


def test_what_recorded_rules_read_stays_where_it_was() -> None:
    """A recorded step keeps addresses, so none of these may be made again."""
    words = [[[i, j]] for i in range(3, 23) for j in range(3, 23)]
    first = [on_device(tuple(word[0]), torch.device("cpu")).data_ptr() for word in words]
    assert [on_device(tuple(word[0]), torch.device("cpu")).data_ptr() for word in words] == first


@pytest.mark.parametrize("paged", [False, True])
def test_a_loop_that_was_left_begins_anew(paged: bool) -> None:
    loop, stepper = loop_and_stepper(MODES["beams"], 3)
    expected = generated(Scheduler(loop.model, loop.config, SchedulerLimits(documents=3)))
    if paged:
        loop._stepper = stepper
    next(loop.run(reversed(documents())))
    assert dict((number, result.sequences) for number, result in loop.run(documents())) == expected
