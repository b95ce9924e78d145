"""The Ray Data sink. Each block holds shards, which are committed under their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import pyarrow as pa
import ray
from ray.data import Datasink
from ray.data.datasource.datasink import WriteResult

from pipeline.output.commit import PLAN_SHA256, Committed, commit
from pipeline.output.freeze import freeze_plan
from pipeline.output.open_store import open_store
from pipeline.schema import split_by_shard

# The SHA-256 of the plan in the folder of each run for which this process has committed, by the object that
# holds the run's own plan.
_PLANS: dict[str, str] = {}

# Files that were written, by name.
Written: TypeAlias = dict[str, Committed]


class CommitSink(Datasink[Written]):
    """Commits shards to the folder at `url`, and the content of the plan with the first of them. The run
    `config` is written to the footer of each file. `number` is the column that numbers the rows of a
    document, if there is one. `written` are the files that this run has written."""

    def __init__(self, url: str, config: dict[str, Any], plan: bytes, number: str | None) -> None:
        self.url, self.config, self._plan, self._number = url, config, ray.put(plan), number
        self.written: Written = {}

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> Written:
        store = open_store(self.url, must_exist=True)
        run = self._plan.hex()
        written: Written = {}
        for block in blocks:
            for shard in split_by_shard(block):
                if run not in _PLANS:
                    _PLANS[run] = freeze_plan(store, ray.get(self._plan))
                committed = commit(store, shard, self.config | {PLAN_SHA256: _PLANS[run]}, self._number)
                if committed.digest is not None:
                    written[committed.metadata.part] = committed
        return written

    def on_write_complete(self, write_result: WriteResult[Written]) -> None:
        for written in write_result.write_returns:
            self.written |= written
