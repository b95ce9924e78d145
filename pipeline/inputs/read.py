"""Inspect input files and read their rows: content ID, number of documents, columns, and a split of a
file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import reduce

import pyarrow as pa

from pipeline.errors import CorruptInput, UsageError, listed
from pipeline.inputs.files import (
    JSON_LINES,
    FileEntry,
    check_no_pointer,
    content_id,
    format_suffix,
    input_errors,
    partitions,
)
from pipeline.inputs.formats import format_of
from pipeline.inputs.groups import inspect_groups, stream_groups
from pipeline.inputs.json_types import common_json_type
from pipeline.inputs.rows import FileStats, Request, Rows
from pipeline.inputs.splits import Split
from pipeline.inputs.texts import is_list
from pipeline.inputs.types import common_type, field_type, is_text
from pipeline.retry import retrying


@dataclass(frozen=True)
class InputFile:
    """A file, or a folder of texts: its path, size, rows, content ID and stamp (see `files.py`).

    `skipped` is the reason why it is not read: it could not be planned, and --on-bad-shard is skip.
    """

    path: str
    size: int
    rows: int
    content: str
    stamp: str
    skipped: str | None = None

    def same_content(self, other: InputFile) -> bool:
        """Whether it is the same file with the same bytes."""
        return (self.path, self.size, self.content) == (other.path, other.size, other.content)


@dataclass(frozen=True)
class PlannedFile:
    """A file with its splits. `schema` is None if the file was not opened because it is unchanged."""

    file: InputFile
    splits: tuple[Split, ...]
    schema: pa.Schema | None = None


def inspect_file(
    entry: FileEntry,
    documents: int,
    known: Mapping[str, PlannedFile],
    *,
    skip_bad: bool,
    max_bytes: int,
    group_by: str | None = None,
    text: str = "",
    columns: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> PlannedFile:
    """Inspect a file with texts of at most `max_bytes`, and split it into shards of at most `documents`.

    With `group_by`, a document is a group of rows with one key in that column. `columns` are those whose
    types a run needs, besides that of the column `text`, and `optional` those that a file may lack. The file
    is not opened if `known` has it with the same size and stamp.

    Raises:
        CorruptInput: it cannot be read, and `skip_bad` is False.
        Unreachable: it cannot be fetched.
    """
    before = known.get(entry.path)
    unchanged = before is not None and (before.file.size, before.file.stamp) == (entry.size, entry.stamp)
    if before is not None and unchanged and (before.file.skipped is None or skip_bad):
        return before
    content = content_id(entry)
    wanted = tuple(dict.fromkeys([*columns, *optional, *([text] if text else [])]))
    request = Request(wanted, text, max_bytes, optional=tuple(optional))
    try:
        with input_errors(entry.path):
            stats = retrying(lambda: _inspect(entry, documents, request, group_by))
    except CorruptInput as error:
        if not skip_bad:
            raise
        return PlannedFile(InputFile(entry.path, entry.size, 0, content, entry.stamp, str(error)), ())
    return PlannedFile(
        InputFile(entry.path, entry.size, stats.rows, content, entry.stamp), stats.splits, stats.schema
    )


def _inspect(entry: FileEntry, documents: int, request: Request, group_by: str | None) -> FileStats:
    check_no_pointer(entry)
    file_format = format_of(entry.path)
    if group_by is None:
        return file_format.inspect(entry, documents, request)
    return inspect_groups(file_format, entry, group_by, documents, request)


def read_rows(
    path: str,
    split: Split,
    text: str,
    columns: Sequence[str],
    max_bytes: int,
    *,
    lists: bool = False,
    types: Iterable[pa.Field] = (),
) -> Rows:
    """The rows of a split, all at once. With `lists`, the column `text` may hold lists of texts. `types` are
    those of some columns. Transient faults are retried.

    Raises:
        CorruptInput: the rows cannot be read, or their number differs from the plan.
        Unreachable: the file cannot be fetched.
    """
    request = Request(tuple(columns), text, max_bytes, lists, tuple((f.name, f.type) for f in types))
    with _named_errors(path, split):
        pieces = retrying(lambda: list(_stream(path, split, request)))
        reasons: dict[int, str] = {}
        count = 0
        for rows in pieces:
            reasons |= {count + i: reason for i, reason in rows.reasons.items()}
            count += len(rows.table)
        return Rows(pa.concat_tables([rows.table for rows in pieces]), reasons)


def stream_rows(path: str, split: Split, text: str, columns: Sequence[str], max_bytes: int) -> Iterator[Rows]:
    """Yield the rows of a split, with `columns` of the file and of its path, in that order.

    Raises:
        CorruptInput: the rows cannot be read, or their number differs from the plan.
        Unreachable: the file cannot be fetched.
    """
    with _named_errors(path, split):
        yield from _stream(path, split, Request(tuple(columns), text, max_bytes))


def _named_errors(path: str, split: Split) -> AbstractContextManager[None]:
    return input_errors(f"rows {split.start} to {split.stop} of {path}")


def _stream(path: str, split: Split, request: Request) -> Iterator[Rows]:
    columns = tuple(dict.fromkeys(request.columns))
    in_path = {} if split.members else partitions(path)
    in_file = replace(request, columns=tuple(column for column in columns if column not in in_path))
    types = dict(request.types)
    count = 0
    file_format = format_of(path)
    if split.group_rows:
        stream = stream_groups(file_format, path, split, in_file)
    else:
        stream = file_format.stream(path, split, in_file)
    for rows in stream:
        table = rows.table
        for column in columns:
            if column in in_path:
                values = pa.array([in_path[column]] * len(table), pa.string())
                table = table.append_column(column, values.cast(types.get(column, pa.string())))
        count += len(table)
        yield Rows(table.select(columns), rows.reasons)
    if count != split.stop - split.start:
        raise ValueError(f"it has {count} rows; {split.stop - split.start} were planned")


def check_columns(
    path: str,
    schema: pa.Schema,
    text: str,
    doc_id: str | None,
    extra_columns: Sequence[tuple[str, str]],
    *,
    lists: bool = False,
) -> None:
    """Check that a file has the columns of a run, with types that it can read. `extra_columns` are (flag,
    column). With `lists`, the text column may hold lists of texts.

    Raises:
        UsageError: a column is missing, has the wrong type, or is both in the file and in its path.
    """
    in_path = partitions(path)
    for flag, column in [("--text-column", text), ("--id-column", doc_id), *extra_columns]:
        if column is None:
            continue
        if column in in_path and column in schema.names:
            raise UsageError(
                f"column {column!r} of {path} is in the file and in its path; rename the folder {column}=…."
            )
        if schema.names.count(column) > 1:
            raise UsageError(
                f"column {column!r} stands {schema.names.count(column)} times in {path}; rename one of them."
            )
        if not has_column(path, schema, column):
            raise UsageError(_missing_column(path, schema, in_path, flag, column))
    kind = column_type(schema, text)
    if is_list(kind) and is_text(kind.value_type):
        if not lists:
            raise UsageError(
                f"column {text!r} of {path} holds {kind}; --multi-document joins the texts of a list into "
                "one input. Or name a column of single texts with --text-column."
            )
    elif not is_text(kind):
        fields = [f"{text}.{f.name}" for f in kind if is_text(f.type)] if pa.types.is_struct(kind) else []
        hint = f", such as {listed(fields, 3)}" if fields else ""
        raise UsageError(
            f"column {text!r} of {path} holds {_short(kind)}, not text; name a text column with "
            f"--text-column{hint}."
        )
    if doc_id is not None:
        kind = column_type(schema, doc_id)
        if not (is_text(kind) or pa.types.is_integer(kind)):
            raise UsageError(
                f"column {doc_id!r} of {path} holds {_short(kind)}; an --id-column holds text or whole "
                "numbers."
            )


def check_same_types(schemas: Mapping[str, pa.Schema], columns: Sequence[str]) -> pa.Schema:
    """One type for each of `columns` that holds its values in all files unchanged, so that the results read
    as one table.

    Raises:
        UsageError: two files have types without such a common type.
    """
    types: dict[str, pa.DataType] = {}
    for column in columns:
        kind = type_in_all(schemas, column)
        if kind is None:
            kinds = {column_type(schema, column): path for path, schema in schemas.items()}
            examples = " and ".join(f"{_short(kind)} in {path}" for kind, path in list(kinds.items())[:2])
            raise UsageError(
                f"--passthrough {column}: its type differs, {examples}; give the files one type."
            )
        types[column] = kind
    return pa.schema(types)


def has_column(path: str, schema: pa.Schema, column: str) -> bool:
    """Whether the file at `path`, or its path, has a column, or the field `a.b` of one."""
    return column in partitions(path) or field_type(schema, column) is not None


def type_in_all(schemas: Mapping[str, pa.Schema], column: str) -> pa.DataType | None:
    """A type that holds the values of a column in all files unchanged. In files of JSON lines, values without
    one are text. None if there is no such type."""
    kinds = {column_type(schema, column): path for path, schema in schemas.items()}
    kind = common_type(list(kinds))
    if kind is None and all(format_suffix(path) == JSON_LINES[0] for path in kinds.values()):
        kind = reduce(common_json_type, kinds) or pa.string()
    return kind


def column_type(schema: pa.Schema, column: str) -> pa.DataType:
    """The type of a column of a file, or of a field `a.b`. Columns of its path are text."""
    return field_type(schema, column) or pa.string()


def _missing_column(
    path: str, schema: pa.Schema, in_path: Mapping[str, object], flag: str, column: str
) -> str:
    """The message for a column that a file does not have."""
    names = list(dict.fromkeys([*schema.names, *in_path]))
    index = _index_names(schema)
    if column in index:
        return (
            f"{path} has {column!r} as the index of a pandas table, not as a column; write the file again "
            "after reset_index()."
        )
    similar = difflib.get_close_matches(column, names, n=1, cutoff=0.7)
    hint = " (or --id-column None)" if flag == "--id-column" else ""
    advice = f"did you mean {similar[0]!r}?" if similar else f"Name one with {flag}{hint}."
    return f"{path} has no column {column!r}; it has {listed(names)}. {advice[0].upper()}{advice[1:]}"


def _index_names(schema: pa.Schema) -> set[str]:
    """The names of the ranges that a pandas table has as its index. They are no columns of the file."""
    try:
        values = json.loads((schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
        return {value["name"] for value in values if isinstance(value, dict) and value.get("name")}
    except (ValueError, AttributeError):
        return set()


def _short(kind: pa.DataType) -> str:
    """A type in words of bounded length."""
    text = str(kind)
    return text if len(text) <= 200 else f"{text[:200]}…"
