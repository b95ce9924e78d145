"""The verbs of a job, as a user types them; Ctrl-C in the middle, and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cli import VERBS, verb_of
from pipeline.errors import UsageError
from tests.conftest import words

ROOT = Path(__file__).parents[2]


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / "summarize_corpus.py"), *map(str, arguments)]


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment, timeout=300)


def test_the_verb_stands_first_and_run_may_be_left_away() -> None:
    assert verb_of(["--input", "x"]) == ("run", ["--input", "x"]) and verb_of([]) == ("run", [])
    assert verb_of(["plan", "--input", "x"]) == ("plan", ["--input", "x"])
    with pytest.raises(UsageError, match=r"'sampel' is no verb; did you mean sample\?"):
        verb_of(["sampel"])


HELP = """
import sys
from jobs.cli import exit_code, main
from jobs.summarize_corpus import SummarizeSettings, task
sys.argv = ["x", sys.argv[1], "--help"]
try:
    main(SummarizeSettings, task, "Summarise.")
except SystemExit as ended:
    assert not ended.code and not {"torch", "ray", "pyarrow"} & set(sys.modules)
"""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_without_torch_or_ray(verb: str) -> None:
    environment = {**os.environ, "COLUMNS": "160"}
    done = subprocess.run([sys.executable, "-c", HELP, verb], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0 and "--output" in done.stdout and f"Now: {verb}." in done.stdout, done.stderr
    assert ("--rehearse-seconds" in done.stdout) == (verb == "plan")


def test_a_sample_a_forecast_a_run_and_its_report(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    texts: list[str | None] = [words(20 + n, n) for n in range(12)]
    texts[4] = ""
    given = ("--input", write_corpus(texts), "--output", tmp_path / "out", "--model", model_folder, "--shard-documents", 4)
    shown = call("sample", *given, "--documents", 12)
    assert shown.returncode == 0, shown.stderr
    assert "d11" in shown.stdout and "tokens in" in shown.stdout and "failed: read" in shown.stdout
    assert not (tmp_path / "out").exists()

    planned = call("plan", *given, "--rehearse-seconds", 1, "--price-per-hour", 2, "--picture", tmp_path / "p.svg")
    assert planned.returncode == 0, planned.stderr
    for line in ("documents      12, in ", "will fail      1 rows", "cost  ", "<- the limit", "device-hours"):
        assert line in planned.stdout, line
    assert "<svg" in (tmp_path / "p.svg").read_text()
    assert json.loads((tmp_path / "out" / "_forecast.json").read_text())["documents"] == 12

    done = call("run", *given, "--attention")
    assert done.returncode == 0 and "12 documents = 11 ok + 1 failed" in done.stdout, done.stderr
    assert "12/12 documents, " in done.stderr and "1 failed" in done.stderr
    report = tmp_path / "out" / "_report.html"
    page = report.read_text()
    assert "Forecast and actual" in page and "Where the summaries looked" in page
    report.unlink()
    assert call("report", "--output", tmp_path / "out").returncode == 0 and report.read_text() == page
    assert "12/12 documents" in call("status", "--output", tmp_path / "out").stdout
    assert "every planned document is one row" in call("verify", "--output", tmp_path / "out").stdout
    unknown = call("report", "--output", tmp_path / "out", "--reference-column", "right")
    assert unknown.returncode == 2 and "the output has no such column; carry it over" in unknown.stderr
    again = call("retry-failed", *given)
    assert again.returncode == 2 and "retry-failed needs --since" in again.stderr


def test_ctrl_c_ends_a_run_at_a_shard_border_and_the_same_command_goes_on(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    given = ("--input", write_corpus([words(60, n) for n in range(40)]), "--output", tmp_path / "out", "--model", model_folder,
             "--shard-documents", 1, "--actors", 1)  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command(*given), env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("part-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    done = len(list((tmp_path / "out").glob("part-*")))
    assert process.returncode == 130 and f"SIGINT came. {done} of 40 documents are committed" in said, said
    assert "finishing the shards in flight" in said and "Traceback" not in said and 3 <= done < 40
    again = call(*given)
    assert again.returncode == 0 and "40 documents = 40 ok" in again.stdout, again.stderr
