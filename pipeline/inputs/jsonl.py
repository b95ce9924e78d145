"""JSON lines: one JSON object per line, blank lines left out.

Lines are counted once, when the run is planned. A shard of an uncompressed file starts at its byte offset. A
shard of a compressed file reads the file from the start, or continues where the process was in that file.

A column that the output copies has the type of all its values, for example a list of texts. Where they have
no common type, and in all other columns, strings are read as they are, null as null, and every other value as
JSON. `parse_nested` restores lists and records.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import IO, Any, cast

import pyarrow as pa

from pipeline.inputs.cursors import CURSORS
from pipeline.inputs.files import (
    FileEntry,
    check_text_start,
    compression_of,
    current_entry,
    open_file,
)
from pipeline.inputs.json_types import ColumnTypes, clean, field_value
from pipeline.inputs.rows import BATCH_ROWS, FileStats, Request, Rows, table_of
from pipeline.inputs.splits import Split
from pipeline.inputs.types import is_text

_CHUNK = 1 << 20
_LINES_INSPECTED = 100
# A line may be this many times as long as the longest text, for its escapes and the other columns.
_LINE_PER_TEXT = 8


class JsonLines:
    """Files with one JSON object per line."""

    def inspect(self, entry: FileEntry, documents: int, request: Request) -> FileStats:
        """Counts the lines. The columns are the keys of the first hundred lines, and the requested ones
        wherever they occur. A later line is only parsed if it may have a requested column that was not yet
        found, or one whose values are not all texts."""
        splits: list[Split] = []
        keys: dict[str, None] = {}
        rows = objects = 0
        compressed = compression_of(entry.path) is not None
        types = ColumnTypes(request.columns, sampled=request.text)
        first = _LINES_INSPECTED
        with ExitStack() as stack:
            most = max(_CHUNK, request.max_bytes * _LINE_PER_TEXT)
            for offset, line in _lines(entry.path, 0, most, stack):
                if rows == first:
                    types.stop_search(request.optional)
                if rows < first or (line is not None and types.may_change(line)):
                    value, reason = _parse(line)
                    keys |= dict.fromkeys(value) if rows < first else {}
                    objects += reason is None
                    types.add(value)
                if rows % documents == 0:
                    splits.append(Split(rows, rows, 0 if compressed else offset))
                rows += 1
        if rows and not objects:
            first = min(rows, _LINES_INSPECTED)
            raise ValueError(f"none of its first {first} lines is a JSON object; every line must be one")
        ends = [split.start for split in splits[1:]] + ([rows] if rows else [])
        complete = tuple(
            Split(split.start, stop, split.offset, skipped_rows=split.start if compressed else 0)
            for split, stop in zip(splits, ends, strict=True)
        )
        kinds = {str(_utf8(key)): pa.string() for key in keys} | types.found()
        return FileStats(rows, complete, pa.schema(kinds))

    def stream(self, path: str, split: Split, request: Request) -> Iterator[Rows]:
        """Parses the lines of the split."""
        key = (current_entry(path), request)
        return CURSORS.read(key, lambda: _Lines(path, split, request), split.start, split.stop)


class _Lines:
    """A cursor over the lines of a file: those of a split, or all of a compressed file."""

    def __init__(self, path: str, split: Split, request: Request) -> None:
        self.position = split.start if split.offset else 0
        self.end = sys.maxsize if compression_of(path) else split.stop
        self._request = request
        with ExitStack() as stack:
            self._lines = _lines(path, split.offset, request.max_bytes * _LINE_PER_TEXT, stack)
            self._stack = stack.pop_all()

    def read(self, start: int, stop: int) -> Iterator[Rows]:
        parsed: list[tuple[dict[str, Any], str | None]] = []
        while self.position < stop:
            try:
                _, line = next(self._lines)
            except StopIteration:
                raise EOFError(f"it ends after {self.position} lines; {stop} were planned") from None
            if self.position >= start:
                parsed.append(_parse(line))
            self.position += 1
            if len(parsed) == BATCH_ROWS or (parsed and self.position == stop):
                yield _json_rows(parsed, self._request)
                parsed = []

    def close(self) -> None:
        self._stack.close()


def _lines(path: str, offset: int, max_bytes: int, stack: ExitStack) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file from byte `offset`, as `split_lines` yields them. `stack` closes the file."""
    opened = stack.enter_context(open_file(path))
    opened.seek(offset)
    kind = compression_of(path)
    if kind is None:
        return split_lines(opened, offset, max_bytes)
    if kind == ".gz":  # pyarrow does not read files that are padded with zeros
        stream = cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=opened)))
    else:
        stream = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(opened), "zstd"))
    return split_lines(stream, 0, max_bytes)


