"""The types of the columns of JSON lines, from the values of all lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

# The largest integer up to which a float holds every integer.
_MOST_EXACT = 1 << 53

# Values whose common type is determined at once, and those that decide the type of the sampled column.
_BATCH, _SAMPLE = 1000, 100

# Records with more fields than this, or deeper nesting, stay JSON text: they are maps rather than columns.
_MOST_FIELDS, _DEEPEST = 100, 8


class ColumnTypes:
    """The types of `columns`, found while lines are added. That of the column `sampled` is decided by its
    first values.

    A column whose values have no common type, and one whose type Parquet cannot hold, is text.
    """

    def __init__(self, columns: Sequence[str], sampled: str = "") -> None:
        self._sampled = sampled
        self._missing = {name: _signs_of(name) for name in columns}
        self._kinds: dict[str, pa.DataType] = {}
        self._values: dict[str, list[Any]] = {}
        self._inexact: set[str] = set()  # columns with integers that a float cannot hold

    def stop_search(self, columns: Sequence[str]) -> None:
        """Do not look for these columns any more, if no line had them yet."""
        for name in columns:
            self._missing.pop(name, None)

    def may_change(self, line: bytes) -> bool:
        """Whether a line may have a column that no line had before, or one whose values are not texts."""
        if self._values:
            return True
        return any(sign in line for signs in self._missing.values() for sign in signs)

    def add(self, row: dict[str, Any]) -> None:
        """Add the columns of a line."""
        for name in [name for name in self._missing if field_value(row, name) is not None]:
            del self._missing[name]
            self._values[name] = []
        for name, values in list(self._values.items()):
            values.append(_without_texts(field_value(row, name)))
            if len(values) >= (_SAMPLE if name == self._sampled else _BATCH):
                self._settle(name)

    def found(self) -> dict[str, pa.DataType]:
        """The type of each column that some line had."""
        for name in list(self._values):
            self._settle(name)
        return dict(self._kinds)

    def _settle(self, name: str) -> None:
        """Determine the type of the values that were added. Later ones of a text do not matter."""
        values = self._values.pop(name)
        if any(isinstance(value, int) and abs(value) > _MOST_EXACT for value in values):
            self._inexact.add(name)
        exact = name not in self._inexact
        kind = common_json_type(self._kinds.get(name, pa.null()), _type_of(values), exact=exact)
        self._kinds[name] = pa.string() if kind is None else kind
        if name != self._sampled and kind is not None and not pa.types.is_string(kind):
            self._values[name] = []


def field_value(row: dict[str, Any], name: str) -> Any:
    """The value of a column, or of the field `b` of an object `a` if the column is `a.b`. None if there is
    none."""
    if name in row or "." not in name:
        return row.get(name)
    first, _, rest = name.partition(".")
    inner = row.get(first)
    return field_value(inner, rest) if isinstance(inner, dict) else None


def clean(value: Any) -> Any:
    """A JSON value that UTF-8 can hold: half a surrogate pair is escaped."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(name): clean(item) for name, item in value.items()}
    return value


def common_json_type(
    a: pa.DataType | None, b: pa.DataType | None, *, exact: bool = False
) -> pa.DataType | None:
    """The type of values of both types. Records get the fields of both. None if they can only be text.

    Integers become floats only if `exact` says that floats can hold all of them, and not inside of lists and
    records.
    """
    if a is None or b is None:
        return None
    try:
        schemas = [pa.schema([("", kind)]) for kind in (a, b)]
        kind = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    as_numbers = exact and pa.types.is_floating(kind)
    if not as_numbers and any(_as_float(old, kind) for old in (a, b)):
        return None
    return kind if _fits(kind, _DEEPEST) else None


def _signs_of(name: str) -> set[bytes]:
    """The bytes of which a line has some if it has this column."""
    names = {name, name.partition(".")[0]}
    return {json.dumps(each, ensure_ascii=ascii_).encode() for each in names for ascii_ in (True, False)}


def _without_texts(value: Any) -> Any:
    """A value of the same type, whose texts take no memory."""
    if isinstance(value, str):
        return ""
    if isinstance(value, list):
        return [_without_texts(item) for item in value]
    if isinstance(value, dict):
        return {clean(name): _without_texts(item) for name, item in value.items()}
    return value


def _type_of(values: Sequence[Any]) -> pa.DataType | None:
    """The common type of these values. None if they are text, or have none that Parquet can hold."""
    try:
        kind = pa.array(values).type
    except (pa.ArrowException, ValueError, TypeError, OverflowError, RecursionError):
        return None
    return kind if _fits(kind, _DEEPEST) else None


def _as_float(old: pa.DataType, new: pa.DataType) -> bool:
    """Whether integers of the `old` type are floats in the `new` one, at any depth."""
    if pa.types.is_struct(old):
        return any(_as_float(field.type, new.field(field.name).type) for field in old)
    if pa.types.is_list(old):
        return _as_float(old.value_type, new.value_type)
    return bool(pa.types.is_integer(old) and pa.types.is_floating(new))


def _fits(kind: pa.DataType, depth: int) -> bool:
    """Whether Parquet can hold a type, at most `depth` levels deep."""
    if pa.types.is_struct(kind):
        fields = list(kind)
        return 0 < len(fields) <= _MOST_FIELDS and depth > 0 and all(_fits(f.type, depth - 1) for f in fields)
    if pa.types.is_list(kind):
        return depth > 0 and _fits(kind.value_type, depth - 1)
    return True
