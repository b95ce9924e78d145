"""Text files. Each file is a document, and a shard is a list of files.

The columns are `text`, and `doc_id` with the path below the input folder. Folders named year=2024 are further
columns. A byte order mark is not part of the text.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipeline.errors import printable
from pipeline.inputs.files import FileEntry, check_text_start, open_file, partitions
from pipeline.inputs.rows import FileStats, Request, Rows, table_of
from pipeline.inputs.splits import Split, split_rows

# The first bytes of a file, which show what kind of file it is.
_START_BYTES = 64


class TextFolder:
    """Folders of text files."""

    def inspect(self, entry: FileEntry, documents: int, request: Request) -> FileStats:
        """Uses only the listing."""
        members = [member.path for member in entry.members]
        splits = tuple(
            replace(split, members=tuple(members[split.start : split.stop]))
            for split in split_rows(len(members), documents)
        )
        names = dict.fromkeys(key for member in members for key in partitions(member))
        return FileStats(
            len(members),
            splits,
            pa.schema({"text": pa.string(), "doc_id": pa.string(), **{k: pa.string() for k in names}}),
        )

    def stream(self, path: str, split: Split, request: Request) -> Iterator[Rows]:
        """Reads at most `max_bytes` and one byte of each file, so that a longer text is detected."""
        for member in split.members:
            values: dict[str, Any] = {**partitions(path + member), "doc_id": printable(member)}
            reasons = {}
            if request.text in request.columns:
                with open_file(path + member) as opened:
                    content = opened.read(request.max_bytes + 1 + len(codecs.BOM_UTF8))
                values[request.text] = content.removeprefix(codecs.BOM_UTF8)[: request.max_bytes + 1]
                try:
                    check_text_start(content[:_START_BYTES])
                except ValueError as error:
                    reasons[0] = str(error).replace("it is", "the file is", 1)
            yield Rows(table_of([values], request), reasons)
