"""Tasks with their models in memory: the share of a machine that a replica may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.tasks import loaded
from pipeline.tasks.base import ModelInput
from pipeline.tasks.loaded import replicas_sharing_memory
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize


def test_memory_is_shared_by_the_replicas_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def sharing(**given: Any) -> float:
        return replicas_sharing_memory(SummarizeSettings(input=("i",), output="o", model="m", **given))

    monkeypatch.setattr(loaded, "usable_cpus", lambda: 8)
    assert (sharing(), sharing(threads=3), sharing(threads=16)) == (8, 2, 1)
    assert (sharing(replicas=2), sharing(replicas=20), sharing(replicas=2, threads=3)) == (2, 8, 2)
    assert (sharing(replicas=1, max_replicas=4), sharing(gpus=0.25), sharing(gpus=1.0, replicas=3)) == (
        4,
        4,
        1,
    )


def test_the_scheduler_is_kept_between_batches_until_memory_is_released(model_folder: Path) -> None:
    """Measurements add up over both schedulers. Summaries stay the same, even after an abandoned batch."""
    model = Summarize(SummarizeSettings(input=("i",), output="o", model=str(model_folder))).load(model_folder)
    documents = [ModelInput([0, *range(5, 5 + n), 2], [0]) for n in (3, 9, 20)]
    first = dict(model.predict(documents))
    kept, steps = model._scheduler, model.measured["steps"]
    assert steps > 0
    next(model.predict(documents))
    abandoned = model.measured["steps"] - steps
    assert 0 < abandoned <= steps
    assert dict(model.predict(documents)) == first and model._scheduler is kept
    model.release_memory()
    assert dict(model.predict(documents)) == first and model._scheduler is not kept
    assert model.measured["steps"] == 3 * steps + abandoned
