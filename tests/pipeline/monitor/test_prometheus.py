"""The metrics add up to the counts of the committed shards."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import pytest

from pipeline.monitor import prometheus
from pipeline.monitor.prometheus import PrometheusMetrics
from pipeline.monitor.stats import RunStats
from pipeline.tasks.settings import AnswerSettings
from tests.pipeline.shard_metadata import shard_metadata


class FakeCounter:
    totals: ClassVar[Counter[tuple[str, ...]]] = Counter()

    def __init__(self, name: str, *_: Any) -> None:
        self.info = {"name": name}

    def inc(self, more: float, labels: dict[str, str]) -> None:
        self.totals[self.info["name"], *labels.values()] += more  # type: ignore[assignment]


class FakeGauge:
    def __init__(self, *_: Any) -> None:
        pass

    def set(self, value: float, labels: dict[str, str]) -> None:
        pass


def test_documents_are_ok_failed_or_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "Counter", FakeCounter)
    monkeypatch.setattr(prometheus, "Gauge", FakeGauge)
    totals, stats = FakeCounter.totals, RunStats(100, 4, 1)
    settings = AnswerSettings(input=("i",), output="o", model="m", question=("a?", "b?", "c?"))
    observe = PrometheusMetrics(settings, "nightly")
    observe(stats, 1.0)
    assert not totals
    # Of ten documents with three questions, one failed at one question and one at all three. A shard of ten
    # documents was skipped.
    stats.add(shard_metadata("a", documents=10, rows=30, ok=26, failed=4, failed_documents=2), 1.0)
    stats.add(shard_metadata("b", documents=10, rows=10, skipped=10), 2.0)
    for _ in range(2):
        observe(stats, 2.0)
    assert {key[2]: n for key, n in totals.items() if key[0] == "led_documents"} == {
        "ok": 8,
        "failed": 2,
        "skipped": 10,
    }
