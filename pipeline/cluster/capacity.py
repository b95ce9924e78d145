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

# CPUs of a copy at least, and what copies leave of a machine at least.
_LEAST_CPUS = 0.1

_SMALLEST_WAVE, _SHARDS_EACH, _LARGEST_WAVE = 1_000, 250, 10_000


@dataclass(frozen=True)
class Machine:
    """What Ray may give away of a machine."""

    cpus: float
    gpus: float = 0.0


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
        until each has been looked at. Model copies load once for each such wave."""
        return min(_LARGEST_WAVE, max(_SMALLEST_WAVE, _SHARDS_EACH * self.most))


def copies(machine: Machine, threads: int, gpus: float) -> int:
    """Model copies of so many threads, and GPUs or a part of one, that fit one such machine."""
    by_cpus = int(machine.cpus // threads)
    if not gpus:
        return by_cpus
    # A GPU is shared by whole copies: of two GPUs, 0.6 each, both have room for one.
    by_gpus = int(machine.gpus) * int(1 / gpus + 1e-6)
    if threads == 1:  # CPUs only feed them, but some must be left to read
        by_cpus = int((machine.cpus - _LEAST_CPUS) / _LEAST_CPUS + 1e-6) if machine.cpus >= 1 else 0
    return min(by_gpus, by_cpus)


def make_pool(
    machines: Sequence[Machine],
    shards: int,
    *,
    actors: int = 0,
    max_actors: int | None = None,
    threads: int = 1,
    gpus: float = 0.0,
) -> Pool:
    """The model copies of a run of so many `shards` on the machines that are there.

    `actors` are to begin with (0: as many as fit), `max_actors` at most: given, more machines are believed to come, since no
    autoscaler says how many it may start.

    Raises:
        UsageError: the cluster does not hold them.
    """
    fit = sum(copies(machine, threads, gpus) for machine in machines)
    most = fit if max_actors is None else max(max_actors, actors)
    if not most or (actors > most and max_actors is None):
        asked = f"--actors is {actors}" if actors else "there is no room for a model copy"
        raise UsageError(
            f"{asked}: each takes {threads} CPUs (--threads) and {gpus:g} GPUs (--gpus) of one machine, and the cluster has "
            f"{_described(machines)}, room for {most}. Ask for less or add machines; on a cluster that grows, say --max-actors."
        )
    begin = min(actors or fit or 1, most, shards)
    cpus = _cpus_each(machines, threads, gpus)
    left = [machine.cpus - cpus * copies(machine, threads, gpus) for machine in machines if machine.cpus]
    room = max(sum(left) / _TASK_CPUS, most)  # of machines to come: room for a task beside each copy
    # A shard is read and committed once. More tasks commit, so that what is done does not wait behind what is read ahead. Each
    # does some five shards a second and is a process, so of the room some is left.
    readers, writers = max(1, round(room / 5)), max(1, round(room * 2 / 5))
    readers = 1 if left and max(left) < 1 else readers
    return Pool(begin, begin if max_actors is None else max(begin, min(most, shards)), cpus, readers, writers)


def _cpus_each(machines: Sequence[Machine], threads: int, gpus: float) -> float:
    """CPUs of a copy, so that as many as fit leave room to read beside them on every machine that holds any."""
    held = [(machine, copies(machine, threads, gpus)) for machine in machines]
    shares = [(machine.cpus - _ROOM) / fit for machine, fit in held if fit]
    return max(_LEAST_CPUS, round(min([threads - _TASK_CPUS, *shares]), 2))


def _described(machines: Sequence[Machine]) -> str:
    kinds = Counter((machine.cpus, machine.gpus) for machine in machines)
    each = [f"{count} x {cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "") for (cpus, gpus), count in kinds.items()]
    return " + ".join(each) or "no machines"
