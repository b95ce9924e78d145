"""What Ray runs in processes of its own: the predictor, and the flag that tells all of them to begin no other shard."""

from __future__ import annotations

import pyarrow as pa
from ray.experimental import internal_kv

from pipeline.logs import log_to_stderr
from pipeline.predictor import Predictor
from pipeline.tasks import Task


class StopFlag:
    """A flag that any process of the run may look at, kept by the head of the cluster."""

    def __init__(self, run: str) -> None:
        self._key = f"led-stop-{run}".encode()

    def raise_(self) -> None:
        """Raise it."""
        internal_kv._internal_kv_put(self._key, b"up", overwrite=True)

    def is_up(self) -> bool:
        """Is it raised?"""
        return internal_kv._internal_kv_get(self._key) is not None


class PredictorActor(Predictor):
    """The predictor as an actor; once the flag is up, a shard that comes in leaves as no rows."""

    def __init__(self, flag: StopFlag, task: Task, model: str, revision: str | None, run: str) -> None:
        log_to_stderr(run)
        super().__init__(task, model, revision, run)
        self._flag = flag

    def __call__(self, table: pa.Table) -> pa.Table:
        return table.slice(0, 0) if not len(table) or self._flag.is_up() else super().__call__(table)
