"""The number of documents that may fail."""

from __future__ import annotations

import pytest

from pipeline.errors import TooManyFailures
from pipeline.monitor.limits import allowed_failures, check_failures


@pytest.mark.parametrize(
    ("max_failed", "documents", "allowed"),
    [(None, 9, None), (0, 9, 0), (3, 9, 3), (1, 9, 1), (0.05, 200, 10), (0.05, 10, 0)],
)
def test_a_limit_is_a_number_or_a_share(
    max_failed: float | None, documents: int, allowed: int | None
) -> None:
    assert allowed_failures(max_failed, documents) == allowed
    check_failures(allowed or 0, max_failed, documents, {})
    if allowed is not None:
        with pytest.raises(
            TooManyFailures, match=f"{allowed + 1} of {documents} documents failed; --max-failed is"
        ) as raised:
            check_failures(allowed + 1, max_failed, documents, {"read: the text is empty": allowed + 1})
        assert raised.value.exit_code == 3


def test_the_most_frequent_reasons_are_listed() -> None:
    reasons = {
        "read: the text is null": 2,
        "read: the text is empty": 1200,
        "predict: it broke": 1,
        "predict: it burst": 7,
    }
    with pytest.raises(TooManyFailures, match="Most frequent reasons: ") as raised:
        check_failures(1210, 0.1, 9000, reasons)
    listed = (
        "read: the text is empty (1,200 rows), predict: it burst (7 rows), read: the text is null (2 rows)."
    )
    assert listed in str(raised.value)


@pytest.mark.parametrize(("advice", "end"), [("", ""), ("Raise it.", " Raise it.")])
def test_advice_ends_the_message_and_fewer_failures_are_allowed(advice: str, end: str) -> None:
    for failed in range(5):
        check_failures(failed, 4, 10, {"read: a": failed}, advice)
    with pytest.raises(TooManyFailures) as raised:
        check_failures(5, 4, 10, {"read: a": 5}, advice)
    assert str(raised.value) == (
        f"5 of 10 documents failed; --max-failed is 4. Most frequent reasons: read: a (5 rows).{end}"
    )
