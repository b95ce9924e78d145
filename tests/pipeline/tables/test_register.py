"""Files of a run are in a table exactly once, whatever crashes, gets lost or is faster.

Delta Lake on a disk and on an object store, and Iceberg with a catalog in SQLite. All are real.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pyiceberg.catalog.sql
import pytest
from pyiceberg.utils.config import Config

from pipeline.errors import PipelineError, UsageError
from pipeline.file_systems import locate
from pipeline.tables import register as registering
from pipeline.tables.open import open_delta, open_iceberg, storage_options
from pipeline.tables.register import TableFile, TableMode, register
from tests.jobs.commands import environment
from tests.waiting import HANG_S, long_test

SCHEMA = pa.schema([("doc_id", pa.string()), ("summary", pa.string()), ("flags", pa.list_(pa.string()))])
ROWS = 3  # of a file
FILES = 2  # of a run


@dataclass
class Table:
    """A table for tests: its address, the folder of its files, and how to read its rows."""

    address: str
    folder: str

    def files(self, run: str) -> list[TableFile]:
        """The files of a run, written."""
        found = []
        for number in range(FILES):
            ids = [f"{run}-{number}-{row}" for row in range(ROWS)]
            table = pa.table([ids, ["a summary"] * ROWS, [["short"], [], None]], SCHEMA)
            path = f"{run}/part-{number}.parquet"
            fs, name = locate(f"{self.folder}/{path}")
            fs.makedirs(name.rpartition("/")[0], exist_ok=True)
            with fs.open(name, "wb") as file:
                pq.write_table(table, file)
            uri = f"{self.folder}/{path}"
            address = uri if "://" in uri else f"file://{uri}"
            found.append(TableFile(address, path, fs.size(name), ROWS))
        return found

    def register(self, run: str, mode: TableMode = "append") -> str:
        return register(self.address, self.files(run), SCHEMA, key_of(run), mode)

    def runs(self) -> dict[str, int]:
        """The number of rows of each run in the table. Each row must be there once."""
        try:
            ids = Counter(self.ids())
        except (deltalake.exceptions.TableNotFoundError, pyiceberg.exceptions.NoSuchTableError):
            return {}
        assert set(ids.values()) <= {1}, ids
        return dict(Counter(name.partition("-")[0] for name in ids))

    def ids(self) -> list[str]:
        if self.address.startswith("iceberg://"):
            catalog, name = open_iceberg(self.address)
            return catalog.load_table(name).scan().to_arrow()["doc_id"].to_pylist()
        return open_delta(self.address).to_pyarrow_table()["doc_id"].to_pylist()


def key_of(run: str) -> str:
    return f"plan-of-{run}"


WHOLE = FILES * ROWS

# Every n-th schedule of faults is tried. 1 tries each of them, which takes minutes.
STEP = int(os.environ.get("TABLE_STEP", "20"))


@pytest.fixture(params=["delta", "delta on S3", "iceberg"])
def table(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    monkeypatch.setattr(registering, "_PAUSE_S", 0.001)
    if request.param == "delta":
        yield Table(str(tmp_path / "table"), str(tmp_path / "table"))
    elif request.param == "iceberg":
        for name, value in {
            "TYPE": "sql",
            "URI": f"sqlite:///{tmp_path}/catalog.db",
            "WAREHOUSE": f"file://{tmp_path}/warehouse",
        }.items():
            monkeypatch.setenv(f"PYICEBERG_CATALOG__TESTS__{name}", value)
        # The library reads the environment when it is imported.
        monkeypatch.setattr(pyiceberg.catalog, "_ENV_CONFIG", Config())
        yield Table("iceberg://tests/corpus.summaries", str(tmp_path / "files"))
    else:
        bucket = request.getfixturevalue("s3_bucket")
        yield Table(f"{bucket}/table", f"{bucket}/table")


@pytest.fixture
def intercept(table: Table, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Any]], None]:
    """Replace the commit of the library by a function that gets the real one."""

    def intercept(strike: Callable[[Any], Any]) -> None:
        def around(real: Any) -> Any:
            return lambda *args, **kwargs: strike(lambda: real(*args, **kwargs))

        if table.address.startswith("iceberg://"):
            catalog = pyiceberg.catalog.sql.SqlCatalog
            monkeypatch.setattr(catalog, "commit_table", around(catalog.commit_table))
        else:
            for owner, name in (
                (deltalake.DeltaTable, "create_write_transaction"),
                (deltalake.transaction, "create_table_with_add_actions"),
            ):
                monkeypatch.setattr(owner, name, around(getattr(owner, name)))

    return intercept


class Crash(BaseException):
    """The process dies."""


def test_a_run_is_registered_once(table: Table) -> None:
    first = table.register("a")
    assert table.register("a") == first and table.runs() == {"a": WHOLE}
    second = table.register("b")
    assert second != first and table.runs() == {"a": WHOLE, "b": WHOLE}
    table.register("c", "replace")
    assert table.runs() == {"c": WHOLE}
    table.register("c", "replace")
    table.register("a")  # it was registered once, and replaced since
    assert table.runs() == {"c": WHOLE}


FAULTS = {
    "refused": lambda commit: (_ for _ in ()).throw(OSError("503 Service Unavailable")),
    "lost reply": lambda commit: (commit(), (_ for _ in ()).throw(OSError("connection reset by peer"))),
    "crash before": lambda commit: (_ for _ in ()).throw(Crash),
    "crash after": lambda commit: (commit(), (_ for _ in ()).throw(Crash)),
}
RIVALS = ("none", "same run", "another run", "both")


@pytest.mark.parametrize("mode", ["append", "replace"])
@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
def test_crashes_lost_replies_and_rivals(
    exists: bool, mode: TableMode, table: Table, intercept: Callable[..., None]
) -> None:
    schedules = list(itertools.product(RIVALS, [None, *FAULTS], [None, "lost reply", "crash after"]))
    schedules = schedules[(2 * exists + (mode == "replace")) % STEP :: STEP]
    if exists:
        table.register("before")
    state: dict[str, Any] = {"pending": [], "rival": "none", "number": 0, "by rival": False}

    def strike(commit: Callable[[], Any]) -> Any:
        if state["by rival"]:
            return commit()
        number = state["number"]
        rival, state["rival"] = state["rival"], "none"
        # The rival commits between this writer's look at the table and its commit.
        state["by rival"] = True
        if rival in ("same run", "both"):
            table.register(f"run{number}", mode)
        if rival in ("another run", "both"):
            table.register(f"other{number}", "append")
        state["by rival"] = False
        fault = state["pending"].pop(0) if state["pending"] else None
        return FAULTS[fault](commit) if fault else commit()

    intercept(strike)
    for number, (rival, first, second) in enumerate(schedules):
        state |= {"number": number, "rival": rival, "pending": [first, second]}
        for _ in range(4):  # the same command, until it succeeds
            try:
                table.register(f"run{number}", mode)
                break
            except (Crash, PipelineError):
                continue
        else:
            pytest.fail(f"schedule {number} never ended")
        state |= {"rival": "none", "pending": []}
        table.register(f"run{number}", mode)
        runs = table.runs()
        assert set(runs.values()) == {WHOLE}, (number, rival, first, second)
        assert f"run{number}" in runs, (number, rival, first, second)
        if rival in ("another run", "both") and mode == "append":
            assert f"other{number}" in runs
    print(f"{len(schedules)} schedules")


def test_other_columns_and_a_table_that_others_always_change_are_named(
    table: Table, intercept: Callable[..., None]
) -> None:
    table.register("a")
    other = SCHEMA.remove(1).append(pa.field("label", pa.string()))
    files = table.files("b")
    for file in files:
        fs, name = locate(file.address)
        with fs.open(name, "wb") as opened:
            pq.write_table(pa.table([["x"], [[]], ["y"]], other), opened)
    with pytest.raises(UsageError, match="label"):
        register(table.address, files, other, key_of("b"), "append")
    assert table.runs() == {"a": WHOLE}

    def rival_first(commit: Callable[[], Any]) -> Any:
        if len(runs := table.runs()) < 40 and not state["rival"]:
            state["rival"] = True
            table.register(f"rival{len(runs)}")
            state["rival"] = False
        return commit()

    if table.address.startswith("s3://"):
        return  # 20 attempts on an object store take half a minute
    state = {"rival": False}
    intercept(rival_first)
    with pytest.raises(PipelineError, match="was changed by other writers during all of 20 attempts"):
        table.register("slow")
    assert "slow" not in table.runs()


WRITER = """
import sys
from tests.pipeline.tables.test_register import Table
table = Table(sys.argv[1], sys.argv[2])
for run in sys.argv[3:]:
    table.register(run)
