"""JSON lines: one JSON object per line, blank lines left out.

Lines are counted once, when the run is planned. A shard of an uncompressed file starts at its byte offset. A
shard of a compressed file reads the file from the start, or continues where the process was in that file.

All columns are text: strings as they are, null as null, and every other value as JSON. `parse_nested`
restores lists and records.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import IO, Any

import pyarrow as pa

from pipeline.inputs.cursors import CURSORS
from pipeline.inputs.files import COMPRESSED, FileEntry, current_entry, open_file
from pipeline.inputs.rows import BATCH_ROWS, FileStats, Rows, table_of
from pipeline.inputs.splits import Split

_CHUNK = 1 << 20
_LINES_INSPECTED = 100
# A line may be this many times as long as the longest text, for its escapes and the other columns.
_LINE_PER_TEXT = 8


class JsonLines:
    """Files with one JSON object per line."""

    def inspect(self, entry: FileEntry, documents: int, max_bytes: int) -> FileStats:
        """Counts the lines. The columns are the keys of the first hundred lines."""
        splits: list[Split] = []
        keys: dict[str, None] = {}
        rows = objects = 0
        compressed = entry.path.endswith(COMPRESSED)
        with ExitStack() as stack:
            for offset, line in _lines(entry.path, 0, max(_CHUNK, max_bytes * _LINE_PER_TEXT), stack):
                if rows < _LINES_INSPECTED:
                    value, reason = _parse(line)
                    keys |= dict.fromkeys(value)
                    objects += reason is None
                if rows % documents == 0:
                    splits.append(Split(rows, rows, 0 if compressed else offset))
                rows += 1
        if rows and not objects:
            first = min(rows, _LINES_INSPECTED)
            raise ValueError(f"none of its first {first} lines is a JSON object; every line must be one")
        ends = [split.start for split in splits[1:]] + [rows]
        complete = tuple(
            Split(split.start, stop, split.offset, skipped_rows=split.start if compressed else 0)
            for split, stop in zip(splits, ends, strict=True)
        )
        return FileStats(rows, complete, pa.schema([pa.field(_utf8(key), pa.string()) for key in keys]))

    def stream(
        self, path: str, split: Split, text: str, columns: Sequence[str], max_bytes: int, lists: bool
    ) -> Iterator[Rows]:
        """Parses the lines of the split."""
        given = (path, text, tuple(columns), max_bytes, lists)
        key = (current_entry(path), *given)
        return CURSORS.read(key, lambda: _Lines(split, *given), split.start, split.stop)


class _Lines:
    """A cursor over the lines of a file: those of a split, or all of a compressed file."""

    def __init__(
        self, split: Split, path: str, text: str, columns: Sequence[str], max_bytes: int, lists: bool
    ) -> None:
        self.position = split.start if split.offset else 0
        self.end = sys.maxsize if path.endswith(COMPRESSED) else split.stop
        self._text, self._columns, self._accept_lists = text, columns, lists
        with ExitStack() as stack:
            self._lines = _lines(path, split.offset, max_bytes * _LINE_PER_TEXT, stack)
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
                yield _json_rows(parsed, self._text, self._columns, self._accept_lists)
                parsed = []

    def close(self) -> None:
        self._stack.close()


def _lines(path: str, offset: int, max_bytes: int, stack: ExitStack) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file from byte `offset`, as `split_lines` yields them. `stack` closes the file."""
    opened = stack.enter_context(open_file(path))
    opened.seek(offset)
    if not path.endswith(COMPRESSED):
        return split_lines(opened, offset, max_bytes)
    kind = "gzip" if path.endswith(".gz") else "zstd"
    stream = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(opened), kind))
    return split_lines(stream, 0, max_bytes)


def split_lines(stream: IO[bytes], offset: int, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield (offset in bytes, line) for each line that is not blank. A line over `max_bytes` is None.

    At most `max_bytes` of a line are kept, so an endless line does not fill the memory.
    """
    kept: list[bytes] = []
    length, blank = 0, True
    while chunk := stream.read(_CHUNK):
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


def _json_rows(
    parsed: Sequence[tuple[dict[str, Any], str | None]], text: str, columns: Sequence[str], lists: bool
) -> Rows:
    rows: list[dict[str, Any]] = []
    reasons = {}
    for i, (value, reason) in enumerate(parsed):
        row: dict[str, Any] = {name: _utf8(value.get(name)) for name in columns if name != text}
        try:
            row[text] = _text(value.get(text), lists)
        except TypeError:
            rule = "a string or an array of strings" if lists else "a string"
            reason = f"the text is {_kind(value[text])}, not {rule}"
        if reason is not None:
            reasons[i] = reason
        rows.append(row)
    return Rows(table_of(rows, text, columns, lists=lists), reasons)


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
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


def parse_nested(value: Any) -> Any:
    """The list or object in a text that is JSON from start to end. Other values are returned unchanged."""
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
