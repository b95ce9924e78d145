"""The run watched from its output folder: receipts of shards as they are committed, added up, told to those who ask."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from pipeline.commit import read_receipt
from pipeline.shards import Shard
from pipeline.store import Store
from pipeline.tally import Tally

logger = logging.getLogger(__name__)

# Told the tally and the seconds since the begin.
Observer = Callable[[Tally, float], object]

_READERS = 16  # footers read at once


class Watch:
    """Adds the receipts of `shards` to `tally` as they come, and tells the observers every `every` seconds, and at the end.

    It is the same whoever committed them. An error in it is logged and does not end the run.
    """

    def __init__(
        self, store: Store, shards: Sequence[Shard], tally: Tally, observers: Sequence[Observer], every: float
    ) -> None:
        self._store, self._left = store, {shard.part for shard in shards}
        self.tally, self._observers, self._every = tally, observers, every
        self._begun, self._begun_at = time.monotonic(), time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _follow(self) -> None:
        while not self._stop.wait(self._every):
            self._look()

    def _look(self) -> None:
        try:
            new = sorted(self._left & self._store.names())
            with ThreadPoolExecutor(_READERS) as pool:
                receipts = list(pool.map(lambda name: read_receipt(self._store, name), new))
            self._left.difference_update(new)
            for receipt in receipts:
                self.tally.add(receipt, max(0.0, receipt.finished_at - self._begun_at))
            for observe in self._observers:
                observe(self.tally, time.monotonic() - self._begun)
        except Exception:
            logger.exception("the run could not be looked at; it goes on")
