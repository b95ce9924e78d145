"""Running totals of a run, and an estimate of the time that is left. Pure functions.

`RunStats` adds up the metadata of committed shards. Its memory does not grow with the number of shards: it
keeps sums, and one time for each replica.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pipeline.monitor.makespan import Durations, draw_makespans
from pipeline.output.commit import ShardMetadata
from pipeline.schema import STATUSES

COUNTED = (
    "documents",
    "rows",
    *STATUSES,
    "failed_documents",
    "reused",
    "truncated",
    "input_tokens",
    "output_tokens",
    "seconds",
)

# The times in the metadata are rounded to a millisecond each.
_CLOCK_ERROR = 0.01


@dataclass
class Totals:
    """Sums over shards.

    `counts` has the sums of the counts in the metadata by name, the number of `shards`, and `worked_tokens`.
    The last are the tokens of rows that were not reused. `measured` has the sums of the measurements, but the
    maximum of those named `peak_*`.
    """

    counts: Counter[str] = field(default_factory=Counter)
    measured: dict[str, float] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, shards: Iterable[ShardMetadata]) -> Totals:
        """The sums over these shards."""
        totals = cls()
        for shard in shards:
            totals.add(shard)
        return totals

    def add(self, shard: ShardMetadata) -> None:
        """Add one shard."""
        worked = (shard.rows - shard.reused) / shard.rows if shard.rows else 0.0
        worked_tokens = round((shard.input_tokens + shard.output_tokens) * worked)
        counts = {name: getattr(shard, name) for name in COUNTED}
        self.counts.update(counts, shards=1, worked_tokens=worked_tokens)
        for name, value in shard.measured.items():
            before = self.measured.get(name, 0)
            self.measured[name] = max(before, value) if name.startswith("peak_") else before + value
        self.failures.update(shard.failures)
        self.flags.update(shard.flags)

    @property
    def slot_utilization(self) -> float | None:
        """The share of slots in decode steps that held a document. None without decoding."""
        slot_steps = self.measured.get("slot_steps")
        return self.measured["document_steps"] / slot_steps if slot_steps else None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens read and written per second of one replica's work. None before any work."""
        seconds = self.counts["seconds"]
        return self.counts["worked_tokens"] / seconds if seconds else None