def split_lines(stream: IO[bytes], offset: int, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield (offset in bytes, line) for each line that is not blank. A line over `max_bytes` is None.

    At most `max_bytes` of a line are kept, so an endless line does not fill the memory.

    Raises:
        ValueError: the stream starts like a file in UTF-16, or like a Git LFS pointer.
    """
    kept: list[bytes] = []
    length, blank = 0, True
    start = offset
    while chunk := stream.read(_CHUNK):
        if start == 0:
            check_text_start(chunk)
            start = -1
        for i, piece in enumerate(chunk.split(b"\n")):
            if i:  # a line ended before this piece
                if not blank:
                    yield offset, b"".join(kept) if length <= max_bytes else None
                offset += length + 1
                kept, length, blank = [], 0, True
            length += len(piece)
            blank = blank and not piece.strip()
            if length <= max_bytes:
                kept.append(piece)
    if not blank:
        yield offset, b"".join(kept) if length <= max_bytes else None


def _parse(line: bytes | None) -> tuple[dict[str, Any], str | None]:
    """The object of a line and None, or an empty object and the reason why the line is invalid."""
    if line is None:
        return {}, "the line is too long for --max-document-bytes; raise it to read the document"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, f"the line is not JSON ({type(error).__name__}: {str(error)[:120]})"
    if not isinstance(value, dict):
        return {}, f"the line is not a JSON object but {_kind(value)}"
    return value, None


def _json_rows(parsed: Sequence[tuple[dict[str, Any], str | None]], request: Request) -> Rows:
    """The requested columns of these objects. A line without an object has nulls and its reason.

    Raises:
        ValueError: a value does not fit the type that the plan has for its column.
    """
    rows: list[dict[str, Any]] = []
    reasons = {}
    typed = {name for name, kind in request.types if not is_text(kind)}
    for i, (value, reason) in enumerate(parsed):
        row: dict[str, Any] = {
            name: clean(field_value(value, name)) if name in typed else _utf8(field_value(value, name))
            for name in request.columns
            if name != request.text
        }
        text = field_value(value, request.text)
        try:
            row[request.text] = _text(text, request.lists)
        except TypeError:
            rule = "a string or an array of strings" if request.lists else "a string"
            reason = f"the text is {_kind(text)}, not {rule}"
        if reason is not None:
            reasons[i] = reason
        rows.append(row)
    return Rows(table_of(rows, request), reasons)


def _text(value: Any, lists: bool) -> Any:
    """The value of a text column. With `lists`, a list of texts, where a single text is a list of one.

    Raises:
        TypeError: it is not a text.
    """
    if value is None:
        return None
    texts = value if lists and isinstance(value, list) else [value]
    if not all(isinstance(text, str | None) for text in texts):
        raise TypeError
    return [_utf8(text) for text in texts] if lists else _utf8(value)


def _utf8(value: Any) -> str | None:
    """A JSON value as text. Half a surrogate pair is escaped, since UTF-8 cannot hold it."""
    if value is None:
        return None
    return str(clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))


def parse_nested(value: Any) -> Any:
    """The list or object in a text that is JSON from start to end, with every value inside it as text. So
    are the values of a list or record. Other values are returned unchanged."""
    if isinstance(value, list | dict):
        return _as_texts(value)
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
