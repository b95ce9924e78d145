"""With --json, every subcommand prints one JSON object on stdout, and the exit codes stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.conftest import words
from tests.jobs.commands import call_here


def printed(code: int, task: str, *arguments: object) -> dict[str, Any]:
    done = call_here(task, *arguments, "--json")
    assert done.returncode == code, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_every_subcommand_prints_json(
    write_corpus: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    texts: list[str | None] = [words(5 + n, n) for n in range(8)]
    texts[3] = None
    corpus, out = write_corpus(texts, reference_summary=["pump"] * 8), tmp_path / "out"
    (corpus / "notes.csv").write_text("not read")
    settings = ("--input", corpus, "--output", out, "--model", model_folder, "--replicas", 1)
    forecast = printed(0, "summarize", "plan", *settings, "--calibration-seconds", 1)
    assert forecast["documents"] == 8 and forecast["seconds"]["high"] >= forecast["seconds"]["low"]
    rows = printed(0, "summarize", "preview", *settings, "--documents", 2)["rows"]
    assert len(rows) == 2 and {"text", "summary", "status"} <= rows[0].keys()

    finished = printed(0, "summarize", *settings, "--passthrough", "reference_summary")
    assert (finished["documents"], finished["ok"], finished["failed"], finished["left_out"]) == (8, 7, 1, 1)
    assert finished["failures"] == {"read: the text is null": 1} and finished["output"] == str(out)
    assert finished["report"] == f"{out}/_report.html" and "shards" not in finished
    status = printed(0, "status", "--output", out)
    assert status == {
        "documents": 8,
        "documents_committed": 8,
        "shards": 1,
        "shards_committed": 1,
        "finished": True,
    }
    assert printed(0, "report", "--output", out) == {"report": f"{out}/_report.html"}
    scores = printed(0, "evaluate", "--output", out)
    assert scores["documents"] == 8 and 0 <= scores["ROUGE-1"] <= 1
    verified = printed(0, "verify", "--output", out)
    assert verified["correct"] and verified["rows"] == {"ok": 7, "failed": 1, "skipped": 0}

    part = next(out.glob("part-*"))
    pq.write_table(pq.read_table(part).slice(1), part)
    wrong = printed(1, "verify", "--output", out)
    assert not wrong["correct"] and len(wrong["problems"]) >= 1
    examined = printed(0, "doctor", "--no-start-ray")
    assert examined["errors"] == 0 and {"state", "subject", "text"} == examined["findings"][0].keys()
    assert call_here("status", "--output", tmp_path / "none", "--json").stdout == ""
