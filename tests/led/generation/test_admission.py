"""Which documents are encoded together, and how many ahead of their slots."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from led.generation.admission import AdmissionRules, EncodingCosts, Pack
from led.generation.limits import SchedulerLimits


def pack_of(lengths: Sequence[int], slots: int, max_tokens: int, ahead: int) -> int:
    """The number of documents that join."""
    pack = Pack(AdmissionRules(max_tokens, ahead), slots)
    for length in lengths:
        if not pack.accepts(length):
            break
        pack.add(length)
    return pack.documents


@pytest.mark.parametrize(
    ("lengths", "slots", "max_tokens", "ahead", "expected"),
    [
        ([10] * 9, 3, 1000, 0, 3),  # one for each slot
        ([10] * 9, 3, 1000, 25, 5),  # and those of 25 tokens
        ([10] * 9, 3, 40, 1000, 4),  # within the batch
        ([500, 10], 3, 40, 40, 1),  # a longer one alone
        ([10, 500], 3, 40, 40, 1),
        ([10, 30, 10], 1, 1000, 25, 1),  # in order: no later document is preferred
        ([10] * 9, 0, 1000, 25, 2),
        ([], 3, 40, 40, 0),
    ],
)
def test_a_pack_takes_documents_for_its_slots_and_some_ahead(
    lengths: list[int], slots: int, max_tokens: int, ahead: int, expected: int
) -> None:
    assert pack_of(lengths, slots, max_tokens, ahead) == expected


@given(
    st.lists(st.integers(1, 50), max_size=20),
    st.integers(1, 6),
    st.integers(1, 200),
    st.integers(0, 100),
)
def test_a_pack_keeps_its_limits(lengths: list[int], slots: int, max_tokens: int, ahead: int) -> None:
    count = pack_of(lengths, slots, max_tokens, ahead)
    assert count >= min(1, len(lengths))
    assert count <= 1 or sum(lengths[:count]) <= max_tokens
    assert sum(lengths[slots:count]) <= ahead


def test_a_group_is_so_large_that_its_fixed_time_is_a_small_share() -> None:
    costs = EncodingCosts(fixed_s=0.01, token_s=1e-5)
    tokens = costs.group_tokens(0.05)
    assert costs.fixed_s / costs.seconds(tokens) == pytest.approx(0.05, rel=1e-3)
    assert EncodingCosts(0, 1e-5).group_tokens(0.05) == 0


@pytest.mark.parametrize(
    ("limits", "device", "memory", "expected"),
    [
        (SchedulerLimits(), "cuda", 2**36, 131072),  # the whole batch
        (SchedulerLimits(max_num_batched_tokens=5000), "cuda", 2**36, 5000),
        (SchedulerLimits(max_ahead_tokens=700), "cuda", 2**36, 700),
        (SchedulerLimits(max_ahead_tokens=0), "cuda", 2**36, 0),
        (SchedulerLimits(), "cuda", 8000 * 50, 50),  # an eighth of the memory
    ],
)
def test_documents_ahead_have_as_many_tokens_as_device_and_memory_allow(
    limits: SchedulerLimits, device: str, memory: int, expected: int
) -> None:
    assert AdmissionRules.for_device(limits, device, 1000, memory).ahead_tokens == expected


def test_on_a_cpu_only_short_documents_are_encoded_ahead() -> None:
    assert 0 < AdmissionRules.for_device(SchedulerLimits(), "cpu", 1000, 2**36).ahead_tokens < 1024


@pytest.mark.parametrize(
    ("limits", "device", "memory", "expected"),
    [
        (SchedulerLimits(), "cpu", 10, 16),
        (SchedulerLimits(max_num_seqs=3), "cuda", 2**40, 3),
        (SchedulerLimits(max_num_seqs=100), "cuda", 10, 100),
        (SchedulerLimits(), "cuda", 2**40, 256),
        (SchedulerLimits(), "cuda", 4 * 150 * 1000, 128),  # 150 fit, and a power of two is captured
        (SchedulerLimits(), "cuda", 10, 8),
    ],
)
def test_a_gpu_has_as_many_slots_as_a_quarter_of_its_memory_holds(
    limits: SchedulerLimits, device: str, memory: int, expected: int
) -> None:
    assert limits.slots(device, memory, 1000) == expected
