"""How many model copies fit a cluster, and what is said where none do."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.cluster.capacity import Capacity, Node, plan_capacity, replicas_per_node
from pipeline.errors import UsageError


@pytest.mark.parametrize(
    ("machine", "threads", "gpus", "fit"),
    [
        (Node(2), 1, 0, 2),
        (Node(4), 8, 0, 0),
        (Node(8), 3, 0, 2),
        (Node(0), 1, 0, 0),
        (Node(8, 2), 1, 1, 2),
        (Node(8, 2), 1, 0.6, 2),  # a copy never has parts of two GPUs
        (Node(8, 2), 1, 0.25, 8),
        (Node(8, 1), 1, 1 / 3, 3),
        (Node(1, 4), 1, 1, 4),  # CPUs only feed them
        (Node(2, 1), 1, 0.05, 19),  # but a tenth each, and a tenth for reading
        (Node(8, 8), 1, 0.1, 79),
        (Node(8, 8), 4, 1, 2),
        (Node(64), 1, 1, 0),
    ],
)
def test_copies_of_one_machine(node: Node, threads: int, gpus: float, fit: int) -> None:
    assert replicas_per_node(node, threads, gpus) == fit


@pytest.mark.parametrize(
    ("machines", "asked", "expected"),
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
def test_pools(nodes: list[Node], asked: dict[str, Any], expected: tuple[int, int]) -> None:
    pool = plan_capacity(nodes, 1000, **asked)
    assert (pool.replicas, pool.max_replicas) == expected
    few = plan_capacity(nodes, 1, **asked)
    assert (few.replicas, few.max_replicas) == (1, 1)


@pytest.mark.parametrize(
    ("machines", "gpus"),
    [
        *(([Node(*usable_cpus)], 0.0) for usable_cpus in ((1,), (2,), (1, 4), (8, 8))),
        ([Node(2), Node(64)], 0.0),
        *(([Node(*node)], gpus) for node in ((1, 4), (2, 1), (8, 8)) for gpus in (0.05, 0.1, 1.0)),
    ],
)
def test_every_machine_that_is_full_of_copies_has_room_to_read_and_to_commit(
    nodes: list[Node], gpus: float
) -> None:
    pool = plan_capacity(nodes, 1000, gpus=gpus)
    left = [node.usable_cpus - replicas_per_node(node, 1, gpus) * pool.usable_cpus for node in nodes]
    # Of less than a whole CPU Ray Data may give to reading and committing two tasks in all.
    assert (
        pool.usable_cpus >= 0.1
        and min(left) >= 0.1 - 1e-9
        and pool.writers >= 1
        and (max(left) >= 1 or pool.readers == 1)
    )


@pytest.mark.parametrize(
    ("machines", "asked", "tasks"),
    [
        ([Node(2)], {}, (1, 2)),
        ([Node(1)], {}, (1, 2)),
        ([Node(4)] * 2, {}, (2, 5)),
        ([Node(16), Node(8, 2)], {"gpus": 1}, (22, 45)),
        ([Node(0)], {"max_replicas": 8}, (2, 3)),
    ],
)
def test_reading_and_committing_have_room_of_their_own(
    nodes: list[Node], asked: dict[str, Any], tasks: tuple[int, int]
) -> None:
    pool = plan_capacity(nodes, 1000, **asked)
    assert (pool.readers, pool.writers) == tasks


@pytest.mark.parametrize(
    ("replicas", "shards"), [(1, 1_000), (4, 1_000), (8, 2_000), (40, 10_000), (1000, 10_000)]
)
def test_a_wave_is_many_shards_of_each_copy_and_never_too_many(replicas: int, shards: int) -> None:
    assert Capacity(replicas, replicas, 1.0, 1, 1).shards_per_chunk == shards


@pytest.mark.parametrize(
    ("machines", "asked", "message"),
    [
        (
            [Node(2)] * 2,
            {"replicas": 30},
            r"--replicas is 30: each takes 1 CPUs .* cluster has 2 x 2 CPUs, room for 4",
        ),
        ([Node(4)] * 10, {"threads": 8}, r"takes 8 CPUs \(--threads\) .* 10 x 4 CPUs, room for 0"),
        ([Node(4)], {"gpus": 0.5}, r"0.5 GPUs \(--gpus\) .* 1 x 4 CPUs, room for 0"),
        ([Node(0)], {}, "no room for a model copy.* 1 x 0 CPUs.*--max-replicas"),
        ([], {}, "no machines"),
    ],
)
def test_what_never_fits_is_refused_with_numbers(
    nodes: list[Node], asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan_capacity(nodes, 1000, **asked)
