"""The report stands alone, escapes what documents say, and shows what failed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pipeline.config import SummarizeSettings
from pipeline.inputs import InputFile
from pipeline.report import SAMPLES, Findings, histogram, render
from pipeline.shards import make_plan
from pipeline.tasks import Summarize

TASK = Summarize(SummarizeSettings(input=("corpus",), output="out", model="model"))
PLAN = make_plan([InputFile("/in", 1, 2, "h", "1")], {"weights_sha256": "w" * 64}, 3)


def row(**changes: Any) -> dict[str, Any]:
    return {"doc_id": "d", "status": "ok", "stage": None, "reason": None, "input_tokens": 9, "truncated_tokens": 0,
            "output_tokens": 4, "finish_reason": "stop", "score": -0.5, "summary": "fine", **changes}  # fmt: skip


def page(*rows: dict[str, Any]) -> str:
    manifest = {
        "documents": len(rows),
        "rows": len(rows),
        "ok": 1,
        "failed": 1,
        "skipped": 0,
        "carried": 0,
        "truncated": 0,
        "input_tokens": 9,
        "output_tokens": 4,
    }
    findings = Findings("seed")
    findings.add(rows)
    return render(PLAN, {**manifest, "shards": {"part": {"seconds": 2.0}}}, findings, TASK)


def test_documents_cannot_write_html() -> None:
    html = page(row(doc_id="<b>", summary="<script>alert(1)</script> & more"))
    assert "<script" not in html and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html and "&lt;b&gt;" in html
    assert "http" not in html and "src=" not in html


def test_failures_are_counted_by_reason_and_all_may_fail() -> None:
    bad = row(status="failed", stage="read", reason="the text is null", summary=None, input_tokens=None, output_tokens=None)
    html = page(bad, bad)
    assert "the text is null" in html and '<td class="n">2</td>' in html


def test_every_row_has_the_same_chance_to_be_a_sample() -> None:
    chosen: Counter[str] = Counter()
    for seed in range(400):
        findings = Findings(str(seed))
        for start in (0, 10, 20):
            findings.add(row(doc_id=f"d{i}") for i in range(start, start + 10))
        chosen.update(sample["doc_id"] for sample in findings.samples)
    assert len(chosen) == 30 and all(abs(n - 400 * SAMPLES / 30) < 60 for n in chosen.values())


def test_a_histogram_counts_every_value() -> None:
    svg = histogram({1: 2, 5: 1, 100: 3})
    counts = [int(part.split(":")[1].split("<")[0]) for part in svg.split("<title>")[1:]]
    assert sum(counts) == 6 and max(counts) == 3
    assert histogram({}) == "<p>none</p>"
