"""The progress watcher: reads the metadata of shards as they are committed, and calls the observers of a run.

It reads only the output folder, so it makes no difference which process committed a shard.
"""

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

# Called with the run stats and the seconds since the run started.
Observer = Callable[[RunStats, float], object]

_READERS = 16  # footers read at once


class ProgressWatcher:
    """Adds newly committed shards to `stats` every `interval_s` seconds and at the end, then calls the
    observers.

    An error of the store or of an observer is logged once. It stops neither the run nor the other observers.
    """

    def __init__(
        self,
        store: Store,
        shards: Sequence[Shard],
        stats: RunStats,
        observers: Sequence[Observer],
        interval_s: float,
    ) -> None:
        self._store, self._pending = store, {shard.part for shard in shards}
        self.stats, self._observers, self._interval_s = stats, observers, interval_s
        self._start, self._start_time = time.monotonic(), time.time()
        self._stop, self._warned = threading.Event(), set[str]()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ProgressWatcher:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._update()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._update()

    def _update(self) -> None:
        try:
            self._add_committed_shards()
        except Exception as error:
            self._warn("the folder", error)
        seconds = time.monotonic() - self._start
        self.stats.advance_clock(seconds)
        for observe in self._observers:  # even after an error, since one of them stops the run at its limits
            try:
                observe(self.stats, seconds)
            except Exception as error:
                self._warn(repr(observe), error)

    def _add_committed_shards(self) -> None:
        committed = sorted(self._pending & self._store.names())
        with ThreadPoolExecutor(_READERS) as pool:
            read = dict(zip(committed, pool.map(self._read_metadata, committed), strict=True))
        shards_metadata = {name: metadata for name, metadata in read.items() if metadata is not None}
        # The stats need the order in which the shards finished.
        for name, metadata in sorted(shards_metadata.items(), key=lambda item: item[1].finished_at):
            self._pending.discard(name)
            self.stats.add(metadata, max(0.0, metadata.finished_at - self._start_time))

    def _read_metadata(self, name: str) -> ShardMetadata | None:
        """The metadata of a committed shard. None if it cannot be read now, or never: files do not change."""
        try:
            return read_shard_metadata(self._store, name)
        except CorruptOutput as error:
            self._pending.discard(name)
            self._warn(name, error)
        except Exception as error:
            self._warn(name, error)
        return None

    def _warn(self, subject: str, error: Exception) -> None:
        """Log the first error of each subject. Updates are frequent, so a lasting error would fill the
        log."""
        if subject not in self._warned:
            self._warned.add(subject)
            trace = None if isinstance(error, PipelineError) else error
            reason = f"{subject}: {type(error).__name__}: {one_line(error)}"
            logger.warning(
                "the progress could not be updated (%s); the run continues", reason, exc_info=trace
            )
