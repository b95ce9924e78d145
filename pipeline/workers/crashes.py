"""Crash counts: which shard and document a worker was processing when it died, so that a retry can find the
cause.

An error can be caught, and its document found by bisection. A process that is killed for its memory, or that
crashes, raises nothing. A shard whose replica died is therefore processed while no other shard is, so that
the others are not suspected again. A shard whose replica died twice in one run is processed one document at a
time, and each document is noted first. A document at which the process died twice, alone, is quarantined: it
becomes a failed row.

The notes are files on the machine's disk. They belong to one run on one machine, so another run starts
without them.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

ALONE_AFTER = 1  # crashes in a shard
ONE_BY_ONE_AFTER = 2  # crashes in a shard; a single one may have any cause
QUARANTINE_AFTER = 2  # crashes at a document that was processed alone

QUARANTINE_REASON = (
    f"the process died {QUARANTINE_AFTER} times at this document alone: it needs more memory than there is, "
    "or crashes the model"
)


class CrashCounts:
    """The attempts at one shard in one run: a line for each attempt, and for each document that is processed
    alone."""

    def __init__(self, run: str, shard_id: str) -> None:
        self._notes = Path(tempfile.gettempdir()) / f"led-{run}-{shard_id}"

    def read(self) -> tuple[int, set[int]]:
        """The number of earlier attempts, which all crashed, and the quarantined documents."""
        lines = self._notes.read_text().split() if self._notes.exists() else []
        last_lines = [line for line, following in pairwise([*lines, "attempt"]) if following == "attempt"]
        crashes = Counter(int(line) for line in last_lines if line != "attempt")
        return lines.count("attempt"), {document for document, n in crashes.items() if n >= QUARANTINE_AFTER}

    def start(self) -> None:
        """Note a new attempt."""
        self._note("attempt")

    def start_document(self, document: int) -> None:
        """Note that a document is processed alone."""
        self._note(str(document))

    def finish(self) -> None:
        """Forget the attempts at this shard, since it is done."""
        self._notes.unlink(missing_ok=True)

    def _note(self, line: str) -> None:
        with open(self._notes, "a") as file:
            file.write(line + "\n")
