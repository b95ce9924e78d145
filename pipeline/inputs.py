"""The input: which files, how many rows, with which columns; and one range of rows read back.

A file is known by its size and the SHA-256 of its bytes. Its time of change is kept too, so that an untouched file need not
be read again to know it.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import CorruptInput, UsageError


@dataclass(frozen=True)
class InputFile:
    """One Parquet file: its absolute path, bytes, rows, content, and time of change in nanoseconds."""

    path: str
    size: int
    rows: int
    sha256: str
    mtime_ns: int

    def same_content(self, other: InputFile) -> bool:
        """Is it the same file with the same bytes?"""
        return (self.path, self.size, self.sha256) == (other.path, other.size, other.sha256)


def find_files(inputs: Sequence[str]) -> list[str]:
    """The Parquet files that paths, folders and globs name, absolute, sorted, each once.

    In folders, names that start with `.` or `_` are passed over.

    Raises:
        UsageError: an input does not exist or names no Parquet file.
    """
    found: set[str] = set()
    for given in inputs:
        if "://" in given and not given.startswith("file://"):
            raise UsageError(f"the input {given} is on {given.split('://')[0]}; this version reads local and mounted files.")
        path = given.removeprefix("file://")
        if os.path.isdir(path):
            files: Iterable[Path] = Path(path).rglob("*.parquet")
            inside = [f for f in files if not any(part[0] in "._" for part in f.relative_to(path).parts)]
        elif os.path.isfile(path):
            inside = [Path(path)]
        elif glob.has_magic(path):
            inside = [Path(p) for p in glob.glob(path, recursive=True) if os.path.isfile(p)]
        else:
            raise UsageError(f"the input {given} does not exist; name Parquet files, folders of them, or globs.")
        if not inside:
            raise UsageError(f"the input {given} holds no .parquet file; name Parquet files, folders of them, or globs.")
        found.update(str(f.absolute()) for f in inside)
    return sorted(found)


def describe(path: str, known: Mapping[str, InputFile]) -> tuple[InputFile, pa.Schema]:
    """The file at `path`, and its columns; bytes are not read again where `known` has it with the same size and time.

    Raises:
        CorruptInput: it is no readable Parquet file.
    """
    try:
        stat = os.stat(path)
        with pq.ParquetFile(path) as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise CorruptInput(f"{path} is not a readable Parquet file ({_first_line(error)}); repair or remove it.") from error
    before = known.get(path)
    if before is not None and (before.size, before.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
        return before, schema
    with open(path, "rb") as opened:
        content = hashlib.file_digest(opened, "sha256").hexdigest()
    return InputFile(path, stat.st_size, rows, content, stat.st_mtime_ns), schema


def check_columns(path: str, schema: pa.Schema, text: str, doc_id: str | None, passthrough: Sequence[str]) -> None:
    """See that a file has the columns a run reads, of types it can read.

    Raises:
        UsageError: a column is missing or has the wrong type.
    """
    for flag, column in [("--text-column", text), ("--id-column", doc_id), *(("--passthrough", p) for p in passthrough)]:
        if column is None or column in schema.names:
            continue
        hint = " (or --id-column None)" if flag == "--id-column" else ""
        raise UsageError(f"{path} has no column {column!r}; it has {', '.join(schema.names)}. Name one with {flag}{hint}.")
    kind = schema.field(text).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UsageError(f"column {text!r} of {path} holds {kind}, not text; name a text column with --text-column.")
    if doc_id is not None:
        kind = schema.field(doc_id).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
            raise UsageError(f"column {doc_id!r} of {path} holds {kind}; an --id-column holds text or whole numbers.")


def check_same_types(schemas: Mapping[str, pa.Schema], columns: Sequence[str]) -> None:
    """See that `columns` have one type in all files, so that the results read as one table.

    Raises:
        UsageError: two files differ.
    """
    for column in columns:
        kinds = {schema.field(column).type: path for path, schema in schemas.items()}
        if len(kinds) > 1:
            found = " and ".join(f"{kind} in {path}" for kind, path in list(kinds.items())[:2])
            raise UsageError(f"--passthrough {column}: its type differs, {found}; give the files one type.")


def read_rows(path: str, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    """Rows `start` to `stop`, end exclusive, of a Parquet file; only the row groups that hold them are read.

    Raises:
        CorruptInput: the rows cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            groups, first, begin = [], 0, None
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                if first < stop and end > start:
                    begin = first if begin is None else begin
                    groups.append(group)
                first = end
            table = file.read_row_groups(groups, columns=list(dict.fromkeys(columns)))
    except (pa.ArrowException, OSError) as error:
        raise CorruptInput(
            f"rows {start} to {stop} of {path} cannot be read ({_first_line(error)}); repair the file."
        ) from error
    return table.slice(start - (begin or 0), stop - start)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
