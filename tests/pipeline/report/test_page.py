"""The report: self-contained, escaped, complete, and with the right rows and figures."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UsageError
from pipeline.inputs.read import InputFile
from pipeline.output.commit import make_manifest
from pipeline.output.local import LocalStore
from pipeline.planning.plan import FORECAST, REPORT, Plan, make_plan
from pipeline.report.page import check_reference, render, try_report, write_report
from pipeline.report.rows import (
    BEST,
    COUNTED_COLUMNS,
    RANDOM,
    WORST,
    Findings,
    Position,
    findings_of,
    share_beyond,
)
from tests.pipeline.shard_metadata import shard_metadata
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[3]
CONFIG = {
    "task": "summarize",
    "weights_sha256": "w" * 64,
    "settings": {},
    "input_limits": {"max_input_tokens": 4096},
}
PLAN = make_plan([InputFile("/in", 1, 6, "h", "1")], CONFIG, 3)
MEASURED = {"document_steps": 3, "slot_steps": 4, "peak_bytes": 2**30}
MALICIOUS = (
    '<script>document.title="broken"</script><img src=x onerror="document.title=1"><b>bold</b> & "quoted"'
)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "doc_id": "d",
        "status": "ok",
        "stage": None,
        "reason": None,
        "input_tokens": 9,
        "truncated_tokens": 0,
        "output_tokens": 4,
        "finish_reason": "stop",
        "score": -0.5,
        "summary": "fine",
        "flags": [],
        **changes,
    }


def page(
    *rows: dict[str, Any], plan: Plan = PLAN, measured: dict[str, float] = MEASURED, **given: Any
) -> str:
    ok = sum(r["status"] == "ok" for r in rows)
    failures = Counter(f"{r['stage']}: {r['reason']}" for r in rows if r["status"] != "ok")
    flags = Counter(flag for r in rows for flag in r["flags"] or ())
    counts = {"documents": len(rows), "rows": len(rows), "ok": ok, "seconds": 2.0, "measured": measured}
    shards = {f"part-{n}": asdict(shard_metadata(f"{n}", finished_at=100.0 + n, **counts)) for n in range(6)}
    manifest = {
        "documents": len(rows),
        "rows": len(rows),
        "ok": ok,
        "failed": len(rows) - ok,
        "skipped": 0,
        "reused": 0,
        "truncated": 0,
        "input_tokens": 9,
        "output_tokens": 4,
        "failures": dict(failures),
        "flags": dict(flags),
        "shards": shards,
    }
    findings = findings_in("part-0", list(rows), max_sampled=500)
    findings.rows = {Position("part-0", i): row for i, row in enumerate(rows)}
    return render(plan, manifest, findings, **given)


def findings_in(
    part: str, rows: list[dict[str, Any]], seed: str = "seed", max_sampled: int = RANDOM
) -> Findings:
    """The findings of these rows as those of one file."""
    counted = [name.partition(".")[0] for name in COUNTED_COLUMNS]
    table = pa.Table.from_pylist(
        [{name: r.get(name) for name in counted if any(name in r for r in rows)} for r in rows]
    )
    findings = Findings(max_sampled)
    findings.add(findings_of(part, table, seed))
    return findings


def test_texts_of_documents_are_escaped() -> None:
    html = page(row(doc_id="<b>", summary="<script>alert(1)</script> & more", flags=["names"]))
    assert (
        "<script" not in html
        and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
        and "&lt;b&gt;" in html
    )
    assert "http" not in html and "src=" not in html


def test_failures_are_counted_by_reason_and_all_rows_may_fail() -> None:
    bad = row(
        status="failed",
        stage="read",
        reason="the text is null",
        summary=None,
        input_tokens=None,
        output_tokens=None,
    )
    html = page(bad, bad)
    assert "the text is null" in html and '<td class="n">2</td>' in html
    assert "ROUGE" not in page(bad, reference_column="right")


def test_every_row_is_sampled_with_equal_probability_in_any_order_of_files() -> None:
    chosen: Counter[Position] = Counter()
    for seed in range(400):
        parts = [findings_in(f"part-{n}", [row()] * (10 * n), str(seed)) for n in (3, 1, 2)]
        one, other = Findings(), Findings()
        for part in parts:
            one.add(part)
        for part in reversed(parts):
            other.add(part)
        assert one.sampled == other.sampled and len(one.sampled) == RANDOM
        chosen.update(position for _, position in one.sampled)
    assert len(chosen) == 60 and all(abs(n - 400 * RANDOM / 60) < 55 for n in chosen.values())


def names(ranked: list[Any], rows: list[dict[str, Any]]) -> list[str]:
    return [rows[position.row]["doc_id"] for _, position in ranked]


def test_the_worst_rows_have_most_flags_then_the_least_likely_tokens() -> None:
    rows = [
        *(row(doc_id=f"d{n}", quality={"mean_log_probability": -n / 10}, score=-1.0) for n in range(60)),
        *(
            row(doc_id=f"f{n}", flags=["names"] * n, quality={"mean_log_probability": -1.0})
            for n in range(1, 4)
        ),
        row(doc_id="failed", status="failed", quality=None, score=None, input_tokens=None),
    ]
    findings = findings_in("part", rows)
    assert (
        names(findings.worst, rows)[:5] == ["f3", "f2", "f1", "d59", "d58"] and len(findings.worst) == WORST
    )
    assert names(findings.best, rows)[:2] == ["d0", "d1"]


def test_a_long_summary_does_not_rank_lower_for_its_length() -> None:
    """The score of a greedy summary is the sum over its tokens."""
    rows = [
        row(doc_id=name, output_tokens=n, score=n * mean, quality={"mean_log_probability": mean})
        for name, n, mean in (("long", 200, -0.1), ("short", 4, -2.0), ("medium", 50, -0.5))
    ]
    assert names(findings_in("part", rows).worst, rows) == ["short", "medium", "long"]


def test_rows_without_quality_measures_are_ranked_by_their_score() -> None:
    for name in ("score", "label_score", "answer_score"):
        rows = [row(doc_id=f"d{n}", score=None) | {name: -float(n)} for n in range(3)]
        assert names(findings_in("part", rows).worst, rows) == ["d2", "d1", "d0"]


class CountingStore(LocalStore):
    """A store that counts what is opened; `at_once` files must be open together before any is read."""

    def __init__(self, folder: Path, at_once: int) -> None:
        super().__init__(folder)
        self.opened: Counter[str] = Counter()
        self._together = threading.Barrier(at_once)

    def open(self, name: str) -> BinaryIO:
        self.opened[name] += 1
        if sum(self.opened.values()) <= self._together.parties:
            self._together.wait(timeout=HANG_S)
        return super().open(name)


def committed(folder: Path, parts: int, rows: int, **reused: Any) -> tuple[Plan, dict[str, Any]]:
    """A finished run's files, and its plan and manifest."""
    types = pa.schema({name: pa.array(values[:1]).type for name, values in reused.items()})
    plan = make_plan([InputFile("/in", 1, parts * rows, "h", "1")], CONFIG, rows, passthrough=types)
    for n, shard in enumerate(plan.shards):
        given = [{name: values[i] for name, values in reused.items()} for i in range(rows)]
        here = [row(doc_id=f"d{n}-{i}", reused_from=None, chunks=1, **given[i]) for i in range(rows)]
        pq.write_table(pa.Table.from_pylist(here), folder / shard.part)
    counts = {"documents": rows, "rows": rows, "ok": rows, "seconds": 1800.0}
    return plan, make_manifest(
        plan, {s.shard_id: shard_metadata(s.shard_id, finished_at=1e4, **counts) for s in plan.shards}
    )


