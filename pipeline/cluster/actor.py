"""The predictor as Ray runs it, in a process of its own."""

from __future__ import annotations

import logging
import os

import pyarrow as pa

from pipeline.cluster.control import RunControl
from pipeline.logs import log_to_stderr
from pipeline.tasks import Task
from pipeline.workers.predictor import Predictor

logger = logging.getLogger(__name__)


class PredictorActor(Predictor):
    """The predictor as an actor; once the run is stopped, a shard that comes in leaves as no rows."""

    def __init__(
        self,
        control: RunControl,
        task: Task,
        model: str,
        revision: str | None,
        run: str,
        config: dict[str, object] | None = None,
    ) -> None:
        log_to_stderr(run)
        super().__init__(task, model, revision, run, config)
        self._control = control
        control.register_replica()

    def __call__(self, table: pa.Table) -> pa.Table:
        if not len(table) or self._control.is_stopped():
            return table.slice(0, 0)
        try:
            return super().__call__(table)
        except self.loaded.fatal:
            # Ray begins another process for one that died; an error it would hand on to the run.
            logger.exception("the accelerator failed; this process ends")
            os._exit(1)
