"""How many replicas a cluster holds, node by node, and what Ray reserves for each. Pure functions.

A replica runs on one node, so CPUs of several nodes do not add up. Each node keeps room to read and commit
beside its replicas. Two cores are therefore enough for a whole run, and replicas never wait for shards that
no CPU is free to read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import UsageError
from pipeline.planning.plan import Shard

# What Ray reserves for a task that reads or commits. It is small because the number of these tasks is limited
# separately.
IO_CPUS = 0.01

# The real CPU use of such a task. It mostly waits for disks.
_TASK_CPUS = 0.2

# CPUs of a node that replicas leave free. Ray Data 2.60 gives a run only the whole CPUs among them. If
# there is none, reading ahead may use the rest, and finished shards wait to be committed.
_FREE_CPUS = 1.2

# The least CPUs that Ray reserves for a replica, and the least that replicas leave of a node.
_LEAST_CPUS = 0.1

_SMALLEST_GROUP, _SHARDS_PER_REPLICA, _LARGEST_GROUP = 1_000, 250, 10_000


@dataclass(frozen=True)
class Node:
    """The resources of a node that Ray schedules."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Capacity:
    """The replicas at the start, the most as the cluster grows, the CPUs of each, and the parallel read and
    commit tasks."""

    replicas: int
    max_replicas: int
    cpus: float
    readers: int
    writers: int

    @property
    def shards_per_group(self) -> int:
        """Shards that Ray Data receives at once.

        The driver's memory grows with them, and a graceful shutdown waits until each has been checked.
        Replicas load the model once per group.
        """
        return min(_LARGEST_GROUP, max(_SMALLEST_GROUP, _SHARDS_PER_REPLICA * self.max_replicas))


def replicas_per_node(node: Node, threads: int, gpus: float) -> int:
    """How many replicas with these threads and GPUs fit on a node."""
    by_cpus = int(node.cpus // threads)
    if not gpus:
        return by_cpus
    # Replicas do not span GPUs: with 0.6 GPUs each, two GPUs hold two.
    by_gpus = int(node.gpus) * int(1 / gpus + 1e-6)
    if threads == 1:  # the CPU only feeds the GPU, but some CPU must be left to read
        by_cpus = int((node.cpus - _LEAST_CPUS) / _LEAST_CPUS + 1e-6) if node.cpus >= 1 else 0
    return min(by_gpus, by_cpus)


def blocks_in_flight(slots: int, documents: int) -> int:
    """Blocks of so many documents that a replica holds at once: one, and as many others as hold twice its
    slots. Its slots are then full while a block ends and the next one comes."""
    return 1 + -(-2 * slots // documents)


def bundle_shards(shards: Sequence[Shard], slots: int, replicas: int) -> list[list[Shard]]:
    """Shards that follow one another, in groups that travel as one block.

    A group of small shards fills the slots of a replica, since each block costs a tenth of a second of CPU.
    There are at least four groups for each replica, if there are as many shards.
    """
    documents = sum(shard.documents for shard in shards)
    most = min(slots, documents // (4 * replicas))
    bundles: list[list[Shard]] = []
    size = 0
    for shard in shards:
        if not bundles or size + shard.documents > most:
            bundles.append([])
            size = 0
        bundles[-1].append(shard)
        size += shard.documents
    return bundles


def plan_capacity(
    nodes: Sequence[Node],
    shards: int,
    *,
    replicas: int = 0,
    max_replicas: int | None = None,
    threads: int = 1,
    gpus: float = 0.0,
) -> Capacity:
    """The replicas of a run of `shards` shards on these nodes.

    `replicas` is the number at the start, 0 for as many as fit. With `max_replicas` the cluster is assumed to
    grow to hold that many, since Ray does not tell how many nodes its autoscaler may start.

    Raises:
        UsageError: the cluster does not hold them.
    """
    fit = sum(replicas_per_node(node, threads, gpus) for node in nodes)
    most = fit if max_replicas is None else max(max_replicas, replicas)
    if not most or (replicas > most and max_replicas is None):
        problem = f"--replicas is {replicas}" if replicas else "there is no room for a replica"
        raise UsageError(
            f"{problem}: each takes {threads} CPUs (--threads) and {gpus:g} GPUs (--gpus) of one machine, "
            f"and the cluster has {_describe_nodes(nodes)}, room for {most}. Use fewer or add machines. On "
            "an autoscaling cluster, set --max-replicas."
        )
    start = min(replicas or fit or 1, most, shards)
    cpus = _cpus_per_replica(nodes, threads, gpus)
    free = [node.cpus - cpus * replicas_per_node(node, threads, gpus) for node in nodes if node.cpus]
    tasks = max(sum(free) / _TASK_CPUS, most)  # on nodes to come: one task beside each replica
    # A shard is read once and committed once. More tasks commit than read, so that finished shards do not
    # wait behind shards that are read ahead. Each task is a process and handles about five shards per second,
    # so some of the room stays free.
    readers, writers = max(1, round(tasks / 5)), max(1, round(tasks * 2 / 5))
    readers = 1 if free and max(free) < 1 else readers
    return Capacity(
        start, start if max_replicas is None else max(start, min(most, shards)), cpus, readers, writers
    )


def _cpus_per_replica(nodes: Sequence[Node], threads: int, gpus: float) -> float:
    """CPUs to reserve for a replica, so that every node with replicas keeps room to read."""
    fitting = [(node, replicas_per_node(node, threads, gpus)) for node in nodes]
    shares = [(node.cpus - _FREE_CPUS) / count for node, count in fitting if count]
    return max(_LEAST_CPUS, round(min([threads - _TASK_CPUS, *shares]), 2))


def _describe_nodes(nodes: Sequence[Node]) -> str:
    kinds = Counter((node.cpus, node.gpus) for node in nodes)
    texts = [
        f"{count} x {cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        for (cpus, gpus), count in kinds.items()
    ]
    return " + ".join(texts) or "no machines"