def test_files_are_read_in_parallel_and_once_unless_their_rows_are_shown(tmp_path: Path) -> None:
    plan, manifest = committed(tmp_path, 200, 3)
    store = CountingStore(tmp_path, 8)
    write_report(store, plan, manifest)
    assert len(store.opened) == 200 and max(store.opened.values()) <= 2
    assert sum(store.opened.values()) <= 200 + WORST + BEST + RANDOM
    page = (tmp_path / REPORT).read_text()
    assert page.count("<article>") == WORST + BEST + RANDOM


def test_a_passthrough_column_is_not_counted(tmp_path: Path) -> None:
    plan, manifest = committed(tmp_path, 1, 3, label_score=["high", "low", "low"], attention=["a", "b", "c"])
    write_report(LocalStore(tmp_path), plan, manifest)
    assert "Cross-attention profile" not in (tmp_path / REPORT).read_text()


def test_device_hours_and_cost_follow_the_gpus_of_a_replica(tmp_path: Path) -> None:
    plan, manifest = committed(tmp_path, 4, 3)
    for gpus, hours, cost in ((0.0, "2.0", "5.0"), (0.5, "1.0", "2.5"), (1.0, "2.0", "5.0")):
        write_report(LocalStore(tmp_path), plan, manifest, price_per_hour=2.5, gpus=gpus)
        page = (tmp_path / REPORT).read_text()
        assert f'device-hours of prediction</td><td class="n">{hours}<' in page
        assert f'cost of prediction</td><td class="n">{cost}<' in page


