"""Register the files of a finished run in a table, in one commit."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from pipeline.errors import PipelineError, UsageError, one_line
from pipeline.tables.open import (
    delta_uri,
    is_iceberg,
    open_delta,
    open_iceberg,
    storage_options,
    table_errors,
)

# What identifies a run in the history of a table.
KEY = "led-corpus.plan"

# Attempts to commit while other writers are faster, and the seconds before the second one.
_ATTEMPTS, _PAUSE_S = 20, 0.05

# Commits with an unknown outcome, after which the table is read again. Then the error is raised.
_UNKNOWN_OUTCOMES = 4

TableMode: TypeAlias = Literal["append", "replace"]


@dataclass(frozen=True)
class TableFile:
    """A committed file: its address, its path below the table's folder, its size in bytes and its rows."""

    address: str
    path: str
    size: int
    rows: int


class _TryAgain(Exception):
    """A commit failed because another writer was faster, or with an unknown outcome (`error`)."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(str(error))
        self.error = error


def register(address: str, files: list[TableFile], schema: Any, key: str, mode: TableMode) -> str:
    """Add files to a table in one commit, unless the run with this key is in it already. Returns the version
    of the table. `schema` is the Arrow schema of the files.

    Readers see all of the files or none. With the mode `replace`, the files replace all others. A rerun, and
    another process that registers the same run, change nothing: a commit succeeds only on the version of the
    table that was searched for the key, and after an unknown outcome the table is searched again.

    Raises:
        UsageError: the table has other columns, or cannot be used.
        PipelineError: the table cannot be reached, or other writers are always faster.
    """
    try_once = _register_iceberg if is_iceberg(address) else _register_delta
    errors = 0
    for number in range(_ATTEMPTS):
        with table_errors(address):
            try:
                return try_once(address, files, schema, key, mode)
            except _TryAgain as again:
                errors += again.error is not None
                if again.error is not None and errors >= _UNKNOWN_OUTCOMES:
                    raise again.error from None
        time.sleep(_PAUSE_S * 2 ** min(number, 6))
    raise PipelineError(
        f"the table {address} was changed by other writers during all of {_ATTEMPTS} attempts; rerun the "
        "same command to register the run."
    )


def _register_delta(address: str, files: list[TableFile], schema: Any, key: str, mode: str) -> str:
    """Add files to a Delta table, unless the run with this key is in it. Returns the version.

    Raises:
        UsageError: the table has other columns.
        _TryAgain: the table must be read again.
    """
    from deltalake import CommitProperties, Schema, Transaction
    from deltalake.exceptions import CommitFailedError, TableNotFoundError
    from deltalake.transaction import AddAction, create_table_with_add_actions

    written = Schema.from_arrow(schema)
    now = int(time.time() * 1000)
    actions = [
        AddAction(file.path, file.size, {}, now, True, f'{{"numRecords": {file.rows}}}') for file in files
    ]
    # Without retries of its own: a commit succeeds only on the version that was searched for the key.
    properties = CommitProperties(
        custom_metadata={KEY: key}, max_commit_retries=0, app_transactions=[Transaction(key, 1)]
    )
    try:
        table = open_delta(address)
    except TableNotFoundError:
        try:
            create_table_with_add_actions(
                delta_uri(address),
                written,
                actions,
                mode="error",
                storage_options=storage_options(address),
                commit_properties=properties,
            )
        except Exception as error:
            raise _TryAgain(None if "already exists" in str(error) else error) from error
        return "0"
    if table.transaction_version(key) is not None:
        return f"{table.version()}"
    check_delta(address, table, schema, mode)
    try:
        kind = "append" if mode == "append" else "overwrite"
        table.create_write_transaction(actions, kind, written, commit_properties=properties)
    except CommitFailedError as error:
        raise _TryAgain from error
    except Exception as error:
        raise _TryAgain(error) from error
    return f"{open_delta(address).version()}"


def check_delta(address: str, table: Any, schema: Any, mode: str) -> None:
    """Check that files with an Arrow schema can be added to a Delta table.

    Raises:
        UsageError: they cannot: the table is partitioned or has other columns.
    """
    from deltalake import Schema

    if columns := table.metadata().partition_columns:
        raise UsageError(
            f"the table {address} is partitioned by {', '.join(columns)}, and the files of a run are not; "
            "give another --table."
        )
    ours = {field.name: str(field.type) for field in Schema.from_arrow(schema).fields}
    theirs = {field.name: str(field.type) for field in table.schema().fields}
    if mode == "append":
        _refuse_other_columns(
            address, {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
        )


def check_iceberg(address: str, table: Any, schema: Any, mode: str) -> None:
    """Check that files with an Arrow schema can be added to an Iceberg table.

    Raises:
        UsageError: they cannot: the table has other columns.
    """
    _refuse_other_columns(address, {*schema.names} ^ {field.name for field in table.schema().fields})


def _refuse_other_columns(address: str, differing: set[str]) -> None:
    if differing:
        raise UsageError(
            f"the table {address} has other columns than this run ({', '.join(sorted(differing))}); give "
            "another --table, or for a Delta table --table-mode replace."
        )


def check_types(schema: Any) -> None:
    """Check that tables can hold the types of an Arrow schema.

    Raises:
        UsageError: they cannot.
    """
    types = pa.types
    checks = (
        types.is_unsigned_integer,
        types.is_null,
        types.is_float16,
        types.is_time,
        types.is_duration,
        types.is_dictionary,
        types.is_interval,
        types.is_decimal256,
        lambda kind: types.is_timestamp(kind) and kind.unit == "ns",
    )
    odd = [f"{field.name} ({field.type})" for field in schema if any(check(field.type) for check in checks)]
    if odd:
        raise UsageError(
            f"tables do not hold the types of the columns {', '.join(odd)}; leave them out of --passthrough, "
            "or convert them in the input."
        )


def _register_iceberg(address: str, files: list[TableFile], schema: Any, key: str, mode: str) -> str:
    """Add files to an Iceberg table, unless the run with this key is in it. Returns the snapshot.

    Raises:
        UsageError: the table has other columns.
        _TryAgain: the table must be read again.
    """
    from pyiceberg.exceptions import (
        CommitFailedException,
        NamespaceAlreadyExistsError,
        NoSuchTableError,
        TableAlreadyExistsError,
    )
    from pyiceberg.expressions import AlwaysTrue

    catalog, name = open_iceberg(address)
    try:
        table = catalog.load_table(name)
    except NoSuchTableError:
        with contextlib.suppress(NamespaceAlreadyExistsError):
            catalog.create_namespace(name.rpartition(".")[0])
        try:
            table = catalog.create_table(name, schema)
        except TableAlreadyExistsError as error:
            raise _TryAgain from error
    for snapshot in table.metadata.snapshots:
        if snapshot.summary is not None and snapshot.summary.additional_properties.get(KEY) == key:
            return f"{snapshot.snapshot_id}"
    if f"{KEY}.{key}" in table.properties:  # snapshots expire, properties stay
        return f"{table.current_snapshot().snapshot_id}"
    check_iceberg(address, table, schema, mode)
    # Without retries of the library, in this copy of the metadata only. A commit succeeds only on the
    # snapshot that was searched for the key.
    table.metadata.properties["commit.retry.num-retries"] = "0"
    try:
        with table.transaction() as transaction:
            if mode == "replace" and table.current_snapshot() is not None:
                transaction.delete(AlwaysTrue(), snapshot_properties={KEY: f"replaced by {key}"})
            transaction.add_files([file.address for file in files], snapshot_properties={KEY: key})
            transaction.set_properties({f"{KEY}.{key}": "registered"})
    except CommitFailedException as error:
        raise _TryAgain from error
    except ValueError as error:
        # The snapshot that names the run has expired, but its files are in the table.
        if "already referenced by table" in str(error):
            return f"{table.current_snapshot().snapshot_id}"
        raise UsageError(
            f"the table {address} cannot take the rows of this run: {one_line(error)}"
        ) from error
    except Exception as error:
        raise _TryAgain(error) from error
    return f"{table.current_snapshot().snapshot_id}"
