"""What a document is said to hold is what it holds, and the loop keeps to its budget without changing an
answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from led.batch.packed_batch import pack_documents
from led.generation import memory_budget as memory
from led.generation.config import GenerationConfig
from led.generation.memory_budget import (
    available_bytes,
    cpus_within_quota,
    free_bytes,
    kv_cache_bytes,
    usable_cpus,
)
from led.generation.runner import EagerRunner
from led.generation.scheduler import Scheduler, SchedulerLimits
from led.testing import tiny_model

LENGTHS = (50, 3, 120, 40, 7, 90, 11)
CONFIG = GenerationConfig(num_beams=3, max_new_tokens=12)


def loop_of(limits: SchedulerLimits | None = None) -> Scheduler:
    return Scheduler(tiny_model(seed=1), CONFIG, limits)


def decode(limits: SchedulerLimits | None) -> tuple[dict[int, list[list[int]]], list[list[int]]]:
    """What every document writes, and the lengths of the documents that were together at each step."""
    loop, together, step = loop_of(limits), [], None
    step = loop._step

    def watched() -> object:
        together.append([len(document.input_ids) for document in loop._active])
        return step()

    loop._step = watched  # type: ignore[method-assign, assignment]
    documents = (
        pack_documents([range(5, 5 + n)] if n <= 90 else [[5 + i % 90 for i in range(n)]], [[0]])
        for n in LENGTHS
    )
    return {i: result.sequences for i, result in loop.run(documents)}, together


def test_the_loop_keeps_to_its_budget_and_a_document_beyond_it_goes_alone() -> None:
    config = tiny_model().config
    need = {n: kv_cache_bytes(config, n, rows=3, max_length=13, bytes_per_number=4) for n in LENGTHS}
    free, _ = decode(SchedulerLimits(memory_bytes=2**40))
    for budget in (1, need[50] + need[3], need[50] + need[40], sum(need.values())):
        found, together = decode(SchedulerLimits(memory_bytes=budget))
        assert found == free
        assert all(len(lengths) == 1 or sum(need[n] for n in lengths) <= budget for lengths in together)
    assert max(map(len, together)) == len(LENGTHS)
    assert decode(None)[0] == free


def test_a_document_holds_what_it_is_said_to_hold() -> None:
    loop = loop_of()
    loop._admit([(0, pack_documents([range(5, 60)], [[0]]))])
    for _ in range(5):
        loop._step()
    assert isinstance(loop._stepper, EagerRunner)
    cache = loop._stepper._cache
    held = sum(memory.nbytes for memory in cache.memories)
    rows = sum(x.nbytes for pair in (cache.past.layer(i) for i in range(2)) for x in pair or ())
    assert held + rows == kv_cache_bytes(loop.model.config, 55, rows=3, max_length=5, bytes_per_number=4)


def test_a_document_that_is_remembered_in_another_type_holds_less() -> None:
    loop = loop_of()
    loop.model.led.decoder.remember_in_bfloat16()
    assert isinstance(loop._stepper, EagerRunner)
    config = loop.model.config
    assert loop._stepper._bytes(55) == kv_cache_bytes(config, 55, 0, 0, 2) + kv_cache_bytes(
        config, 0, 3, 13, 4
    )
    loop._admit([(0, pack_documents([range(5, 60)], [[0]]))])
    remembered = sum(memory.nbytes for memory in loop._stepper._cache.memories)
    assert remembered == kv_cache_bytes(config, 55, 0, 0, 2)


def test_what_is_free_is_the_least_of_machine_and_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert free_bytes(torch.device("cpu")) > 2**20
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert free_bytes(torch.device("cpu")) == 500 * 1024
    for limit, expected in (("max", 500 * 1024), ("300000", 200000), ("50000", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("100000\n")
        assert free_bytes(torch.device("cpu")) == expected
    (tmp_path / "memory.stat").write_text("anon 20000\ninactive_file 80000\n")
    (tmp_path / "memory.max").write_text("50000\n")
    assert free_bytes(torch.device("cpu")) == 30000
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    (tmp_path / "memory.max").unlink()
    assert free_bytes(torch.device("cpu")) == 2**33


def test_file_pages_that_lie_idle_are_free() -> None:
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
        (4, "", 4),
        (4, "nonsense", 4),
        (4, "100000", 4),
    ],
)
def test_cpus_are_those_of_the_container(bound: int, line: str, expected: int) -> None:
    assert cpus_within_quota(bound, [line]) == expected and cpus_within_quota(bound, []) == bound


def test_cpus_are_read_where_the_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5}, raising=False)
    assert usable_cpus() == 4
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    assert usable_cpus() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert usable_cpus() == 2


@pytest.mark.parametrize("limit", ["documents", "max_num_batched_tokens", "memory_bytes"])
def test_a_limit_below_one_is_refused(limit: str) -> None:
    with pytest.raises(ValueError, match=f"{limit} is 0; it must be at least 1"):
        SchedulerLimits(**{limit: 0})
