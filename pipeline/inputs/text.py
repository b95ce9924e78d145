"""Text files. Each file is a document, and a shard is a list of files.

The columns are `text`, and `doc_id` with the path below the input folder. Folders named year=2024 are further
columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipeline.inputs.files import FileEntry, open_file, partitions
from pipeline.inputs.rows import FileStats, Rows, table_of
from pipeline.inputs.splits import Split, split_rows


class TextFolder:
    """Folders of text files."""

    def inspect(self, entry: FileEntry, documents: int, max_bytes: int) -> FileStats:
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

    def stream(
        self, path: str, split: Split, text: str, columns: Sequence[str], max_bytes: int, lists: bool
    ) -> Iterator[Rows]:
        """Reads at most `max_bytes` and one byte of each file, so that a longer text is detected."""
        for member in split.members:
            values: dict[str, Any] = {**partitions(path + member), "doc_id": member}
            if text in columns:
                with open_file(path + member) as opened:
                    values[text] = opened.read(max_bytes + 1)
            yield Rows(table_of([values], text, columns))
