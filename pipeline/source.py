"""The Ray Data source: one read task, one shard, one block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from pipeline.actor import StopFlag
from pipeline.previous import Previous
from pipeline.reader import ShardReader
from pipeline.shards import Shard


class ShardSource(Datasource):
    """Shards, each read and tokenized by a task of its own; the index of the run before is one object that all of them read.

    Once the flag is up, a task reads nothing and gives no rows.
    """

    def __init__(self, shards: Sequence[Shard], reader: ShardReader, flag: StopFlag, previous: Previous | None = None) -> None:
        super().__init__()
        self._shards, self._reader, self._flag = shards, reader, flag
        self._previous = None if previous is None else ray.put(previous)

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        return [ReadTask(self._task(shard), BlockMetadata(shard.documents, None, None, None)) for shard in self._shards]

    def _task(self, shard: Shard) -> Callable[[], Iterable[pa.Table]]:
        return partial(_read, self._reader, shard, self._flag, self._previous)


def _read(reader: ShardReader, shard: Shard, flag: StopFlag, previous: Any) -> Iterable[pa.Table]:
    if flag.is_up():
        yield pa.table({})
        return
    yield reader(shard, None if previous is None else ray.get(previous))
