"""What Prometheus is told adds up to what receipts count."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import pytest
from tests.pipeline.shards_metadata import shard_metadata

from pipeline.monitor import prometheus as metrics
from pipeline.monitor.prometheus import PrometheusMetrics
from pipeline.monitor.stats import RunStats
from pipeline.settings import AnswerSettings


class FakeCounter:
    told: ClassVar[Counter[tuple[str, ...]]] = Counter()

    def __init__(self, name: str, *_: Any) -> None:
        self.info = {"name": name}

    def inc(self, more: float, labels: dict[str, str]) -> None:
        self.told[self.info["name"], *labels.values()] += more  # type: ignore[assignment]


class FakeGauge:
    def __init__(self, *_: Any) -> None:
        pass

    def set(self, value: float, labels: dict[str, str]) -> None:
        pass


def test_documents_are_ok_failed_or_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "Counter", FakeCounter)
    monkeypatch.setattr(metrics, "Gauge", FakeGauge)
    told, stats = FakeCounter.told, RunStats(100, 4, 1)
    tell = PrometheusMetrics(
        AnswerSettings(input=("i",), output="o", model="m", question=("a?", "b?", "c?")), "night"
    )
    tell(stats, 1.0)
    assert not told
    # Three questions: of ten documents one failed at a question, one at all; a shard of ten was skipped.
    stats.add(shard_metadata("a", documents=10, rows=30, ok=26, failed=4, failed_documents=2), 1.0)
    stats.add(shard_metadata("b", documents=10, rows=10, skipped=10), 2.0)
    for _ in range(2):
        tell(stats, 2.0)
    assert {key[2]: n for key, n in told.items() if key[0] == "led_documents"} == {
        "ok": 8,
        "failed": 2,
        "skipped": 10,
    }
