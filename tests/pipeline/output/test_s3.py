"""On S3 as on a disk, the first write is kept, whatever reply or fault follows."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline import retry
from pipeline.errors import CorruptOutput, PipelineError, UsageError
from pipeline.output import s3
from pipeline.output.open_store import open_store
from pipeline.output.s3 import ATTEMPTS, ObjectStore
from pipeline.output.store import PROBE, Outcome, probe
from tests.pipeline.s3 import KEYS, NO_RADOSGW, Proxy, moto_server, radosgw_server


@pytest.fixture(
    scope="module",
    params=[
        "moto",
        pytest.param("radosgw", marks=pytest.mark.skipif(NO_RADOSGW is not None, reason=str(NO_RADOSGW))),
    ],
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with (
        moto_server()
        if request.param == "moto"
        else radosgw_server(tmp_path_factory.mktemp("radosgw")) as url
    ):
        yield url


@pytest.fixture(scope="module")
def proxied(server: str) -> Iterator[Proxy]:
    proxy = Proxy(server)
    yield proxy
    proxy.close()


@pytest.fixture
def proxy(proxied: Proxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """The proxy without faults. The environment variables direct S3 requests to it."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": proxied.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.01)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    proxied.reset()
    return proxied


@pytest.fixture
def store(proxy: Proxy) -> ObjectStore:
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3").mkdir(bucket)
    proxy.reset()
    return ObjectStore(f"s3://{bucket}/some/folder/")


def test_the_first_write_is_kept(store: ObjectStore) -> None:
    assert store.names() == set()
    assert store.create("a", b"first") is Outcome.CREATED
    assert store.create("a", b"second") is Outcome.EXISTS
    assert store.read("a") == b"first" and store.names() == {"a"}
    with store.open("a") as file:
        file.seek(2)
        assert file.read() == b"rst"
    probe(store)
    probe(store)
    assert store.names() == {"a", PROBE}


def test_a_write_is_one_request_however_large(store: ObjectStore, proxy: Proxy) -> None:
    data = b"x" * (120 * 2**20)
    assert store.create("large", data) is Outcome.CREATED
    assert len(proxy.mutations) == 1
    assert store.read("large") == data


def test_of_parallel_writers_exactly_one_succeeds(store: ObjectStore) -> None:
    for name in ("a", "b", "c", "d"):
        with ThreadPoolExecutor(16) as pool:
            outcomes = list(pool.map(lambda n, name=name: store.create(name, b"%d" % n), range(16)))
        assert outcomes.count(Outcome.CREATED) == 1
        assert store.read(name) == b"%d" % outcomes.index(Outcome.CREATED)


@pytest.mark.parametrize("fault", ["before", "lost", "body", "503", "409", "412 after", "slow"])
def test_a_write_succeeds_after_any_fault_of_its_request(
    fault: str, store: ObjectStore, proxy: Proxy
) -> None:
    proxy.reset(lambda n: fault if n == 0 else "")
    assert store.create("a", b"mine") is Outcome.CREATED
    assert store.read("a") == b"mine"


@pytest.mark.parametrize("fault", ["before", "lost", "503", "409", "412 after"])
def test_a_file_of_another_writer_stays_after_any_fault(fault: str, store: ObjectStore, proxy: Proxy) -> None:
    store.create("a", b"theirs")
    proxy.reset(lambda n: fault if n == 0 else "")
    assert store.create("a", b"mine") is Outcome.EXISTS
    assert store.read("a") == b"theirs"


def test_a_short_outage_is_retried_and_a_long_one_reported(store: ObjectStore, proxy: Proxy) -> None:
    proxy.reset(lambda n: "503" if n < ATTEMPTS - 1 else "")
    assert store.create("a", b"mine") is Outcome.CREATED
    proxy.reset(lambda n: "503")
    with pytest.raises(
        PipelineError,
        match=rf"the request to write {store.url}/b failed after up to {ATTEMPTS} attempts .*"
        "rerun the same command to resume",
    ):
        store.create("b", b"mine")
    assert len(proxy.mutations) == ATTEMPTS  # no retries of the libraries below


def test_reports_may_be_replaced_and_absent_names_are_an_error(store: ObjectStore) -> None:
    store.replace("_report.html", b"1")
    store.replace("_report.html", b"2")
    assert store.read("_report.html") == b"2"
    for call in (store.read, store.open):
        with pytest.raises(CorruptOutput, match="does not exist"):
            call("absent")


def test_more_names_than_a_listing_holds(store: ObjectStore) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: store.create(f"part-{i}", b"x"), range(1100)))
    assert store.names() == {f"part-{i}" for i in range(1100)}


def test_errors_are_reported(store: ObjectStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="bucket does not exist"):
        open_store("s3://no-such-bucket/out").create("a", b"x")
    monkeypatch.setattr(s3, "LARGEST", 10)
    with pytest.raises(PipelineError, match="--shard-documents"):
        store.create("large", b"x" * 11)
    with pytest.raises(ValueError, match="plain file name"):
        store.create("../a", b"")


def test_a_store_that_replaces_files_is_refused(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_file: Callable[..., Any] = type(store._fs).pipe_file
    monkeypatch.setattr(store._fs, "pipe_file", lambda path, data, **_: pipe_file(store._fs, path, data))
    with pytest.raises(UsageError, match=r"replaces existing files .*--accept-unsafe-store"):
        probe(store)


def test_missing_credentials_are_reported_at_once(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(UsageError, match=r"was refused .*check the credentials"):
        open_store("s3://bucket/out").create("a", b"x")
