"""Failing items are found one by one. All other items have their results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, strategies as st

from pipeline.workers.bisect import Failed, bisect_failures


@given(st.lists(st.booleans(), max_size=40), st.booleans())
def test_only_bad_items_fail(bad: list[bool], some_first: bool) -> None:
    items = list(enumerate(bad))
    calls = 0

    def work(group: Sequence[tuple[int, bool]]) -> Iterator[tuple[int, int]]:
        nonlocal calls
        calls += 1
        if not some_first and any(is_bad for _, is_bad in group):
            raise RuntimeError("bad item")
        for place in reversed(range(len(group))):
            if group[place][1]:
                raise RuntimeError("bad item")
            yield place, group[place][0] * 10

    got = bisect_failures(items, work)
    assert got == [Failed("RuntimeError: bad item") if is_bad else i * 10 for i, is_bad in items]
    assert calls <= 1 + 2 * sum(bad) * (1 + max(1, len(bad)).bit_length())


def test_a_batch_that_exceeds_the_memory_is_halved() -> None:
    sizes = []
    before_retry = []

    def work(group: Sequence[int]) -> Iterator[tuple[int, int]]:
        sizes.append(len(group))
        if sum(group) > 8:
            raise MemoryError
        yield from enumerate(group)

    assert bisect_failures([1, 2, 3, 4, 50], work, before_retry=lambda: before_retry.append(1)) == [
        1,
        2,
        3,
        4,
        Failed("MemoryError: MemoryError"),
    ]
    assert sizes == [5, 3, 2, 1, 1] and len(before_retry) == 2


def test_there_is_no_retry_after_a_fatal_error() -> None:
    calls = []

    def work(group: Sequence[int]) -> Iterator[tuple[int, int]]:
        calls.append(group)
        raise ConnectionError("the device is gone")

    with pytest.raises(ConnectionError):
        bisect_failures([1, 2], work, fatal=(ConnectionError,))
    assert len(calls) == 1


def test_missing_results_are_an_internal_error() -> None:
    with pytest.raises(AssertionError, match="1 of 2 items"):
        bisect_failures([1, 2], lambda group: [(0, group[0])])
