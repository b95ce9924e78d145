"""The queries of the dashboard and the alerts have data in a Prometheus server that scrapes a real run."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from infra.dashboard import PANELS, dashboard
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[2]
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")


def test_the_file_is_the_output_of_the_script() -> None:
    assert json.loads((ROOT / "infra" / "grafana-dashboard.json").read_text()) == dashboard()


def test_panels_do_not_overlap() -> None:
    taken = set()
    for panel in dashboard()["panels"]:
        position = panel["gridPos"]
        cells = {(x, position["y"]) for x in range(position["x"], position["x"] + position["w"])}
        assert not cells & taken and position["x"] + position["w"] <= 24
        taken |= cells


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here (Debian's package prometheus)")
def test_the_alert_rules_are_valid() -> None:
    assert PROMTOOL is not None
    subprocess.run(
        [PROMTOOL, "check", "rules", str(ROOT / "infra" / "alerts.yml")], check=True, capture_output=True
    )


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here (Debian's package prometheus)")
def test_a_stalled_run_raises_an_alert_after_half_an_hour(tmp_path: Path) -> None:
    """Even if it never committed a shard. A run with progress and a finished one raise no alert."""
    series = {"stuck": "90x100", "stopped": "90-1x9 81x90", "moves": "900-1x100", "done": "9-1x9 0x100"}
    expected = {"29m": [], "35m": ["stuck"], "38m": ["stuck"], "41m": ["stopped", "stuck"]}
    rules = ROOT / "infra" / "alerts.yml"
    [rule] = [
        rule
        for rule in yaml.safe_load(rules.read_text())["groups"][0]["rules"]
        if rule["alert"] == "LedRunStalled"
    ]

    def alert(run: str) -> dict[str, Any]:
        texts = {key: text.replace("{{ $labels.run }}", run) for key, text in rule["annotations"].items()}
        return {"exp_labels": {"severity": "page", "run": run}, "exp_annotations": texts}

    test = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f'ray_led_documents_left{{run="{run}"}}', "values": values}
                    for run, values in series.items()
                ],
                "alert_rule_test": [
                    {
                        "alertname": "LedRunStalled",
                        "eval_time": at,
                        "exp_alerts": [alert(run) for run in runs],
                    }
                    for at, runs in expected.items()
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    result = subprocess.run(
        [str(PROMTOOL), "test", "rules", str(tmp_path / "test.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """(address of a Prometheus server, the port that it scrapes every second)."""
    port, scraped = free_port(), free_port()
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    assert PROMETHEUS is not None
    process = subprocess.Popen(
        [
            PROMETHEUS,
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield f"http://127.0.0.1:{port}", scraped
    process.kill()
    process.wait()


def query_series(address: str, query: str) -> list[Any]:
    """The current series of a query. Empty while the server starts."""
    try:
        with urllib.request.urlopen(f"{address}/api/v1/query?query={urllib.parse.quote(query)}") as answer:
            series: list[Any] = json.load(answer)["data"]["result"]
            return series
    except OSError:
        return []


@pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus here (Debian's package prometheus)")
def test_every_query_has_data_during_a_run(prometheus: tuple[str, int], tmp_path: Path) -> None:
    address, port = prometheus
    corpus = pq.read_table(ROOT / "demo" / "corpus" / "reports-00.parquet", columns=["doc_id", "text"])
    empty = pa.table({"doc_id": ["none"], "text": pa.nulls(1, pa.string())})
    corpus = pa.concat_tables(
        [empty, corpus.slice(0, 9), empty.set_column(0, "doc_id", pa.array(["gone"])), corpus.slice(9)]
    )
    (tmp_path / "corpus").mkdir()
    for n in range(3):  # each file has documents that fail early, so that failures appear before the run ends
        ids = pa.array([f"{n}-{doc_id.as_py()}" for doc_id in corpus["doc_id"]])
        pq.write_table(corpus.set_column(0, "doc_id", ids), tmp_path / "corpus" / f"{n}.parquet")
    alerts = yaml.safe_load((ROOT / "infra" / "alerts.yml").read_text())["groups"][0]["rules"]
    metrics = {name for rule in alerts for name in re.findall(r"ray_led_\w+(?:\{[^}]*\})?", rule["expr"])}
    shown = {query for _, _, _, queries in PANELS for query, _ in queries}
    queries = {query.replace("$run", ".*").replace("$__rate_interval", "20s") for query in shown} | metrics
    command = [
        sys.executable,
        ROOT / "jobs" / "summarize_corpus.py",
        "--input",
        tmp_path / "corpus",
        "--output",
        tmp_path / "out",
        "--model",
        ROOT / "demo" / "checkpoints" / "led-reports-summary",
        "--shard-documents",
        2,
        "--replicas",
        1,
        "--metrics-port",
        port,
        "--price-per-hour",
        2,
        "--log-file",
        tmp_path / "log.jsonl",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    unanswered = queries
    while unanswered and run.poll() is None:
        time.sleep(0.5)
        unanswered = {query for query in unanswered if not query_series(address, query)}
    printed, _ = run.communicate(timeout=HANG_S)
    assert run.returncode == 0 and not unanswered, printed
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {line["run"] for line in lines} == {lines[0]["run"]} and lines[-1]["event"] == "finished"
    assert lines[0]["event"] == "started" and any(line["event"] == "progress" for line in lines)
