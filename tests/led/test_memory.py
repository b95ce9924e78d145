"""What a document is said to hold is what it holds, and the loop keeps to its budget without changing an answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from led import memory
from led.generation import DecodingLimits, DecodingLoop
from led.generation_config import GenerationConfig
from led.memory import decoding_bytes, free_bytes
from led.packing import pack_documents
from led.stepper import EagerStepper
from led.testing import tiny_model

LENGTHS = (50, 3, 120, 40, 7, 90, 11)
CONFIG = GenerationConfig(num_beams=3, max_new_tokens=12)


def loop_of(limits: DecodingLimits | None = None) -> DecodingLoop:
    return DecodingLoop(tiny_model(seed=1), CONFIG, limits)


def decode(limits: DecodingLimits | None) -> tuple[dict[int, list[list[int]]], list[list[int]]]:
    """What every document writes, and the lengths of the documents that were together at each step."""
    loop, together, step = loop_of(limits), [], None
    step = loop._step

    def watched() -> object:
        together.append([len(document.input_ids) for document in loop._active])
        return step()

    loop._step = watched  # type: ignore[method-assign, assignment]
    documents = (pack_documents([range(5, 5 + n)] if n <= 90 else [[5 + i % 90 for i in range(n)]], [[0]]) for n in LENGTHS)
    return {i: result.sequences for i, result in loop.run(documents)}, together


def test_the_loop_keeps_to_its_budget_and_a_document_beyond_it_goes_alone() -> None:
    config = tiny_model().config
    need = {n: decoding_bytes(config, n, rows=3, max_length=13, bytes_per_number=4) for n in LENGTHS}
    free, _ = decode(DecodingLimits(memory_bytes=2**40))
    for budget in (1, need[50] + need[3], need[50] + need[40], sum(need.values())):
        found, together = decode(DecodingLimits(memory_bytes=budget))
        assert found == free
        assert all(len(lengths) == 1 or sum(need[n] for n in lengths) <= budget for lengths in together)
    assert max(map(len, together)) == len(LENGTHS)
    assert decode(None)[0] == free


def test_a_document_holds_what_it_is_said_to_hold() -> None:
    loop = loop_of()
    loop._admit([(0, pack_documents([range(5, 60)], [[0]]))])
    for _ in range(5):
        loop._step()
    assert isinstance(loop._stepper, EagerStepper)
    cache = loop._stepper._cache
    held = sum(memory.nbytes for memory in cache.memories)
    rows = sum(x.nbytes for pair in (cache.past.layer(i) for i in range(2)) for x in pair or ())
    assert held + rows == decoding_bytes(loop.model.config, 55, rows=3, max_length=5, bytes_per_number=4)


def test_what_is_free_is_the_least_of_machine_and_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_bytes(torch.device("cpu")) > 2**20
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert free_bytes(torch.device("cpu")) == 500 * 1024
    for limit, expected in (("max", 500 * 1024), ("300000", 200000), ("50000", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("100000\n")
        assert free_bytes(torch.device("cpu")) == expected
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    (tmp_path / "memory.max").unlink()
    assert free_bytes(torch.device("cpu")) == 2**33


@pytest.mark.parametrize("limit", ["documents", "encoder_tokens", "memory_bytes"])
def test_a_limit_below_one_is_refused(limit: str) -> None:
    with pytest.raises(ValueError, match=f"{limit} is 0; it must be at least 1"):
        DecodingLimits(**{limit: 0})
