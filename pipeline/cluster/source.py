"""The Ray Data source. Each read task reads one shard and returns it as one block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from pipeline.cluster.control import RunControl
from pipeline.output.previous_runs import PreviousRuns
from pipeline.planning.plan import Shard
from pipeline.workers.reader import ShardReader

Shared: TypeAlias = "ray.ObjectRef[tuple[ShardReader, PreviousRuns | None]]"


class ShardSource(Datasource):
    """Shards to read and tokenize, each in a task of its own.

    `shared` holds the reader and the index of earlier runs for all tasks (see `share`). After a stop request,
    a task reads nothing and returns no rows.
    """

    def __init__(self, shards: Sequence[Shard], shared: Shared, control: RunControl) -> None:
        super().__init__()
        self._shards, self._shared, self._control = shards, shared, control

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        return [
            ReadTask(self._task(shard), BlockMetadata(shard.documents, None, None, None))
            for shard in self._shards
        ]

    def _task(self, shard: Shard) -> Callable[[], Iterable[pa.Table]]:
        return partial(_read, self._shared, shard, self._control)


def share(reader: ShardReader, previous: PreviousRuns | None) -> Shared:
    """Put the reader and the index of earlier runs into the object store, once for all tasks."""
    return ray.put((reader, previous))


def _read(shared: Shared, shard: Shard, control: RunControl) -> Iterable[pa.Table]:
    if control.is_stopped():
        yield pa.table({})
        return
    reader, previous = ray.get(shared)
    yield reader(shard, previous)
