"""A task from a file outside the repository: run, killed, resumed, verified, reported, evaluated."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import read_output, words
from tests.jobs.commands import call_here, environment, led_corpus
from tests.pipeline.tasks.own_tasks import write_shout
from tests.waiting import HANG_S, long_test, wait_until


@long_test
def test_a_task_of_ones_own_is_run_killed_resumed_verified_reported_and_evaluated(
    write_corpus: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    texts: list[str | None] = [words(3 + n % 40, n) for n in range(60)]
    texts[7], texts[9] = "rose and gallery", None
    corpus = write_corpus(texts[:30], texts[30:], reference=["PUMP!"] * 60)
    task, out = write_shout(tmp_path / "mine"), tmp_path / "out"
    settings = ["--input", corpus, "--output", out, "--model", model_folder, "--passthrough", "reference"]
    settings += ["--shard-documents", 4, "--replicas", 1, "--mark", "?"]
    run = [sys.executable, "-m", "led_corpus", "--task", task, *map(str, settings)]
    # Another working directory, so that the workers find the task's files by nothing but its code.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    driver = subprocess.Popen(
        run, env=environment(), cwd=elsewhere, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(list(out.glob("part-*"))) >= 1, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    committed = {part.name: part.read_bytes() for part in out.glob("part-*")}
    assert not (out / "_SUCCESS").exists()
    done = subprocess.run(
        run, env=environment(), cwd=elsewhere, capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 0, done.stderr
    assert all((out / name).read_bytes() == data for name, data in committed.items())

    rows = {row["doc_id"]: row for row in read_output(out)}
    assert len(rows) == 60
    for name, row in rows.items():
        text = texts[int(name[1:])]
        if text is None or text.startswith("rose"):
            reason = "roses are not shouted" if text else "the text is null"
            assert (row["status"], row["reason"], row["shout"]) == ("failed", reason, None)
        else:
            assert row["shout"] == row["shout"].upper() and row["shout"].endswith("?")
            assert row["letters"] == len(row["shout"]) - 1
    plan = json.loads((out / "_plan.json").read_text())
    assert plan["config"]["task"] == "shout" and len(plan["config"]["task_sha256"]) == 64

    verified = call_here("verify", "--output", out, "--against-input")
    assert verified.returncode == 0 and "Verified: 60 documents" in verified.stdout, verified.stderr
    (out / "_report.html").unlink()
    assert call_here("report", "--output", out, "--reference-column", "reference").returncode == 0
    page = (out / "_report.html").read_text()
    assert "<h1>Shout" in page and rows["d0"]["shout"] in page and "ROUGE-1" in page
    scores = call_here("evaluate", "--output", out, "--reference-column", "reference")
    assert scores.returncode == 0 and "ROUGE-L" in scores.stdout, scores.stderr

    path = Path(task.partition(":")[0])
    path.write_text(path.read_text().replace("plant ", "tree "))
    changed = call_here("--task", task, *settings)
    assert changed.returncode == 2 and "task_sha256: was" in changed.stderr


def test_help_plan_and_preview_of_a_task_of_ones_own(
    write_corpus: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    task = write_shout(tmp_path / "mine")
    shown = led_corpus(task, "--help")
    assert shown.returncode == 0 and "What ends a shout" in shown.stdout
    assert "Shout what the model writes." in shown.stdout and "--mark" in shown.stdout
    corpus = write_corpus([words(9, n) for n in range(8)])
    settings = ["--input", corpus, "--output", tmp_path / "out", "--model", model_folder]
    preview = call_here(task, "preview", *settings, "--documents", 2)
    assert preview.returncode == 0 and preview.stdout.count("!") >= 2, preview.stderr
    assert call_here("--task", task, "prevew", *settings).returncode == 2


def test_what_a_worker_cannot_import_is_said_at_once(
    write_corpus: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    task = write_shout(tmp_path / "mine")
    path = Path(task.partition(":")[0])
    # A package that is on this machine's path only, as one that is installed for the driver alone.
    only_here = tmp_path / "only_here"
    only_here.mkdir()
    (only_here / "only_driver.py").write_text("value = 3")
    head = f"import sys\nsys.path.append({str(only_here)!r})\nimport only_driver\n"
    path.write_text(head + path.read_text())
    path.write_text(path.read_text().replace("len(generated.text)", "only_driver.value"))
    settings = ["--input", write_corpus([words(9, 1)]), "--output", tmp_path / "out", "--model", model_folder]
    done = led_corpus(task, *settings)
    assert done.returncode == 2, done.stderr
    assert "the task shout cannot be imported by a worker" in done.stderr
    assert "No module named 'only_driver'" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("part-*"))
