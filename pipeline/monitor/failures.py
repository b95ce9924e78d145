"""How many documents may fail: `--max-failed`.

What was committed stays and counts again when the run goes on, so only another limit, or other settings in another folder,
lead further.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import TooManyFailures

# Reasons that a message names, the most frequent ones.
_NAMED = 3


def allowed_failures(max_failed: float | None, documents: int) -> int | None:
    """How many of so many documents may fail: a number as it is, below 1 a share; None for all."""
    if max_failed is None:
        return None
    return int(max_failed if max_failed >= 1 else max_failed * documents)


def check_failures(failed: int, max_failed: float | None, documents: int, reasons: Mapping[str, int], then: str = "") -> None:
    """See that no more than `max_failed` of a run's documents failed; `reasons` are counts of rows that failed or
    were skipped, by stage and reason, and `then` is what to say beside.

    Raises:
        TooManyFailures: more did.
    """
    allowed = allowed_failures(max_failed, documents)
    if allowed is not None and failed > allowed:
        raise TooManyFailures(
            f"{failed} of {documents} documents failed; --max-failed is {max_failed:g}. What rows say that are not ok, most "
            f"often: {_most_often(reasons)}.{then and ' '}{then}"
        )


def _most_often(reasons: Mapping[str, int]) -> str:
    most = sorted(reasons.items(), key=lambda item: -item[1])[:_NAMED]
    return "; ".join(f"{reason} ({count:,} rows)" for reason, count in most)
