"""An end to a run in which too many documents fail: `--max-failed`, watched while it runs.

What was committed stays and counts again when the run goes on, so only another limit, or other settings in another folder,
lead further.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from pipeline.commit import Receipt, read_receipt
from pipeline.errors import TooManyFailures
from pipeline.shards import Plan
from pipeline.store import Store

_ENOUGH = signal.SIGUSR1
_PATIENCE_S = 2.0


def allowed_failures(max_failed: float | None, documents: int) -> int | None:
    """How many of so many documents may fail: a number as it is, below 1 a share; None for all."""
    if max_failed is None:
        return None
    return int(max_failed if max_failed >= 1 else max_failed * documents)


def check_failures(failed: int, max_failed: float | None, documents: int) -> None:
    """See that no more than `max_failed` of a run's documents failed.

    Raises:
        TooManyFailures: more did.
    """
    allowed = allowed_failures(max_failed, documents)
    if allowed is not None and failed > allowed:
        raise TooManyFailures(
            f"{failed} of {documents} documents failed; --max-failed is {max_failed:g}. "
            "The reasons stand in the rows; what is committed stays. Allow more to go on."
        )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class FailureWatch:
    """Interrupts the block, in the main thread, when more documents failed than allowed: then it raises TooManyFailures.

    Every `every` seconds it reads the receipts of the shards committed since, so it watches only where there is a limit.
    """

    def __init__(self, plan: Plan, store: Store, known: Iterable[Receipt], max_failed: float | None, every: float) -> None:
        self._plan, self._store, self._max_failed, self._every = plan, store, max_failed, every
        known = list(known)
        self._seen = {receipt.shard_id for receipt in known}
        self._failed = sum(receipt.failed_documents for receipt in known)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._handler: Any = None

    def __enter__(self) -> FailureWatch:
        check_failures(self._failed, self._max_failed, self._plan.documents)
        if self._max_failed is not None and threading.current_thread() is threading.main_thread():
            # Not by SIGINT: a command that a script starts in the background is deaf to it.
            self._handler = signal.signal(_ENOUGH, _interrupt)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._handler is not None:
            signal.signal(_ENOUGH, self._handler)
        if kind is KeyboardInterrupt:
            check_failures(self._failed, self._max_failed, self._plan.documents)

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            names = self._store.names()
            for shard in self._plan.shards:
                if shard.part in names and shard.shard_id not in self._seen:
                    self._seen.add(shard.shard_id)
                    self._failed += read_receipt(self._store, shard.part).failed_documents
            try:
                check_failures(self._failed, self._max_failed, self._plan.documents)
            except TooManyFailures:
                self._interrupt_until_it_ends()

    def _interrupt_until_it_ends(self) -> None:
        """Once is not enough: an exception that is raised within a destructor or a callback is lost."""
        while not self._stop.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, _ENOUGH)
            self._stop.wait(_PATIENCE_S)
