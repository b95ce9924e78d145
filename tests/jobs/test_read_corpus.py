"""The jobs that label and answer, as a user types them: their rows, their scores, their messages, and kill -9
in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import read_output, words
from tests.jobs.commands import call, call_here, command, environment, led_corpus
from tests.pipeline.readers import Corpus, make_reader
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    named = {"id2label": {0: "calm", 1: "wild"}, "problem_type": "single_label_classification"}
    made = {"label": named, "answer": {}}
    return {kind: make_reader(tmp_path_factory.mktemp(kind), kind, **config) for kind, config in made.items()}


@pytest.mark.usefixtures("shared_cluster")
def test_labels_and_their_scores(models: dict[str, Path], write_corpus: Corpus, tmp_path: Path) -> None:
    corpus = write_corpus([words(n, n) for n in range(1, 9)])
    table = pq.read_table(corpus / "000.parquet")
    right = pa.array(["calm", "wild"] * 4)
    pq.write_table(table.append_column("right", right), corpus / "000.parquet")
    done = call(
        "classify_corpus",
        "--input",
        corpus,
        "--output",
        tmp_path / "out",
        "--model",
        models["label"],
        "--passthrough",
        "right",
    )
    assert done.returncode == 0, done.stderr
    assert "8 documents = 8 ok + 0 failed + 0 skipped" in done.stdout and "_report.html" in done.stdout
    rows = read_output(tmp_path / "out")
    share = sum(row["label"] == row["right"] for row in rows) / 8
    scores = led_corpus("evaluate", "labels", "--output", tmp_path / "out", "--reference-column", "right")
    assert f"accuracy       {share:.4f}" in scores.stdout and "macro-F1" in scores.stdout
    report = (tmp_path / "out" / "_report.html").read_text()
    assert "Classification run" in report and ("calm" in report or "wild" in report)


@pytest.mark.usefixtures("shared_cluster")
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "give the questions in one way: --question, --questions-file or --question-column"),
        (("--question", ""), 2, "--question is empty; write a question."),
        (("--question", "pump " * 90), 2, "a chunk has 64, document included. Shorten the question."),
        (("--question-column", "asked"), 2, "has no column 'asked'"),
        (("--question-column", "number"), 2, "--question-column number holds int"),
        (("--questions-file", "nowhere.txt"), 2, "--questions-file nowhere.txt cannot be read"),
        (("--question", "pump?", "--chunk-tokens", "100"), 2, "this model reads at most 64 tokens at once"),
        (
            ("--question", "pump?", "--passthrough", "text", "answer"),
            2,
            "the output has columns of that name",
        ),
    ],
)
def test_invalid_arguments_have_a_clear_message(
    arguments: tuple[str, ...],
    code: int,
    says: str,
    models: dict[str, Path],
    write_corpus: Corpus,
    tmp_path: Path,
) -> None:
    corpus = write_corpus([words(20, 1)])
    done = call_here(
        "answer",
        "--input",
        corpus,
        "--output",
        tmp_path / "out",
        "--model",
        models["answer"],
        *arguments,
    )
    assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_summarization_checkpoint_is_refused_by_classify(
    model_folder: Path, write_corpus: Corpus, tmp_path: Path
) -> None:
    done = call_here(
        "classify",
        "--input",
        write_corpus(["a"]),
        "--output",
        tmp_path / "out",
        "--model",
        model_folder,
    )
    assert done.returncode == 2 and "classification_head" in done.stderr and "Traceback" not in done.stderr


def test_answers_survive_kill_9_of_the_driver(models: dict[str, Path], tmp_path: Path) -> None:
    texts = ["ü " + words(30 + n, n) for n in range(24)]
    (tmp_path / "corpus").mkdir()
    asked = [[{"question": f"pump {q}?", "answer": "x"} for q in range(1 + n % 3)] for n in range(24)]
    table = pa.table({"doc_id": [f"d{n}" for n in range(24)], "text": texts, "asked": asked})
    pq.write_table(table, tmp_path / "corpus" / "0.parquet")
    out = tmp_path / "out"
    arguments = (
        "--input",
        tmp_path / "corpus",
        "--output",
        out,
        "--model",
        models["answer"],
        "--question-column",
        "asked",
        "--shard-documents",
        2,
        "--replicas",
        1,
        "--passthrough",
        "text",
        "asked",
    )
    process = subprocess.Popen(
        command("answer_corpus", *arguments),
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: len(list(out.glob("part-*"))) >= 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(out.glob("part-*")) and not (out / "_SUCCESS").exists()
    done = call("answer_corpus", *arguments)
    assert done.returncode == 0, done.stderr
    expected = {(f"d{n}", q) for n in range(24) for q in range(1 + n % 3)}
    assert f"24 documents, {len(expected)} rows = {len(expected)} ok + 0 failed + 0 skipped" in done.stdout
    rows = read_output(out)
    assert (
        len(rows) == len(expected) and {(row["doc_id"], row["question_number"]) for row in rows} == expected
    )
    assert all(row["text"][row["answer_start"] : row["answer_end"]] == row["answer"] for row in rows)
    checked = led_corpus("verify", "--output", out)
    assert checked.returncode == 0 and f"{len(expected)} rows" in checked.stdout, (
        checked.stdout + checked.stderr
    )
    scores = led_corpus("evaluate", "answers", "--output", out, "--reference-column", "asked")
    assert f"questions      {len(expected)}" in scores.stdout and "token F1" in scores.stdout
