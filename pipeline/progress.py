"""Progress: one line that is true, from the output folder's listing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from pipeline.shards import Plan
from pipeline.store import Store


def describe_progress(plan: Plan, names: set[str], before: int, seconds: float) -> str:
    """The line: shards and documents committed, documents a second and the time left by this run's own pace.

    `before` documents were committed when this run began, `seconds` ago.
    """
    committed = [s for s in plan.shards if s.part in names]
    documents = sum(s.documents for s in committed)
    line = f"{documents}/{plan.documents} documents, {len(committed)}/{len(plan.shards)} shards, {seconds:.0f} s"
    if documents > before and seconds > 0:
        pace = (documents - before) / seconds
        line += f", {pace:.1f} documents/s, {(plan.documents - documents) / pace:.0f} s left"
    return line


class Progress:
    """Prints the line every `every` seconds while the block runs, and once at its end; in place on a terminal."""

    def __init__(
        self, plan: Plan, store: Store, before: int, every: float, write: Callable[[str], object] | None = None
    ) -> None:
        self._plan, self._store, self._before = plan, store, before
        self._terminal = sys.stderr.isatty()
        self._every = min(every, 2.0) if self._terminal else every
        self._write = write or sys.stderr.write
        self._begun = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._print("\n")

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._print("" if self._terminal else "\n")

    def _print(self, end: str) -> None:
        seconds = time.monotonic() - self._begun
        line = describe_progress(self._plan, self._store.names(), self._before, seconds)
        self._write(("\r\x1b[K" if self._terminal else "") + line + end)
        sys.stderr.flush()
