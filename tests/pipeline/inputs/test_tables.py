"""Tables of Delta Lake and Iceberg as inputs: one snapshot, pinned in the plan."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pyiceberg.catalog
import pytest
from pyiceberg.utils.config import Config

from pipeline.checkpoint import find_checkpoint
from pipeline.errors import PlanMismatch, UsageError
from pipeline.inputs.files import find_files
from pipeline.output.freeze import check_same_plan
from pipeline.output.local import LocalStore
from pipeline.planning.plan import Plan
from pipeline.prepare import build_plan
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from tests.conftest import words
from tests.pipeline.crash import Machine

Add = Callable[..., None]


def rows(*ids: str, **columns: Any) -> pa.Table:
    texts = [words(5, len(name)) for name in ids]
    return pa.table({"doc_id": list(ids), "text": texts, **columns})


@pytest.fixture(params=["delta", "iceberg"])
def table(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Add]:
    """The address of a table with the rows a and b, and a function that adds rows."""
    if request.param == "delta":
        address = str(tmp_path / "table")

        def add(table: pa.Table, mode: Any = "append") -> None:
            deltalake.write_deltalake(address, table, mode=mode)

    else:
        location = f"file://{tmp_path}/warehouse"
        for name, value in {
            "TYPE": "sql",
            "URI": f"sqlite:///{tmp_path}/c.db",
            "WAREHOUSE": location,
        }.items():
            monkeypatch.setenv(f"PYICEBERG_CATALOG__TESTS__{name}", value)
        monkeypatch.setattr(pyiceberg.catalog, "_ENV_CONFIG", Config())
        address, catalog = "iceberg://tests/corpus.documents", pyiceberg.catalog.load_catalog("tests")
        catalog.create_namespace("corpus")
        catalog.create_table("corpus.documents", rows("a").schema)

        def add(table: pa.Table, mode: Any = "append") -> None:
            stored = catalog.load_table("corpus.documents")
            stored.append(table) if mode == "append" else stored.overwrite(table)

    add(rows("a", "b"))
    return address, add


def plan_of(address: str, model: Path, before: Plan | None = None) -> Plan:
    settings = SummarizeSettings(input=(address,), output="out", model=str(model), shard_documents=1)
    return build_plan(Summarize(settings), find_checkpoint(settings), before)


def test_a_run_reads_one_snapshot_and_resumes_with_it(
    table: tuple[str, Add], model_folder: Path, tmp_path: Path
) -> None:
    address, add = table
    first = plan_of(address, model_folder)
    assert first.documents == 2 and list(first.tables) == [address]
    assert Plan.from_json(first.to_json()).tables == first.tables
    add(rows("c"))
    add(rows("d", "e"), "overwrite")
    resumed = plan_of(address, model_folder, first)
    check_same_plan(LocalStore(tmp_path / "out"), first, resumed)
    assert resumed.tables == first.tables and resumed.documents == 2
    now = plan_of(address, model_folder)
    assert now.documents == 2 and now.tables != first.tables
    with pytest.raises(PlanMismatch, match="input added"):
        check_same_plan(LocalStore(tmp_path / "out"), first, now)


def test_rows_of_a_run_are_those_of_the_table(
    table: tuple[str, Add], model_folder: Path, tmp_path: Path
) -> None:
    address, add = table
    add(rows("c"))
    catalog = {name: value for name, value in os.environ.items() if name.startswith("PYICEBERG_")}
    assert Machine(address, model_folder, catalog).run(str(tmp_path / "out")) == 0
    found = pa.concat_tables(pq.read_table(part) for part in (tmp_path / "out").glob("part-*"))
    assert sorted(found["doc_id"].to_pylist()) == ["a", "b", "c"]


def test_a_version_that_is_gone_is_named(table: tuple[str, Add]) -> None:
    address, _ = table
    with pytest.raises(UsageError, match="99"):
        find_files([address], {address: "99"})


def test_tables_that_need_more_than_their_files_are_refused(tmp_path: Path) -> None:
    plain = tmp_path / "parts"
    deltalake.write_deltalake(str(plain), rows("a", "b", year=[1, 2]), partition_by=["year"])
    assert len(find_files([str(plain)]).files) == 2
    vectors = tmp_path / "vectors"
    configuration = {"delta.enableDeletionVectors": "true"}
    deltalake.DeltaTable.create(str(vectors), rows("a").schema, configuration=configuration)
    deltalake.write_deltalake(str(vectors), rows("a", "b"), mode="append")
    assert len(find_files([str(vectors)]).files) == 1  # no row is marked as deleted
    log = vectors / "_delta_log" / "00000000000000000001.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    vector = {"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", "offset": 4, "sizeInBytes": 40}
    for action in actions:
        if "add" in action:
            action["add"]["deletionVector"] = {**vector, "cardinality": 1}
    log.write_text("".join(json.dumps(action) + "\n" for action in actions))
    with pytest.raises(UsageError, match=r"table .*vectors"):
        find_files([str(vectors)])
    empty = tmp_path / "empty"
    deltalake.DeltaTable.create(str(empty), rows("a").schema)
    with pytest.raises(UsageError, match="has no rows"):
        find_files([str(empty)])
    with pytest.raises(UsageError, match=r"is no table; write iceberg://CATALOG/NAMESPACE\.TABLE"):
        find_files(["iceberg://tests"])
    with pytest.raises(UsageError, match="cannot be used"):
        find_files(["iceberg://no_such_catalog/a.b"])


def test_renamed_columns_are_refused(table: tuple[str, Add]) -> None:
    address, _ = table
    if not address.startswith("iceberg://"):
        pytest.skip("Delta tables need column mapping for it, which is refused")
    stored = pyiceberg.catalog.load_catalog("tests").load_table("corpus.documents")
    with stored.update_schema() as update:
        update.rename_column("text", "old")
    with stored.update_schema() as update:
        update.rename_column("doc_id", "text")
    with pytest.raises(UsageError, match="columns that were renamed or replaced"):
        find_files([address])
