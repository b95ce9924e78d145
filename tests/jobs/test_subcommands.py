"""The verbs of a job, as a user types them; Ctrl-C in the middle, and going on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from jobs.cli import VERBS, split_subcommand
from pipeline.errors import UsageError
from tests.conftest import words
from tests.jobs.commands import ROOT, call, command, environment

summarize = partial(call, "summarize_corpus")


def test_the_verb_stands_first_and_run_may_be_left_away() -> None:
    assert split_subcommand(["--input", "x"]) == ("run", ["--input", "x"]) and split_subcommand([]) == (
        "run",
        [],
    )
    assert split_subcommand(["plan", "--input", "x"]) == ("plan", ["--input", "x"])
    with pytest.raises(UsageError, match=r"'sampel' is no verb; did you mean sample\?"):
        split_subcommand(["sampel"])


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
    done = subprocess.run(
        [sys.executable, "-c", HELP, verb], capture_output=True, text=True, cwd=ROOT, env=environment()
    )
    assert done.returncode == 0 and "--output" in done.stdout and f"Now: {verb}." in done.stdout, done.stderr
    assert ("--calibration-seconds" in done.stdout) == (verb == "plan")


def test_a_sample_a_forecast_a_run_and_its_report(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    texts: list[str | None] = [words(20 + n, n) for n in range(12)]
    texts[4] = ""
    given = (
        "--input",
        write_corpus(texts),
        "--output",
        tmp_path / "out",
        "--model",
        model_folder,
        "--shard-documents",
        4,
    )
    shown = summarize("sample", *given, "--documents", 12)
    assert shown.returncode == 0, shown.stderr
    assert "d11" in shown.stdout and "tokens in" in shown.stdout and "failed: read" in shown.stdout
    assert not (tmp_path / "out").exists()

    planned = summarize(
        "plan", *given, "--calibration-seconds", 1, "--price-per-hour", 2, "--picture", tmp_path / "p.svg"
    )
    assert planned.returncode == 0, planned.stderr
    for line in ("documents      12, in ", "will fail      1 rows", "cost  ", "<- the limit", "device-hours"):
        assert line in planned.stdout, line
    assert "<svg" in (tmp_path / "p.svg").read_text()
    assert json.loads((tmp_path / "out" / "_forecast.json").read_text())["documents"] == 12

    done = summarize("run", *given, "--attention")
    assert done.returncode == 0 and "12 documents = 11 ok + 1 failed" in done.stdout, done.stderr
    assert "12/12 documents, " in done.stderr and "1 failed" in done.stderr
    report = tmp_path / "out" / "_report.html"
    page = report.read_text()
    assert "Forecast and actual" in page and "Where the summaries looked" in page
    report.unlink()
    assert summarize("report", "--output", tmp_path / "out").returncode == 0 and report.read_text() == page
    assert "12/12 documents" in summarize("status", "--output", tmp_path / "out").stdout
    assert "every planned document is one row" in summarize("verify", "--output", tmp_path / "out").stdout
    unknown = summarize("report", "--output", tmp_path / "out", "--reference-column", "right")
    assert unknown.returncode == 2 and "the output has no such column; carry it over" in unknown.stderr
    again = summarize("retry-failed", *given)
    assert again.returncode == 2 and "retry-failed needs --since" in again.stderr


def listen_to_ctrl_c() -> None:
    """Whoever starts a process in the background has it ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_a_run_at_a_shard_border_and_the_same_command_goes_on(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    given = (
        "--input",
        write_corpus([words(60, n) for n in range(40)]),
        "--output",
        tmp_path / "out",
        "--model",
        model_folder,
        "--shard-documents",
        1,
        "--replicas",
        1,
    )
    process = subprocess.Popen(
        command("summarize_corpus", *given),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=listen_to_ctrl_c,
    )
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("part-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    done = len(list((tmp_path / "out").glob("part-*")))
    assert process.returncode == 130 and f"SIGINT came. {done} of 40 documents are committed" in said, said
    assert "finishing the shards in flight" in said and "Traceback" not in said and 3 <= done < 40
    again = summarize(*given)
    assert again.returncode == 0 and "40 documents = 40 ok" in again.stdout, again.stderr
