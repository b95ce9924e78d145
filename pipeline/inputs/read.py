"""The input of a run: what each file is, how many documents it has, whether its columns fit; and a range of rows read back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pyarrow as pa

from pipeline.inputs.splits import Split
from pipeline.errors import CorruptInput, UsageError
from pipeline.inputs.files import FileEntry, content_id, partitions, input_errors
from pipeline.inputs.formats import Rows, format_of
from pipeline.retry import retrying


@dataclass(frozen=True)
class InputFile:
    """A file, or a folder of texts: where it is, its bytes and rows, and what it is (files.py says how it is known).

    `skipped` says why none of it is read: a file that could not be planned, under --on-bad-shard skip.
    """

    path: str
    size: int
    rows: int
    content: str
    stamp: str
    skipped: str | None = None

    def same_content(self, other: InputFile) -> bool:
        """Is it the same file with the same bytes?"""
        return (self.path, self.size, self.content) == (other.path, other.size, other.content)


@dataclass(frozen=True)
class PlannedFile:
    """A file with its cuts. `schema` is None where the file was not opened because it is as it was."""

    file: InputFile
    splits: tuple[Split, ...]
    schema: pa.Schema | None = None


def inspect_file(found: FileEntry, documents: int, known: Mapping[str, PlannedFile], *, skip_bad: bool, longest: int) -> PlannedFile:
    """What a file is, its texts of at most `longest` bytes, cut into shards of at most `documents`; not opened where `known`
    has it with the same size and stamp.

    Raises:
        CorruptInput: it cannot be read, and `skip_bad` does not allow to pass over it.
        Unreachable: it cannot be fetched.
    """
    before = known.get(found.path)
    unchanged = before is not None and (before.file.size, before.file.stamp) == (found.size, found.stamp)
    if before is not None and unchanged and (before.file.skipped is None or skip_bad):
        return before
    content = content_id(found)
    try:
        with input_errors(found.path):
            measured = retrying(lambda: format_of(found.path).inspect(found, documents, longest))
    except CorruptInput as error:
        if not skip_bad:
            raise
        return PlannedFile(InputFile(found.path, found.size, 0, content, found.stamp, str(error)), ())
    return PlannedFile(InputFile(found.path, found.size, measured.rows, content, found.stamp), measured.splits, measured.schema)


def read_rows(path: str, split: Split, text: str, columns: Sequence[str], longest: int) -> Rows:
    """The rows of a cut, all at once; a transient fault is met with another try.

    Raises:
        CorruptInput: the rows cannot be read, or are not as many as were planned.
        Unreachable: the file cannot be fetched.
    """
    with _naming(path, split):
        pieces = retrying(lambda: list(_stream(path, split, text, columns, longest)))
        reasons: dict[int, str] = {}
        count = 0
        for rows in pieces:
            reasons |= {count + i: reason for i, reason in rows.reasons.items()}
            count += len(rows.table)
        return Rows(pa.concat_tables([rows.table for rows in pieces]), reasons)


def stream_rows(path: str, split: Split, text: str, columns: Sequence[str], longest: int) -> Iterator[Rows]:
    """The rows of a cut, some at a time, with `columns` of the file and of its path, in that order.

    Raises:
        CorruptInput: the rows cannot be read, or are not as many as were planned.
        Unreachable: the file cannot be fetched.
    """
    with _naming(path, split):
        yield from _stream(path, split, text, columns, longest)


def _naming(path: str, split: Split) -> AbstractContextManager[None]:
    return input_errors(f"rows {split.start} to {split.stop} of {path}")


def _stream(path: str, split: Split, text: str, columns: Sequence[str], longest: int) -> Iterator[Rows]:
    columns = list(dict.fromkeys(columns))
    in_path = {} if split.members else partitions(path)
    in_file = [column for column in columns if column not in in_path]
    count = 0
    for rows in format_of(path).stream(path, split, text, in_file, longest):
        table = rows.table
        for column in columns:
            if column in in_path:
                table = table.append_column(column, pa.array([in_path[column]] * len(table), pa.string()))
        count += len(table)
        yield Rows(table.select(columns), rows.reasons)
    if count != split.stop - split.start:
        raise ValueError(f"{count} rows are there, {split.stop - split.start} were planned")


def check_columns(path: str, schema: pa.Schema, text: str, doc_id: str | None, reused: Sequence[tuple[str, str]]) -> None:
    """See that a file has the columns a run reads, of types it can read; `carried` are further ones, (flag, column).

    Raises:
        UsageError: a column is missing, has the wrong type, or is both in the file and in its path.
    """
    in_path = partitions(path)
    for flag, column in [("--text-column", text), ("--id-column", doc_id), *reused]:
        if column is None:
            continue
        if column in in_path and column in schema.names:
            raise UsageError(f"column {column!r} of {path} is in the file and in its path; rename the folder {column}=….")
        if column not in in_path and column not in schema.names:
            hint = " (or --id-column None)" if flag == "--id-column" else ""
            there = ", ".join([*schema.names, *in_path])
            raise UsageError(f"{path} has no column {column!r}; it has {there}. Name one with {flag}{hint}.")
    kind = column_type(schema, text)
    if not is_text(kind):
        raise UsageError(f"column {text!r} of {path} holds {kind}, not text; name a text column with --text-column.")
    if doc_id is not None:
        kind = column_type(schema, doc_id)
        if not (is_text(kind) or pa.types.is_integer(kind)):
            raise UsageError(f"column {doc_id!r} of {path} holds {kind}; an --id-column holds text or whole numbers.")


def check_same_types(schemas: Mapping[str, pa.Schema], columns: Sequence[str]) -> pa.Schema:
    """The types of `columns`, which are the same in all files, so that the results read as one table.

    Raises:
        UsageError: two files differ.
    """
    types: dict[str, pa.DataType] = {}
    for column in columns:
        kinds = {column_type(schema, column): path for path, schema in schemas.items()}
        if len(kinds) > 1:
            found = " and ".join(f"{kind} in {path}" for kind, path in list(kinds.items())[:2])
            raise UsageError(f"--passthrough {column}: its type differs, {found}; give the files one type.")
        types[column] = next(iter(kinds))
    return pa.schema(types)


def column_type(schema: pa.Schema, column: str) -> pa.DataType:
    """The type of a column of a file; columns of its path are text."""
    return schema.field(column).type if column in schema.names else pa.string()


def is_text(kind: pa.DataType) -> bool:
    """Does a type hold text, bytes that may be text, or nothing at all?"""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        check(kind)
        for check in (types.is_null, types.is_string, types.is_large_string, types.is_string_view,
                      types.is_binary, types.is_large_binary, types.is_binary_view)
    )  # fmt: skip
