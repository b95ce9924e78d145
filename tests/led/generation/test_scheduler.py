"""The scheduler obeys its limits. They change no result, whichever documents share a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from led.batch.packed_batch import PackedBatch, pack_documents
from led.generation.config import GenerationConfig
from led.generation.limits import SchedulerLimits
from led.generation.runner import EagerRunner, SelectTokens
from led.generation.scheduler import Request, Scheduler
from led.generation.search import BeamSearch, GreedySearch, Search, StepOutput
from led.testing import tiny_model

LENGTHS = [40, 3, 128, 5, 60, 7, 50, 9, 100, 20, 20, 20]
MODES: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3, "no_repeat_ngram_size": 1},
    "greedy": {"no_repeat_ngram_size": 1},
}


def documents() -> list[PackedBatch]:
    generator = torch.Generator().manual_seed(2)
    return [
        pack_documents([torch.randint(3, 99, (n,), generator=generator).tolist()], [[0]]) for n in LENGTHS
    ]


def end_of(number: int) -> int:
    """New tokens of a document: 3 to 12, in no order."""
    return 3 + 7 * number % 10


def scheduler_of(mode: str, limits: SchedulerLimits | None, first: int = 0, ahead: int = 0) -> Scheduler:
    """A scheduler whose document i ends after `end_of(first + i)` tokens, and which encodes documents of at
    most `ahead` tokens before there are slots for them."""

    def allowed(number: int, input_ids: Tensor) -> list[int]:
        return [2] if len(input_ids) == end_of(first + number) else list(range(3, 99))

    config = GenerationConfig(max_new_tokens=20, decoder_start_token_id=0, **MODES[mode])
    limits = replace(limits or SchedulerLimits(), max_ahead_tokens=ahead)
    return Scheduler(tiny_model(scale=16), config, limits, prefix_allowed_tokens_fn=allowed)


class Recorder:
    """Records each encoder batch, as the lengths of its documents, and each step.

    A step is recorded as the documents in slots, and the documents encoded so far.
    """

    def __init__(self, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[list[int]] = []
        self.steps: list[tuple[int, int]] = []
        encode, step = scheduler.model.led.encoder.encode, scheduler._runner.step

        def record_encode(batch: PackedBatch, inputs_embeds: Tensor | None) -> Tensor:
            self.batches.append(batch.lengths)
            return encode(batch, inputs_embeds)

        def record_step(search: Search, select: SelectTokens) -> StepOutput:
            self.steps.append((len(scheduler._active), sum(map(len, self.batches))))
            return step(search, select)

        monkeypatch.setattr(scheduler.model.led.encoder, "encode", record_encode)
        monkeypatch.setattr(scheduler._runner, "step", record_step)


@pytest.fixture(scope="module")
def alone() -> dict[str, list[tuple[list[list[int]], list[float]]]]:
    """Sequences and scores of each document that is decoded alone."""
    results: dict[str, list[tuple[list[list[int]], list[float]]]] = {}
    for mode in MODES:
        results[mode] = []
        for number, document in enumerate(documents()):
            [(_, hypotheses)] = scheduler_of(mode, None, number).run([document])
            results[mode].append((hypotheses.sequences, hypotheses.scores))
    assert len({str(sequences) for sequences, _ in results["beams"]}) >= 10, (
        "the documents must have different texts"
    )
    return results


@pytest.mark.parametrize("max_num_seqs", [1, 2, 5, 12, 40])
@pytest.mark.parametrize("mode", MODES)
def test_max_num_seqs_is_obeyed_and_changes_no_result(
    mode: str, max_num_seqs: int, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(mode, SchedulerLimits(max_num_seqs=max_num_seqs))
    recorder = Recorder(scheduler, monkeypatch)
    found = dict(scheduler.run(documents()))
    assert recorder.batches[0] == LENGTHS[:max_num_seqs]
    assert max(in_slots for in_slots, _ in recorder.steps) == min(max_num_seqs, len(LENGTHS))
    # While documents are waiting, a free slot is filled before the next step.
    assert all(in_slots == max_num_seqs for in_slots, encoded in recorder.steps if encoded < len(LENGTHS))
    assert [n for batch in recorder.batches for n in batch] == LENGTHS
    for number, (sequences, scores) in enumerate(alone[mode]):
        assert found[number].sequences == sequences
        assert found[number].scores == pytest.approx(scores, rel=1e-4)


@pytest.mark.parametrize("max_num_batched_tokens", [1, 50, 63, 64, 100, 128, 10_000])
def test_max_num_batched_tokens_is_obeyed_and_changes_no_result(
    max_num_batched_tokens: int, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch holds as many documents as fit. A longer document is a batch of its own."""
    limits = SchedulerLimits(max_num_seqs=16, max_num_batched_tokens=max_num_batched_tokens)
    scheduler = scheduler_of("beams", limits)
    recorder = Recorder(scheduler, monkeypatch)
    found = dict(scheduler.run(documents()))
    batches = recorder.batches
    assert [n for batch in batches for n in batch] == LENGTHS
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        assert sum(batch) <= max_num_batched_tokens or len(batch) == 1
        assert following is None or sum(batch) + following[0] > max_num_batched_tokens
    for number, (sequences, _) in enumerate(alone["beams"]):
        assert found[number].sequences == sequences


