"""Find the items of a batch that fail, by bisection. Pure except for the work itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from pipeline.errors import one_line
from pipeline.tasks.base import Failed

T = TypeVar("T")
R = TypeVar("R")


def bisect_failures(
    items: Sequence[T],
    work: Callable[[Sequence[T]], Iterable[tuple[int, R | Failed]]],
    *,
    fatal: tuple[type[Exception], ...] = (),
    before_retry: Callable[[], object] = lambda: None,
) -> list[R | Failed]:
    """The result of `work` for each item, or the reason why the item failed.

    `work` yields (index, result or failure) in any order and may raise at any time. Results that it has
    yielded stay. The other items are retried in halves, so k bad items among n cost about 2k·log2(n) more
    calls. A batch that exceeds the memory may also fit in halves. `before_retry` is called before each retry.

    Raises:
        Exception: an error of a `fatal` type, after which no item can succeed.
    """
    results: dict[int, R | Failed] = {}
    groups = [list(range(len(items)))] if items else []
    while groups:
        group = groups.pop()
        reason = None
        try:
            for i, result in work([items[i] for i in group]):
                results[group[i]] = result
        except fatal:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
        todo = [i for i in group if i not in results]
        if reason is None:
            assert not todo, f"the work returned no result for {len(todo)} of {len(group)} items"
        elif len(group) == 1:
            results |= {i: Failed(reason) for i in todo}
        elif todo:
            # Outside the except clause the error is gone, and with it the tensors that its traceback held.
            before_retry()
            half = (len(todo) + 1) // 2
            groups += [part for part in (todo[half:], todo[:half]) if part]
    return [results[i] for i in range(len(items))]
