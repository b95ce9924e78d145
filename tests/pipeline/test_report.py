"""The report stands alone, escapes what documents say, shows what failed, and is right in a browser."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.inputs import InputFile
from pipeline.report import RANDOM, WORST, Findings, render, share_beyond
from pipeline.shards import make_plan
from tests.pipeline.receipts import receipt

FACTS = {"task": "summarize", "weights_sha256": "w" * 64, "settings": {}, "reading": {"max_input_tokens": 4096}}
PLAN = make_plan([InputFile("/in", 1, 6, "h", "1")], FACTS, 3)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = '<script>document.title="broken"</script><img src=x onerror="document.title=1"><b>bold</b> & "quoted"'


def row(**changes: Any) -> dict[str, Any]:
    return {"doc_id": "d", "status": "ok", "stage": None, "reason": None, "input_tokens": 9, "truncated_tokens": 0,
            "output_tokens": 4, "finish_reason": "stop", "score": -0.5, "summary": "fine", "flags": [], **changes}  # fmt: skip


def page(*rows: dict[str, Any], **given: Any) -> str:
    ok = sum(r["status"] == "ok" for r in rows)
    failures = Counter(f"{r['stage']}: {r['reason']}" for r in rows if r["status"] != "ok")
    flags = Counter(flag for r in rows for flag in r["flags"] or ())
    measured = {"document_steps": 3, "places": 4, "peak_bytes": 2**30}
    counts = {"documents": len(rows), "rows": len(rows), "ok": ok, "seconds": 2.0, "measured": measured}
    shards = {f"part-{n}": asdict(receipt(f"{n}", finished_at=100.0 + n, **counts)) for n in range(6)}
    manifest = {"documents": len(rows), "rows": len(rows), "ok": ok, "failed": len(rows) - ok, "skipped": 0, "carried": 0,
                "truncated": 0, "input_tokens": 9, "output_tokens": 4, "failures": dict(failures), "flags": dict(flags),
                "shards": shards}  # fmt: skip
    findings = Findings("seed")
    findings.add(rows)
    return render(PLAN, manifest, findings, **given)


def test_documents_cannot_write_html() -> None:
    html = page(row(doc_id="<b>", summary="<script>alert(1)</script> & more", flags=["names"]))
    assert "<script" not in html and "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html and "&lt;b&gt;" in html
    assert "http" not in html and "src=" not in html


def test_failures_are_counted_by_reason_and_all_may_fail() -> None:
    bad = row(status="failed", stage="read", reason="the text is null", summary=None, input_tokens=None, output_tokens=None)
    html = page(bad, bad)
    assert "the text is null" in html and '<td class="n">2</td>' in html
    assert "ROUGE" not in page(bad, reference_column="right")


def test_every_row_has_the_same_chance_to_be_drawn() -> None:
    chosen: Counter[str] = Counter()
    for seed in range(400):
        findings = Findings(str(seed))
        for start in (0, 20, 40):
            findings.add(row(doc_id=f"d{i}") for i in range(start, start + 20))
        chosen.update(sample["doc_id"] for sample in findings.samples)
    assert len(chosen) == 60 and all(abs(n - 400 * RANDOM / 60) < 50 for n in chosen.values())


def test_the_worst_have_most_flags_then_the_lowest_scores() -> None:
    findings = Findings("s")
    flagged = [row(doc_id=f"f{n}", flags=["names"] * n, score=-1.0) for n in range(1, 4)]
    findings.add([*(row(doc_id=f"d{n}", score=-n / 10) for n in range(60)), *flagged])
    assert [r["doc_id"] for r in findings.worst()][:5] == ["f3", "f2", "f1", "d59", "d58"] and len(findings.worst()) == WORST
    assert [r["doc_id"] for r in findings.best()][:2] == ["d0", "d1"]


def test_the_share_beyond_a_reach_splits_the_part_it_falls_into() -> None:
    assert share_beyond([0.25] * 4, 4096, 1024) == pytest.approx(0.75)
    assert share_beyond([0.25] * 4, 4096, 1536) == pytest.approx(0.625)
    assert share_beyond([0.25] * 4, 1000, 1024) == 0.0 and share_beyond([0, 0, 0, 1.0], 4096, 1024) == 1.0


def guess(middle: float) -> dict[str, float]:
    return {"middle": middle, "low": middle - 1, "high": middle + 1}


def whole_page() -> str:
    rows = [row(doc_id=f"d{n}", input_tokens=100 + 70 * n, output_tokens=20 + n % 9, score=-n / 40, flags=["names"] * (n % 2),
                truncated_tokens=n % 3, quality={"names": ["Boris"] * (n % 2)}, attention=[(i + n) % 7 / 9 for i in range(64)],
                summary=HOSTILE, right="fine") for n in range(60)]  # fmt: skip
    bad = row(status="failed", stage="read", reason=HOSTILE, summary=None, input_tokens=None, output_tokens=None)
    forecast = {**{name: guess(9.0) for name in ("rows", "input_tokens", "output_tokens", "truncated", "failed", "seconds")},
                "startup_seconds": 2.0}  # fmt: skip
    before = {**dict.fromkeys(("documents", "rows", "ok", "input_tokens", "output_tokens"), 5),
              **dict.fromkeys(("failed", "skipped", "truncated"), 0), "flags": {"names": 1}}  # fmt: skip
    return page(*rows, bad, forecast=forecast, before=before, reference_column="right", price=2.0)


def test_all_sections_are_there() -> None:
    html = whole_page()
    sections = """What ran, Forecast and actual, Change against the run before, Over time, Lengths, Failed and skipped,
        ROUGE against right, Flags, Where the summaries looked, To look at, The best, At random"""
    for title in map(str.strip, sections.split(",")):
        assert f"<h2>{title}</h2>" in html, title
    assert html.count("<article>") == 50 and "limit 4,096" in html and "ROUGE-L" in html and "cost of these hours" in html


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_all_of_it(width: int, dark: bool, tmp_path: Path) -> None:
    # The page asks itself once it is drawn, and writes what it found where --dump-dom shows it.
    probe = """<script>window.onerror=m=>document.body.dataset.error=m;onload=()=>{const root=document.documentElement,
      drawn=[...document.querySelectorAll('svg')].map(s=>s.getBoundingClientRect()).filter(r=>r.width>100&&r.height>10);
      document.body.dataset.found=JSON.stringify({wide:root.scrollWidth,screen:root.clientWidth,svgs:drawn.length,
      all:document.querySelectorAll('svg').length,images:document.images.length,title:document.title,
      page:getComputedStyle(document.body).backgroundColor})}</script>"""
    path, shot = tmp_path / "r.html", tmp_path / "shot.png"
    path.write_text(whole_page().replace("</html>", probe + "</html>"), "utf-8")
    # A window is never narrower than 500 pixels; a frame is.
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe src="r.html" style="border:0;width:{width}px;height:3000px"></iframe>')
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
             "--allow-file-access-from-files", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]  # fmt: skip
    assert CHROMIUM is not None
    dom = subprocess.run([CHROMIUM, *flags, f"--window-size={max(width, 500)},3000", "--dump-dom", f"file://{path}"],
                         capture_output=True, text=True, timeout=120)  # fmt: skip
    found = json.loads(re.search(r"data-found=\"([^\"]*)\"", dom.stdout).group(1).replace("&quot;", '"'))  # type: ignore[union-attr]
    assert found["svgs"] == found["all"] > 50 and found["images"] == 0 and found["title"] == "Run report"
    assert found["wide"] <= found["screen"] and "data-error" not in dom.stdout and "CONSOLE" not in dom.stderr
    assert found["page"] == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    subprocess.run([CHROMIUM, *flags, f"--window-size={max(width, 500)},3000", f"--screenshot={shot}", f"file://{frame}"],
                   capture_output=True, timeout=120, check=True)  # fmt: skip
    assert struct.unpack(">I", shot.read_bytes()[20:24]) == (3000,) and shot.stat().st_size > 50_000
