"""The machine dies at every request that changes something, in three ways; the next run ends with every
document once.

"before": the request never left; "lost": it was carried out, its reply never came; "after": the reply came
and nothing else was done. On a real S3 server where radosgw is installed, on moto's otherwise.
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
from tests.pipeline.crash import Node, expand_rows
from tests.pipeline.s3 import KEYS, NO_RADOSGW, Proxy, moto_server, proxied, radosgw_server

WAYS = ("before", "lost", "after")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    server = moto_server() if NO_RADOSGW else radosgw_server(tmp_path_factory.mktemp("radosgw"))
    with server as url, proxied(url, "sweep") as proxy:
        yield proxy


@pytest.fixture
def machine(proxy: Proxy, model_folder: Path, write_corpus: Callable[..., Path]) -> Node:
    texts: list[str | None] = [words(3 + n, n) for n in range(7)]
    texts[2] = None
    return Node(write_corpus(texts[:3], texts[3:]), model_folder, {**KEYS, "AWS_ENDPOINT_URL": proxy.url})


@pytest.fixture
def fresh() -> Callable[[], ObjectStore]:
    return lambda: ObjectStore(f"s3://sweep/{uuid.uuid4().hex}")


def test_a_death_at_every_request_loses_and_repeats_nothing(
    machine: Node, proxy: Proxy, fresh: Callable[[], ObjectStore], capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed = fresh()
    proxy.reset()
    assert machine.run(undisturbed.url) == 0
    points, expected = len(proxy.mutations), expand_rows(undisturbed)
    assert points >= 9 and len(expected) == 7  # probe twice, plan, four shards, manifest, mark, report

    survived = 0
    for way in WAYS:
        for n in range(points):
            store = fresh()
            proxy.reset(lambda i, n=n, way=way: way if i == n else "", machine.kill)
            assert machine.run(store.url) in (-9, 0), f"{way} {n}"
            proxy.reset()
            assert machine.run(store.url) == 0, f"{way} {n}"
            findings = verify(store)
            assert findings.problems == [] and status(store).finished, f"{way} {n}: {findings.problems}"
            assert expand_rows(store) == expected, f"{way} {n}"
            survived += 1
    with capsys.disabled():
        print(
            f"\n{points} requests, each in {len(WAYS)} ways: {survived} of {points * len(WAYS)} deaths survived",
            end=" ",
        )


def test_dying_again_and_again_it_ends(machine: Node, proxy: Proxy, fresh: Callable[[], ObjectStore]) -> None:
    store, rng = fresh(), random.Random(3)
    for _ in range(12):
        way, n = rng.choice(WAYS), rng.randrange(3)
        proxy.reset(lambda i, n=n, way=way: way if i == n else "", machine.kill)
        machine.run(store.url)
    proxy.reset()
    assert machine.run(store.url) == 0
    assert verify(store).problems == [] and len(expand_rows(store)) == 7


def test_two_drivers_at_once_and_one_dies(
    machine: Node, proxy: Proxy, fresh: Callable[[], ObjectStore]
) -> None:
    for n in range(4):
        store = fresh()
        proxy.reset()
        drivers = [machine.start(store.url) for _ in range(2)]
        if n % 2:
            drivers[0].join(0.05 * n)
            drivers[0].kill()
        for driver in drivers:
            driver.join(60)
        assert drivers[1].exitcode == 0
        assert verify(store).problems == [] and len(expand_rows(store)) == 7


@pytest.mark.parametrize("fault", ["503", "409", "lost", "412 after", "body"])
def test_a_store_that_fails_every_third_time_is_survived(
    fault: str, machine: Node, proxy: Proxy, fresh: Callable[[], ObjectStore]
) -> None:
    store = fresh()
    proxy.reset(lambda n: fault if n % 3 == 0 else "")
    assert machine.run(store.url) == 0
    assert verify(store).problems == [] and len(expand_rows(store)) == 7
