"""The machine dies at every request that changes something, in three ways. The next run has every document
once.

Faults are "before" (the request is not sent), "lost" (it is executed, but there is no reply) and "after" (the
reply arrives, and nothing else is done). The server is radosgw if it is installed, otherwise that of moto.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.output.s3 import ObjectStore
from pipeline.output.verify import status, verify
from tests.conftest import words
from tests.pipeline.crash import Machine, rows_of
from tests.pipeline.s3 import KEYS, NO_RADOSGW, Proxy, moto_server, proxied, radosgw_server
from tests.waiting import HANG_S

WAYS = ("before", "lost", "after")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    server = moto_server() if NO_RADOSGW else radosgw_server(tmp_path_factory.mktemp("radosgw"))
    with server as url, proxied(url, "sweep") as proxy:
        yield proxy


@pytest.fixture
def machine(proxy: Proxy, model_folder: Path, write_corpus: Callable[..., Path]) -> Machine:
    texts: list[str | None] = [words(3 + n, n) for n in range(7)]
    texts[2] = None
    return Machine(write_corpus(texts[:3], texts[3:]), model_folder, {**KEYS, "AWS_ENDPOINT_URL": proxy.url})


@pytest.fixture
def fresh() -> Callable[[], ObjectStore]:
    return lambda: ObjectStore(f"s3://sweep/{uuid.uuid4().hex}")


def test_a_crash_at_every_request_loses_and_repeats_no_row(
    machine: Machine, proxy: Proxy, fresh: Callable[[], ObjectStore], capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed = fresh()
    proxy.reset()
    assert machine.run(undisturbed.url) == 0
    points, expected = len(proxy.mutations), rows_of(undisturbed)
    assert points >= 9 and len(expected) == 7  # probe twice, plan, four shards, manifest, mark, report

    survived = 0
    for way in WAYS:
        for n in range(points):
            store = fresh()
            proxy.reset(lambda i, n=n, way=way: way if i == n else "", machine.kill)
            assert machine.run(store.url) in (-9, 0), f"{way} {n}"
            proxy.reset()
            assert machine.run(store.url) == 0, f"{way} {n}"
            result = verify(store)
            assert result.problems == [] and status(store).finished, f"{way} {n}: {result.problems}"
            assert rows_of(store) == expected, f"{way} {n}"
            survived += 1
    with capsys.disabled():
        crashes = points * len(WAYS)
        print(
            f"\n{points} requests, {len(WAYS)} ways each: {survived} of {crashes} crashes survived", end=" "
        )


def test_a_run_finishes_after_many_crashes(
    machine: Machine, proxy: Proxy, fresh: Callable[[], ObjectStore]
) -> None:
    store, rng = fresh(), random.Random(3)
    for _ in range(12):
        way, n = rng.choice(WAYS), rng.randrange(3)
        proxy.reset(lambda i, n=n, way=way: way if i == n else "", machine.kill)
        machine.run(store.url)
    proxy.reset()
    assert machine.run(store.url) == 0
    assert verify(store).problems == [] and len(rows_of(store)) == 7


def test_two_drivers_at_once_and_one_dies(
    machine: Machine, proxy: Proxy, fresh: Callable[[], ObjectStore]
) -> None:
    for n in range(4):
        store = fresh()
        proxy.reset()
        drivers = [machine.start(store.url) for _ in range(2)]
        if n % 2:
            drivers[0].join(0.05 * n)
            drivers[0].kill()
        for driver in drivers:
            driver.join(HANG_S)
        assert drivers[1].exitcode == 0
        assert verify(store).problems == [] and len(rows_of(store)) == 7


@pytest.mark.parametrize("fault", ["503", "409", "lost", "412 after", "body"])
def test_a_store_that_fails_every_third_time_is_survived(
    fault: str, machine: Machine, proxy: Proxy, fresh: Callable[[], ObjectStore]
) -> None:
    store = fresh()
    proxy.reset(lambda n: fault if n % 3 == 0 else "")
    assert machine.run(store.url) == 0
    assert verify(store).problems == [] and len(rows_of(store)) == 7
