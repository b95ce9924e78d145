"""Cursors: positions in files that can only be read from a start, such as row groups and compressed files.

A process keeps the last cursors that it used. Consecutive shards of one row group then continue where the
last one ended, instead of decoding all rows before them again.
"""

from __future__ import annotations

import atexit
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Protocol

from pipeline.inputs.rows import Rows

# Cursors that a process keeps. Each holds an open file and the rows that it decoded ahead.
_KEPT = 2


class Cursor(Protocol):
    """A reader at row `position` of a file, which reads up to row `end`, exclusive."""

    position: int
    end: int

    def read(self, start: int, stop: int) -> Iterator[Rows]:
        """Yield the rows `start` to `stop`, exclusive, which are at the position or behind it. Later rows
        stay for the next call."""

    def close(self) -> None:
        """Close the file."""


class CursorCache:
    """The last `kept` cursors, by what they read. A cursor serves one reader at a time."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept, self._lock = kept, threading.Lock()
        self._cursors: OrderedDict[Hashable, Cursor] = OrderedDict()

    def read(self, key: Hashable, new: Callable[[], Cursor], start: int, stop: int) -> Iterator[Rows]:
        """Yield the rows `start` to `stop` from the cursor of `key`, or from a `new` one if that is behind
        `start`, or ends before `stop`.

        A cursor is kept unless it is at its end, or the caller did not take all rows.
        """
        with self._lock:
            cursor = self._cursors.pop(key, None)
        if cursor is not None and not cursor.position <= start <= stop <= cursor.end:
            cursor.close()
            cursor = None
        cursor = cursor or new()
        try:
            yield from cursor.read(start, stop)
        except BaseException:
            cursor.close()
            raise
        if cursor.position >= cursor.end:
            cursor.close()
            return
        with self._lock:
            self._cursors[key] = cursor
            dropped = [self._cursors.popitem(last=False)[1] for _ in range(len(self._cursors) - self._kept)]
        for each in dropped:
            each.close()

    def clear(self) -> None:
        """Close all cursors."""
        with self._lock:
            cursors = list(self._cursors.values())
            self._cursors.clear()
        for cursor in cursors:
            cursor.close()


CURSORS = CursorCache()
atexit.register(CURSORS.clear)