def test_a_document_as_long_as_the_token_limit_shares_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = scheduler_of("greedy", SchedulerLimits(max_num_seqs=16, max_num_batched_tokens=60))
    recorder = Recorder(scheduler, monkeypatch)
    dict(scheduler.run(documents()))
    assert recorder.batches == [[40, 3], [128], [5], [60], [7, 50], [9], [100], [20, 20, 20]]


def test_documents_are_taken_only_when_there_is_room() -> None:
    """A document is read from the iterable when a slot is free, never earlier."""
    taken = []

    def watched() -> Iterator[PackedBatch]:
        for number, document in enumerate(documents()):
            taken.append(number)
            yield document

    scheduler = scheduler_of("greedy", SchedulerLimits(max_num_seqs=3))
    finished = 0
    for _ in scheduler.run(watched()):
        finished += 1
        assert len(taken) <= finished + 3
    assert finished == len(taken) == len(LENGTHS)


def test_steps_and_slots_are_counted() -> None:
    scheduler = scheduler_of("greedy", SchedulerLimits(max_num_seqs=4))
    dict(scheduler.run(documents()))
    measured = scheduler.measured
    assert measured["document_steps"] == sum(end_of(i) for i in range(len(LENGTHS)))
    assert measured["slot_steps"] == 4 * measured["steps"]
    assert measured["encode_seconds"] > 0 and measured["decode_seconds"] > 0


def test_scores_of_beams_are_logarithms_of_probabilities() -> None:
    config = GenerationConfig(num_beams=3, num_return_sequences=3, max_new_tokens=5, decoder_start_token_id=0)
    [(_, hypotheses)] = Scheduler(tiny_model(scale=16), config).run(documents()[:1])
    assert len(hypotheses.scores) == 3 and all(score < 0 for score in hypotheses.scores)


def test_the_attention_is_that_of_the_best_sequence() -> None:
    profiles = []
    for returned in (1, 3):
        config = GenerationConfig(
            num_beams=3, num_return_sequences=returned, max_new_tokens=5, decoder_start_token_id=0
        )
        [(_, hypotheses)] = Scheduler(tiny_model(scale=16), config, attention=True).run(documents()[:1])
        profiles.append(hypotheses.attention.tolist())
    assert len(profiles[0]) == len(documents()[0].is_global)
    assert profiles[1] == pytest.approx(profiles[0])


def test_seconds_of_encoding_and_decoding_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, seconds = scheduler_of("greedy", SchedulerLimits(max_num_seqs=4)), count(1, 2)
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    dict(scheduler.run(documents()))
    measured = scheduler.measured
    assert measured["encode_seconds"] == measured["decode_seconds"] == 2 * measured["steps"] > 0


@pytest.mark.parametrize(
    ("num_beams", "search"), [(1, GreedySearch), (2, BeamSearch), (3, BeamSearch)], ids=["1", "2", "3"]
)
def test_two_beams_or_more_are_a_beam_search(num_beams: int, search: type[Search]) -> None:
    scheduler = Scheduler(tiny_model(), GenerationConfig(num_beams=num_beams, max_new_tokens=4))
    assert isinstance(scheduler._search, search) and isinstance(scheduler._runner, EagerRunner)
    assert scheduler._uses_beams == (num_beams > 1) and scheduler._rows == num_beams


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", (16, 16384)), ("cuda", (256, 131072))], ids=["cpu", "cuda"]
)
def test_the_device_decides_about_limits_that_are_not_given(device: str, expected: tuple[int, int]) -> None:
    def in_force(limits: SchedulerLimits) -> tuple[int, int]:
        return limits.num_seqs(device), limits.num_batched_tokens(device)

    assert in_force(SchedulerLimits()) == expected
    assert in_force(SchedulerLimits(3, 40, 7)) == (3, 40)


