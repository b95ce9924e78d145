"""How many model copies a cluster holds, machine by machine, and what Ray sets aside for each. Pure.

A model copy lives on one machine: CPUs of several do not add up. A machine keeps room to read and commit beside its copies, so
that two cores are enough for a whole run, and copies never wait for what nobody has a CPU to read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import UsageError

# What Ray sets aside for a task that reads or commits: next to nothing, since how many there are at once is said beside it.
IO_CPUS = 0.01

# CPUs of such a task in truth: it waits for disks more than it computes.
_TASK_CPUS = 0.2

# CPUs of a machine that model copies leave. Of what is left, Ray Data 2.60 gives whole ones to a run, beside what it foresaw;
# where there is none, reading ahead may take it all, and what is done waits to be committed.
_ROOM = 1.2

_LEAST_CPUS = 0.1

_SMALLEST_WAVE, _SHARDS_EACH, _LARGEST_WAVE = 1_000, 250, 10_000


@dataclass(frozen=True)
class Machine:
    """What Ray may give away of a machine, and how many of its kind there are, or may come to be."""

    cpus: float
    gpus: float = 0.0
    count: int = 1


@dataclass(frozen=True)
class Pool:
    """Model copies: how many to begin with, how many at most as the cluster grows, and the CPUs of each; and how many tasks
    read at once, and how many commit."""

    actors: int
    most: int
    cpus: float
    readers: int
    writers: int

    @property
    def wave(self) -> int:
        """Shards that Ray Data is given at once: what the driver holds grows with them, and an end that is asked for waits
        until each has been looked at. Model copies load once for each such wave, which takes an hour or more."""
        return min(_LARGEST_WAVE, max(_SMALLEST_WAVE, _SHARDS_EACH * self.most))


def copies(machine: Machine, threads: int, gpus: float) -> int:
    """Model copies of so many threads, and GPUs or a part of one, that fit one such machine."""
    by_cpus = int(machine.cpus // threads)
    if not gpus:
        return by_cpus
    # A GPU is shared by whole copies: of two GPUs, 0.6 each, both have room for one.
    by_gpus = int(machine.gpus) * int(1 / gpus + 1e-6)
    return min(by_gpus, by_cpus) if threads > 1 else by_gpus * (machine.cpus >= 1)


def make_pool(
    now: Sequence[Machine],
    later: Sequence[Machine] | None,
    shards: int,
    *,
    actors: int = 0,
    max_actors: int | None = None,
    threads: int = 1,
    gpus: float = 0.0,
) -> Pool:
    """The model copies of a run of so many `shards` on the machines that are there `now`.

    `later` are all that an autoscaler may come to run, or None where nobody says. `actors` are to begin with (0: as many as
    fit now), `max_actors` at most; given, the cluster is believed to grow even where nobody says so.

    Raises:
        UsageError: the cluster can never hold them.
    """
    fit_now, fit_later = (_fitting(machines, threads, gpus) for machines in (now, later or now))
    most = max(fit_now, fit_later) if max_actors is None else max(max_actors, actors)
    if not most or (actors > most and max_actors is None):
        asked = f"--actors is {actors}" if actors else "there is no room for a model copy"
        raise UsageError(
            f"{asked}: each takes {threads} CPUs (--threads) and {gpus:g} GPUs (--gpus) of one machine, and the cluster has "
            f"{_described(later or now)}, room for {most}. Ask for less or add machines; on a cluster that grows, say "
            "--max-actors."
        )
    begin = min(actors or fit_now or 1, most, shards)
    cpus = _cpus_each(now, later, threads, gpus)
    left = [(m.count, m.cpus - cpus * copies(m, threads, gpus)) for m in later or now]
    room = sum(count * max(0.0, cpus_left) / _TASK_CPUS for count, cpus_left in left)
    room = max(room, most)  # of machines that nobody has named: room for a task beside each copy
    # A shard is read and committed once. More tasks commit, so that what is done does not wait behind what is read ahead.
    readers, writers = max(1, round(room / 3)), max(1, round(room * 2 / 3))
    readers = readers if any(cpus_left >= 1 for _, cpus_left in left) else 1
    return Pool(begin, max(begin, min(most, shards)) if most > fit_now else begin, cpus, readers, writers)


def _fitting(machines: Sequence[Machine], threads: int, gpus: float) -> int:
    return sum(machine.count * copies(machine, threads, gpus) for machine in machines)


def _cpus_each(now: Sequence[Machine], later: Sequence[Machine] | None, threads: int, gpus: float) -> float:
    """CPUs of a copy, so that as many as fit leave room to read beside them on every machine that holds any."""
    held = [(m, copies(m, threads, gpus)) for m in (*now, *(later or ()))]
    shares = [(m.cpus - _ROOM) / fit for m, fit in held if fit]
    return max(_LEAST_CPUS, round(min([threads - _TASK_CPUS, *shares]), 2))


def _described(machines: Sequence[Machine]) -> str:
    kinds: Counter[tuple[float, float]] = Counter()
    for machine in machines:
        kinds[machine.cpus, machine.gpus] += machine.count
    each = [f"{count} x {cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "") for (cpus, gpus), count in kinds.items()]
    return " + ".join(each) or "no machines"
