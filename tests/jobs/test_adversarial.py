"""What surrounds a command, and what its files hold, changes neither the code that runs nor the terminal."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.parsing import parse
from pipeline.errors import UsageError, escape_controls
from pipeline.output.local import LocalStore
from pipeline.output.verify import read_plan
from pipeline.planning.plan import MANIFEST, REPORT, make_plan
from pipeline.tasks.settings import SummarizeSettings
from tests.jobs.commands import ROOT, call_here, led_corpus
from tests.waiting import HANG_S, long_test

RUN = ROOT / "tests" / "fixtures" / "run-0.1.0" / "summaries"


@long_test
def test_packages_of_the_same_name_are_not_imported(model_folder: Path, tmp_path: Path) -> None:
    """In the working directory and in PYTHONPATH, for the driver and the workers."""
    for name in ("led", "pipeline", "jobs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a foreign package')")
    pq.write_table(pa.table({"doc_id": ["x"], "text": ["pump"]}), tmp_path / "a.parquet")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    given = ["--input", "a.parquet", "--output", "out", "--model", str(model_folder), "--replicas", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "led_corpus", "summarize", *given],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0 and "1 documents = 1 ok" in done.stdout, done.stderr


def test_a_port_that_is_taken_is_named_at_once(model_folder: Path, write_corpus: Any, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        output = tmp_path / "out"
        given = ["--input", write_corpus(["pump"]), "--output", output, "--model", model_folder]
        start = time.monotonic()
        done = call_here("summarize", *given, "--metrics-port", port)
        assert time.monotonic() - start < HANG_S / 4
    assert done.returncode == 2
    assert f"--metrics-port is {port}, which cannot be used (Address already in use)" in done.stderr
    assert not list(output.glob("_plan*"))  # so that a corrected command can use the folder


@long_test
def test_a_failed_start_does_not_block_the_corrected_command(
    model_folder: Path, write_corpus: Any, tmp_path: Path
) -> None:
    given = [
        "--input",
        write_corpus(["pump", "water"]),
        "--output",
        tmp_path / "out",
        "--model",
        model_folder,
    ]
    failed = call_here("summarize", *given, "--gpus", 1, "--max-input-tokens", 20)
    assert failed.returncode in (1, 2) and "Traceback" not in failed.stderr
    done = call_here("summarize", *given, "--max-input-tokens", 30)
    assert done.returncode == 0, done.stderr


def yaml_settings(path: Path, text: str) -> SummarizeSettings:
    path.write_text(f"input: [a]\noutput: o\nmodel: m\n{text}")
    return parse(SummarizeSettings, ["--config", str(path)])[0]


def test_a_value_of_yaml_is_never_a_flag(tmp_path: Path) -> None:
    settings = yaml_settings(tmp_path / "s.yaml", "passthrough: [--accept-unsafe-store, -h]\n")
    assert settings.passthrough == ("--accept-unsafe-store", "-h") and not settings.accept_unsafe_store


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("passthrough: " + "[" * 500 + "]" * 500, "its values are nested too deeply"),
        ("a: &a [x, x]\nb: &b [*a, *a]\npassthrough: [*b, *b]\n", r"it has an alias \(\*name\)"),
    ],
)
def test_yaml_that_explodes_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"--config .* cannot be read: .*{message}"):
        yaml_settings(tmp_path / "s.yaml", text)


def test_home_is_expanded_in_paths_of_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "s.yaml"
    path.write_text("input: ['~/in', s3://b/~x]\noutput: ~/out\nmodel: ~/m\nprefix: ~/not a path\n")
    settings = parse(SummarizeSettings, ["--config", str(path)])[0]
    assert settings.input == (f"{tmp_path}/in", "s3://b/~x")
    assert (settings.output, settings.model) == (f"{tmp_path}/out", f"{tmp_path}/m")
    assert settings.prefix == "~/not a path"


def test_control_characters_do_not_reach_the_terminal(model_folder: Path, tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    table = pa.table({"doc_id": [evil], "text": [f"pump {evil}"], f"column{evil}": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    given = ["--input", tmp_path / "a.parquet", "--output", tmp_path / "out", "--model", model_folder]
    shown = call_here("summarize", "preview", *given, "--documents", 1)
    assert shown.returncode == 0 and "\\x1b]0;owned\\x07" in shown.stdout
    refused = call_here("summarize", *given, "--text-column", "absent")
    assert refused.returncode == 2 and "column\\x1b]0;owned" in refused.stderr
    for text in (shown.stdout, shown.stderr, refused.stderr):
        assert "\x07" not in text and "\u202e" not in text and "\x1b]" not in text
    assert escape_controls("a\tb\nc é ") == "a\tb\nc é "


def test_a_foreign_folder_names_no_files_elsewhere(tmp_path: Path) -> None:
    """Neither by its manifest nor by the addresses of earlier runs in its plan."""
    out = Path(shutil.copytree(RUN, tmp_path / "out"))
    secret = tmp_path / "secret.parquet"
    shutil.copy(next(RUN.glob("part-*.parquet")), secret)
    manifest = json.loads((out / MANIFEST).read_text())
    for name in (str(secret), "../secret.parquet"):
        shards = {name: next(iter(manifest["shards"].values()))}
        (out / MANIFEST).write_text(json.dumps(manifest | {"shards": shards}))
        done = led_corpus("report", "--output", out)
        assert done.returncode == 1 and f"{MANIFEST} was not written by this system" in done.stderr
        assert "Traceback" not in done.stderr and not (out / REPORT).exists()


def test_the_previous_run_is_read_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path(shutil.copytree(RUN, tmp_path / "out"))
    plan = read_plan(LocalStore(out))
    asked: list[str] = []

    def open_store(url: str) -> LocalStore:
        asked.append(url)
        return LocalStore(url)

    monkeypatch.setattr("pipeline.report.page.open_store", open_store)
    since = [{"output": str(tmp_path / "elsewhere"), "recomputed_because": [], "plan": "p", "parts": 1}]
    changed = make_plan(plan.inputs, plan.config | {"since": since}, 3)
    (out / "_plan.json").write_bytes(changed.to_json())
    call_here("report", "--output", out)
    assert not asked
    call_here("report", "--output", out, "--compare-previous")
    assert asked == [str(tmp_path / "elsewhere")]