@dataclass(frozen=True)
class Estimate:
    """An estimate with its 80 % interval. The truth is below `low` in 10 % of cases, above `high` in 10 %."""

    value: float
    low: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Estimate:
        """An estimate without uncertainty."""
        return cls(value, value, value)

    def plus(self, constant: float) -> Estimate:
        """The sum of this estimate and a constant."""
        return Estimate(self.value + constant, self.low + constant, self.high + constant)

    def times(self, factor: float) -> Estimate:
        """The product of this estimate and a factor of at least 0."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


@dataclass
class RunStats:
    """Statistics of a run in progress.

    The driver calls `add` for each committed shard and `advance_clock` at regular intervals. It sets
    `replicas` when their number changes. Add shards in the order in which they finished, because their times
    show which replica did which shard. All times are seconds after the start of the run. `replica_seconds` is
    the sum over the replicas up to `clock`, the time of the last call of `advance_clock`.

    Args:
        documents: documents of the plan.
        shards: shards of the plan.
        replicas: the current number of replicas.
        all: totals over all committed shards, including those of earlier runs into the same folder.
        own: totals over the shards of this run.
    """

    documents: int
    shards: int
    replicas: int
    all: Totals = field(default_factory=Totals)
    own: Totals = field(default_factory=Totals)
    replica_seconds: float = 0.0
    clock: float = 0.0
    # Durations of this run's shards. Each includes the time that the replica waited for the shard; `longest`
    # does not. Instant shards are left out: all their rows were reused.
    durations: Durations = field(default_factory=Durations)
    longest: float = 0.0
    # One time for each replica, in order: the end of its last shard. A replica that has not finished any
    # shard is in `_started` instead, with the probable start of its first.
    _finished: list[float] = field(default_factory=list)
    _started: list[float] = field(default_factory=list)
    _estimated: tuple[object, Estimate] | None = None  # the last estimate, and what it depends on

    def add(self, shard: ShardMetadata, finished: float | None = None) -> None:
        """Add a shard that this run finished at `finished`, or, if that is None, one of an earlier run."""
        self.all.add(shard)
        if finished is None:
            return
        self.own.add(shard)
        if not shard.seconds or shard.reused == shard.rows:
            return
        start = max(0.0, finished - shard.seconds)
        self._add_new_replicas(start)
        self.durations = self.durations.add(shard.seconds + self._wait_before(start))
        self.longest = max(self.longest, shard.seconds)
        insort(self._finished, finished)

    def advance_clock(self, seconds: float) -> None:
        """Advance the clock to `seconds`. Since the last call there were `replicas` replicas."""
        self.replica_seconds += (seconds - self.clock) * self.replicas
        self.clock = seconds

    @property
    def documents_left(self) -> int:
        """The number of documents that are not committed."""
        return self.documents - self.all.counts["documents"]

    def time_left(self, now: float) -> Estimate | None:
        """Estimate the time from `now` to the end of the last shard.

        Returns None before this run has finished two shards with work. The model draws all shards from one
        log-normal distribution and puts each on the replica that becomes free first. It foresees neither
        further replicas nor a slower machine.
        """
        if not self.documents_left:
            return Estimate.exactly(0)
        if self.durations.count < 2:
            return None
        shards_left = max(1, self.shards - self.all.counts["shards"])
        depends_on = (now, shards_left, self.replicas)
        if self._estimated is None or self._estimated[0] != depends_on:  # observers share it
            ages = np.array(self._ages(now, shards_left))
            instant = self.own.counts["shards"] - self.durations.count
            draws = draw_makespans(self.durations, ages, shards_left - len(ages), instant)
            low, value, high = np.quantile(draws, (0.1, 0.5, 0.9), method="weibull").tolist()
            self._estimated = depends_on, Estimate(value, low, high)
        return self._estimated[1]

    def _ages(self, now: float, shards_left: int) -> list[float]:
        """How long each shard in flight has run.

        If fewer shards are left than replicas, those that finished last are idle, because the queue was empty
        by then.
        """
        self._add_new_replicas(self.clock)
        ages = sorted((max(0.0, now - time) for time in (*self._finished, *self._started)), reverse=True)
        ages = ages[-self.replicas :]
        at_work = [age for age in ages if age <= self._longest_plausible]
        return (at_work or ages)[:shards_left]

    @property
    def _longest_plausible(self) -> float:
        """A replica that has finished nothing for longer is idle. It waits for input, or its machine is gone.

        While few durations are known, the longest may be several times the longest known one.
        """
        return self.longest * (1 + 4 * self.replicas / max(1, self.durations.count))

    def _add_new_replicas(self, start: float) -> None:
        """Note the replicas that are new since the last call. They started their first shard at `start`."""
        known = len(self._finished) + len(self._started)
        self._started += [start] * (max(1, self.replicas) - known)

    def _wait_before(self, start: float) -> float:
        """Remove the replica that started a shard at `start`, and return how long it had waited for it.

        It is the replica that became free last before `start`, or else one that had not finished any shard.
        The wait for the first shard does not count, because the model loads. Nor does the wait of a replica
        that was idle.
        """
        position = bisect_right(self._finished, start + _CLOCK_ERROR)
        if position:
            wait = max(0.0, start - self._finished.pop(position - 1))
            return wait if wait <= self._longest_plausible else 0.0
        if self._started:
            self._started.remove(min(self._started, key=lambda time: abs(time - start)))
        else:  # there are more replicas than `replicas`, or the shards are not in order
            self._finished.pop(0)
        return 0.0


def device_hours(replica_seconds: float, gpus: float) -> float:
    """Device-hours of replicas. The device of a replica is its share of GPUs, or its CPUs if `gpus` is 0."""
    return replica_seconds / 3600 * (gpus or 1.0)


def throughput(shards: Iterable[ShardMetadata], bins: int) -> list[tuple[float, float, float]]:
    """(start in seconds, documents per second, busy replicas) in equal bins of the run's time.

    The documents of a shard are spread evenly over its duration.
    """
    spans = [(s.finished_at - s.seconds, s.finished_at, s.documents) for s in shards]
    if not spans:
        return []
    begin, end = min(s[0] for s in spans), max(s[1] for s in spans)
    width = max((end - begin) / bins, 1e-9)
    documents, busy = [0.0] * bins, [0.0] * bins
    for start, stop, count in spans:
        length = max(stop - start, 1e-9)
        for i in range(int((start - begin) / width), min(bins - 1, int((stop - begin) / width)) + 1):
            inside = min(stop, begin + (i + 1) * width) - max(start, begin + i * width)
            if inside > 0:
                documents[i] += count * inside / length
                busy[i] += inside
    return [(i * width, documents[i] / width, busy[i] / width) for i in range(bins)]
