"""Formats of documents, each with two questions: how many rows has a file and where is it cut; what are these rows.

Parquet       a file is cut between its row groups where it can be; of a row group only the columns asked for are fetched, and
              no further than to the last row asked for. What comes before in the same group is fetched and dropped, so row
              groups of about a shard's documents are the cheapest.
JSON lines    a line is a document, blank lines are none. Lines are counted once, while planning; a shard of an uncompressed
              file begins at its byte, one of a compressed file reads the file from the top: cut large ones before compressing.
texts         a file is a document; a shard is a list of files. Its columns are `text` and `doc_id`, the path in the folder.

Columns of JSON lines are text: strings as they are, null as null, all else as JSON; `values_of` gives lists and records back to
those who take them. Rows that cannot be read carry a reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.inputs.splits import Cut, cut_groups, cut_rows
from pipeline.inputs.files import COMPRESSED, JSON_LINES, PARQUET, Found, kind_of, open_file, partitions

_CHUNK = 1 << 20
_PIECE = 4 << 20  # of a column: large enough that the wait for an answer is small beside the transfer
_ROWS_AT_ONCE = 256
_LINES_LOOKED_AT = 100
_LINE_OVER_TEXT = 8  # a line of JSON may be this many times as long as the longest text: escapes, and the other columns


@dataclass(frozen=True)
class Measured:
    """What planning needs of a file: its rows, where it is cut, its columns."""

    rows: int
    cuts: tuple[Cut, ...]
    schema: pa.Schema


@dataclass(frozen=True)
class Rows:
    """Some rows: the columns asked for, and by row what keeps it from being read."""

    table: pa.Table
    reasons: dict[int, str] = field(default_factory=dict)


class Format(Protocol):
    """A format of documents. What is wrong with a file is raised as the library says it; the caller names the file."""

    def measure(self, found: Found, documents: int, longest: int) -> Measured:
        """A file's rows, cut into at most `documents` each."""

    def stream(self, path: str, cut: Cut, text: str, columns: Sequence[str], longest: int) -> Iterator[Rows]:
        """The rows of a cut, a few at a time; `text` is the column of which at most `longest` bytes are of use."""


def format_of(path: str) -> Format:
    """The format of a file, by the ending of its name; a folder's name ends with a slash."""
    if path.endswith("/"):
        return Texts()
    return Parquet() if kind_of(path) == PARQUET else JsonLines()


def values_of(path: str, columns: pa.Table) -> list[dict[str, Any]]:
    """The values of some columns of the file at `path`, by row, as a task reads them: what stood as a list or an object in a
    line of JSON is that again, with all that is in it as text. A string that is such JSON from end to end is taken for it; a
    text in Parquet stays one, whatever it holds."""
    if not columns.num_columns:
        return [{} for _ in range(len(columns))]
    rows = columns.to_pylist()
    if kind_of(path) != JSON_LINES[0]:
        return rows
    return [{name: _unpacked(value) for name, value in row.items()} for row in rows]


class Parquet:
    """Parquet files."""

    def measure(self, found: Found, documents: int, longest: int) -> Measured:
        """From the footer alone."""
        with open_file(found.path, exact=True) as opened, pq.ParquetFile(opened) as file:
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            if sum(groups) != file.metadata.num_rows or any(rows < 0 for rows in groups):
                raise ValueError(f"its footer counts {file.metadata.num_rows} rows, its row groups {sum(groups)}")
            return Measured(sum(groups), cut_groups(groups, documents), file.schema_arrow)

    def stream(self, path: str, cut: Cut, text: str, columns: Sequence[str], longest: int) -> Iterator[Rows]:
        """Row groups that hold rows of the cut, from their beginning to its end."""
        # So pyarrow fetches a column piece by piece, and what lies behind the cut stays where it is.
        piecewise = {"pre_buffer": False, "buffer_size": _PIECE, "page_checksum_verification": True}
        with open_file(path, exact=True) as opened, pq.ParquetFile(opened, **piecewise) as file:
            groups, row, first = [], 0, None
            for i in range(file.num_row_groups):
                stop = row + file.metadata.row_group(i).num_rows
                if row < cut.stop and stop > cut.start:
                    first = row if first is None else first
                    groups.append(i)
                row = stop
            row = first or 0
            for batch in file.iter_batches(min(_ROWS_AT_ONCE, cut.stop - row), groups, list(columns)):
                table = pa.Table.from_batches([batch])
                begin, end = max(cut.start - row, 0), min(cut.stop - row, len(table))
                row += len(table)
                if begin < end:
                    yield Rows(table.slice(begin, end - begin))
                if row >= cut.stop:
                    return


