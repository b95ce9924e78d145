"""The types of columns: fields of records, one type for all files of a corpus, and exact casts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


def field_type(schema: pa.Schema, column: str) -> pa.DataType | None:
    """The type of a column, or of the field `b` of a column `a` of records if it is `a.b`. None if there is
    no such column."""
    if column in schema.names:  # perhaps several times
        return schema.field(schema.names.index(column)).type
    first, _, rest = column.partition(".")
    if not rest or first not in schema.names:
        return None
    kind = schema.field(schema.names.index(first)).type
    return field_type(pa.schema(list(kind)), rest) if pa.types.is_struct(kind) else None


def select_fields(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The columns of a table, of which `a.b` is the field b of column a."""
    arrays = []
    for column in columns:
        if column in table.column_names:
            arrays.append(table[column])
        else:
            first, *path = column.split(".")
            arrays.append(pc.struct_field(table[first], path))
    return pa.table(arrays, list(columns))


def cast_columns(table: pa.Table, types: Mapping[str, pa.DataType]) -> pa.Table:
    """The table with these types of its columns.

    Raises:
        ValueError: a value does not fit the type. The message names the column.
    """
    for i, name in enumerate(table.column_names):
        kind = types.get(name)
        if kind is None or table[name].type == kind:
            continue
        try:
            table = table.set_column(i, pa.field(name, kind), table[name].cast(kind))
        except pa.ArrowException as error:
            raise ValueError(f"column {name!r} does not fit the type {kind} of the plan: {error}") from error
    return table


def common_type(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """A type that holds every value of all these types unchanged. None if there is none."""
    return reduce(lambda a, b: None if a is None else _both(a, b), kinds)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type holds text, bytes that may be text, or only nulls."""
    kind = _values(kind)
    return pa.types.is_null(kind) or any(check(kind) for check in (*TEXTS, *BYTES))


def _both(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if a == b:
        return a
    if pa.types.is_dictionary(a) or pa.types.is_dictionary(b):
        return _both(_values(a), _values(b))
    if pa.types.is_null(a) or pa.types.is_null(b):
        return b if pa.types.is_null(a) else a
    for checks, widest in ((TEXTS, pa.large_string()), (BYTES, pa.large_binary())):
        if all(any(check(kind) for check in checks) for kind in (a, b)):
            return widest
    for is_number in (pa.types.is_integer, pa.types.is_floating):
        if is_number(a) and is_number(b):
            return _wider_number(a, b)
    if pa.types.is_struct(a) and pa.types.is_struct(b) and [f.name for f in a] == [f.name for f in b]:
        fields = [(f.name, _both(f.type, g.type)) for f, g in zip(a, b, strict=True)]
        return None if any(kind is None for _, kind in fields) else pa.struct(fields)
    for is_list, make in ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list)):
        if is_list(a) and is_list(b):
            # The name of the item differs by the program that wrote the file.
            value = _both(a.value_type, b.value_type)
            return None if value is None else make(value)
    return None


def _wider_number(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if pa.types.is_signed_integer(a) == pa.types.is_signed_integer(b):  # of floats, neither is one
        return a if a.bit_width >= b.bit_width else b
    signed, unsigned = (a, b) if pa.types.is_signed_integer(a) else (b, a)
    if signed.bit_width > unsigned.bit_width:
        return signed
    return {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}.get(unsigned.bit_width)


def _values(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a dictionary-encoded column."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind
