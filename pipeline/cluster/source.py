"""The Ray Data source. A read task reads one shard, or several small ones, and returns them as one block."""

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
    """Bundles of shards to read and tokenize, each in a task of its own.

    `shared` holds the reader and the index of earlier runs for all tasks (see `share`). After a stop request,
    a task reads nothing and returns no rows.
    """

    def __init__(self, bundles: Sequence[Sequence[Shard]], shared: Shared, control: RunControl) -> None:
        super().__init__()
        self._bundles, self._shared, self._control = bundles, shared, control

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        return [
            ReadTask(
                self._task(bundle),
                BlockMetadata(sum(shard.documents for shard in bundle), None, None, None),
            )
            for bundle in self._bundles
        ]

    def _task(self, bundle: Sequence[Shard]) -> Callable[[], Iterable[pa.Table]]:
        return partial(_read, self._shared, bundle, self._control)


def share(reader: ShardReader, previous: PreviousRuns | None) -> Shared:
    """Put the reader and the index of earlier runs into the object store, once for all tasks."""
    return ray.put((reader, previous))


def _read(shared: Shared, bundle: Sequence[Shard], control: RunControl) -> Iterable[pa.Table]:
    if control.is_stopped():
        yield pa.table({})
        return
    reader, previous = ray.get(shared)
    yield pa.concat_tables([reader(shard, previous) for shard in bundle])