class JsonLines:
    """Files with one JSON object in a line."""

    def measure(self, found: Found, documents: int, longest: int) -> Measured:
        """By counting lines, and looking at the keys of the first hundred."""
        seekable = not found.path.endswith(COMPRESSED)
        cuts: list[Cut] = []
        keys: dict[str, None] = {}
        rows = objects = 0
        with _lines(found.path, 0, max(_CHUNK, longest * _LINE_OVER_TEXT)) as lines:
            for offset, line in lines:
                if rows < _LINES_LOOKED_AT:
                    value, reason = _parse(line)
                    keys |= dict.fromkeys(value)
                    objects += reason is None
                if rows % documents == 0:
                    cuts.append(Cut(rows, rows, offset if seekable else 0))
                rows += 1
        if rows and not objects:
            raise ValueError(
                f"none of its first {min(rows, _LINES_LOOKED_AT)} lines is a JSON object; there must be one in a line"
            )
        ends = [cut.start for cut in cuts[1:]] + [rows]
        ended = tuple(Cut(cut.start, stop, cut.offset) for cut, stop in zip(cuts, ends, strict=True))
        return Measured(rows, ended, pa.schema([pa.field(_utf8(key), pa.string()) for key in keys]))

    def stream(self, path: str, cut: Cut, text: str, columns: Sequence[str], longest: int) -> Iterator[Rows]:
        """The lines of the cut, parsed."""
        row = cut.start if cut.offset else 0
        parsed: list[tuple[dict[str, Any], str | None]] = []
        with _lines(path, cut.offset, longest * _LINE_OVER_TEXT) as lines:
            for _, line in lines:
                if row >= cut.stop:
                    break
                if row >= cut.start:
                    parsed.append(_parse(line))
                row += 1
                if len(parsed) == _ROWS_AT_ONCE:
                    yield _json_rows(parsed, text, columns)
                    parsed = []
        if parsed:
            yield _json_rows(parsed, text, columns)
        if row < cut.stop:
            raise EOFError(f"it ends after {row} lines; {cut.stop} were planned")


class Texts:
    """Folders of text files."""

    def measure(self, found: Found, documents: int, longest: int) -> Measured:
        """From the listing alone."""
        members = [member.path for member in found.members]
        cuts = tuple(replace(cut, members=tuple(members[cut.start : cut.stop])) for cut in cut_rows(len(members), documents))
        names = dict.fromkeys(key for member in members for key in partitions(member))
        return Measured(
            len(members), cuts, pa.schema({"text": pa.string(), "doc_id": pa.string(), **{k: pa.string() for k in names}})
        )

    def stream(self, path: str, cut: Cut, text: str, columns: Sequence[str], longest: int) -> Iterator[Rows]:
        """The files of the cut, each read once and no further than one byte over the longest text."""
        for member in cut.members:
            values: dict[str, Any] = {**partitions(path + member), "doc_id": member}
            if text in columns:
                with open_file(path + member) as opened:
                    values[text] = opened.read(longest + 1)
            yield Rows(_table([values], text, columns))


@contextmanager
def _lines(path: str, offset: int, longest: int) -> Iterator[Iterator[tuple[int, bytes | None]]]:
    """(byte it begins at, line) for each line that is not blank, from `offset`; None for a line over `longest` bytes."""
    with open_file(path) as opened:
        opened.seek(offset)
        if path.endswith(COMPRESSED):
            with pa.CompressedInputStream(pa.PythonFile(opened), "gzip" if path.endswith(".gz") else "zstd") as stream:
                yield split_lines(stream, 0, longest)
        else:
            yield split_lines(opened, offset, longest)


def split_lines(stream: IO[bytes], offset: int, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """(byte it begins at, line) for each line of a stream that is not blank; None for one over `longest` bytes.

    A line's bytes are kept only up to `longest`, so one without an end does not fill the memory.
    """
    kept: list[bytes] = []
    length, blank = 0, True
    while chunk := stream.read(_CHUNK):
        for i, piece in enumerate(chunk.split(b"\n")):
            if i:  # a line ended before this piece
                if not blank:
                    yield offset, b"".join(kept) if length <= longest else None
                offset += length + 1
                kept, length, blank = [], 0, True
            length += len(piece)
            blank = blank and not piece.strip()
            if length <= longest:
                kept.append(piece)
    if not blank:
        yield offset, b"".join(kept) if length <= longest else None


def _parse(line: bytes | None) -> tuple[dict[str, Any], str | None]:
    """The object of a line, or an empty one and what is wrong."""
    if line is None:
        return {}, "the line is too long for --max-document-bytes"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, f"the line is not JSON ({type(error).__name__}: {str(error)[:120]})"
    if not isinstance(value, dict):
        return {}, f"the line is not a JSON object but {_kind(value)}"
    return value, None


def _json_rows(parsed: Sequence[tuple[dict[str, Any], str | None]], text: str, columns: Sequence[str]) -> Rows:
    reasons = {}
    for i, (value, reason) in enumerate(parsed):
        if reason is None and not isinstance(value.get(text), str | None):
            reason = f"the text is {_kind(value[text])}, not a string"
        if reason is not None:
            reasons[i] = reason
    values = [{c: _utf8(value.get(c)) for c in columns} for value, _ in parsed]
    return Rows(_table(values, text, columns), reasons)


def _table(rows: Sequence[dict[str, Any]], text: str, columns: Sequence[str]) -> pa.Table:
    types = {c: pa.large_binary() if c == text else pa.string() for c in columns}
    return pa.table({c: pa.array([row.get(c) for row in rows], kind) for c, kind in types.items()})


def _utf8(value: Any) -> str | None:
    """A JSON value as text; half a surrogate pair, which no UTF-8 can hold, as its escape."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


def _unpacked(value: Any) -> Any:
    """The list or object that a text is the JSON of; all else as it is."""
    if not isinstance(value, str) or not value.startswith(("[", "{")):
        return value
    try:
        return _as_texts(json.loads(value))
    except (ValueError, RecursionError):
        return value


def _as_texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_texts(item) for item in value]
    if isinstance(value, dict):
        return {name: _as_texts(item) for name, item in value.items()}
    return _utf8(value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
