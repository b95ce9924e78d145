"""Finding what fails in a batch: halves, and halves of halves, until what fails stands alone. Pure but for the work itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import one_line

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Failed:
    """Why an item failed alone."""

    reason: str


def isolate(
    items: Sequence[T],
    work: Callable[[Sequence[T]], Iterable[tuple[int, R]]],
    *,
    fatal: tuple[type[Exception], ...] = (),
    between: Callable[[], object] = lambda: None,
) -> list[R | Failed]:
    """The outcome of `work` for each item, or why it failed.

    `work` gives (place, outcome) in any order and may raise at any time; outcomes it has given stand. What it has not done
    is tried again in halves, so that k bad items of n cost about 2k·log2(n) more calls, and memory that does not suffice
    for all may suffice for half. `between` is called before each try that follows a failure.

    Raises:
        Exception: an error of a `fatal` type, after which nothing else could work either.
    """
    outcomes: dict[int, R | Failed] = {}
    waiting = [list(range(len(items)))] if items else []
    while waiting:
        group = waiting.pop()
        reason = None
        try:
            for place, outcome in work([items[i] for i in group]):
                outcomes[group[place]] = outcome
        except fatal:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
        left = [i for i in group if i not in outcomes]
        if reason is None:
            assert not left, f"the work says nothing of {len(left)} of {len(group)} items"
        elif len(group) == 1:
            outcomes |= {i: Failed(reason) for i in left}
        elif left:
            # Out of the except clause the error is gone, and with it the tensors that its traceback held.
            between()
            half = (len(left) + 1) // 2
            waiting += [part for part in (left[half:], left[:half]) if part]
    return [outcomes[i] for i in range(len(items))]
