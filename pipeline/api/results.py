"""The rows of a finished run as Arrow, pandas or a Ray dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipeline.errors import UsageError
from pipeline.file_systems import is_local, locate
from pipeline.output.commit import parse_manifest, read_columns
from pipeline.output.open_store import open_store
from pipeline.output.verify import read_plan
from pipeline.planning.plan import MANIFEST, REPORT, SUCCESS, Plan
from pipeline.versions import with_current_names

if TYPE_CHECKING:
    import pandas as pd
    import ray.data


@dataclass(frozen=True)
class Results:
    """The results of a finished run in the folder `output`: its plan and manifest, and the rows."""

    output: str
    plan: Plan
    manifest: Mapping[str, Any]

    @property
    def documents(self) -> int:
        """Number of documents."""
        return int(self.manifest["documents"])

    @property
    def rows(self) -> int:
        """Number of rows, one for each document or question."""
        return int(self.manifest["rows"])

    @property
    def ok(self) -> int:
        """Number of rows with a result."""
        return int(self.manifest["ok"])

    @property
    def failed(self) -> int:
        """Number of rows whose document failed. Column `reason` says why."""
        return int(self.manifest["failed"])

    @property
    def skipped(self) -> int:
        """Number of rows whose file or shard could not be read."""
        return int(self.manifest["skipped"])

    @property
    def failures(self) -> dict[str, int]:
        """Number of rows by the reason of their failure."""
        return dict(self.manifest["failures"])

    @property
    def files(self) -> list[str]:
        """The addresses of the Parquet files, in the order of the input."""
        return [f"{self.output}/{shard.part}" for shard in self.plan.shards]

    @property
    def report(self) -> str | None:
        """The address of the report. None if it could not be written."""
        return f"{self.output}/{REPORT}" if open_store(self.output).exists(REPORT) else None

    def arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows in the order of the input, or these columns of them.

        Raises:
            UsageError: there is no such column.
        """
        store = open_store(self.output)
        with store.open(self.plan.shards[0].part) as file:
            known = with_current_names(pq.read_schema(file).empty_table()).column_names
        wanted = known if columns is None else list(columns)
        missing = [name for name in wanted if name not in known]
        if missing:
            raise UsageError(f"{self.output} has no column {', '.join(missing)}; it has {', '.join(known)}.")
        tables = (read_columns(store, shard.part, wanted).select(wanted) for shard in self.plan.shards)
        return pa.concat_tables(table.replace_schema_metadata(None) for table in tables)

    def pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All rows in the order of the input as a DataFrame, or these columns of them. It needs pandas."""
        return self.arrow(columns).to_pandas()

    def dataset(self, columns: Sequence[str] | None = None) -> ray.data.Dataset:
        """The rows as a Ray dataset, which need not fit into this machine's memory."""
        import ray.data

        from pipeline.cluster.session import join_cluster

        join_cluster()
        names, file_system = self.files, None
        if not is_local(self.output):
            located, _ = locate(self.output)
            names = [locate(name)[1] for name in names]
            file_system = pafs.PyFileSystem(pafs.FSSpecHandler(located))
        dataset = ray.data.read_parquet(names, filesystem=file_system)
        return dataset if columns is None else dataset.select_columns(list(columns))


def read_results(output: str | PathLike[str]) -> Results:
    """The results of the finished run in a folder.

    Raises:
        UsageError: the folder holds no finished run.
    """
    store = open_store(os.path.expanduser(output))
    plan = read_plan(store)
    if not store.exists(SUCCESS):
        raise UsageError(f"{store.url} holds no finished run (no {SUCCESS}); finish the run first.")
    return Results(store.url, plan, parse_manifest(store.read(MANIFEST), f"{store.url}/{MANIFEST}"))
