"""A task with a model that only sleeps, to measure the pipeline with more replicas than the machine allows.

A process that waits for its GPU uses as little of the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.tasks.base import LoadedTask, ModelInput, Row
from pipeline.tasks.summarize import Summarize


@dataclass(frozen=True)
class StandIn(Summarize):
    """Writes empty summaries and takes `seconds` for each document."""

    seconds: float = 0.03

    def load(self, folder: Path) -> LoadedTask:  # type: ignore[override]
        """The stand-in. It has no weights."""
        return _SleepingModel(self.seconds)


@dataclass
class _SleepingModel:
    seconds: float
    measured: dict[str, float] = field(default_factory=dict)
    hardware: dict[str, str] = field(default_factory=dict)
    fatal: tuple[type[Exception], ...] = ()

    def predict(self, documents: Iterable[ModelInput | None]) -> Iterator[tuple[int, Row]]:
        for i, _ in enumerate(document for document in documents if document is not None):
            time.sleep(self.seconds)
            yield i, {"summary": "", "output_tokens": 1, "finish_reason": "stop", "score": 0.0}

    def release_memory(self) -> None:
        pass
