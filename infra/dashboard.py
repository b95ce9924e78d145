"""Creates infra/grafana-dashboard.json, a Grafana dashboard of the metrics in pipeline/monitor/prometheus.py.

python -m infra.dashboard > infra/grafana-dashboard.json
"""

from __future__ import annotations

import json
from typing import Any

# Title, unit, width (of 24), and the queries with their legends. The user selects `$run` at the top.
PANELS: list[tuple[str, str, int, list[tuple[str, str]]]] = [
    ("Documents left", "none", 6, [('sum(ray_led_documents_left{run=~"$run"})', "left")]),
    (
        "Share committed",
        "percentunit",
        6,
        [
            (
                '1 - sum(ray_led_documents_left{run=~"$run"}) / sum(ray_led_documents_planned{run=~"$run"})',
                "committed",
            )
        ],
    ),
    ("Time left", "s", 6, [('max(ray_led_seconds_left{run=~"$run"})', "left")]),
    ("Cost so far", "none", 6, [('sum(ray_led_cost{run=~"$run"})', "cost")]),
    (
        "Documents per second",
        "none",
        12,
        [('sum by (status) (rate(ray_led_documents_total{run=~"$run"}[$__rate_interval]))', "{{status}}")],
    ),
    (
        "Tokens per second",
        "none",
        12,
        [('sum by (direction) (rate(ray_led_tokens_total{run=~"$run"}[$__rate_interval]))', "{{direction}}")],
    ),
    (
        "Seconds of work by stage, per second",
        "none",
        12,
        [('sum by (stage) (rate(ray_led_stage_seconds_total{run=~"$run"}[$__rate_interval]))', "{{stage}}")],
    ),
    (
        "Replicas, and their busy share",
        "none",
        12,
        [
            ('sum(ray_led_replicas{run=~"$run"})', "replicas"),
            ('avg(ray_led_replica_busy_share{run=~"$run"})', "busy share"),
        ],
    ),
    ("Shards committed", "none", 8, [('sum(ray_led_shards_total{run=~"$run"})', "shards")]),
    ("Slot utilization", "percentunit", 8, [('avg(ray_led_slot_utilization{run=~"$run"})', "utilization")]),
    ("Peak memory of a replica", "bytes", 8, [('max(ray_led_peak_memory_bytes{run=~"$run"})', "peak")]),
    (
        "Rows that failed or were skipped, by reason",
        "none",
        12,
        [('sum by (reason) (ray_led_failures_total{run=~"$run"})', "{{reason}}")],
    ),
    (
        "Quality flags, share of documents",
        "percentunit",
        12,
        [
            (
                'sum by (flag) (ray_led_flags_total{run=~"$run"})'
                ' / scalar(sum(ray_led_documents_total{run=~"$run"}))',
                "{{flag}}",
            )
        ],
    ),
    ("Device-hours", "none", 12, [('sum(ray_led_device_hours{run=~"$run"})', "hours")]),
]

_SOURCE = {"type": "prometheus", "uid": "${source}"}


def dashboard() -> dict[str, Any]:
    """The dashboard in the format that Grafana imports."""
    panels, x, y = [], 0, 0
    for number, (title, unit, width, queries) in enumerate(PANELS, 1):
        if x + width > 24:
            x, y = 0, y + 7
        targets = [
            {"refId": chr(65 + i), "expr": query, "legendFormat": legend, "datasource": _SOURCE}
            for i, (query, legend) in enumerate(queries)
        ]
        panels.append(
            {
                "id": number,
                "type": "stat" if width == 6 else "timeseries",
                "title": title,
                "datasource": _SOURCE,
                "gridPos": {"h": 7, "w": width, "x": x, "y": y},
                "targets": targets,
                "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
            }
        )
        x += width
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    run = {
        "name": "run",
        "type": "query",
        "datasource": _SOURCE,
        "query": "label_values(ray_led_documents_planned, run)",
        "refresh": 2,
        "sort": 2,
        "includeAll": True,
        "multi": True,
        "label": "Run",
    }
    return {
        "title": "LED corpus runs",
        "uid": "led-corpus",
        "schemaVersion": 39,
        "refresh": "30s",
        "editable": True,
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source, run]},
        "panels": panels,
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
