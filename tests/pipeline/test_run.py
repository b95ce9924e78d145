"""The whole run on a real cluster of three raylets: every document once, the same rows as without a cluster,
resumable."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline.cluster.session import KEEP_WORKERS
from pipeline.errors import CorruptInput, PipelineError, PlanMismatch, Stopped, TooManyFailures, UsageError
from pipeline.forecast.calibrate import forecast
from pipeline.output.open_store import open_store
from pipeline.output.verify import verify
from pipeline.planning.plan import MANIFEST, PLAN, SUCCESS, Shard
from pipeline.run import Caller, run
from pipeline.tasks.answer import Answer
from pipeline.tasks.base import InputLimits
from pipeline.tasks.classify import Classify
from pipeline.tasks.settings import AnswerSettings, ClassifySettings, SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.crashes import QUARANTINE_REASON
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader
from tests.conftest import read_output, words
from tests.pipeline.poison import BREAKS, KILLS, TOO_LARGE, BrittleSummarize, UnwellSummarize
from tests.pipeline.readers import make_reader, rows_of
from tests.pipeline.same_rows import same_row
from tests.waiting import long_test


@pytest.fixture(scope="module", autouse=True)
def cluster(s3_server: str) -> Iterator[Cluster]:
    """Three raylets of one CPU each, which keep their processes."""
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": KEEP_WORKERS}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def job(model_folder: Path, corpus: Path, output: Path, **settings: Any) -> Summarize:
    given = {"shard_documents": 4, "replicas": 2, "passthrough": ("number",), **settings}
    return Summarize(
        SummarizeSettings(input=(str(corpus),), output=str(output), model=str(model_folder), **given)
    )


def test_every_document_is_one_row_equal_to_the_bare_predictors(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    texts: list[str | None] = [words(1 + n * 7 % 90, n) for n in range(21)]
    texts[5], texts[17] = None, ""
    corpus = write_corpus(texts[:13], texts[13:])
    task = job(model_folder, corpus, tmp_path / "out")
    result = run(task)

    rows = {row["doc_id"]: row for row in read_output(tmp_path / "out")}
    assert sorted(rows) == sorted(f"d{i}" for i in range(21)) and result.shards_done == 8
    assert {row["doc_id"] for row in rows.values() if row["status"] == "failed"} == {"d5", "d17"}
    reader, predictor = (
        ShardReader(task, str(model_folder), None, InputLimits(128, 128)),
        Predictor(task, str(model_folder), None),
    )
    for path, count in (("000.parquet", 13), ("001.parquet", 8)):
        for expected in predictor(reader(Shard("x", str(corpus / path), 0, count))).to_pylist():
            got = rows[expected["doc_id"]]
            assert same_row(got, {name: expected[name] for name in got})

    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["documents"], manifest["ok"], manifest["failed"]) == (21, 19, 2)
    part = next((tmp_path / "out").glob("part-*.parquet"))
    config = json.loads(pq.read_schema(part).metadata[b"led.run_config"])
    assert (
        config["weights_sha256"]
        and config["plan"] == manifest["plan"]
        and config["generation"]["num_beams"] == 2
    )


def test_a_run_resumes_after_the_committed_shards(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    task = job(model_folder, write_corpus([words(9, n) for n in range(20)]), tmp_path / "out")
    run(task)
    parts = sorted((tmp_path / "out").glob("part-*"))
    before = {part: (part.stat().st_ino, part.read_bytes()) for part in parts}
    for name in (MANIFEST, SUCCESS):
        (tmp_path / "out" / name).unlink()
    lost = parts[1]
    lost.unlink()
    assert run(replace(task, settings=replace(task.settings, replicas=1, max_num_seqs=2))).shards_done == 1
    for part in parts:
        if part != lost:
            assert (part.stat().st_ino, part.read_bytes()) == before[part]
    new = pq.read_table(lost).to_pylist()
    old = pq.read_table(pa.BufferReader(before[lost][1])).to_pylist()
    assert same_row(new, old)
    assert run(task).shards_done == 0


def test_another_plan_in_the_folder_is_refused_with_what_differs(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = write_corpus([words(3, n) for n in range(5)])
    task = job(model_folder, corpus, tmp_path / "out")
    run(task)
    plan = (tmp_path / "out" / PLAN).read_bytes()
    with pytest.raises(PlanMismatch, match=r"generation\.num_beams: was 2, is 3"):
        run(job(model_folder, corpus, tmp_path / "out", num_beams=3))
    pq.write_table(pq.read_table(corpus / "000.parquet").slice(1), corpus / "000.parquet")
    with pytest.raises(PlanMismatch, match=r"input changed: .*000\.parquet"):
        run(task)
    assert (tmp_path / "out" / PLAN).read_bytes() == plan


@long_test
def test_a_shard_far_larger_than_a_default_block_stays_whole(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = write_corpus([words(5, 0)] * 40)
    path = corpus / "000.parquet"
    ballast = pa.array([str(i) * (2_500_000 if i > 9 else 5_000_000) for i in range(40)])
    pq.write_table(pq.read_table(path).append_column("ballast", ballast), path, compression="zstd")
    run(job(model_folder, corpus, tmp_path / "out", shard_documents=40, passthrough=("ballast",)))
    [part] = (tmp_path / "out").glob("part-*")
    rows = pq.read_table(part)
    assert rows["doc_id"].to_pylist() == [f"d{i}" for i in range(40)]
    assert rows["ballast"].nbytes > 190e6


def test_rows_that_rot_after_the_plan_name_their_file(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = write_corpus([words(50, n) for n in range(8)])
    path = corpus / "000.parquet"
    data = bytearray(path.read_bytes())
    page = pq.ParquetFile(path).metadata.row_group(0).column(1).dictionary_page_offset
    data[page : page + 192] = bytes(
        192
    )  # of the texts of the first five rows; the footer and the ids stay whole
    path.write_bytes(data)
    with pytest.raises(
        CorruptInput, match=r"rows [04] to [45] of .*000\.parquet cannot be read .*--on-bad-shard skip\.$"
    ):
        run(job(model_folder, corpus, tmp_path / "out"))
    assert SUCCESS not in {p.name for p in (tmp_path / "out").iterdir()}
    result = run(job(model_folder, corpus, tmp_path / "out", on_bad_shard="skip"))
    rows = read_output(tmp_path / "out")
    assert (
        [row["status"] for row in rows].count("skipped")
        == 5
        == result.manifest["documents"] - result.manifest["ok"]
    )
    for row in (row for row in rows if row["status"] == "skipped"):
        assert row["stage"] == "read" and row["number"] is None and "cannot be read" in row["reason"]
        assert re.fullmatch(r"000\.parquet-[0-9a-f]{12}:[0-4]", row["doc_id"])


def test_documents_that_break_the_model_fail_alone_and_disturb_no_other(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    texts = [words(3 + n * 7 % 60, n) for n in range(60)]
    poison = {7: "KeyError", 8: "RuntimeError", 40: "RuntimeError"}
    for n, kind in poison.items():
        texts[n] = (BREAKS if kind == "KeyError" else TOO_LARGE) + " " + texts[n]
    corpus = write_corpus(texts, row_group=20)
    settings = job(model_folder, corpus, tmp_path / "out", shard_documents=20).settings
    result = run(BrittleSummarize(settings))
    assert (result.manifest["documents"], result.manifest["ok"], result.manifest["failed"]) == (60, 57, 3)
    run(job(model_folder, corpus, tmp_path / "calm", shard_documents=20))
    calm = {row["doc_id"]: row for row in read_output(tmp_path / "calm")}
    for row in read_output(tmp_path / "out"):
        n = int(row["doc_id"][1:])
        if n in poison:
            assert (row["status"], row["stage"]) == ("failed", "predict") and row["reason"].startswith(
                poison[n]
            )
        else:
            expected = calm[row["doc_id"]]
            assert row["score"] == pytest.approx(expected.pop("score"), abs=1e-5)
            assert {k: v for k, v in row.items() if k != "score"} == expected


def test_what_ends_a_worker_is_said(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    task = UnwellSummarize(job(model_folder, write_corpus([words(9, 1)]), tmp_path / "out").settings)
    message = (
        "a worker failed: OSError: [Errno 28] No space left on device. Rerun the same command to resume."
    )
    with pytest.raises(PipelineError, match=f"^{re.escape(message)}$"):
        run(task)


def test_a_document_that_kills_every_process_is_a_failed_row_in_the_end(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    texts = [words(3 + n * 7 % 60, n) for n in range(6)]
    texts[5] = f"{KILLS} {texts[5]}"
    corpus = write_corpus(texts)
    result = run(BrittleSummarize(job(model_folder, corpus, tmp_path / "out").settings))
    assert (result.manifest["documents"], result.manifest["ok"], result.manifest["failed"]) == (6, 5, 1)
    run(job(model_folder, corpus, tmp_path / "calm"))
    calm = {row["doc_id"]: row for row in read_output(tmp_path / "calm")}
    for row in read_output(tmp_path / "out"):
        if row["doc_id"] == "d5":
            assert (row["status"], row["stage"], row["reason"]) == ("failed", "predict", QUARANTINE_REASON)
        else:
            assert row["summary"] == calm[row["doc_id"]]["summary"]


def test_too_many_failures_end_the_run_and_what_is_committed_stays(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = write_corpus(
        [None if n % 3 == 0 else words(60, n) for n in range(480)]
    )  # in every shard, whichever is first
    long = {"min_new_tokens": 60, "max_new_tokens": 60, "shard_documents": 3}
    task = job(model_folder, corpus, tmp_path / "out", max_failed=0.01, **long)
    with pytest.raises(
        TooManyFailures,
        match=r"\d of 480 documents failed; --max-failed is 0.01.* higher --max-failed to resume",
    ):
        run(task, Caller(progress_interval_s=0.1))
    with pytest.raises(
        TooManyFailures,
        match=r"Most frequent reasons: read: the text is null \(\d+ rows\)\. Rerun the same command",
    ):
        run(task)
    assert list((tmp_path / "out").glob("part-*")) and not (tmp_path / "out" / SUCCESS).exists()
    assert run(job(model_folder, corpus, tmp_path / "out", max_failed=160, **long)).manifest["ok"] == 320


@long_test
def test_a_run_that_is_told_to_stop_ends_at_a_shard_border_and_goes_on(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    task = job(
        model_folder, write_corpus([words(30, n) for n in range(120)]), tmp_path / "out", shard_documents=1
    )
    told = replace(task.settings, price_per_hour=1e9, max_cost=0.5)
    with pytest.raises(
        Stopped, match=r"--max-cost 0\.5.* of 120 documents are committed; rerun the same command to resume"
    ):
        run(replace(task, settings=told), Caller(progress_interval_s=0.2))
    done = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("part-*")}
    assert len(done) < 120 and not (tmp_path / "out" / SUCCESS).exists()
    assert run(task).shards_done == 120 - len(done)
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in done.items())
    assert verify(open_store(str(tmp_path / "out"))).problems == []


@long_test
def test_a_forecast_calibrates_on_the_cluster_and_commits_nothing(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    texts: list[str | None] = [words(10 + n % 70, n) for n in range(80)]
    texts[3] = None
    task = job(
        model_folder,
        write_corpus(texts[:50], texts[50:]),
        tmp_path / "out",
        shard_documents=10,
        price_per_hour=3.0,
    )
    found = forecast(task, documents=1000, seconds=1.0)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert (found.documents, found.shards, found.rows.value, found.failed.value, found.replicas) == (
        80,
        8,
        80,
        1,
        2,
    )
    manifest = run(task).manifest
    assert (
        found.input_tokens.value == manifest["input_tokens"]
        and found.sampled == 80
        and 0 < found.calibration_rows <= 80
    )
    assert found.output_tokens.value == pytest.approx(manifest["output_tokens"], rel=0.25)
    assert found.seconds.low <= found.seconds.value <= found.seconds.high and found.startup_seconds > 0
    assert found.cost is not None and found.cost.value == pytest.approx(3 * found.device_hours.value)


def test_a_night_carries_over_what_the_last_one_did(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = write_corpus([words(5 + n, n) for n in range(6)])
    run(job(model_folder, corpus, tmp_path / "monday"))
    table = pq.read_table(corpus / "000.parquet")
    texts = [words(9, 99), *table["text"].to_pylist()[1:]]
    pq.write_table(table.set_column(1, "text", [texts]), corpus / "000.parquet")
    manifest = run(
        job(model_folder, corpus, tmp_path / "tuesday", since=(str(tmp_path / "monday"),))
    ).manifest
    assert (manifest["ok"], manifest["reused"]) == (6, 5)
    before = {row["doc_id"]: row["summary"] for row in read_output(tmp_path / "monday")}
    for row in read_output(tmp_path / "tuesday"):
        assert (row["reused_from"] is None) == (row["doc_id"] == "d0")
        assert row["doc_id"] == "d0" or row["summary"] == before[row["doc_id"]]


def test_a_run_reads_from_s3(model_folder: Path, s3_server: str, s3_bucket: str, tmp_path: Path) -> None:
    texts = [words(9, n) for n in range(12)]
    with fsspec.open(f"{s3_bucket}/in/lang=en/a.parquet", "wb") as file:
        pq.write_table(
            pa.table({"doc_id": [f"a{i}" for i in range(6)], "text": [t.encode() for t in texts[:6]]}), file
        )
    with fsspec.open(f"{s3_bucket}/in/lang=fr/b.parquet", "wb") as file:
        pq.write_table(
            pa.table({"doc_id": [f"b{i}" for i in range(6)], "text": [t.encode() for t in texts[6:]]}), file
        )
    task = Summarize(
        SummarizeSettings(
            input=(f"{s3_bucket}/in",),
            output=str(tmp_path / "out"),
            model=str(model_folder),
            shard_documents=4,
            passthrough=("lang",),
        )
    )
    assert run(task).manifest["ok"] == 12
    rows = {row["doc_id"]: row["lang"] for row in read_output(tmp_path / "out")}
    assert rows == {f"{f}{i}": {"a": "en", "b": "fr"}[f] for f in "ab" for i in range(6)}
    plan = (tmp_path / "out" / PLAN).read_text()
    assert "etag:" in plan and "keep-this-secret" not in plan and "who" not in plan
    assert run(task).shards_done == 0


def test_a_cluster_too_small_for_the_replicas_is_refused_at_once(
    model_folder: Path, write_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus = write_corpus(["x"] * 200)
    with pytest.raises(UsageError, match=r"--replicas is 50: .* the cluster has 3 x 1 CPUs, room for 3"):
        run(job(model_folder, corpus, tmp_path / "out", replicas=50, shard_documents=1))


def test_every_question_of_every_document_is_one_row(tmp_path: Path) -> None:
    model = make_reader(tmp_path / "model", "answer")
    questions = [[f"station {q}?" for q in range(n % 4)] for n in range(18)]
    texts = [words(3 + n * 11 % 70, n) for n in range(18)]
    (tmp_path / "corpus").mkdir()
    table = pa.table(
        {"doc_id": [f"d{n}" for n in range(18)], "text": texts, "questions": questions, "number": range(18)}
    )
    pq.write_table(table, tmp_path / "corpus" / "0.parquet")
    given = {"input": (str(tmp_path / "corpus"),), "model": str(model), "shard_documents": 4, "replicas": 2}
    settings = AnswerSettings(
        output=str(tmp_path / "out"), question_column="questions", passthrough=("number",), **given
    )
    task = Answer.of(settings)
    result = run(task)
    rows = read_output(tmp_path / "out")
    asked = {(f"d{n}", i) for n in range(18) for i in range(max(1, n % 4))}
    assert len(rows) == len(asked) and {(row["doc_id"], row["question_number"]) for row in rows} == asked
    assert (result.manifest["documents"], result.manifest["rows"], result.manifest["failed"]) == (
        18,
        len(asked),
        5,
    )
    assert result.manifest["failed_documents"] == 5
    assert all(
        texts[row["number"]][row["answer_start"] : row["answer_end"]] == row["answer"]
        for row in rows
        if row["answer"]
    )
    bare = {
        (row["doc_id"], row["question_number"]): row
        for row in rows_of(task, model, tmp_path / "corpus" / "0.parquet")
    }
    for row in rows:
        same = bare[row["doc_id"], row["question_number"]]
        assert (row["answer"], row["status"], row["reason"]) == (
            same["answer"],
            same["status"],
            same["reason"],
        )
    findings = verify(open_store(str(tmp_path / "out")))
    assert findings.problems == [] and (findings.documents, findings.rows.total()) == (18, len(asked))
    assert findings.duplicate_ids == []

    # In the next run one document has another question. The other rows are reused, also after a lost worker.
    questions[7][1] = "gallery?"
    pq.write_table(table.set_column(2, "questions", pa.array(questions)), tmp_path / "corpus" / "0.parquet")
    later = replace(
        task, settings=replace(settings, output=str(tmp_path / "later"), since=(str(tmp_path / "out"),))
    )
    assert run(later).manifest["reused"] == len(asked) - 1
    lost = sorted((tmp_path / "later").glob("part-*"))[0]
    before = lost.read_bytes()
    for name in (lost.name, MANIFEST, SUCCESS):
        (tmp_path / "later" / name).unlink()
    assert run(later).shards_done == 1 and pq.read_table(lost).equals(pq.read_table(io.BytesIO(before)))
    [changed] = [row for row in read_output(tmp_path / "later") if row["reused_from"] is None]
    assert (changed["doc_id"], changed["question"]) == ("d7", "gallery?")

    # So it is where all documents are asked the same, one question more and in another order.
    first = Answer.of(
        AnswerSettings(output=str(tmp_path / "same"), question=("station 0?", "pump?"), **given)
    )
    run(first)
    more = replace(first.settings, output=str(tmp_path / "more"), since=(str(tmp_path / "same"),))
    manifest = run(Answer.of(replace(more, question=("when?", "pump?", "station 0?")))).manifest
    assert (manifest["rows"], manifest["reused"], manifest["since"][0]["recomputed_because"]) == (54, 36, [])
    by_question = {(row["doc_id"], row["question"]): row["answer"] for row in read_output(tmp_path / "same")}
    for row in read_output(tmp_path / "more"):
        assert row["question"] == ("when?", "pump?", "station 0?")[row["question_number"]]
        assert row["question"] == "when?" or row["answer"] == by_question[row["doc_id"], row["question"]]
    assert verify(open_store(str(tmp_path / "later"))).problems == []


def test_labels_are_committed_like_summaries(write_corpus: Callable[..., Path], tmp_path: Path) -> None:
    model = make_reader(tmp_path / "model", "label", id2label={0: "calm", 1: "wild"})
    texts: list[str | None] = [words(1 + n * 13 % 90, n) for n in range(14)]
    texts[3] = None
    corpus = write_corpus(texts[:9], texts[9:])
    given = {
        "input": (str(corpus),),
        "output": str(tmp_path / "out"),
        "model": str(model),
        "shard_documents": 4,
        "replicas": 2,
    }
    task = Classify(ClassifySettings(**given))
    assert run(task).manifest["ok"] == 13
    rows = {row["doc_id"]: row for row in read_output(tmp_path / "out")}
    assert [row["label"] in ("calm", "wild") for row in rows.values()].count(True) == 13 and rows["d3"][
        "status"
    ] == "failed"
    for row in rows_of(task, model, corpus / "000.parquet"):
        got = rows[row["doc_id"]]
        assert (got["label"], got["chunks"]) == (row["label"], row["chunks"])
        assert got["label_score"] == pytest.approx(row["label_score"], abs=1e-5)
    with pytest.raises(PlanMismatch, match=r"settings\.threshold: was None, is 0\.9"):
        run(Classify(ClassifySettings(**given, threshold=0.9)))
