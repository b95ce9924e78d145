"""Read the snapshot of a table: its version, and its Parquet files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.errors import UsageError
from pipeline.tables.open import is_iceberg, open_delta, open_iceberg, table_errors

# Features of Delta tables whose files do not have the columns of the table under their names and types.
_UNREAD_FEATURES = {"columnMapping", "typeWidening", "typeWidening-preview"}


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of a table: its version, and the addresses of its Parquet files."""

    version: str
    files: tuple[str, ...]


def read_snapshot(address: str, version: str | None = None) -> Snapshot:
    """A snapshot of a table, by default the newest.

    Raises:
        UsageError: the library is not installed, there is no such table or version, or the table needs more
            than its files.
        PipelineError: the table cannot be reached.
    """
    with table_errors(address):
        read = _iceberg_snapshot if is_iceberg(address) else _delta_snapshot
        return read(address, version)


def _delta_snapshot(address: str, version: str | None) -> Snapshot:
    table = open_delta(address, None if version is None else int(version))
    protocol = table.protocol()
    features = set(protocol.reader_features or ()) & _UNREAD_FEATURES
    features |= {"columnMapping"} if protocol.min_reader_version == 2 else set()
    if "deletionVectors" in (protocol.reader_features or ()) and len(table.deletion_vectors().read_all()):
        features.add("deleted rows, of which its files do not know")
    files, columns = tuple(table.file_uris()), table.metadata().partition_columns
    if any(f"/{column}=" not in file for column in columns for file in files):
        features.add("partition columns that the names of its files do not have")
    _refuse(address, sorted(features))
    return Snapshot(str(table.version()), files)


def _iceberg_snapshot(address: str, version: str | None) -> Snapshot:
    catalog, name = open_iceberg(address)
    table = catalog.load_table(name)
    snapshot = table.current_snapshot() if version is None else table.snapshot_by_id(int(version))
    if snapshot is None:
        missing = "has no rows yet" if version is None else f"has no snapshot {version} any more"
        raise UsageError(f"the table {address} {missing}.")
    tasks = list(table.scan(snapshot_id=snapshot.snapshot_id).plan_files())
    formats = {str(task.file.file_format).rpartition(".")[2] for task in tasks} - {"PARQUET"}
    reasons = [f"files of the format {each}" for each in sorted(formats)]
    if any(task.delete_files for task in tasks):
        reasons.append("deleted rows, of which its files do not know")
    if _renamed(table):
        reasons.append("columns that were renamed or replaced, so that older files have others")
    _refuse(address, reasons)
    return Snapshot(str(snapshot.snapshot_id), tuple(task.file.file_path for task in tasks))


def _renamed(table: Any) -> bool:
    """Whether a column of an Iceberg table had another name once, or its name was that of another column."""
    now = {field.field_id: field.name for field in table.schema().fields}
    ids = {name: field_id for field_id, name in now.items()}
    fields = [field for schema in table.metadata.schemas for field in schema.fields]
    return any(
        now.get(field.field_id, field.name) != field.name
        or ids.get(field.name, field.field_id) != field.field_id
        for field in fields
    )


def _refuse(address: str, reasons: list[str]) -> None:
    """Refuse a table for these reasons, if there are any.

    Raises:
        UsageError: there are.
    """
    if reasons:
        raise UsageError(
            f"the table {address} has {', '.join(reasons)}, so its files must not be read on their own. "
            "Write its rows to another table or folder."
        )
