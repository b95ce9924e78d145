"""The Ray Data sink. Each block holds shards, which are committed under their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from ray.data import Datasink

from pipeline.output.commit import commit
from pipeline.output.open_store import open_store
from pipeline.schema import split_by_shard


class CommitSink(Datasink[None]):
    """Commits shards to the folder at `url`. The run `config` is written to the footer of each file."""

    def __init__(self, url: str, config: dict[str, Any]) -> None:
        self.url, self.config = url, config

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> None:
        store = open_store(self.url, must_exist=True)
        for block in blocks:
            for shard in split_by_shard(block):
                commit(store, shard, self.config)
