"""How many model copies fit a cluster, and what is said where none do."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.pool import Machine, Pool, copies, make_pool


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
        (Machine(8, 8), 4, 1, 2),
        (Machine(64), 1, 1, 0),
    ],
)
def test_copies_of_one_machine(machine: Machine, threads: int, gpus: float, fit: int) -> None:
    assert copies(machine, threads, gpus) == fit


@pytest.mark.parametrize(
    ("now", "later", "asked", "expected"),
    [
        ([Machine(2)], None, {}, (2, 2)),
        ([Machine(2), Machine(4), Machine(1)], None, {}, (7, 7)),
        ([Machine(4)] * 10, None, {"threads": 3}, (10, 10)),
        ([Machine(16), Machine(8, 2)], None, {"gpus": 1}, (2, 2)),
        ([Machine(2)], None, {"actors": 1}, (1, 1)),
        ([Machine(0)], [Machine(0), Machine(4, count=5)], {}, (1, 20)),
        ([Machine(0), Machine(4)], [Machine(0), Machine(4, count=5)], {}, (4, 20)),
        ([Machine(0), Machine(4)], [Machine(0), Machine(4, count=5)], {"max_actors": 6}, (4, 6)),
        ([Machine(0)], [Machine(0), Machine(4, count=5)], {"actors": 9}, (9, 20)),
        ([Machine(0)], None, {"max_actors": 8}, (1, 8)),
        ([Machine(0)], None, {"actors": 3, "max_actors": 8}, (3, 8)),
        ([Machine(2)], None, {"max_actors": 1}, (1, 1)),
    ],
)
def test_pools(now: list[Machine], later: list[Machine] | None, asked: dict[str, Any], expected: tuple[int, int]) -> None:
    pool = make_pool(now, later, 1000, **asked)
    assert (pool.actors, pool.most) == expected
    few = make_pool(now, later, 1, **asked)
    assert (few.actors, few.most) == (1, 1)


@pytest.mark.parametrize("now", [[Machine(1)], [Machine(2)], [Machine(2), Machine(64)], [Machine(1, 4)], [Machine(8, 8)]])
@pytest.mark.parametrize("gpus", [0.0, 1.0])
def test_every_machine_that_is_full_of_copies_has_room_to_read_and_to_commit(now: list[Machine], gpus: float) -> None:
    if not any(copies(machine, 1, gpus) for machine in now):
        return
    pool = make_pool(now, None, 1000, gpus=gpus)
    left = [machine.cpus - copies(machine, 1, gpus) * pool.cpus for machine in now]
    # Of less than a whole CPU Ray Data may give to reading and committing two tasks in all.
    assert pool.cpus >= 0.1 and min(left) >= 0.1 and pool.writers >= 1 and (max(left) >= 1 or pool.readers == 1)


@pytest.mark.parametrize(
    ("now", "later", "asked", "tasks"),
    [
        ([Machine(2)], None, {}, (2, 4)),
        ([Machine(1)], None, {}, (1, 3)),
        ([Machine(4)] * 2, None, {}, (4, 8)),
        ([Machine(16), Machine(8, 2)], None, {"gpus": 1}, (37, 75)),
        ([Machine(0)], [Machine(0), Machine(4, count=5)], {}, (10, 20)),
        ([Machine(0)], None, {"max_actors": 8}, (1, 5)),
    ],
)
def test_reading_and_committing_have_room_of_their_own(
    now: list[Machine], later: list[Machine] | None, asked: dict[str, Any], tasks: tuple[int, int]
) -> None:
    pool = make_pool(now, later, 1000, **asked)
    assert (pool.readers, pool.writers) == tasks


@pytest.mark.parametrize(("actors", "shards"), [(1, 1_000), (4, 1_000), (8, 2_000), (40, 10_000), (1000, 10_000)])
def test_a_wave_is_an_hour_or_more_and_never_too_many_shards(actors: int, shards: int) -> None:
    assert Pool(actors, actors, 1.0, 1, 1).wave == shards


@pytest.mark.parametrize(
    ("now", "later", "asked", "message"),
    [
        (
            [Machine(2)] * 2,
            None,
            {"actors": 30},
            r"--actors is 30: each takes 1 CPUs .* cluster has 2 x 2 CPUs, room for 4",
        ),
        ([Machine(4)] * 10, None, {"threads": 8}, r"takes 8 CPUs \(--threads\) .* 10 x 4 CPUs, room for 0"),
        ([Machine(4)], None, {"gpus": 0.5}, r"0.5 GPUs \(--gpus\) .* 1 x 4 CPUs, room for 0"),
        ([Machine(0)], None, {}, "no room for a model copy.* 1 x 0 CPUs.*--max-actors"),
        ([], None, {}, "no machines"),
        ([Machine(0)], [Machine(0), Machine(4, 1, count=2)], {"actors": 3, "gpus": 1}, r"2 x 4 CPUs and 1 GPUs, room for 2"),
    ],
)
def test_what_never_fits_is_refused_with_numbers(
    now: list[Machine], later: list[Machine] | None, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_pool(now, later, 1000, **asked)
