"""The table that a finished run is registered in: `--table`."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UsageError
from pipeline.file_systems import is_local, resolved
from pipeline.output.store import Store
from pipeline.planning.plan import PLAN, Plan
from pipeline.tables.open import is_delta, is_iceberg, open_delta, open_iceberg, table_errors
from pipeline.tables.register import (
    TableFile,
    TableMode,
    check_delta,
    check_iceberg,
    check_types,
    register,
)


def check_table(table: str, mode: TableMode, store: Store, schema: pa.Schema) -> None:
    """Check, before a run, that files with this schema can be registered in a table.

    Raises:
        UsageError: they cannot: the library is not installed, the table has other columns, or the output is
            not inside a Delta table's folder.
        PipelineError: the table cannot be reached.
    """
    check_types(schema)
    with table_errors(table):
        if is_iceberg(table):
            catalog, name = open_iceberg(table)
            if catalog.table_exists(name):
                check_iceberg(table, catalog.load_table(name), schema, mode)
            return
        importlib.import_module("deltalake")
        _path_below(table, store)
        if is_delta(table):
            check_delta(table, open_delta(table), schema, mode)


def register_run(table: str, mode: TableMode, store: Store, plan: Plan, manifest: Mapping[str, Any]) -> str:
    """Register the files of a finished run in a table, once. Returns the version of the table.

    Raises:
        UsageError: the table has other columns, or cannot be used.
        PipelineError: the table cannot be reached now.
    """
    below = "" if is_iceberg(table) else _path_below(table, store)
    files = []
    for shard in plan.shards:
        name = shard.part
        address = f"file://{store.url}/{name}" if is_local(store.url) else f"{store.url}/{name}"
        rows = manifest["shards"][name]["rows"]
        files.append(TableFile(address, f"{below}{name}", _size(store, name, manifest), rows))
    with store.open(plan.shards[0].part) as file:
        schema = pq.read_schema(file).remove_metadata()
    key = hashlib.sha256(store.read(PLAN)).hexdigest()
    return register(table, files, schema, key, mode)


def _size(store: Store, name: str, manifest: Mapping[str, Any]) -> int:
    """The size of a committed file in bytes. Manifests of earlier versions do not have it."""
    if name in manifest.get("files", {}):
        return int(manifest["files"][name]["size"])
    with store.open(name) as file:
        return file.seek(0, os.SEEK_END)


def _path_below(table: str, store: Store) -> str:
    """The path from the folder of a Delta table to the output folder, with a slash at its end, or nothing.

    Raises:
        UsageError: the output folder is elsewhere.
    """
    folder, output = resolved(table), resolved(store.url)
    if output == folder:
        return ""
    if not output.startswith(f"{folder}/"):
        raise UsageError(
            f"--table {table} is not a folder above --output {store.url}; a Delta table holds its files in "
            "its own folder. Give an output such as --output TABLE/2026-11-24."
        )
    return f"{output[len(folder) + 1 :]}/"
