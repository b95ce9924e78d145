"""A task whose model sleeps, as a process does that waits for its GPU: the pipeline at scales that no model
allows here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.tasks import Summarize
from pipeline.tasks.base import LoadedTask, ModelInput, Row


@dataclass(frozen=True)
class StandIn(Summarize):
    """Summaries of nothing, `seconds` for each document."""

    seconds: float = 0.03

    def load(self, folder: Path) -> LoadedTask:
        """No weights."""
        return _Asleep(self.seconds)


@dataclass
class _Asleep:
    seconds: float
    measured: ClassVar[dict[str, float]] = {}
    fatal: ClassVar[tuple[type[Exception], ...]] = ()

    def predict(self, documents: Sequence[ModelInput]) -> Iterator[tuple[int, Row]]:
        time.sleep(self.seconds * len(documents))
        for i in range(len(documents)):
            yield i, {"summary": "", "output_tokens": 1, "finish_reason": "stop", "score": 0.0}

    def release_memory(self) -> None:
        pass
