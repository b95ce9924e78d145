"""What a process was at when it died, noted on its machine's disk, so that the next one can tell bad luck from a bad document.

An error can be caught and a document isolated; a process that the kernel kills for its memory, or that crashes, says nothing.
A shard whose predictor died twice in one run is therefore done document by document, each noted before it is begun; one at
which the process died twice, alone, is a failed row. The notes are of one run on one machine: another run starts without.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

CAREFUL_AFTER = 2  # deaths in a shard; one may be anybody's
GIVEN_UP_AFTER = 2  # deaths at a document that was alone

REASON = (
    f"the process died {GIVEN_UP_AFTER} times at this document alone: it needs more memory than there is, or crashes the model"
)


class Attempts:
    """The attempts at one shard in one run: a line for each, and for each document that is begun alone."""

    def __init__(self, run: str, shard_id: str) -> None:
        self._notes = Path(tempfile.gettempdir()) / f"led-{run}-{shard_id}"

    def begin(self) -> tuple[int, set[int]]:
        """Note another attempt; how many ended in death before it, and the documents that are given up."""
        lines = self._notes.read_text().split() if self._notes.exists() else []
        last_words = [line for line, after in pairwise([*lines, "attempt"]) if after == "attempt"]
        deaths = Counter(int(line) for line in last_words if line != "attempt")
        self._note("attempt")
        return lines.count("attempt"), {document for document, times in deaths.items() if times >= GIVEN_UP_AFTER}

    def alone(self, document: int) -> None:
        """Note that a document is begun alone."""
        self._note(str(document))

    def end(self) -> None:
        """The shard is done: forget its attempts."""
        self._notes.unlink(missing_ok=True)

    def _note(self, line: str) -> None:
        with open(self._notes, "a") as file:
            file.write(line + "\n")
