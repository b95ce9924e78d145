"""How many model copies fit a cluster, and what is said where none do."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.cluster.capacity import Machine, Pool, copies, make_pool


@pytest.mark.parametrize(
    ("machine", "threads", "gpus", "fit"),
    [
        (Machine(2), 1, 0, 2),
        (Machine(4), 8, 0, 0),
        (Machine(8), 3, 0, 2),
        (Machine(0), 1, 0, 0),
        (Machine(8, 2), 1, 1, 2),
        (Machine(8, 2), 1, 0.6, 2),  # a copy never has parts of two GPUs
        (Machine(8, 2), 1, 0.25, 8),
        (Machine(8, 1), 1, 1 / 3, 3),
        (Machine(1, 4), 1, 1, 4),  # CPUs only feed them
        (Machine(2, 1), 1, 0.05, 19),  # but a tenth each, and a tenth for reading
        (Machine(8, 8), 1, 0.1, 79),
        (Machine(8, 8), 4, 1, 2),
        (Machine(64), 1, 1, 0),
    ],
)
def test_copies_of_one_machine(machine: Machine, threads: int, gpus: float, fit: int) -> None:
    assert copies(machine, threads, gpus) == fit


@pytest.mark.parametrize(
    ("machines", "asked", "expected"),
    [
        ([Machine(2)], {}, (2, 2)),
        ([Machine(2), Machine(4), Machine(1)], {}, (7, 7)),
        ([Machine(4)] * 10, {"threads": 3}, (10, 10)),
        ([Machine(16), Machine(8, 2)], {"gpus": 1}, (2, 2)),
        ([Machine(2)], {"actors": 1}, (1, 1)),
        ([Machine(0)], {"max_actors": 8}, (1, 8)),
        ([Machine(0)], {"actors": 3, "max_actors": 8}, (3, 8)),
        ([Machine(0), Machine(4)], {"max_actors": 6}, (4, 6)),
        ([Machine(2)], {"max_actors": 1}, (1, 1)),
        ([Machine(8)], {"actors": 2, "max_actors": 6}, (2, 6)),
        ([Machine(8)], {"max_actors": 6}, (6, 6)),
    ],
)
def test_pools(machines: list[Machine], asked: dict[str, Any], expected: tuple[int, int]) -> None:
    pool = make_pool(machines, 1000, **asked)
    assert (pool.actors, pool.most) == expected
    few = make_pool(machines, 1, **asked)
    assert (few.actors, few.most) == (1, 1)


@pytest.mark.parametrize(
    ("machines", "gpus"),
    [*(([Machine(*cpus)], 0.0) for cpus in ((1,), (2,), (1, 4), (8, 8))), ([Machine(2), Machine(64)], 0.0),
     *(([Machine(*machine)], gpus) for machine in ((1, 4), (2, 1), (8, 8)) for gpus in (0.05, 0.1, 1.0))],
)  # fmt: skip
def test_every_machine_that_is_full_of_copies_has_room_to_read_and_to_commit(machines: list[Machine], gpus: float) -> None:
    pool = make_pool(machines, 1000, gpus=gpus)
    left = [machine.cpus - copies(machine, 1, gpus) * pool.cpus for machine in machines]
    # Of less than a whole CPU Ray Data may give to reading and committing two tasks in all.
    assert pool.cpus >= 0.1 and min(left) >= 0.1 - 1e-9 and pool.writers >= 1 and (max(left) >= 1 or pool.readers == 1)


@pytest.mark.parametrize(
    ("machines", "asked", "tasks"),
    [
        ([Machine(2)], {}, (1, 2)),
        ([Machine(1)], {}, (1, 2)),
        ([Machine(4)] * 2, {}, (2, 5)),
        ([Machine(16), Machine(8, 2)], {"gpus": 1}, (22, 45)),
        ([Machine(0)], {"max_actors": 8}, (2, 3)),
    ],
)
def test_reading_and_committing_have_room_of_their_own(
    machines: list[Machine], asked: dict[str, Any], tasks: tuple[int, int]
) -> None:
    pool = make_pool(machines, 1000, **asked)
    assert (pool.readers, pool.writers) == tasks


@pytest.mark.parametrize(("actors", "shards"), [(1, 1_000), (4, 1_000), (8, 2_000), (40, 10_000), (1000, 10_000)])
def test_a_wave_is_many_shards_of_each_copy_and_never_too_many(actors: int, shards: int) -> None:
    assert Pool(actors, actors, 1.0, 1, 1).wave == shards


@pytest.mark.parametrize(
    ("machines", "asked", "message"),
    [
        (
            [Machine(2)] * 2,
            {"actors": 30},
            r"--actors is 30: each takes 1 CPUs .* cluster has 2 x 2 CPUs, room for 4",
        ),
        ([Machine(4)] * 10, {"threads": 8}, r"takes 8 CPUs \(--threads\) .* 10 x 4 CPUs, room for 0"),
        ([Machine(4)], {"gpus": 0.5}, r"0.5 GPUs \(--gpus\) .* 1 x 4 CPUs, room for 0"),
        ([Machine(0)], {}, "no room for a model copy.* 1 x 0 CPUs.*--max-actors"),
        ([], {}, "no machines"),
    ],
)
def test_what_never_fits_is_refused_with_numbers(machines: list[Machine], asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_pool(machines, 1000, **asked)