"""


@long_test
def test_processes_that_are_killed_while_others_register_the_same_runs(table: Table, s3_server: str) -> None:
    runs = [f"run{number}" for number in range(6)]
    table.register("first")
    rng, kills, reads = random.Random(7), 0, 0
    command = [sys.executable, "-c", WRITER, table.address, table.folder]
    start = time.monotonic()
    writers: list[subprocess.Popen[bytes]] = []
    while time.monotonic() - start < 15:
        writers = [writer for writer in writers if writer.poll() is None]
        while len(writers) < 2:
            order = rng.sample(runs, len(runs))
            writers.append(subprocess.Popen([*command, *order], env=environment()))
        time.sleep(rng.uniform(0.2, 1.2))
        found = table.runs()  # a reader sees whole runs
        reads += 1
        assert set(found.values()) == {WHOLE}, found
        if len(found) == 1 + len(runs):
            break
        if rng.random() < 0.5:
            os.kill(writers[0].pid, signal.SIGKILL)
            kills += 1
    for writer in writers:
        writer.wait(HANG_S)
    for run in runs:
        table.register(run)
    assert table.runs() == dict.fromkeys(["first", *runs], WHOLE)
    print(f"{kills} kills, {reads} reads")


def test_the_environment_gives_endpoint_and_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage_options("/a/table") is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for name, value in (("ACCESS_KEY_ID", "who"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "x")):
        monkeypatch.setenv(f"AWS_{name}", value)
    options = storage_options("s3://bucket/table")
    assert (
        options is not None and options["AWS_ALLOW_HTTP"] == "true" and options["AWS_ACCESS_KEY_ID"] == "who"
    )


def test_what_a_table_cannot_take_is_said_before_a_run(table: Table) -> None:
    from pipeline.output.local import LocalStore
    from pipeline.output.open_store import open_store
    from pipeline.output.tables import check_table

    store = open_store(f"{table.folder}/night")
    check_table(table.address, "append", store, SCHEMA)
    table.register("a")
    check_table(table.address, "append", store, SCHEMA)
    with pytest.raises(UsageError, match=r"has other columns than this run \(flags, label\)"):
        check_table(table.address, "append", store, SCHEMA.remove(2).append(pa.field("label", pa.string())))
    for kind in (pa.uint64(), pa.timestamp("ns"), pa.null(), pa.dictionary(pa.int8(), pa.string())):
        with pytest.raises(UsageError, match="tables do not hold the types of the columns odd"):
            check_table(table.address, "append", store, SCHEMA.append(pa.field("odd", kind)))
    if not table.address.startswith("iceberg://"):
        with pytest.raises(UsageError, match="is not a folder above --output"):
            check_table(table.address, "append", LocalStore(Path.cwd() / "elsewhere"), SCHEMA)


def test_an_iceberg_table_whose_snapshots_expired_still_knows_its_runs(table: Table) -> None:
    if not table.address.startswith("iceberg://"):
        pytest.skip("Delta keeps transactions in its checkpoints")
    table.register("a")
    table.register("b", "replace")
    catalog, name = open_iceberg(table.address)
    stored = catalog.load_table(name)
    stored.maintenance.expire_snapshots().by_ids(
        [s.snapshot_id for s in stored.metadata.snapshots if s != stored.current_snapshot()]
    ).commit()
    table.register("a")
    assert table.runs() == {"b": WHOLE}


def test_a_partitioned_delta_table_is_refused(tmp_path: Path) -> None:
    address = str(tmp_path / "table")
    deltalake.write_deltalake(address, pa.table({"doc_id": ["a"], "year": [1]}), partition_by=["year"])
    with pytest.raises(UsageError, match="is partitioned by year"):
        register(address, Table(address, address).files("a"), SCHEMA, "k", "append")
