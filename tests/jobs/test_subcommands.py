"""The actions of a task as a user types them, and Ctrl-C in the middle of a run."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from led.ops.cpu_capabilities import cpu
from tests.conftest import words
from tests.jobs.commands import call, command, environment, led_corpus
from tests.waiting import HANG_S, long_test, wait_until

summarize = partial(call, "summarize_corpus")


@pytest.mark.usefixtures("shared_cluster")
def test_a_preview_a_forecast_a_run_and_its_report(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    texts: list[str | None] = [words(20 + n, n) for n in range(12)]
    texts[4] = ""
    out = tmp_path / "out"
    given = ("--input", write_corpus(texts), "--output", out, "--model", model_folder, "--shard-documents", 4)
    shown = summarize("preview", *given, "--documents", 12)
    assert shown.returncode == 0, shown.stderr
    assert "d11" in shown.stdout and "tokens in" in shown.stdout and "failed: read" in shown.stdout
    assert not out.exists()

    picture = tmp_path / "p.svg"
    options = ("--calibration-seconds", 1, "--price-per-hour", 2, "--picture", picture)
    planned = summarize("plan", *given, *options)
    assert planned.returncode == 0, planned.stderr
    settings = "max_length 12 (checkpoint), num_beams 2 (checkpoint), global_attention first (default)\n"
    assert f"settings: {settings}" in shown.stdout and f"settings       {settings}" in planned.stdout
    lines = ("documents      12, in ", "will fail      1 rows", "cost  ", "<- the limit", "device-hours")
    for line in (*lines, f"computed in    float32 on {cpu().describe()}\n"):
        assert line in planned.stdout, line
    assert "<svg" in picture.read_text()
    assert json.loads((out / "_forecast.json").read_text())["documents"] == 12

    done = summarize("run", *given, "--attention")
    assert done.returncode == 0 and "12 documents = 11 ok + 1 failed" in done.stdout, done.stderr
    assert (
        f"settings: {settings}" in done.stderr
        and "12/12 documents, " in done.stderr
        and "1 failed" in done.stderr
    )
    report = out / "_report.html"
    page = report.read_text()
    assert f"shards in float32 on {cpu().describe()}" in page
    assert "Forecast and actual" in page and "attention" in page
    report.unlink()
    assert led_corpus("report", "--output", out).returncode == 0 and report.read_text() == page
    assert "12/12 documents" in led_corpus("status", "--output", out).stdout
    verified = summarize("verify", "--output", out)
    assert "Verified: 12 documents, 12 rows, no duplicates. Every file has the SHA-256" in verified.stdout
    unknown = led_corpus("report", "--output", out, "--reference-column", "right")
    assert unknown.returncode == 2 and "the output has no such column" in unknown.stderr
    again = summarize("retry-failed", *given)
    assert again.returncode == 2 and "retry-failed needs --since" in again.stderr


@long_test
def test_bfloat16_becomes_float32_where_the_processor_has_no_products(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    given = ("--input", write_corpus([words(20, n) for n in range(4)]), "--output", tmp_path / "out")
    limited = {name: text for name, text in environment().items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        command("summarize_corpus", *given, "--model", model_folder, "--dtype", "bfloat16"),
        env=limited | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"1 of 1 shards computed in float32 on .*, which has no products in bfloat16", done.stdout
    )


def handle_ctrl_c() -> None:
    """A process that is started in the background ignores SIGINT unless it is told otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_stops_a_run_at_a_shard_boundary_and_the_same_command_resumes_it(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus, out = write_corpus([words(60, n) for n in range(300)]), tmp_path / "out"
    given = (
        "--input",
        corpus,
        "--output",
        out,
        "--model",
        model_folder,
        "--shard-documents",
        1,
        "--replicas",
        1,
        "--max-new-tokens",
        60,
        "--min-new-tokens",
        60,
    )
    process = subprocess.Popen(
        command("summarize_corpus", *given),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=handle_ctrl_c,
    )
    wait_until(lambda: len(list(out.glob("part-*"))) >= 3, process)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=HANG_S)
    done = len(list(out.glob("part-*")))
    assert process.returncode == 130, printed
    assert f"stopped by SIGINT. {done} of 300 documents are committed" in printed, printed
    assert "finishing the shards in flight" in printed and "Traceback" not in printed and 3 <= done < 300
    again = summarize(*given)
    assert again.returncode == 0 and "300 documents = 300 ok" in again.stdout, again.stderr
