"""The Ray Data sink: every block is one shard, committed by its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from ray.data import Datasink

from pipeline.output.commit import commit
from pipeline.output.store import open_store


class CommitSink(Datasink[None]):
    """Commits shards to the folder at `url`; `facts` go into every file's footer."""

    def __init__(self, url: str, config: dict[str, Any]) -> None:
        self.url, self.config = url, config

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> None:
        store = open_store(self.url, begun=True)
        for block in blocks:
            if len(block):
                commit(store, block, self.config)
