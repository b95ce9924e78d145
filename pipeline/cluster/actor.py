"""A replica: the predictor as a Ray actor, in a process of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from pipeline.cluster.control import RunControl
from pipeline.logs import log_to_stderr
from pipeline.tasks.base import Task
from pipeline.workers.predictor import Predictor

logger = logging.getLogger(__name__)


class Replica(Predictor):
    """A predictor that logs to stderr, and ends its process if the accelerator fails.

    `hashes` are the checkpoint hashes which the checkpoint must match.
    """

    def __init__(
        self,
        task: Task,
        model: str,
        revision: str | None,
        run: str,
        hashes: Mapping[str, Any] | None = None,
        base_model: str | None = None,
    ) -> None:
        log_to_stderr(run)
        super().__init__(task, model, revision, run, hashes, base_model)

    def __call__(self, block: pa.Table, is_stopped: Callable[[], bool] = lambda: False) -> pa.Table:
        try:
            return super().__call__(block, is_stopped)
        except self.loop.loaded.fatal:
            # Ray replaces a process that died. An error would fail the run instead.
            logger.exception("the accelerator failed, so this replica exits")
            os._exit(1)


class PredictorActor(Replica):
    """A replica of a run. After a stop request it returns no rows for further shards."""

    def __init__(self, control: RunControl, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._control = control
        control.register_replica()

    def __call__(self, block: pa.Table) -> pa.Table:  # type: ignore[override]
        return super().__call__(block, self._control.is_stopped)
