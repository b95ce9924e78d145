"""The texts of a column: one text per document, or a list of texts that make one input."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa


class Text(NamedTuple):
    """A document's text or texts, or the reason why it has none, and a hash of its bytes."""

    text: str | tuple[str, ...] | None
    reason: str | None
    text_hash: str | None


def read_texts(column: pa.ChunkedArray, max_bytes: int, *, lists: bool = False) -> list[Text]:
    """The texts of a column of text or bytes, or with `lists` also of lists of them.

    A document of more than `max_bytes` has a reason instead.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    # Read as bytes: Parquet promises UTF-8, but files break the promise, and one bad row would fail all.
    if lists and is_list(kind):
        values = column.cast(pa.large_list(pa.large_binary())).to_pylist()
        return [_decode_list(value, max_bytes) for value in values]
    decoded = [_decode(value, max_bytes) for value in column.cast(pa.large_binary()).to_pylist()]
    return [_as_list(text) for text in decoded] if lists else decoded


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of lists."""
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _as_list(text: Text) -> Text:
    """One text as a list of one."""
    return text if text.text is None else text._replace(text=(str(text.text),))


def _decode(value: bytes | None, max_bytes: int) -> Text:
    if value is None:
        return Text(None, "the text is null", None)
    text_hash = hashlib.blake2b(value, digest_size=16).hexdigest()
    if len(value) > max_bytes:
        return Text(None, _too_long("the text has", len(value), max_bytes), text_hash)
    text, reason = _utf_8(value)
    if text is not None and not text.strip():
        text, reason = None, "the text is empty"
    return Text(text, reason, text_hash)


def _too_long(what: str, size: int, most: int) -> str:
    return f"{what} {size} bytes, more than the {most} of --max-document-bytes; raise it to read the document"


def _utf_8(value: bytes) -> tuple[str | None, str | None]:
    """(text, None), or (None, the reason why the bytes are not a text)."""
    try:
        return value.decode(), None
    except UnicodeDecodeError as error:
        return None, f"the text is not UTF-8 (byte 0x{value[error.start]:02x} at {error.start})"


def _decode_list(values: Sequence[bytes | None] | None, max_bytes: int) -> Text:
    if values is None:
        return Text(None, "the text is null", None)
    digest = hashlib.blake2b(digest_size=16)
    for value in values:  # with its length, so that texts that are cut elsewhere have another hash
        digest.update(len(value or b"").to_bytes(8) + (value or b""))
    text_hash = digest.hexdigest()
    if (size := sum(len(value or b"") for value in values)) > max_bytes:
        return Text(None, _too_long("the texts have", size, max_bytes), text_hash)
    texts = []
    for number, value in enumerate(values):
        decoded, problem = _utf_8(value or b"")
        if decoded is None:
            return Text(None, f"of text {number + 1} in the list, {problem}", text_hash)
        texts.append(decoded)
    if not any(text.strip() for text in texts):
        return Text(None, "the list has no text", text_hash)
    return Text(tuple(texts), None, text_hash)
