"""Prometheus metrics of a run, sent by the driver through the endpoint that Ray serves.

Counters grow only when a shard is committed, so they match the output folder. The dashboard
and the alert rules in infra/ use the names in this module. Ray adds the prefix `ray_`, and `_total` to the
names of counters.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from pipeline.monitor.stats import RunStats, device_hours
from pipeline.settings import RunSettings

_STAGES = {"read_seconds": "read", "encode_seconds": "encode", "decode_seconds": "decode"}

# Gauges by name, without the prefix `led_`.
_GAUGES = {
    "documents_planned": "Documents of the plan",
    "documents_left": "Documents of the plan that are not committed",
    "replicas": "Replicas",
    "replica_busy_share": "Share of the replicas' time that committed shards took",
    "slot_utilization": "Share of the slots in decode steps that held a document",
    "seconds_left": "Estimated seconds left, as in the progress line",
    "device_hours": "Device-hours so far",
    "cost": "Cost so far, by --price-per-hour",
    "peak_memory_bytes": "Peak memory of a replica",
}


class PrometheusMetrics:
    """An observer that updates the metrics. `run` is the value of their label `run`."""

    def __init__(self, settings: RunSettings, run: str) -> None:
        self._settings, self._run, self._reported = settings, run, dict[tuple[str, str], float]()
        keys = ("run",)
        self._documents = Counter("led_documents", "Documents committed by this run", (*keys, "status"))
        self._tokens = Counter("led_tokens", "Tokens of committed documents", (*keys, "direction"))
        self._stages = Counter("led_stage_seconds", "Seconds of work on committed shards", (*keys, "stage"))
        self._failures = Counter("led_failures", "Rows that failed or were skipped", (*keys, "reason"))
        self._flags = Counter("led_flags", "Rows with a quality flag", (*keys, "flag"))
        self._shards = Counter("led_shards", "Shards committed by this run", keys)
        self._gauges = {name: Gauge(f"led_{name}", text, keys) for name, text in _GAUGES.items()}

    def __call__(self, stats: RunStats, seconds: float) -> None:
        counts, measured = stats.own.counts, stats.own.measured
        self._increase(self._shards, "", {"": counts["shards"]})
        # A document has one row per question, but only one row if it is skipped.
        failed, skipped = counts["failed_documents"], counts["skipped"]
        ok = counts["documents"] - failed - skipped
        self._increase(self._documents, "status", {"ok": ok, "failed": failed, "skipped": skipped})
        tokens = {"in": counts["input_tokens"], "out": counts["output_tokens"]}
        self._increase(self._tokens, "direction", tokens)
        stages = {stage: measured.get(name, 0) for name, stage in _STAGES.items()}
        other = counts["seconds"] - stages["encode"] - stages["decode"]
        self._increase(self._stages, "stage", {**stages, "other": max(0.0, other)})
        self._increase(self._failures, "reason", stats.own.failures)
        self._increase(self._flags, "flag", stats.own.flags)
        left, price = stats.time_left(seconds), self._settings.price_per_hour
        hours = device_hours(stats.replica_seconds, self._settings.gpus)
        values = {
            "documents_planned": stats.documents,
            "documents_left": stats.documents_left,
            "replicas": stats.replicas,
            "replica_busy_share": min(1.0, counts["seconds"] / max(1e-9, stats.replica_seconds)),
            "slot_utilization": stats.own.slot_utilization,
            "seconds_left": None if left is None else left.value,
            "device_hours": hours,
            "cost": None if price is None else hours * price,
            "peak_memory_bytes": measured.get("peak_bytes"),
        }
        for name, value in values.items():
            if value is not None:
                self._gauges[name].set(value, {"run": self._run})

    def _increase(self, counter: Counter, key: str, totals: Mapping[str, float]) -> None:
        """Raise a counter to these totals, given by the values of its label `key`."""
        for label, total in totals.items():
            series = (f"{counter.info['name']}", label)
            increase = total - self._reported.get(series, 0)
            if increase > 0:
                counter.inc(increase, {"run": self._run, **({key: label} if key else {})})
                self._reported[series] = total
