"""The format of a file, by the ending of its name."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.inputs.files import JSON_LINES, PARQUET, format_suffix
from pipeline.inputs.jsonl import JsonLines, parse_nested
from pipeline.inputs.parquet import Parquet
from pipeline.inputs.rows import Format
from pipeline.inputs.text import TextFolder


def format_of(path: str) -> Format:
    """The format of a file. The path of a folder of texts ends with a slash."""
    if path.endswith("/"):
        return TextFolder()
    return Parquet() if format_suffix(path) == PARQUET else JsonLines()


def column_values(path: str, columns: pa.Table) -> list[dict[str, Any]]:
    """The values of some columns of the file at `path`, a dict per row.

    In JSON lines a list or object is restored from its JSON, with every value inside it as text. A string
    that is such JSON from start to end is restored too. A text in Parquet stays a text.
    """
    if not columns.num_columns:
        return [{} for _ in range(len(columns))]
    rows = columns.to_pylist()
    if format_suffix(path) != JSON_LINES[0]:
        return rows
    return [{name: parse_nested(value) for name, value in row.items()} for row in rows]