@pytest.mark.parametrize("right", [[1, 2, 3], [["a"], [], None]])
def test_a_reference_without_texts_is_refused_and_does_not_fail_a_finished_run(
    right: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, manifest = committed(tmp_path, 1, 3, right=right, text=["a", "b", None])
    with pytest.raises(
        UsageError,
        match=r"--reference-column right: the column holds .*; it must hold the reference summaries",
    ):
        check_reference(plan, "right")
    with pytest.raises(UsageError, match=r"no such column; copy it with --passthrough"):
        check_reference(plan, "wrong")
    check_reference(plan, "text")
    assert not try_report(LocalStore(tmp_path), plan, manifest, reference_column="right")
    assert (
        "warning: the report could not be written (UsageError: --reference-column right"
        in capsys.readouterr().err
    )
    assert try_report(LocalStore(tmp_path), plan, manifest, reference_column="text")
    assert "ROUGE against text" in (tmp_path / REPORT).read_text()


@pytest.mark.parametrize(
    "forecast", [b"{}", b'{"rows": 3, "startup_seconds": 1}', b"no JSON", b"[]", b'{"version": 3}']
)
def test_a_forecast_of_another_version_is_left_out_with_a_note(forecast: bytes, tmp_path: Path) -> None:
    plan, manifest = committed(tmp_path, 1, 3)
    (tmp_path / FORECAST).write_bytes(forecast)
    write_report(LocalStore(tmp_path), plan, manifest)
    assert (
        "_forecast.json was written by another version of this system and is left out"
        in (tmp_path / REPORT).read_text()
    )


def test_the_share_beyond_a_reach_splits_the_part_at_the_border() -> None:
    assert share_beyond([0.25] * 4, 4096, 1024) == pytest.approx(0.75)
    assert share_beyond([0.25] * 4, 4096, 1536) == pytest.approx(0.625)
    assert share_beyond([0.25] * 4, 1000, 1024) == 0.0 and share_beyond([0, 0, 0, 1.0], 4096, 1024) == 1.0


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 1, "high": value + 1}


def full_page() -> str:
    rows = [
        row(
            doc_id=f"d{n}",
            input_tokens=100 + 70 * n,
            output_tokens=20 + n % 9,
            score=-n / 40,
            flags=["names"] * (n % 2),
            truncated_tokens=n % 3,
            quality={"names": ["Boris"] * (n % 2)},
            attention=[(i + n) % 7 / 9 for i in range(64)],
            summary=MALICIOUS,
            right="fine",
        )
        for n in range(60)
    ]
    bad = row(
        status="failed", stage="read", reason=MALICIOUS, summary=None, input_tokens=None, output_tokens=None
    )
    forecast = {
        **{
            name: estimate(9.0)
            for name in ("rows", "input_tokens", "output_tokens", "truncated", "failed", "seconds")
        },
        "startup_seconds": 2.0,
    }
    previous = {
        **dict.fromkeys(("documents", "rows", "ok", "input_tokens", "output_tokens"), 5),
        **dict.fromkeys(("failed", "skipped", "truncated"), 0),
        "flags": {"names": 1},
    }
    return page(
        *rows, bad, forecast=forecast, previous=previous, reference_column="right", price_per_hour=2.0
    )


def test_earlier_runs_are_listed_with_the_reasons_for_recomputed_rows() -> None:
    since = [
        {"output": "s3://b/one", "finished": True, "recomputed_because": []},
        {
            "output": "s3://b/two",
            "finished": False,
            "recomputed_because": ["settings.num_beams: was 4, is 1"],
        },
    ]
    plan = replace(PLAN, config={**PLAN.config, "since": since})
    html = page(*[row()] * 5, plan=plan, measured={"new_rows": 0.5, **MEASURED})
    assert (
        "<h2>Earlier runs</h2>" in html
        and "s3://b/one</td><td>yes" in html
        and "no</td><td>settings.num_beams" in html
    )
    assert 'rows of new documents</td><td class="n">3<' in html
    assert 'recomputed rows (changed, or failed before)</td><td class="n">2<' in html
    assert "Earlier runs" not in page(row()) and "recomputed" not in page(row())


def test_the_report_and_the_watcher_need_no_torch() -> None:
    """The driver, readers and committers import them."""
    modules = (
        "pipeline.report.page, pipeline.monitor.watcher, pipeline.monitor.limits, pipeline.monitor.progress"
    )
    code = f"import sys, {modules}, pipeline.monitor.prometheus; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_page_has_all_sections() -> None:
    html = full_page()
    sections = """Configuration, Forecast and actual, Change since the previous run, Throughput, Lengths,
        Failed and skipped rows, ROUGE against right, Quality flags, Cross-attention profile, Rows to read,
        Best rows, Random rows"""
    for title in map(str.strip, sections.split(",")):
        assert f"<h2>{title}</h2>" in html, title
    assert (
        html.count("<article>") == 50
        and "limit 4,096" in html
        and "ROUGE-L" in html
        and "cost of prediction" in html
    )
