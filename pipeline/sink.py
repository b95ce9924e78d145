"""The Ray Data sink: every block is one shard, committed by its name; receipts go back to the driver."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from ray.data import Datasink

from pipeline.commit import Receipt, commit
from pipeline.store import open_store


class CommitSink(Datasink[list[Receipt]]):
    """Commits shards to the folder at `url`; `facts` go into every file's footer. `receipts` is filled at the end."""

    def __init__(self, url: str, facts: dict[str, Any]) -> None:
        self.url, self.facts = url, facts
        self.receipts: list[Receipt] = []

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> list[Receipt]:
        store = open_store(self.url, begun=True)
        return [commit(store, block, self.facts) for block in blocks if len(block)]

    def on_write_complete(self, write_result: Any) -> None:
        self.receipts = [receipt for receipts in write_result.write_returns for receipt in receipts]
