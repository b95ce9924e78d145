"""How many documents may fail."""

from __future__ import annotations

import pytest

from pipeline.errors import TooManyFailures
from pipeline.monitor.limits import allowed_failures, check_failures


@pytest.mark.parametrize(
    ("max_failed", "documents", "allowed"),
    [(None, 9, None), (0, 9, 0), (3, 9, 3), (1, 9, 1), (0.05, 200, 10), (0.05, 10, 0)],
)
def test_a_number_or_a_share(max_failed: float | None, documents: int, allowed: int | None) -> None:
    assert allowed_failures(max_failed, documents) == allowed
    check_failures(allowed or 0, max_failed, documents, {})
    if allowed is not None:
        with pytest.raises(
            TooManyFailures, match=f"{allowed + 1} of {documents} documents failed; --max-failed is"
        ) as raised:
            check_failures(allowed + 1, max_failed, documents, {"read: the text is empty": allowed + 1})
        assert raised.value.exit_code == 3


def test_the_most_frequent_reasons_are_named() -> None:
    reasons = {
        "read: the text is null": 2,
        "read: the text is empty": 1200,
        "predict: it broke": 1,
        "predict: it burst": 7,
    }
    with pytest.raises(TooManyFailures, match="What rows say that are not ok, most often: ") as raised:
        check_failures(1210, 0.1, 9000, reasons)
    named = (
        "read: the text is empty (1,200 rows); predict: it burst (7 rows); read: the text is null (2 rows)."
    )
    assert named in str(raised.value)
