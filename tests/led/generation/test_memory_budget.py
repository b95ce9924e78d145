"""The estimated KV cache of a document is what it takes, and the scheduler obeys its memory limit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from led.batch.packed_batch import pack_documents
from led.generation import memory_budget
from led.generation.config import GenerationConfig
from led.generation.limits import SchedulerLimits
from led.generation.memory_budget import (
    available_bytes,
    cpus_within_quota,
    free_bytes,
    kv_cache_bytes,
    usable_cpus,
)
from led.generation.runner import EagerRunner, SelectTokens
from led.generation.scheduler import Request, Scheduler
from led.generation.search import Search, StepOutput
from led.testing import tiny_model

LENGTHS = (50, 3, 120, 40, 7, 90, 11)
CONFIG = GenerationConfig(num_beams=3, max_new_tokens=12)


def scheduler_of(limits: SchedulerLimits | None = None) -> Scheduler:
    return Scheduler(tiny_model(seed=1, scale=12), CONFIG, limits)


def decode(limits: SchedulerLimits | None) -> tuple[dict[int, list[list[int]]], list[list[int]]]:
    """The sequences of every document, and the lengths of the documents decoded together at each step."""
    scheduler, together = scheduler_of(limits), []
    step = scheduler._runner.step

    def watched(search: Search, select: SelectTokens) -> StepOutput:
        together.append([len(document.input_ids) for document in scheduler._active])
        return step(search, select)

    scheduler._runner.step = watched  # type: ignore[method-assign]
    documents = (
        pack_documents([range(5, 5 + n)] if n <= 90 else [[5 + i % 90 for i in range(n)]], [[0]])
        for n in LENGTHS
    )
    return {i: hypotheses.sequences for i, hypotheses in scheduler.run(documents)}, together


def test_the_scheduler_obeys_memory_bytes_and_decodes_a_larger_document_alone() -> None:
    config = tiny_model().config
    need = {n: kv_cache_bytes(config, n, rows=3, max_length=13, itemsize=4) for n in LENGTHS}
    free, _ = decode(SchedulerLimits(memory_bytes=2**40))
    assert len({str(rows) for rows in free.values()}) == len(LENGTHS), (
        "the documents must have different texts"
    )
    for budget in (1, need[50] + need[3], need[50] + need[40], sum(need.values())):
        found, together = decode(SchedulerLimits(memory_bytes=budget, max_ahead_tokens=0))
        assert found == free
        assert all(len(lengths) == 1 or sum(need[n] for n in lengths) <= budget for lengths in together)
    assert max(map(len, together)) == len(LENGTHS)
    assert decode(None)[0] == free


def test_the_estimate_has_two_numbers_per_layer_and_dimension() -> None:
    config = replace(tiny_model().config, decoder_layers=3)
    assert kv_cache_bytes(config, 7, rows=2, max_length=5, itemsize=4) == 2 * 3 * 32 * (7 * 4 + 2 * 5 * 4)
    assert kv_cache_bytes(config, 7, 2, 5, 4, cross_itemsize=2) == 2 * 3 * 32 * (7 * 2 + 2 * 5 * 4)


def test_a_document_takes_the_estimated_bytes() -> None:
    scheduler = scheduler_of()
    scheduler._encode([(0, Request(pack_documents([range(5, 60)], [[0]])))])
    scheduler._admit([scheduler._encoded.popleft()])
    for _ in range(5):
        scheduler._retire(scheduler._runner.step(scheduler._search, scheduler._select_tokens))
    assert isinstance(scheduler._runner, EagerRunner)
    cache = scheduler._runner._cache
    held = sum(document.nbytes for document in cache.cross_attention)
    rows = sum(x.nbytes for pair in (cache.self_attention.layer(i) for i in range(2)) for x in pair or ())
    assert held + rows == kv_cache_bytes(scheduler.model.config, 55, rows=3, max_length=5, itemsize=4)


def test_cross_attention_in_bfloat16_takes_less() -> None:
    scheduler = scheduler_of()
    scheduler.model.led.decoder.cross_attention_in_bfloat16()
    assert isinstance(scheduler._runner, EagerRunner)
    config = scheduler.model.config
    assert scheduler._runner._bytes_of(55) == kv_cache_bytes(config, 55, 0, 0, 2) + kv_cache_bytes(
        config, 0, 3, 13, 4
    )
    scheduler._encode([(0, Request(pack_documents([range(5, 60)], [[0]])))])
    scheduler._admit([scheduler._encoded.popleft()])
    held = sum(document.nbytes for document in scheduler._runner._cache.cross_attention)
    assert held == kv_cache_bytes(config, 55, 0, 0, 2)


def test_free_memory_is_the_smaller_of_machine_and_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert free_bytes(torch.device("cpu")) > 2**20
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    monkeypatch.setattr(memory_budget, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory_budget, "_CGROUP", tmp_path)
    assert free_bytes(torch.device("cpu")) == 500 * 1024
    for limit, expected in (("max", 500 * 1024), ("300000", 200000), ("50000", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("100000\n")
        assert free_bytes(torch.device("cpu")) == expected
    (tmp_path / "memory.stat").write_text("anon 20000\ninactive_file 80000\n")
    (tmp_path / "memory.max").write_text("50000\n")
    assert free_bytes(torch.device("cpu")) == 30000
    monkeypatch.setattr(memory_budget, "_MEMINFO", tmp_path / "none")
    (tmp_path / "memory.max").unlink()
    assert free_bytes(torch.device("cpu")) == 2**33


def test_free_memory_of_a_gpu_is_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 9))
    assert free_bytes(torch.device("cuda")) == 5


def test_inactive_file_pages_are_free() -> None:
    stat = ["anon 50000", "file 45000", "active_file 5000", "inactive_file 40000", "total_inactive_file 9"]
    assert available_bytes([], ["300000"], ["100000"], stat) == 240000
    assert available_bytes([], ["50000"], ["100000"], stat) == 0
    assert available_bytes([], ["50000"], ["30000"], stat) == 50000  # read a moment after the other
    assert available_bytes(["MemAvailable:  100 kB"], ["max"], ["100000"], stat) == 100 * 1024
    assert available_bytes([], [], [], []) == 2**33


@pytest.mark.parametrize(
    ("bound", "line", "expected"),
    [
        (8, "max 100000", 8),
        (8, "200000 100000", 2),
        (8, "150000 100000", 1),
        (8, "50000 100000", 1),
        (2, "400000 100000", 2),
        (1, "max 100000", 1),
        (4, "", 4),
        (4, "nonsense", 4),
        (4, "100000", 4),
    ],
)
def test_cpus_are_limited_by_the_container(bound: int, line: str, expected: int) -> None:
    assert cpus_within_quota(bound, [line]) == expected and cpus_within_quota(bound, []) == bound


def test_cpus_are_limited_by_the_affinity_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_budget, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", {0: {0, 1, 2, 5}}.__getitem__, raising=False)
    assert usable_cpus() == 4
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    assert usable_cpus() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    for count, expected in ((2, 2), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert usable_cpus() == expected


@pytest.mark.parametrize("limit", ["max_num_seqs", "max_num_batched_tokens", "memory_bytes"])
def test_a_limit_below_one_is_refused(limit: str) -> None:
    with pytest.raises(ValueError, match=f"{limit} is 0; it must be at least 1"):
        SchedulerLimits(**{limit: 0})