@pytest.mark.parametrize(
    "mode",
    [
        {"num_beams": 3},
        {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0},
        {"num_beams": 2, "forced_eos_token_id": 2, "no_repeat_ngram_size": 2},
        {},
        {"forced_eos_token_id": 2},
        {"do_sample": True, "seed": 5, "num_return_sequences": 2},
    ],
    ids=str,
)
def test_a_document_may_have_a_limit_of_its_own(mode: dict[str, Any]) -> None:
    """The result is that of a config with this limit, whatever limits the documents beside it have."""
    model, several = tiny_model(scale=16), documents()
    config = GenerationConfig(max_new_tokens=12, decoder_start_token_id=0, **mode)
    limits = [None, 1, 5, 12, 40, 3, 2, None, 7, 11, 4, 6]
    requests = [Request(each, limit) for each, limit in zip(several, limits, strict=True)]
    found = dict(Scheduler(model, config, SchedulerLimits(max_num_seqs=4)).run(requests))
    for i, (document, limit) in enumerate(zip(several, limits, strict=True)):
        alone = config.updated(max_new_tokens=min(limit or 12, 12))
        [(_, expected)] = Scheduler(model, alone).run([document])
        assert found[i].sequences == expected.sequences
        assert found[i].scores == pytest.approx(expected.scores, rel=1e-5)
    with pytest.raises(ValueError, match="max_new_tokens is 0; it must be at least 1"):
        Request(several[0], 0)


def test_documents_may_wait_for_results() -> None:
    """A document that depends on the first result is admitted when that is there, beside others."""
    scheduler, several = scheduler_of("beams", SchedulerLimits(max_num_seqs=3)), documents()[:4]
    finished: list[int] = []

    def requests() -> Iterator[PackedBatch | None]:
        yield from several[:3]
        while not finished:
            yield None
        yield several[3]

    for number, _ in scheduler.run(requests()):
        finished.append(number)
    assert sorted(finished) == [0, 1, 2, 3] and finished[0] != 3
    with pytest.raises(RuntimeError, match="wait for a result, and none is being decoded"):
        list(scheduler.run([None]))


@pytest.mark.parametrize("max_num_seqs", [1, 2, 5])
@pytest.mark.parametrize("ahead", [20, 70, 1000])
@pytest.mark.parametrize("mode", MODES)
def test_documents_encoded_ahead_get_the_same_and_fill_the_slots(
    mode: str,
    ahead: int,
    max_num_seqs: int,
    alone: dict[str, list[tuple[list[list[int]], list[float]]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = SchedulerLimits(max_num_seqs=max_num_seqs)
    scheduler = scheduler_of(mode, limits, ahead=ahead)
    record = Recorder(scheduler, monkeypatch)
    found = dict(scheduler.run(documents()))
    for number, (sequences, scores) in enumerate(alone[mode]):
        assert found[number].sequences == sequences
        assert found[number].scores == pytest.approx(scores, abs=1e-4)
    for first, lengths in enumerate(record.batches):
        slots = max_num_seqs if first == 0 else 1
        assert sum(lengths[max_num_seqs:]) <= ahead and len(lengths) >= min(slots, 1)
    waiting = len(LENGTHS)
    for active, encoded in record.steps:
        assert active == min(max_num_seqs, waiting)
        waiting -= 0
        assert encoded >= active
        if encoded == len(LENGTHS):
            break
    if ahead == 1000:  # all that a batch of 16,384 tokens holds
        assert record.batches == [LENGTHS]


def test_nothing_held_exceeds_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """KV caches and encoder states of documents without a slot, at each step."""
    limits = SchedulerLimits(max_num_seqs=5, memory_bytes=400_000)
    scheduler = scheduler_of("beams", limits, ahead=150)
    runner, step, held = scheduler._runner, scheduler._runner.step, []
    assert isinstance(runner, EagerRunner)

    def watched(search: Search, select: SelectTokens) -> StepOutput:
        cache = runner._cache
        rows = (cache.self_attention.layer(i) for i in range(2))
        states = (request.document.encoder_states for _, request in scheduler._encoded)
        storages = {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in states if x is not None
        }
        caches = sum(document.nbytes for document in cache.cross_attention)
        own = sum(x.nbytes for pair in rows for x in pair or ())
        held.append((caches + own, sum(storages.values()), len(scheduler._active)))
        return step(search, select)

    monkeypatch.setattr(runner, "step", watched)
    assert len(dict(scheduler.run(documents()))) == len(LENGTHS)
    assert max(active for _, _, active in held) > 1 and max(ahead for _, ahead, _ in held) > 0
    assert all(caches + ahead <= 400_000 for caches, ahead, _ in held)
