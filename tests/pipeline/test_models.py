"""Tasks with their models in memory: what a copy may take of a machine that it shares."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import models
from pipeline.config import SummarizeSettings
from pipeline.models import copies_beside


def test_memory_is_shared_by_the_copies_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def beside(**given: Any) -> float:
        return copies_beside(SummarizeSettings(input=("i",), output="o", model="m", **given))

    monkeypatch.setattr(models, "cpus", lambda: 8)
    assert (beside(), beside(threads=3), beside(threads=16)) == (8, 2, 1)
    assert (beside(actors=2), beside(actors=20), beside(actors=2, threads=3)) == (2, 8, 2)
    assert (beside(actors=1, max_actors=4), beside(gpus=0.25), beside(gpus=1.0, actors=3)) == (4, 4, 1)
