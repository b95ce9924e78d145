"""How many documents may fail: `--max-failed`.

What was committed stays and counts again when the run goes on, so only another limit, or other settings in another folder,
lead further.
"""

from __future__ import annotations

from pipeline.errors import TooManyFailures


def allowed_failures(max_failed: float | None, documents: int) -> int | None:
    """How many of so many documents may fail: a number as it is, below 1 a share; None for all."""
    if max_failed is None:
        return None
    return int(max_failed if max_failed >= 1 else max_failed * documents)


def check_failures(failed: int, max_failed: float | None, documents: int) -> None:
    """See that no more than `max_failed` of a run's documents failed.

    Raises:
        TooManyFailures: more did.
    """
    allowed = allowed_failures(max_failed, documents)
    if allowed is not None and failed > allowed:
        raise TooManyFailures(
            f"{failed} of {documents} documents failed; --max-failed is {max_failed:g}. "
            "The reasons stand in the rows. Allow more to go on."
        )
