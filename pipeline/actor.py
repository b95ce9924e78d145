"""What Ray runs in processes of its own: the predictor; and the board that all processes of a run see."""

from __future__ import annotations

import logging
import os
import uuid

import pyarrow as pa
from ray.experimental import internal_kv

from pipeline.logs import log_to_stderr
from pipeline.predictor import FATAL, Predictor
from pipeline.tasks import Task

logger = logging.getLogger(__name__)


class Board:
    """What every process of the run may look at, kept by the head of the cluster: that no other shard is to be begun, and
    which model copies came.
    """

    def __init__(self, run: str) -> None:
        self._stop, self._arrivals = f"led-stop-{run}".encode(), f"led-actor-{run}-".encode()

    def stop(self) -> None:
        """Let no other shard be begun."""
        internal_kv._internal_kv_put(self._stop, b"up", overwrite=True)

    def is_stopped(self) -> bool:
        """Is no other shard to be begun?"""
        return internal_kv._internal_kv_get(self._stop) is not None

    def arrive(self) -> None:
        """A model copy came."""
        internal_kv._internal_kv_put(self._arrivals + uuid.uuid4().hex.encode(), b"", overwrite=True)

    def arrived(self) -> int:
        """How many model copies came so far, those that went again among them."""
        return len(internal_kv._internal_kv_list(self._arrivals))


class PredictorActor(Predictor):
    """The predictor as an actor; once the run is stopped, a shard that comes in leaves as no rows."""

    def __init__(
        self, board: Board, task: Task, model: str, revision: str | None, run: str, facts: dict[str, object] | None = None
    ) -> None:
        log_to_stderr(run)
        super().__init__(task, model, revision, run, facts)
        self._board = board
        board.arrive()

    def __call__(self, table: pa.Table) -> pa.Table:
        if not len(table) or self._board.is_stopped():
            return table.slice(0, 0)
        try:
            return super().__call__(table)
        except FATAL:
            # Ray begins another process for one that died; an error it would hand on to the run.
            logger.exception("the accelerator failed; this process ends")
            os._exit(1)
