"""The run as Prometheus sees it, through the endpoint that Ray serves: what the receipts count, told by the
driver.

Counters grow when a shard is committed, so what Prometheus adds up is what stands in the folder. The
dashboard and the alert rules in infra/ are built on these names.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from pipeline.monitor.stats import RunStats, device_hours
from pipeline.settings import RunSettings

_STAGES = {"read_seconds": "read", "encode_seconds": "encode", "decode_seconds": "decode"}


class PrometheusMetrics:
    """An observer of the run named `run`: everything that is told is labelled with it."""

    def __init__(self, settings: RunSettings, run: str) -> None:
        self._settings, self._run, self._told = settings, run, dict[tuple[str, str], float]()
        keys = ("run",)
        self._documents = Counter("led_documents", "Documents committed by this run", (*keys, "status"))
        self._tokens = Counter("led_tokens", "Tokens of committed documents", (*keys, "direction"))
        self._stages = Counter("led_stage_seconds", "Seconds of work on committed shards", (*keys, "stage"))
        self._failures = Counter("led_failures", "Rows that failed or were skipped", (*keys, "reason"))
        self._flags = Counter("led_flags", "Rows that have a flag", (*keys, "flag"))
        self._shards = Counter("led_shards", "Shards committed by this run", keys)
        self._gauges = {
            name: Gauge(f"led_{name}", what, keys)
            for name, what in {
                "documents_planned": "Documents of the plan",
                "documents_left": "Documents of the plan that are not committed",
                "replicas": "Model copies",
                "actor_busy_share": "Share of the model copies' time spent on shards that are committed by now",
                "batch_fill": "Share of the places in decoding steps that documents took",
                "seconds_left": "Seconds left, as the progress line says",
                "device_hours": "Hours that devices were held",
                "cost": "Cost so far, by --price-per-hour",
                "peak_memory_bytes": "Most memory that a model copy held",
            }.items()
        }

    def __call__(self, stats: RunStats, seconds: float) -> None:
        counts, measured = stats.own.counts, stats.own.measured
        self._grow(self._shards, "", {"": counts["shards"]})
        # A document has several rows where it is asked several questions, but one where it is skipped.
        failed, skipped = counts["failed_documents"], counts["skipped"]
        ok = counts["documents"] - failed - skipped
        self._grow(self._documents, "status", {"ok": ok, "failed": failed, "skipped": skipped})
        self._grow(self._tokens, "direction", {"in": counts["input_tokens"], "out": counts["output_tokens"]})
        self._grow(self._stages, "stage", {stage: measured.get(name, 0) for name, stage in _STAGES.items()})
        other = counts["seconds"] - measured.get("encode_seconds", 0) - measured.get("decode_seconds", 0)
        self._grow(self._stages, "stage", {"other": max(0.0, other)})
        self._grow(self._failures, "reason", stats.own.failures)
        self._grow(self._flags, "flag", stats.own.flags)
        left, price = stats.time_left(seconds), self._settings.price_per_hour
        hours = device_hours(stats.replica_seconds, self._settings.gpus)
        values = {
            "documents_planned": stats.documents,
            "documents_left": stats.documents_left,
            "replicas": stats.replicas,
            "actor_busy_share": min(1.0, counts["seconds"] / max(1e-9, stats.replica_seconds)),
            "batch_fill": stats.own.slot_utilization,
            "seconds_left": None if left is None else left.middle,
            "device_hours": hours,
            "cost": None if price is None else hours * price,
            "peak_memory_bytes": measured.get("peak_bytes"),
        }
        for name, value in values.items():
            if value is not None:
                self._gauges[name].set(value, {"run": self._run})

    def _grow(self, counter: Counter, key: str, totals: Mapping[str, float]) -> None:
        """Bring a counter up to these totals, by the values of its label."""
        for label, total in totals.items():
            place = (f"{counter.info['name']}", label)
            more = total - self._told.get(place, 0)
            if more > 0:
                counter.inc(more, {"run": self._run, **({key: label} if key else {})})
                self._told[place] = total
