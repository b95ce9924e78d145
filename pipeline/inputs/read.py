"""Inspect input files and read their rows: content ID, number of documents, columns, and a split of a
file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import CorruptInput, UsageError
from pipeline.inputs.files import FileEntry, content_id, input_errors, partitions
from pipeline.inputs.formats import format_of
from pipeline.inputs.groups import inspect_groups, stream_groups
from pipeline.inputs.rows import FileStats, Rows
from pipeline.inputs.splits import Split
from pipeline.inputs.texts import is_list
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
) -> PlannedFile:
    """Inspect a file with texts of at most `max_bytes`, and split it into shards of at most `documents`.

    With `group_by`, a document is a group of rows with one key in that column. The file is not opened if
    `known` has it with the same size and stamp.

    Raises:
        CorruptInput: it cannot be read, and `skip_bad` is False.
        Unreachable: it cannot be fetched.
    """
    before = known.get(entry.path)
    unchanged = before is not None and (before.file.size, before.file.stamp) == (entry.size, entry.stamp)
    if before is not None and unchanged and (before.file.skipped is None or skip_bad):
        return before
    content = content_id(entry)
    try:
        with input_errors(entry.path):
            stats = retrying(lambda: _inspect(entry, documents, max_bytes, group_by))
    except CorruptInput as error:
        if not skip_bad:
            raise
        return PlannedFile(InputFile(entry.path, entry.size, 0, content, entry.stamp, str(error)), ())
    return PlannedFile(
        InputFile(entry.path, entry.size, stats.rows, content, entry.stamp), stats.splits, stats.schema
    )


def _inspect(entry: FileEntry, documents: int, max_bytes: int, group_by: str | None) -> FileStats:
    file_format = format_of(entry.path)
    if group_by is None:
        return file_format.inspect(entry, documents, max_bytes)
    return inspect_groups(file_format, entry, group_by, documents, max_bytes)


def read_rows(
    path: str, split: Split, text: str, columns: Sequence[str], max_bytes: int, *, lists: bool = False
) -> Rows:
    """The rows of a split, all at once. With `lists`, the column `text` may hold lists of texts. Transient
    faults are retried.

    Raises:
        CorruptInput: the rows cannot be read, or their number differs from the plan.
        Unreachable: the file cannot be fetched.
    """
    with _named_errors(path, split):
        pieces = retrying(lambda: list(_stream(path, split, text, columns, max_bytes, lists)))
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
        yield from _stream(path, split, text, columns, max_bytes, False)


def _named_errors(path: str, split: Split) -> AbstractContextManager[None]:
    return input_errors(f"rows {split.start} to {split.stop} of {path}")


def _stream(
    path: str, split: Split, text: str, columns: Sequence[str], max_bytes: int, lists: bool
) -> Iterator[Rows]:
    columns = list(dict.fromkeys(columns))
    in_path = {} if split.members else partitions(path)
    in_file = [column for column in columns if column not in in_path]
    count = 0
    file_format = format_of(path)
    if split.group_rows:
        stream = stream_groups(file_format, path, split, text, in_file, max_bytes)
    else:
        stream = file_format.stream(path, split, text, in_file, max_bytes, lists)
    for rows in stream:
        table = rows.table
        for column in columns:
            if column in in_path:
                table = table.append_column(column, pa.array([in_path[column]] * len(table), pa.string()))
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
        if column not in in_path and column not in schema.names:
            hint = " (or --id-column None)" if flag == "--id-column" else ""
            names = ", ".join([*schema.names, *in_path])
            raise UsageError(f"{path} has no column {column!r}; it has {names}. Name one with {flag}{hint}.")
    kind = column_type(schema, text)
    if is_list(kind) and is_text(kind.value_type):
        if not lists:
            raise UsageError(
                f"column {text!r} of {path} holds {kind}; --multi-document joins the texts of a list into "
                "one input (summarize, classify). Or name a column of single texts with --text-column."
            )
    elif not is_text(kind):
        raise UsageError(
            f"column {text!r} of {path} holds {kind}, not text; name a text column with --text-column."
        )
    if doc_id is not None:
        kind = column_type(schema, doc_id)
        if not (is_text(kind) or pa.types.is_integer(kind)):
            raise UsageError(
                f"column {doc_id!r} of {path} holds {kind}; an --id-column holds text or whole numbers."
            )


def check_same_types(schemas: Mapping[str, pa.Schema], columns: Sequence[str]) -> pa.Schema:
    """The types of `columns`, which must be the same in all files, so that the results read as one table.

    Raises:
        UsageError: two files differ.
    """
    types: dict[str, pa.DataType] = {}
    for column in columns:
        kinds = {column_type(schema, column): path for path, schema in schemas.items()}
        if len(kinds) > 1:
            examples = " and ".join(f"{kind} in {path}" for kind, path in list(kinds.items())[:2])
            raise UsageError(
                f"--passthrough {column}: its type differs, {examples}; give the files one type."
            )
        types[column] = next(iter(kinds))
    return pa.schema(types)


def column_type(schema: pa.Schema, column: str) -> pa.DataType:
    """The type of a column of a file. Columns of its path are text."""
    return schema.field(column).type if column in schema.names else pa.string()


def is_text(kind: pa.DataType) -> bool:
    """Whether a type holds text, bytes that may be text, or only nulls."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    checks = (
        types.is_null,
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_binary,
        types.is_large_binary,
        types.is_binary_view,
    )
    return any(check(kind) for check in checks)
