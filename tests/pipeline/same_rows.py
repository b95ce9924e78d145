"""Whether two rows are the same, up to the rounding of scores.

Documents of several shards share a decoding step, and which of them do depends on timing. In float32 the
texts are the same, but sums of floats round differently in batches of other sizes.
"""

from __future__ import annotations

import math
from typing import Any


def same_row(row: Any, expected: Any) -> bool:
    """Whether two values, or dicts and lists of them, are equal, floats up to 1e-5."""
    if isinstance(row, dict) and isinstance(expected, dict):
        return row.keys() == expected.keys() and all(same_row(row[name], expected[name]) for name in row)
    if isinstance(row, list) and isinstance(expected, list):
        return len(row) == len(expected) and all(map(same_row, row, expected))
    if isinstance(row, float) and isinstance(expected, float):
        return math.isclose(row, expected, rel_tol=1e-5, abs_tol=1e-5)
    return type(row) is type(expected) and row == expected
