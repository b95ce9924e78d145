"""What a run has done, added up receipt by receipt, and what that says of the time left. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

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

# Standard deviations on each side of a forecast, so that the interval holds the truth four times in five.
_Z_80 = 1.28


@dataclass
class Totals:
    """Sums over receipts: what they count by name, `shards`, and `worked_tokens`, those of rows that were not
    carried over; what was measured, of peaks the highest; failures; flags."""

    counts: Counter[str] = field(default_factory=Counter)
    measured: dict[str, float] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, shards_metadata: Iterable[ShardMetadata]) -> Totals:
        """The sums over these receipts."""
        totals = cls()
        for shard_metadata in shards_metadata:
            totals.add(shard_metadata)
        return totals

    def add(self, shard_metadata: ShardMetadata) -> None:
        """Add one shard."""
        made = (
            (shard_metadata.rows - shard_metadata.reused) / shard_metadata.rows
            if shard_metadata.rows
            else 0.0
        )
        worked = round((shard_metadata.input_tokens + shard_metadata.output_tokens) * made)
        self.counts.update(
            {name: getattr(shard_metadata, name) for name in COUNTED}, shards=1, worked_tokens=worked
        )
        for name, value in shard_metadata.measured.items():
            before = self.measured.get(name, 0)
            self.measured[name] = max(before, value) if name.startswith("peak_") else before + value
        self.failures.update(shard_metadata.failures)
        self.flags.update(shard_metadata.flags)

    @property
    def slot_utilization(self) -> float | None:
        """The share of places in decoding steps that a document took; None where nothing was decoded."""
        places = self.measured.get("slot_steps")
        return self.measured["document_steps"] / places if places else None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens read and written in a second of one actor's work; None where there was none."""
        seconds = self.counts["seconds"]
        return self.counts["worked_tokens"] / seconds if seconds else None


@dataclass(frozen=True)
class Estimate:
    """A number and the interval that holds it four times in five."""

    middle: float
    low: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Estimate:
        """A number that is known."""
        return cls(value, value, value)

    def plus(self, more: float) -> Estimate:
        """This and a number that is known."""
        return Estimate(self.middle + more, self.low + more, self.high + more)

    def times(self, factor: float) -> Estimate:
        """This many times."""
        return Estimate(self.middle * factor, self.low * factor, self.high * factor)


@dataclass
class RunStats:
    """A run while it goes on: what is planned, what stands in its folder, and of that what this run did
    itself.

    `actors` work side by side now; `held_seconds` are those of all model copies together.
    """

    documents: int
    shards: int
    replicas: int
    all: Totals = field(default_factory=Totals)
    own: Totals = field(default_factory=Totals)
    mean_cost: float = 0.0  # of this run's shards, the seconds a document took
    squares: float = 0.0  # of what they differ from that, the sum
    first: float | None = None  # seconds after the run's begin at which its first shard was begun
    replica_seconds: float = 0.0
    held_at_first: float = 0.0  # those of them before the first shard was begun
    passed: float = 0.0  # seconds after the run's begin up to which they are counted

    def add(self, shard_metadata: ShardMetadata, since: float | None = None) -> None:
        """Add a shard; one that this run did itself was finished `since` seconds after its begin."""
        self.all.add(shard_metadata)
        if since is None:
            return
        self.own.add(shard_metadata)
        cost = shard_metadata.seconds / shard_metadata.documents
        before, self.mean_cost = (
            self.mean_cost,
            self.mean_cost + (cost - self.mean_cost) / self.own.counts["shards"],
        )
        self.squares += (cost - before) * (cost - self.mean_cost)
        begun = max(0.0, since - shard_metadata.seconds)
        if self.first is None or begun < self.first:
            self.first, self.held_at_first = begun, begun * self.replicas

    def advance_clock(self, seconds: float) -> None:
        """The run has lasted so many seconds; since it was last told, there were `actors` model copies."""
        self.replica_seconds += (seconds - self.passed) * self.replicas
        self.passed = seconds

    @property
    def documents_left(self) -> int:
        """Documents not committed yet."""
        return self.documents - self.all.counts["documents"]

    def time_left(self, seconds: float) -> Estimate | None:
        """Seconds left after `seconds`, from what this run's shards took; None before two of them are
        committed.

        Shards are taken for draws of one kind: the interval is as wide as they differ.
        """
        done = self.own.counts
        if done["shards"] < 2 or self.first is None or not self.documents_left:
            return None if self.documents_left else Estimate.exactly(0)
        mean = done["seconds"] / done["documents"]
        shards_left = self.shards - self.all.counts["shards"]
        each = mean * self.documents_left / shards_left
        lanes = min(self.replicas, shards_left)
        in_flight = lanes * each / 2
        held = self.replica_seconds + (seconds - self.passed) * self.replicas
        working = max(held - self.held_at_first, 1e-9)
        busy = min(1.0, max(0.2, (done["seconds"] + in_flight) / working))
        work = max(mean * self.documents_left - in_flight, each / 2)
        spread = math.sqrt(self.squares / (done["shards"] - 1)) * self.documents_left / shards_left
        deviation = spread * math.sqrt(shards_left + shards_left**2 / done["shards"])
        middle, reach = work / lanes / busy, _Z_80 * deviation / lanes / busy
        return Estimate(middle, max(0.0, middle - reach), middle + reach)


def device_hours(replica_seconds: float, gpus: float) -> float:
    """Hours of devices while model copies are held, so many seconds in all: each has its GPU, a share of one,
    or its CPUs."""
    return replica_seconds / 3600 * (gpus or 1.0)


def throughput(shards_metadata: Iterable[ShardMetadata], bins: int) -> list[tuple[float, float, float]]:
    """(begin in seconds, documents per second, actors at work) of equal spans of the time that these shards
    took.

    A shard's documents are spread evenly over its predictor's time.
    """
    spans = [(r.finished_at - r.seconds, r.finished_at, r.documents) for r in shards_metadata]
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
