"""The prediction loop of a replica: one stream of documents through the model, for all shards in flight.

One thread owns the model and takes the documents of the shards in the order in which they were submitted. The
last documents of a shard therefore share the model with the first ones of the next shard, and no slot is
empty while a shard ends.

An error stops the stream. Each shard that has documents in it is then processed alone, by bisection, before
the stream goes on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.tasks.base import Failed, LoadedTask, ModelInput, Row
from pipeline.workers.bisect import bisect_failures

Outcomes = list[Row | Failed]


@dataclass(frozen=True)
class Predicted:
    """The outcome of each document of a shard, and what the shard took.

    The time of a replica is divided among its shards without overlap: `seconds` and `measured` count from the
    end of the shard before, or from when it was submitted if that was later.
    """

    outcomes: Outcomes
    seconds: float
    measured: dict[str, float]


@dataclass
class _Shard:
    """A submitted shard: its documents, how many were sent to the stream, and the outcomes so far.

    `alone` replaces the stream by a function that computes all outcomes. `start` is called before the first
    document and tells whether the shard is still wanted.
    """

    documents: Sequence[ModelInput]
    start: Callable[[], bool]
    alone: Callable[[], Outcomes] | None
    submitted: float
    sent: int = 0
    outcomes: dict[int, Row | Failed] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)
    predicted: Predicted | None = None
    error: BaseException | None = None

    def result(self) -> Predicted | None:
        """Wait for the outcomes."""
        self.done.wait()
        if self.error is not None:
            raise self.error
        return self.predicted


class PredictionLoop:
    """A loaded task in a thread of its own, which `load` is called in.

    Raises:
        Exception: the error of `load`.
    """

    def __init__(self, load: Callable[[], LoadedTask]) -> None:
        self._load = load
        self._shards: deque[_Shard] = deque()  # those of which not every document is in the stream
        self._in_stream: dict[int, tuple[_Shard, int]] = {}  # by number in the stream
        self._condition = threading.Condition()
        self._loaded: LoadedTask | None = None
        self._load_error: BaseException | None = None
        self._ready = threading.Event()
        self._last_end, self._last_measured = 0.0, dict[str, float]()
        threading.Thread(target=self._run, daemon=True, name="prediction-loop").start()
        self._ready.wait()
        if self._load_error is not None:
            raise self._load_error

    @property
    def loaded(self) -> LoadedTask:
        """The task with its model in memory. Only functions that the loop calls may use the model."""
        assert self._loaded is not None
        return self._loaded

    def submit(
        self,
        documents: Sequence[ModelInput],
        start: Callable[[], bool] = lambda: True,
        alone: Callable[[], Outcomes] | None = None,
    ) -> Callable[[], Predicted | None]:
        """Submit a shard, and return a function that waits for the outcome of each document, in order.

        `start` is called in the loop's thread before the first document. If it returns False, the result is
        None. `alone` computes the outcomes instead, while no other shard is in the stream. The returned
        function raises an error of a `fatal` type of the task, or of `start` or `alone`.
        """
        submitted = time.monotonic()
        if not documents:
            predicted = Predicted([], time.monotonic() - submitted, {}) if start() else None
            return lambda: predicted
        shard = _Shard(documents, start, alone, submitted)
        with self._condition:
            self._shards.append(shard)
            self._condition.notify()
        return shard.result

    def bisect(self, documents: Sequence[ModelInput]) -> Outcomes:
        """The outcome of each document, in a batch without others. Only for functions that the loop calls."""
        return bisect_failures(
            documents,
            self.loaded.predict,
            fatal=self.loaded.fatal,
            before_retry=self.loaded.release_memory,
        )

    def _run(self) -> None:
        try:
            self._loaded = self._load()
        except BaseException as error:
            self._load_error = error
            return
        finally:
            self._ready.set()
        while True:
            with self._condition:
                while not self._shards:
                    self._condition.wait()
            try:
                self._serve(self._shards[0])
            except BaseException as error:
                self._end_all(error)

    def _serve(self, first: _Shard) -> None:
        """Process the shards that wait, of which `first` is the first, until there is none. Errors go to
        those who wait for them."""
        try:
            for number, row in self.loaded.predict(self._documents()):
                shard, i = self._in_stream.pop(number)
                shard.outcomes[i] = row
                if len(shard.outcomes) == len(shard.documents):
                    self._end(shard)
        except self.loaded.fatal:
            raise
        except Exception:
            pass
        # Outside the except clause the error is gone, and with it the tensors that its traceback held.
        unread = self._shards and self._shards[0] is first and first.alone is None
        if self._in_stream or unread:
            self._recover()
        if self._shards and (alone := self._shards[0].alone) is not None:
            self._process_alone(self._shards.popleft(), alone)

    def _documents(self) -> Iterator[ModelInput | None]:
        """The stream: documents of the shards in order, and None while there is none but some are in the
        stream. It ends when none is in the stream, so that the loop can wait or process a shard alone."""
        number = 0
        while True:
            shard = self._next_shard()
            if shard is not None:
                self._in_stream[number] = shard, shard.sent
                shard.sent += 1
                if shard.sent == len(shard.documents):
                    self._shards.popleft()
                number += 1
                yield shard.documents[shard.sent - 1]
            elif self._in_stream:
                yield None
            else:
                return

    def _next_shard(self) -> _Shard | None:
        """The shard of the next document. None if there is none now, or if it must be processed alone."""
        while self._shards:
            shard = self._shards[0]
            if shard.alone is not None:
                return None
            if shard.sent or self._start(shard):
                return shard
            self._shards.popleft()
        return None

    def _start(self, shard: _Shard) -> bool:
        """Whether a shard is still wanted. Otherwise it ends here."""
        try:
            if shard.start():
                return True
        except Exception as error:
            shard.error = error
        shard.done.set()
        return False

    def _recover(self) -> None:
        """After an error in the stream, process the shards that have documents in it, and the next one, one
        by one."""
        self.loaded.release_memory()
        started = {id(shard): shard for shard, _ in self._in_stream.values()}
        if self._shards and self._shards[0].alone is None:
            head = self._shards.popleft()
            started[id(head)] = head
        self._in_stream.clear()
        for shard in started.values():
            if not shard.sent and not self._start(shard):
                continue
            todo = [i for i in range(len(shard.documents)) if i not in shard.outcomes]
            try:
                found = self.bisect([shard.documents[i] for i in todo])
            except Exception as error:
                shard.error = error
                shard.done.set()
                continue
            shard.outcomes |= dict(zip(todo, found, strict=True))
            self._end(shard)

    def _process_alone(self, shard: _Shard, alone: Callable[[], Outcomes]) -> None:
        if not self._start(shard):
            return
        try:
            shard.outcomes = dict(enumerate(alone()))
        except Exception as error:
            shard.error = error
            shard.done.set()
        else:
            self._end(shard)

    def _end(self, shard: _Shard) -> None:
        """Return the outcomes to the one who waits for the shard."""
        try:
            now, measured = time.monotonic(), dict(self.loaded.measured)
        except Exception as error:
            shard.error = error
            shard.done.set()
            return
        self._last_end, since = now, max(self._last_end, shard.submitted)
        spent = {name: value - self._last_measured.get(name, 0) for name, value in measured.items()}
        self._last_measured = measured
        outcomes = [shard.outcomes[i] for i in range(len(shard.documents))]
        shard.predicted = Predicted(outcomes, now - since, spent)
        shard.done.set()

    def _end_all(self, error: BaseException) -> None:
        """End every shard with this error."""
        shards = [shard for shard, _ in self._in_stream.values()]
        with self._condition:
            shards += self._shards
            self._shards.clear()
        self._in_stream.clear()
        for shard in shards:
            shard.error = error
            shard.done.set()
