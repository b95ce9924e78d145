"""What was cut off documents at the input limit, from the columns of their rows. Pure functions."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema import TRUNCATED

# Characters of a token, where the tokens that were cut off are not counted.
_CHARACTERS_PER_TOKEN = 4.5


def truncated_rows(rows: pa.Table) -> pa.ChunkedArray:
    """Whether the document of each row was truncated. Rows of earlier versions have only tokens."""
    columns = [rows[name] for name in TRUNCATED if name in rows.column_names]
    found = [pc.fill_null(pc.greater(column, 0), False) for column in columns]
    return found[0] if len(found) == 1 else pc.or_(*found)


def dropped_tokens(rows: pa.Table) -> list[int]:
    """The tokens that were cut off the document of each row, estimated where they were not counted."""
    tokens, characters = (
        rows[name].to_pylist() if name in rows.column_names else [None] * len(rows) for name in TRUNCATED
    )
    return [
        round((cut or 0) / _CHARACTERS_PER_TOKEN) if counted is None else counted
        for counted, cut in zip(tokens, characters, strict=True)
    ]
