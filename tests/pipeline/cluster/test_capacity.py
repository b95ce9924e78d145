"""How many replicas fit on a cluster, and the error if none do."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.cluster.capacity import (
    Capacity,
    Node,
    blocks_in_flight,
    bundle_shards,
    plan_capacity,
    replicas_per_node,
)
from pipeline.errors import UsageError
from pipeline.planning.plan import Shard


@pytest.mark.parametrize(
    ("node", "threads", "gpus", "fit"),
    [
        (Node(2), 1, 0, 2),
        (Node(4), 8, 0, 0),
        (Node(8), 3, 0, 2),
        (Node(0), 1, 0, 0),
        (Node(8, 2), 1, 1, 2),
        (Node(8, 2), 1, 0.6, 2),  # a replica does not span GPUs
        (Node(8, 2), 1, 0.25, 8),
        (Node(8, 1), 1, 1 / 3, 3),
        (Node(1, 4), 1, 1, 4),  # the CPU only feeds the GPUs
        (Node(2, 1), 1, 0.05, 19),  # each reserves a tenth of a CPU, and one tenth is left for reading
        (Node(8, 8), 1, 0.1, 79),
        (Node(8, 8), 4, 1, 2),
        (Node(64), 1, 1, 0),
    ],
)
def test_replicas_of_one_node(node: Node, threads: int, gpus: float, fit: int) -> None:
    assert replicas_per_node(node, threads, gpus) == fit


@pytest.mark.parametrize(
    ("nodes", "given", "expected"),
    [
        ([Node(2)], {}, (2, 2)),
        ([Node(2), Node(4), Node(1)], {}, (7, 7)),
        ([Node(4)] * 10, {"threads": 3}, (10, 10)),
        ([Node(16), Node(8, 2)], {"gpus": 1}, (2, 2)),
        ([Node(2)], {"replicas": 1}, (1, 1)),
        ([Node(0)], {"max_replicas": 8}, (1, 8)),
        ([Node(0)], {"replicas": 3, "max_replicas": 8}, (3, 8)),
        ([Node(0), Node(4)], {"max_replicas": 6}, (4, 6)),
        ([Node(2)], {"max_replicas": 1}, (1, 1)),
        ([Node(8)], {"replicas": 2, "max_replicas": 6}, (2, 6)),
        ([Node(8)], {"max_replicas": 6}, (6, 6)),
    ],
)
def test_replicas_of_a_cluster(nodes: list[Node], given: dict[str, Any], expected: tuple[int, int]) -> None:
    capacity = plan_capacity(nodes, 1000, **given)
    assert (capacity.replicas, capacity.max_replicas) == expected
    few = plan_capacity(nodes, 1, **given)
    assert (few.replicas, few.max_replicas) == (1, 1)


@pytest.mark.parametrize(
    ("nodes", "gpus"),
    [
        *(([Node(*node)], 0.0) for node in ((1,), (2,), (1, 4), (8, 8))),
        ([Node(2), Node(64)], 0.0),
        *(([Node(*node)], gpus) for node in ((1, 4), (2, 1), (8, 8)) for gpus in (0.05, 0.1, 1.0)),
    ],
)
def test_every_node_full_of_replicas_has_room_to_read_and_to_commit(nodes: list[Node], gpus: float) -> None:
    capacity = plan_capacity(nodes, 1000, gpus=gpus)
    free = [node.cpus - replicas_per_node(node, 1, gpus) * capacity.cpus for node in nodes]
    # On less than a whole CPU, Ray Data may run only two tasks that read or commit.
    assert (
        capacity.cpus >= 0.1
        and min(free) >= 0.1 - 1e-9
        and capacity.writers >= 1
        and (max(free) >= 1 or capacity.readers == 1)
    )


@pytest.mark.parametrize(
    ("nodes", "given", "tasks"),
    [
        ([Node(2)], {}, (1, 2)),
        ([Node(1)], {}, (1, 2)),
        ([Node(4)] * 2, {}, (2, 5)),
        ([Node(16), Node(8, 2)], {"gpus": 1}, (22, 45)),
        ([Node(0)], {"max_replicas": 8}, (2, 3)),
    ],
)
def test_readers_and_writers_have_room_of_their_own(
    nodes: list[Node], given: dict[str, Any], tasks: tuple[int, int]
) -> None:
    capacity = plan_capacity(nodes, 1000, **given)
    assert (capacity.readers, capacity.writers) == tasks


@pytest.mark.parametrize(
    ("replicas", "shards"), [(1, 1_000), (4, 1_000), (8, 2_000), (40, 10_000), (1000, 10_000)]
)
def test_a_chunk_has_many_shards_per_replica_up_to_a_limit(replicas: int, shards: int) -> None:
    assert Capacity(replicas, replicas, 1.0, 1, 1).shards_per_group == shards


@pytest.mark.parametrize(
    ("nodes", "given", "message"),
    [
        (
            [Node(2)] * 2,
            {"replicas": 30},
            r"--replicas is 30: each takes 1 CPUs .* cluster has 2 x 2 CPUs, room for 4",
        ),
        ([Node(4)] * 10, {"threads": 8}, r"takes 8 CPUs \(--threads\) .* 10 x 4 CPUs, room for 0"),
        ([Node(4)], {"gpus": 0.5}, r"0.5 GPUs \(--gpus\) .* 1 x 4 CPUs, room for 0"),
        ([Node(0)], {}, "no room for a replica.* 1 x 0 CPUs.*--max-replicas"),
        ([], {}, "no machines"),
    ],
)
def test_replicas_that_never_fit_are_refused_with_numbers(
    nodes: list[Node], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan_capacity(nodes, 1000, **given)


def shards_of(*sizes: int) -> list[Shard]:
    return [Shard(f"s{i}", "a.parquet", 0, size) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "slots", "replicas", "expected"),
    [
        ([64] * 5, 16, 2, [64] * 5),  # larger than the slots
        ([1] * 100, 16, 2, [12] * 8 + [4]),  # four blocks for each replica
        ([1] * 2000, 16, 2, [16] * 125),
        ([5, 5, 5, 20, 3, 3] * 20, 16, 2, [15, 20, 16, 5, 20, 16, 5]),
        ([1] * 8, 16, 2, [1] * 8),
        ([1, 1], 16, 2, [1, 1]),
    ],
)
def test_small_shards_travel_together(
    sizes: list[int], slots: int, replicas: int, expected: list[int]
) -> None:
    shards = shards_of(*sizes)
    bundles = bundle_shards(shards, slots, replicas)
    assert [shard for bundle in bundles for shard in bundle] == shards
    assert [sum(shard.documents for shard in bundle) for bundle in bundles][: len(expected)] == expected


@pytest.mark.parametrize(
    ("slots", "documents", "expected"), [(16, 64, 2), (16, 1000, 2), (16, 16, 3), (16, 1, 33), (256, 64, 9)]
)
def test_a_replica_holds_more_documents_than_slots(slots: int, documents: int, expected: int) -> None:
    assert blocks_in_flight(slots, documents) == expected
