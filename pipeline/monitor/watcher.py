"""The run watched from its output folder: receipts of shards as they are committed, added up, told to those
who ask."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from pipeline.errors import CorruptOutput, PipelineError, one_line
from pipeline.monitor.stats import RunStats
from pipeline.output.commit import ShardMetadata, read_shard_metadata
from pipeline.output.store import Store
from pipeline.planning.plan import Shard

logger = logging.getLogger(__name__)

# Told the tally and the seconds since the begin.
Observer = Callable[[RunStats, float], object]

_READERS = 16  # footers read at once


class ProgressWatcher:
    """Adds the receipts of `shards` to `tally` as they come, and tells the observers every `every` seconds,
    and at the end.

    It is the same whoever committed them. An error in it is logged once and ends neither the run nor what the
    others are told.
    """

    def __init__(
        self,
        store: Store,
        shards: Sequence[Shard],
        stats: RunStats,
        observers: Sequence[Observer],
        every: float,
    ) -> None:
        self._store, self._left = store, {shard.part for shard in shards}
        self.stats, self._observers, self._every = stats, observers, every
        self._begun, self._begun_at = time.monotonic(), time.time()
        self._stop, self._warned = threading.Event(), set[str]()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> ProgressWatcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _follow(self) -> None:
        while not self._stop.wait(self._every):
            self._look()

    def _look(self) -> None:
        try:
            self._gather()
        except Exception as error:
            self._warn("the folder", error)
        seconds = time.monotonic() - self._begun
        self.stats.advance_clock(seconds)
        for observe in self._observers:  # whatever happens: one of them ends the run when it is asked to
            try:
                observe(self.stats, seconds)
            except Exception as error:
                self._warn(repr(observe), error)

    def _gather(self) -> None:
        """Add the receipts that came since the last look."""
        new = sorted(self._left & self._store.names())
        with ThreadPoolExecutor(_READERS) as pool:
            shards_metadata = pool.map(self._receipt, new)
        for name, shard_metadata in zip(new, shards_metadata, strict=True):
            if shard_metadata is not None:
                self._left.discard(name)
                self.stats.add(shard_metadata, max(0.0, shard_metadata.finished_at - self._begun_at))

    def _receipt(self, name: str) -> ShardMetadata | None:
        """The receipt of a file; None where there is none to be had now, or ever: a file never changes."""
        try:
            return read_shard_metadata(self._store, name)
        except CorruptOutput as error:
            self._left.discard(name)
            self._warn(name, error)
        except Exception as error:
            self._warn(name, error)
        return None

    def _warn(self, what: str, error: Exception) -> None:
        """Log an error once for what it is about: a look comes every few seconds."""
        if what not in self._warned:
            self._warned.add(what)
            trace = None if isinstance(error, PipelineError) else error
            says = f"{what}: {type(error).__name__}: {one_line(error)}"
            logger.warning("the run could not be looked at (%s); it goes on", says, exc_info=trace)
