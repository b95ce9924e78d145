"""Whatever a store does to one request of a run, no row is wrong, and the same command then succeeds."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import remote, retry
from pipeline.errors import CorruptOutput, PipelineError, PlanMismatch, Unreachable, UsageError
from pipeline.inputs.read import read_rows, stream_rows
from pipeline.inputs.splits import Split
from pipeline.output.commit import Committed, ShardMetadata, commit, finish
from pipeline.output.local import LocalStore
from pipeline.output.open_store import open_store
from pipeline.output.s3 import ObjectStore
from pipeline.output.verify import read_plan, verify
from pipeline.planning.plan import MANIFEST, PLAN, make_plan
from tests.conftest import words
from tests.pipeline.crash import Machine, rows_of
from tests.pipeline.output.test_commit import block
from tests.pipeline.output.test_verify import RUN
from tests.pipeline.s3 import KEYS, Proxy, moto_server, proxied

KINDS = ("503", "500", "reset", "cut", "short", "403", "never")

# Every n-th request is struck. 1 strikes each of them, which takes many minutes.
STEP = int(os.environ.get("REQUEST_STEP", "53"))

FAST = {"REQUEST_SECONDS": "2", "FIRST_PAUSE_S": "0.01"}


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with moto_server() as url, proxied(url, "faults") as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "REQUEST_SECONDS", 2.0)
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def store(proxy: Proxy) -> ObjectStore:
    proxy.reset()
    opened = open_store(f"s3://faults/{uuid.uuid4().hex}")
    assert isinstance(opened, ObjectStore)
    return opened


def struck(*numbers: int, kind: str) -> Callable[[int], str]:
    return lambda n: kind if n in numbers else ""


def finished(store: Any) -> None:
    store.create(PLAN, RUN.to_json())
    for shard in RUN.shards:
        rows = block(shard.shard_id, shard.documents, shard.documents, shard.start)
        commit(store, rows, {"plan": RUN.fingerprint})
    finish(store, RUN)


@pytest.fixture(scope="module")
def run(
    proxy: Proxy, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Machine, list[Any]]:
    """A machine that runs over three files in a store, and the rows of an undisturbed run."""
    fs = fsspec.filesystem("s3")
    for number in range(3):
        texts = [words(3 + n, 10 * number + n) for n in range(2)]
        table = pa.table({"doc_id": [f"d{number}-{n}" for n in range(2)], "text": texts})
        with fs.open(f"faults/in/{number}.parquet", "wb") as file:
            pq.write_table(table, file)
    environment = {**KEYS, **FAST, "AWS_ENDPOINT_URL": proxy.url}
    machine = Machine("s3://faults/in", model_folder, environment)
    undisturbed = str(tmp_path_factory.mktemp("undisturbed"))
    assert machine.run(undisturbed) == 0
    return machine, rows_of(LocalStore(undisturbed))


@pytest.mark.parametrize("kind", KINDS)
def test_one_request_of_a_run_is_struck(
    kind: str, run: tuple[Machine, list[Any]], proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    machine, expected = run
    proxy.reset()
    assert machine.run("s3://faults/count") == 0
    requests = list(proxy.requests)
    codes = []
    for number in range(KINDS.index(kind) % STEP, len(requests), STEP):
        output = f"s3://faults/{uuid.uuid4().hex}"
        proxy.reset()
        proxy.strike = struck(number, kind=kind)
        code = machine.run(output)
        said = capfd.readouterr()
        assert code in (0, 1, 2) and "Traceback" not in said.err, (number, requests[number], said.err)
        assert code == 0 or kind == "403", (number, requests[number], said.err)
        codes.append(code)
        proxy.reset()
        assert machine.run(output) == 0, requests[number]
        store = open_store(output)
        assert rows_of(store) == expected and verify(store).problems == []
    print(f"{kind}: {len(codes)} of {len(requests)} requests struck, {codes.count(0)} runs not disturbed")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "403"])
@pytest.mark.parametrize("number", range(3))
def test_verify_reads_on_after_a_fault(kind: str, number: int, store: ObjectStore, proxy: Proxy) -> None:
    finished(store)
    proxy.reset()
    proxy.strike = struck(number * 6 + 1, kind=kind)
    assert verify(store).problems == []


def test_what_cannot_be_read_now_is_not_called_wrong(store: ObjectStore, proxy: Proxy) -> None:
    finished(store)
    part = RUN.shards[1].part
    proxy.reset()
    proxy.strike = lambda n: (
        "503" if part in proxy.requests[-1:] or any(part in r for r in proxy.requests) else ""
    )
    with pytest.raises(PipelineError, match=r"the request to \w+ .* failed after up to") as raised:
        verify(store)
    assert not isinstance(raised.value, CorruptOutput)


@pytest.mark.parametrize("kind", ["never", "cut", "short", "reset"])
def test_an_input_is_read_on_after_a_fault(kind: str, proxy: Proxy) -> None:
    proxy.reset()
    with fsspec.filesystem("s3").open("faults/one.parquet", "wb") as file:
        pq.write_table(pa.table({"text": ["pump"] * 3}), file)
    proxy.reset()
    assert len(read_rows("s3://faults/one.parquet", Split(0, 3), "text", ["text"], 100).table) == 3
    for number in range(len(proxy.requests)):
        proxy.reset()
        proxy.strike = struck(number, kind=kind)
        assert len(read_rows("s3://faults/one.parquet", Split(0, 3), "text", ["text"], 100).table) == 3


def test_an_input_that_is_replaced_while_it_is_read_is_an_error(proxy: Proxy) -> None:
    proxy.reset()
    fs = fsspec.filesystem("s3")
    lines = [b'{"text": "%s"}\n' % os.urandom(50_000).hex().encode() for _ in range(400)]  # 40 MB
    fs.pipe_file("faults/two.jsonl", b"".join(lines))
    rows = stream_rows("s3://faults/two.jsonl", Split(0, 400), "text", ["text"], 1 << 20)
    assert len(next(rows).table) == 256
    fs.pipe_file("faults/two.jsonl", b"".join(lines[::-1]))
    with pytest.raises(PlanMismatch, match="was changed while it was read"):
        list(rows)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("RequestTimeTooSkewed", "the clock of this machine is wrong; set it"),
        ("ExpiredToken", "the credentials have expired; renew them"),
    ],
)
def test_what_time_or_new_credentials_mend_is_not_an_error_of_the_command(
    code: str, remedy: str, store: ObjectStore, proxy: Proxy
) -> None:
    store.create("a", b"x")
    proxy.strike = lambda n: code
    with pytest.raises(PipelineError, match=rf"was refused \({code}.*\): {remedy}, then rerun") as raised:
        store.create("b", b"x")
    assert raised.value.exit_code == 1
    proxy.strike = lambda n: code if proxy.requests[-1].startswith("GET") else ""
    with pytest.raises(PipelineError, match=rf"was refused \({code}") as raised:
        store.read("a")
    assert raised.value.exit_code == 1
    proxy.strike = lambda n: code
    with pytest.raises(Unreachable, match=rf"cannot be reached .*{code}.*\. {remedy.capitalize()}, rerun"):
        read_rows("s3://faults/one.jsonl", Split(0, 1), "text", ["text"], 100)


def test_a_refusal_names_the_code_of_the_store(store: ObjectStore, proxy: Proxy) -> None:
    proxy.strike = lambda n: "403"
    with pytest.raises(UsageError, match=r"was refused \(AccessDenied\); check the credentials") as raised:
        store.create("a", b"x")
    assert raised.value.exit_code == 2


def test_a_listing_that_lags_does_not_end_a_run(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObjectStore, "_entries", lambda self: {})
    finished(store)
    assert read_plan(store) == RUN
    monkeypatch.undo()
    assert verify(store).problems == []


def test_a_store_that_stops_to_refuse_is_noticed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    plan = make_plan(RUN.inputs, RUN.config, 3)
    written: dict[str, Committed] = {}
    for shard in plan.shards:
        rows = block(shard.shard_id, shard.documents, shard.documents, shard.start)
        committed = commit(store, rows, {"plan": plan.fingerprint})
        written[committed.metadata.part] = committed
    shard = plan.shards[1]
    (tmp_path / shard.part).unlink()  # as if the store had replaced it
    commit(store, block(shard.shard_id, 3, 3, shard.start), {"plan": plan.fingerprint})
    with pytest.raises(PipelineError, match=rf"1 files .* replaced by another run, such as {shard.part}"):
        finish(store, plan, written)
    assert MANIFEST not in store.names()
    assert isinstance(committed.metadata, ShardMetadata)
