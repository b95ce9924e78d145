"""Digests of committed files: of their bytes, and of their rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.inputs.types import BYTES, TEXTS

_Update = Callable[[bytes | memoryview], object]

# Bytes of a file that are read at once.
_PIECE = 4 << 20

# Rows that are digested at once.
_ROWS = 64

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


class FileDigest(NamedTuple):
    """The size of a file in bytes, and the SHA-256 of its content."""

    size: int
    sha256: str


def file_digest(data: bytes) -> FileDigest:
    """The digest of a file with this content."""
    return FileDigest(len(data), hashlib.sha256(data).hexdigest())


def digest_of(opened: BinaryIO) -> FileDigest:
    """The digest of an open file, read piece by piece from where it is."""
    digest, size = hashlib.sha256(), 0
    while piece := opened.read(_PIECE):
        digest.update(piece)
        size += len(piece)
    return FileDigest(size, digest.hexdigest())


def column_digests(table: pa.Table) -> dict[str, str]:
    """A digest of the type and values of each column of a table, by name and in their order.

    How the values are stored does not matter: neither chunks nor the bytes in place of nulls change it.
    """
    columns = zip(table.column_names, table.columns, strict=True)
    return {name: column_digest(column.type, column.chunks) for name, column in columns}


def column_digest(kind: pa.DataType, chunks: Iterable[pa.Array]) -> str:
    """The digest of a column, from its values piece by piece."""
    digest = hashlib.sha256(f"{kind}\0".encode())
    ahead: list[pa.Array] = []
    rows = 0
    for chunk in chunks:
        while rows + len(chunk) >= _ROWS:
            _add(pa.concat_arrays([*ahead, _wide(chunk.slice(0, _ROWS - rows))]), digest.update)
            ahead, chunk, rows = [], chunk.slice(_ROWS - rows), 0
        if len(chunk):
            ahead.append(_wide(chunk))
            rows += len(chunk)
    if ahead:
        _add(pa.concat_arrays(ahead), digest.update)
    return digest.hexdigest()


def rows_sha256(digests: Mapping[str, str]) -> str:
    """A digest of rows, from those of their columns."""
    return hashlib.sha256(json.dumps(list(digests.items())).encode()).hexdigest()


def _wide(values: pa.Array) -> pa.Array:
    """Texts with offsets of 64 bits, as bytes, and values in place of a dictionary."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    is_text = any(check(values.type) for check in (*TEXTS, *BYTES))
    return values.cast(pa.large_binary()) if is_text else values


def _add(values: pa.Array, update: _Update) -> None:
    """Add the values of an array: which of them are valid, and then those."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    values = _wide(values)
    update(np.asarray(values.is_valid()).tobytes())
    values = values.drop_null()
    kind = values.type
    if pa.types.is_null(kind):
        return
    if pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            _add(values.field(i), update)
    elif pa.types.is_map(kind):
        update(np.diff(np.asarray(values.offsets)).astype(np.int64).tobytes())
        _add(values.keys, update)
        _add(values.items, update)
    elif any(check(kind) for check in _LISTS):
        update(np.asarray(pc.list_value_length(values)).astype(np.int64).tobytes())
        _add(values.flatten(), update)
    elif pa.types.is_large_binary(kind):
        update(np.asarray(pc.binary_length(values)).tobytes())
        offsets = np.frombuffer(values.buffers()[1], np.int64)[
            values.offset : values.offset + len(values) + 1
        ]
        if len(values):
            update(memoryview(values.buffers()[2])[offsets[0] : offsets[-1]])
    elif pa.types.is_boolean(kind):
        update(np.asarray(values.cast(pa.uint8())).tobytes())
    else:
        width = kind.bit_width // 8
        start = values.offset * width
        update(memoryview(values.buffers()[1])[start : start + len(values) * width])
