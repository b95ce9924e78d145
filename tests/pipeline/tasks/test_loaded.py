"""Tasks with their models in memory: what a copy may take of a machine that it shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.settings import SummarizeSettings
from pipeline.tasks import Summarize, models
from pipeline.tasks.base import ModelInput
from pipeline.tasks.loaded import replicas_sharing_memory
from pipeline.tasks.summarizer import LoadedSummarizer


def test_memory_is_shared_by_the_copies_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def beside(**given: Any) -> float:
        return replicas_sharing_memory(SummarizeSettings(input=("i",), output="o", model="m", **given))

    monkeypatch.setattr(models, "cpus", lambda: 8)
    assert (beside(), beside(threads=3), beside(threads=16)) == (8, 2, 1)
    assert (beside(replicas=2), beside(replicas=20), beside(replicas=2, threads=3)) == (2, 8, 2)
    assert (beside(replicas=1, max_replicas=4), beside(gpus=0.25), beside(gpus=1.0, replicas=3)) == (4, 4, 1)


def test_the_loop_is_kept_from_batch_to_batch_until_room_is_made(model_folder: Path) -> None:
    """What was measured adds up over both loops, and what is written is the same, after a batch that was left
    too."""
    loaded = LoadedSummarizer(
        Summarize(SummarizeSettings(input=("i",), output="o", model=str(model_folder))), model_folder
    )
    documents = [ModelInput([0, *range(5, 5 + n), 2], 1) for n in (3, 9, 20)]
    first = dict(loaded.predict(documents))
    kept, measured = loaded._loop, loaded.measured
    steps = measured["steps"]
    assert steps > 0
    next(loaded.predict(documents))
    assert measured["steps"] == steps  # who takes differences holds on to what was measured before
    assert dict(loaded.predict(documents)) == first and loaded._loop is kept
    loaded.measured = {}
    assert dict(loaded.predict(documents)) == first and loaded.measured["steps"] == steps
    loaded.release_memory()
    assert dict(loaded.predict(documents)) == first and loaded._loop is not kept
    assert loaded.measured["steps"] == 2 * steps
