"""The functions of the Python API on a local cluster, and how a caller stops a run."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import led_corpus
from pipeline import api
from pipeline.api.functions import make_task
from pipeline.cluster.session import KEEP_WORKERS
from tests.conftest import read_output, words
from tests.jobs.commands import ROOT
from tests.pipeline.same_rows import same_row


@pytest.fixture(scope="module", autouse=True)
def cluster(s3_server: str) -> Iterator[None]:
    """A local cluster whose workers know the address of the object store."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _system_config=KEEP_WORKERS)
    yield
    ray.shutdown()


@pytest.fixture
def given(write_corpus: Callable[..., Path], model_folder: Path, tmp_path: Path) -> dict[str, Any]:
    texts: list[str | None] = [words(3 + n, n) for n in range(12)]
    texts[4] = None
    corpus = write_corpus(texts, reference=["pump"] * 12)
    return {"input": corpus, "output": tmp_path / "out", "model": model_folder, "replicas": 1}


def test_a_run_and_its_results(given: dict[str, Any]) -> None:
    reports: list[api.ProgressReport] = []
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    results = api.summarize(**given, passthrough="reference", shard_documents=5, progress=reports.append)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert (results.documents, results.rows, results.ok, results.failed, results.skipped) == (
        12,
        12,
        11,
        1,
        0,
    )
    assert results.failures == {"read: the text is null": 1} and results.report is not None
    assert [reports[-1].documents, reports[-1].total, reports[-1].failed] == [12, 12, 1]
    assert "12/12 documents" in str(reports[-1]) and reports[-1].shards == reports[-1].total_shards == 3

    output = given["output"]
    rows = sorted(read_output(output), key=lambda row: int(row["doc_id"][1:]))
    assert same_row(results.arrow().to_pylist(), rows)
    assert results.arrow(["doc_id"]).column_names == ["doc_id"]
    with pytest.raises(api.UsageError, match="has no column other; it has doc_id"):
        results.arrow(["other"])
    assert list(results.pandas(["doc_id"])["doc_id"]) == [f"d{n}" for n in range(12)]
    assert results.dataset(["doc_id", "summary"]).count() == 12
    assert len(results.files) == 3 and all(Path(name).exists() for name in results.files)
    assert api.status(output).finished and api.verify(output, against_input=True).problems == []
    assert set(api.evaluate(output, "reference")) >= {"documents", "ROUGE-1"}
    assert same_row(api.read_results(str(output)).arrow().to_pylist(), rows)
    assert api.summarize(**given, passthrough=("reference",), shard_documents=5, progress=False).ok == 11


def test_results_on_an_object_store(given: dict[str, Any], s3_bucket: str) -> None:
    results = api.summarize(**{**given, "output": f"{s3_bucket}/out"}, progress=False)
    assert results.arrow(["doc_id"]).num_rows == 12
    assert sorted(row["doc_id"] for row in results.dataset(["doc_id"]).take_all())[:2] == ["d0", "d1"]


def test_a_caller_stops_a_run_and_the_same_call_resumes_it(given: dict[str, Any]) -> None:
    stop = api.StopRequest()

    def cancel_early(report: api.ProgressReport) -> None:
        if report.shards:
            stop.cancel()

    settings = {**given, "shard_documents": 1, "max_num_seqs": 1, "min_new_tokens": 10}
    outcome: list[BaseException] = []

    def call() -> None:  # in a thread, as servers do
        try:
            api.run("summarize", stop=stop, progress=cancel_early, **settings)
        except api.PipelineError as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(120)
    if outcome:  # otherwise all shards were in flight
        assert isinstance(outcome[0], api.Stopped)
        assert "stopped by the caller. " in str(outcome[0]) and "of 12 documents are committed" in str(
            outcome[0]
        )
    results = api.run("summarize", progress=False, **settings)
    assert results.documents == 12 and api.verify(results.output).problems == []


def test_plan_and_preview(given: dict[str, Any]) -> None:
    forecast = api.plan("summarize", sample_documents=12, calibration_seconds=1, **given)
    assert forecast.documents == 12 and (given["output"] / "_forecast.json").exists()
    rows = api.preview("summarize", documents=2, **{k: given[k] for k in ("input", "model")})
    assert len(rows) == 2 and {"text", "doc_id", "status", "summary"} <= rows[0].keys()
    assert not list(given["output"].glob("part-*"))


def test_values_of_settings(given: dict[str, Any], tmp_path: Path) -> None:
    task = make_task("classify", {**given, "label_thresholds": ["a=0.5"], "input": [tmp_path / "a", "~/b"]})
    assert task.settings.input == (str(tmp_path / "a"), str(Path("~/b").expanduser()))
    assert task.settings.label_thresholds == ("a=0.5",)  # type: ignore[attr-defined]
    for wrong, message in (
        ({"num_beam": 2}, "'num_beam' is not a setting; did you mean num_beams?"),
        ({"num_beams": "2"}, "--num-beams is '2'; it must be a whole number"),
        ({"input": None}, "--input is"),
    ):
        with pytest.raises(api.UsageError) as error:
            make_task("summarize", {**given, **wrong})
        assert message in str(error.value)
    with pytest.raises(api.UsageError, match="model must be given"):
        make_task("summarize", {"input": "a", "output": "b"})
    with pytest.raises(api.UsageError, match="there is no task 'sumarize'"):
        make_task("sumarize", given)


def test_led_corpus_has_the_names_of_the_api() -> None:
    assert set(led_corpus.__all__) == set(api.__all__)
    for name in api.__all__:
        assert getattr(led_corpus, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="no attribute 'summarise'"):
        led_corpus.summarise  # type: ignore[attr-defined]  # noqa: B018


IMPORT = """
import sys
import {name}
heavy = [name for name in ("torch", "ray", "pyarrow", "transformers") if name in sys.modules]
assert not heavy, heavy
"""


@pytest.mark.parametrize("name", ["pipeline", "led", "led_corpus", "jobs.cli", "pipeline.tasks.registry"])
def test_importing_is_light(name: str) -> None:
    subprocess.run([sys.executable, "-c", IMPORT.format(name=name)], check=True, cwd=ROOT)


def test_a_foreign_package_of_the_same_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("mine = True")
    code = f"import pipeline, sys\nsys.path.append({str(ROOT)!r})\nimport led_corpus\nled_corpus.summarize"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "led_corpus has a package named 'pipeline', and so has" in done.stderr
    code = f"import sys\nsys.path.append({str(ROOT)!r})\nimport led_corpus\nled_corpus.summarize\n"
    code += "import pipeline\nassert not hasattr(pipeline, 'mine')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
