"""The digest of a column depends on its type and values, not on how they are stored."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.digests import column_digests, rows_sha256

COLUMNS: list[pa.Array] = [
    pa.array(["a", None, "ccc", ""]),
    pa.array(["a", None, "ccc", ""], pa.large_string()),
    pa.array([b"\xff", None, b"a", b""], pa.binary()).view(pa.string()),
    pa.array(["a", None, "ccc", "a"]).dictionary_encode(),
    pa.array([True, None, False, True]),
    pa.array([1, None, 3, 4], pa.int8()),
    pa.array([1.5, None, float("nan"), -0.0]),
    pa.array([1, None, 3, 4], pa.timestamp("us", "GMT+3")),
    pa.array([1, None, 2932897, 4], pa.date32()),
    pa.array([1, None, 2**62, 3], pa.duration("s")),
    pa.array([Decimal("1.5"), None, Decimal("2.5"), Decimal(0)]),
    pa.array([b"ab", None, b"cd", b"ef"], pa.binary(2)),
    pa.array([{"a": 1, "b": ["x"]}, None, {"a": None, "b": []}, {"a": 4, "b": None}]),
    pa.array([["a"], None, [], ["b", None]]),
    pa.array([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.int8(), 2)),
    pa.array([[("a", 1)], None, [], [("b", 2)]], pa.map_(pa.string(), pa.int32())),
    pa.nulls(4),
]
every_column = pytest.mark.parametrize("column", COLUMNS, ids=lambda column: str(column.type))


def read_back(table: pa.Table, **options: Any) -> pa.Table:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return pq.ParquetFile(buffer).read()


@every_column
def test_storage_does_not_matter(column: pa.Array) -> None:
    table = read_back(pa.table({"c": pa.chunked_array([column] * 40)}))
    expected = column_digests(table)
    pieces = [table.slice(start, 7) for start in range(0, len(table), 7)]
    assert column_digests(pa.concat_tables(pieces)) == expected
    assert column_digests(table.combine_chunks()) == expected
    assert column_digests(read_back(table, compression="none", use_dictionary=False)) == expected
    assert column_digests(read_back(table, row_group_size=9, data_page_version="2.0")) == expected


@every_column
def test_values_and_their_order_matter(column: pa.Array) -> None:
    seen = {
        str(column_digests(pa.table({"c": column.take(pa.array(order))})))
        for order in ([0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 2], [1, 1, 1, 1])
    }
    assert len(seen) == (2 if pa.types.is_null(column.type) else 4)


def test_neither_names_nor_types_can_be_exchanged() -> None:
    tables = [
        pa.table({"a": ["xy", "z"], "b": [1, 2]}),
        pa.table({"b": [1, 2], "a": ["xy", "z"]}),
        pa.table({"a": ["x", "yz"], "b": [1, 2]}),
        pa.table({"a": [b"xy", b"z"], "b": [1, 2]}),
        pa.table({"a": [["xy", "z"]], "b": [1]}),
        pa.table({"a": [["xy"], ["z"]], "b": [1, 2]}),
        pa.table({"a": ["xy", "z"], "c": [1, 2]}),
        pa.table({"a": ["xy", "z"], "b": pa.array([1, 2], pa.int32())}),
    ]
    assert len({rows_sha256(column_digests(table)) for table in tables}) == len(tables)
