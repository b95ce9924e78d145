"""Runs of version 0.1.0 are still readable: `status`, `verify`, `report`, scores, and `--since`.

Version 0.1.0 wrote the folders in tests/fixtures/run-0.1.0. `expected.json` there holds its counts.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from led.checkpoint.hub import Checkpoint
from pipeline import run as composition
from pipeline.checkpoint import find_checkpoint
from pipeline.errors import PlanMismatch
from pipeline.monitor.stats import Totals
from pipeline.output.commit import (
    PLAN_SHA256,
    Committed,
    commit,
    new_rows,
    parse_manifest,
    read_shard_metadata,
    rows_recomputed,
)
from pipeline.output.freeze import freeze_plan
from pipeline.output.open_store import open_store
from pipeline.output.previous_runs import describe_previous_runs, load_previous_runs
from pipeline.output.verify import read_plan, status, verify
from pipeline.planning.plan import FORECAST, MANIFEST, PLAN, REPORT, SUCCESS, Plan, Shard
from pipeline.prepare import build_plan
from pipeline.report.page import write_report
from pipeline.report.scores import evaluate_texts
from pipeline.tasks.answer import Answer
from pipeline.tasks.base import InputLimits, Task
from pipeline.tasks.classify import Classify
from pipeline.tasks.registry import describe_row_of
from pipeline.tasks.settings import AnswerSettings, ClassifySettings, SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.predictor import Predictor
from pipeline.workers.reader import ShardReader
from tests.conftest import read_output

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "run-0.1.0"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FIXTURES / "expected.json").read_text("utf-8"))
FINISHED = [name for name, run in EXPECTED.items() if run["manifest"]]
# old names
ORIGIN = "origin"
OLD_NAMES = {"windows": "chunks", ORIGIN: "reused_from"}
# end of old names
QUESTIONS = ("what failed?", "where was the pump?")
# The document whose text is null. It has no hash, so its row is never reused.
NULL = "d4"


@pytest.fixture
def copy_of(tmp_path: Path) -> Any:
    """A function that copies a folder of the fixtures, so that a test may write into it."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(FIXTURES / name, tmp_path / name))

    return copy


def old_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a fixture under today's column names, in the order of the plan. Uses no code under test."""
    plan = json.loads((FIXTURES / name / "_plan.json").read_text("utf-8"))
    parts = [FIXTURES / name / f"part-{shard['shard_id']}.parquet" for shard in plan["shards"]]
    rows = [row for part in parts if part.exists() for row in pq.read_table(part).to_pylist()]
    return [{OLD_NAMES.get(column, column): value for column, value in row.items()} for row in rows]


def manifest_of(folder: Path) -> dict[str, Any]:
    return parse_manifest((folder / MANIFEST).read_bytes(), MANIFEST)


def digests(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.name != REPORT
    }


# ---- status and verify


@pytest.mark.parametrize("name", EXPECTED)
def test_status_is_that_of_the_old_version(name: str) -> None:
    found, run = status(open_store(str(FIXTURES / name))), EXPECTED[name]
    assert (found.documents, found.documents_committed) == (
        run["documents_planned"],
        len(set(run["doc_ids"])),
    )
    assert (found.shards, found.shards_committed) == (run["shards_planned"], run["shards_committed"])
    assert found.finished == (name in FINISHED)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_row_is_verified(name: str) -> None:
    found, run = verify(open_store(str(FIXTURES / name))), EXPECTED[name]
    assert found.problems == []
    assert {state: found.rows[state] for state in run["rows_by_status"]} == run["rows_by_status"]
    assert found.documents == len(set(run["doc_ids"]))


def other_counts(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"carried": 1}))


def other_origin(folder: Path) -> None:
    """A row of an earlier run no longer states where it comes from. The footer stays."""
    part = next(p for p in sorted(folder.glob("part-*")) if any(pq.read_table(p)[ORIGIN].to_pylist()))
    table = pq.read_table(part)
    place = table.column_names.index(ORIGIN)
    pq.write_table(table.set_column(place, ORIGIN, pa.nulls(len(table), pa.string())), part)


def lost_part(folder: Path) -> None:
    next(folder.glob("part-*")).unlink()


def other_plan(folder: Path) -> None:
    """A part of another run under the name of one of this run."""
    old = json.loads((FIXTURES / "summaries" / "_plan.json").read_text())["shards"]
    shutil.copy(
        FIXTURES / "summaries" / f"part-{old[0]['shard_id']}.parquet", sorted(folder.glob("part-*"))[0]
    )


def no_marker_of_this_manifest(folder: Path) -> None:
    (folder / SUCCESS).write_text((FIXTURES / "summaries" / "_SUCCESS").read_text())


@pytest.mark.parametrize(
    "harm", [other_counts, other_origin, lost_part, other_plan, no_marker_of_this_manifest]
)
def test_damage_to_an_old_folder_is_found(harm: Any, copy_of: Any) -> None:
    folder = copy_of("summaries-2")
    harm(folder)
    assert verify(open_store(str(folder))).problems != []


@pytest.mark.parametrize(
    ("command", "name", "code"),
    [
        ("status", "unfinished", 0),
        ("verify", "answers", 0),
        ("verify", "unfinished", 1),
        ("report", "summaries-2", 0),
        ("report", "unfinished", 2),
    ],
)
def test_commands_read_an_old_folder(command: str, name: str, code: int, copy_of: Any) -> None:
    job = [
        sys.executable,
        str(ROOT / "jobs" / "summarize_corpus.py"),
        command,
        "--output",
        str(copy_of(name)),
    ]
    done = subprocess.run(job, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == code, done.stderr


# ---- plan, manifest and shard metadata under today's names


@pytest.mark.parametrize("name", EXPECTED)
def test_the_plan_keeps_its_fingerprint(name: str) -> None:
    plan = read_plan(open_store(str(FIXTURES / name)))
    assert plan.fingerprint == EXPECTED[name]["plan"] and plan.config["code_version"] == "0.1.0"
    assert (
        plan.documents == EXPECTED[name]["documents_planned"]
        and len(plan.shards) == EXPECTED[name]["shards_planned"]
    )
    assert plan.config["task"] == EXPECTED[name]["task"]
    assert plan.passthrough.names[0] == "source"


def test_the_settings_of_the_plan_have_todays_names() -> None:
    config = read_plan(open_store(str(FIXTURES / "answers"))).config
    assert (config["settings"]["chunk_tokens"], config["settings"]["chunk_overlap"]) == (28, 6)
    assert InputLimits(**config["input_limits"]).chunk_tokens == 28
    [previous] = read_plan(open_store(str(FIXTURES / "summaries-2"))).config["since"]
    assert (previous["output"], previous["recomputed_because"]) == ("/data/summaries", [])


def test_a_changed_plan_is_still_detected(copy_of: Any) -> None:
    folder = copy_of("summaries")
    (folder / PLAN).write_text((folder / PLAN).read_text().replace('"seed": 0', '"seed": 1', 1))
    with pytest.raises(Exception, match="was changed after it was written"):
        read_plan(open_store(str(folder)))


@pytest.mark.parametrize("name", FINISHED)
def test_the_manifest_and_the_footers_have_the_old_counts(name: str) -> None:
    store, run = open_store(str(FIXTURES / name)), EXPECTED[name]
    manifest, old = manifest_of(FIXTURES / name), dict(run["manifest"])
    assert manifest["reused"] == old.pop("carried") == run["carried"]
    assert {count: manifest[count] for count in old} == old
    assert new_rows(manifest) == run["new_rows"]
    if run["new_rows"] is not None:
        assert rows_recomputed(manifest, run["new_rows"]) == run["done_again"]
    metadata = [read_shard_metadata(store, part) for part in manifest["shards"]]
    for count in (
        "rows",
        "ok",
        "failed",
        "skipped",
        "failed_documents",
        "reused",
        "truncated",
        "input_tokens",
    ):
        assert sum(getattr(shard, count) for shard in metadata) == manifest[count], count
    measured = [
        shard["measured"] for shard in json.loads((FIXTURES / name / MANIFEST).read_text())["shards"].values()
    ]
    slots = sum(values.get("places", 0) for values in measured)
    steps = sum(values.get("document_steps", 0) for values in measured)
    assert Totals.of(metadata).slot_utilization == (pytest.approx(steps / slots) if slots else None)


# ---- report and scores


@pytest.mark.parametrize("name", FINISHED)
def test_the_report_of_an_old_run_is_written_again(name: str, copy_of: Any) -> None:
    folder = copy_of(name)
    before, store = digests(folder), open_store(str(folder))
    reference = "reference" if EXPECTED[name]["task"] == "summarize" else None
    write_report(store, read_plan(store), manifest_of(folder), reference_column=reference, price_per_hour=2.0)
    page = (folder / REPORT).read_text("utf-8")
    assert digests(folder) == before
    assert "another version" not in page
    assert EXPECTED[name]["plan"] in page
    plan = read_plan(store)
    done = [row for row in old_rows(name) if row["status"] == "ok"]
    shown = [describe_row_of(plan.config["task"], plan.task, row) for row in done]
    for row, (details, _) in zip(done, shown, strict=True):
        assert f">{row['doc_id']}<" in page and html.escape(details) in page
    for failure in EXPECTED[name]["manifest"]["failures"]:
        assert html.escape(failure.split("(")[0]) in page
    assert ("ROUGE" in page) == (reference is not None)


def test_the_report_shows_the_old_forecast(copy_of: Any) -> None:
    folder = copy_of("summaries")
    store = open_store(str(folder))
    write_report(store, read_plan(store), manifest_of(folder))
    with_forecast = (folder / REPORT).read_text("utf-8")
    (folder / FORECAST).unlink()
    write_report(store, read_plan(store), manifest_of(folder))
    assert "orecast" in with_forecast and "orecast" not in (folder / REPORT).read_text("utf-8")
    assert re.search(r"256\D{1,20}256\D", with_forecast.split("orecast", 1)[1])  # input tokens, low to high


@pytest.mark.parametrize("name", ["summaries", "summaries-2"])
def test_scores_are_those_of_the_old_version(name: str) -> None:
    store = open_store(str(FIXTURES / name))
    scores = evaluate_texts(store, read_plan(store).task, "reference")
    assert scores == pytest.approx(EXPECTED[name]["old_scores"])


# ---- rows of old runs in new ones


def without_ray(
    task: Task, checkpoint: Checkpoint, plan: Plan, shards: Sequence[Shard], *_: Any
) -> dict[str, Committed]:
    """Read, predict and commit shard by shard in this process."""
    store, model = open_store(task.settings.output), str(checkpoint.folder)
    reader = ShardReader(task, model, None, InputLimits(**plan.config["input_limits"]), plan.passthrough)
    previous = load_previous_runs(plan.config["since"], task.schema)
    predictor = Predictor(task, model, None)
    config = {**plan.config, "plan": plan.fingerprint, PLAN_SHA256: freeze_plan(store, plan.to_json())}
    for shard in shards:
        commit(store, predictor(reader(shard, previous)), config, plan.task.number)
    return {}


def inputs(corpus: str) -> tuple[str, ...]:
    return (f"{FIXTURES}/{corpus}/*.parquet", f"{FIXTURES}/{corpus}/*.jsonl")


def summarize(output: Path, corpus: str = "corpus", **settings: Any) -> Summarize:
    given: dict[str, Any] = {
        "passthrough": ("source", "reference"),
        "attention": True,
    }
    given |= {"input": inputs(corpus), "model": str(FIXTURES / "checkpoint")}
    given["generation_defaults"] = "generate"  # as version 0.1.0 did
    return Summarize(SummarizeSettings(output=str(output), shard_documents=3, **{**given, **settings}))


def answer(output: Path, **settings: Any) -> Answer:
    given: dict[str, Any] = {"question": QUESTIONS, "n_best": 2, "chunk_tokens": 28, "chunk_overlap": 6}
    given |= {
        "input": inputs("corpus"),
        "model": str(FIXTURES / "checkpoint-answers"),
        "passthrough": ("source",),
    }
    return Answer.of(AnswerSettings(output=str(output), shard_documents=3, **{**given, **settings}))


def classify(output: Path, **settings: Any) -> Classify:
    given: dict[str, Any] = {"chunk_tokens": 28, "on_bad_shard": "skip", "passthrough": ("source",)}
    given |= {
        "input": (*inputs("corpus"), str(FIXTURES / "damaged")),
        "model": str(FIXTURES / "checkpoint-labels"),
    }
    return Classify(ClassifySettings(output=str(output), shard_documents=3, **{**given, **settings}))


def run(task: Task, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The manifest and the rows of a run without Ray. Its output is verified."""
    monkeypatch.setattr(composition, "_execute", without_ray)
    composition.run(task)
    folder = Path(task.settings.output)
    assert verify(open_store(str(folder))).problems == []
    rows = read_output(folder)
    assert {"chunks", "reused_from"} <= rows[0].keys() and not rows[0].keys() & OLD_NAMES.keys()
    return manifest_of(folder), rows


def key(row: dict[str, Any]) -> tuple[str, int]:
    return row["doc_id"], row.get("question_number") or 0


@pytest.mark.parametrize("name", EXPECTED)
def test_rows_of_an_old_run_are_found_by_id_and_text(name: str, tmp_path: Path) -> None:
    tasks: dict[str, Any] = {"summarize": summarize, "answer": answer, "classify": classify}
    folder = str(FIXTURES / name)
    task = tasks[EXPECTED[name]["task"]](tmp_path / "new", since=(folder,))
    since = describe_previous_runs(task.settings, read_plan(open_store(folder)).config)
    previous = load_previous_runs(since, task.schema)
    assert previous is not None
    rows = old_rows(name)
    found = previous.find([row["doc_id"] for row in rows], [row["text_hash"] for row in rows], task.schema)
    for row, again in zip(rows, found, strict=True):
        if row["text_hash"] is None:
            assert again is None
            continue
        assert again is not None
        plan, part = again.pop("reused_from").split("/")
        first = EXPECTED[name][ORIGIN].get(row["doc_id"])
        assert f"{plan}/{part}" == first or (
            plan == EXPECTED[name]["plan"] and (FIXTURES / name / part).exists()
        )
        assert again == {column: row[column] for column in again}
        assert {*task.schema.names, "chunks", "status", "input_tokens", "text_hash"} <= again.keys()
    assert previous.count_new([*(row["doc_id"] for row in rows), "unknown"]) == 1


def test_a_new_run_reuses_the_summaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, rows = run(summarize(tmp_path / "new", since=(str(FIXTURES / "summaries"),)), monkeypatch)
    assert manifest["reused"] == 7 and new_rows(manifest) == 0 and rows_recomputed(manifest, 0) == 1
    before = {row["doc_id"]: row for row in old_rows("summaries")}
    assert {row["doc_id"] for row in rows if row["reused_from"] is None} == {NULL}
    for row in rows:
        origin = row.pop("reused_from")
        assert row.pop("truncated_characters") is None  # this version did not count them
        assert row["doc_id"] == NULL or origin.startswith(f"{EXPECTED['summaries']['plan']}/part-")
        assert row == {
            column: value for column, value in before[row["doc_id"]].items() if column != "reused_from"
        }
    page = (tmp_path / "new" / REPORT).read_text("utf-8")
    assert "Change" in page and "another version" not in page


def test_reused_rows_state_the_run_that_computed_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that summaries-2 took from the run before it keep the origin that is recorded there."""
    task = summarize(tmp_path / "new", "corpus-2", since=(str(FIXTURES / "summaries-2"),))
    manifest, rows = run(task, monkeypatch)
    assert manifest["reused"] == 8
    plan, origin = EXPECTED["summaries-2"]["plan"], EXPECTED["summaries-2"][ORIGIN]
    for row in rows:
        if row["doc_id"] in ("d1", "d8"):
            assert row["reused_from"].startswith(f"{plan}/part-")
        else:
            assert row["reused_from"] == origin.get(row["doc_id"])


def test_failed_rows_are_recomputed_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = summarize(tmp_path / "new", since=(str(FIXTURES / "summaries"),), retry_failed=True)
    manifest, rows = run(task, monkeypatch)
    assert manifest["reused"] == 6
    assert {row["doc_id"] for row in rows if row["reused_from"] is None} == {"d4", "d5"}


def test_changed_and_new_documents_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, rows = run(
        summarize(tmp_path / "new", "corpus-2", since=(str(FIXTURES / "summaries"),)), monkeypatch
    )
    assert manifest["reused"] == EXPECTED["summaries-2"]["carried"]
    assert (new_rows(manifest), rows_recomputed(manifest, 1)) == (1, EXPECTED["summaries-2"]["done_again"])
    before = {row["doc_id"]: row for row in old_rows("summaries-2")}
    assert {row["doc_id"]: row["reused_from"] for row in rows} == {
        name: row["reused_from"] for name, row in before.items()
    }


def test_an_unfinished_old_run_is_reused_as_far_as_it_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, rows = run(summarize(tmp_path / "new", since=(str(FIXTURES / "unfinished"),)), monkeypatch)
    [previous] = manifest["since"]
    assert (previous["finished"], previous["parts"], manifest["reused"]) == (False, 2, 4)
    assert {row["doc_id"] for row in rows if row["reused_from"] is None} == {"d0", "d1", "d2", NULL}


def test_a_new_run_reuses_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, rows = run(answer(tmp_path / "new", since=(str(FIXTURES / "answers"),)), monkeypatch)
    assert (manifest["rows"], manifest["reused"]) == (16, 14)
    before = {key(row): row for row in old_rows("answers")}
    for row in rows:
        known = {name: value for name, value in row.items() if name != "truncated_characters"}
        assert known | {"reused_from": None} == before[key(row)] | {"reused_from": None}
    assert max(row["chunks"] or 0 for row in rows) == 15


def test_a_new_run_reuses_the_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, rows = run(classify(tmp_path / "new", since=(str(FIXTURES / "labels"),)), monkeypatch)
    assert (manifest["ok"], manifest["skipped"], manifest["reused"]) == (6, 2, 7)
    before = {row["doc_id"]: row for row in old_rows("labels") if row["status"] != "skipped"}
    for row in rows:
        if row["status"] != "skipped":
            assert row.pop("truncated_characters") is None
            assert row | {"reused_from": None} == before[row["doc_id"]]


@pytest.mark.parametrize(
    ("make", "name"), [(summarize, "summaries"), (answer, "answers"), (classify, "labels")]
)
def test_a_renamed_setting_is_no_changed_setting(make: Any, name: str, tmp_path: Path) -> None:
    """Renamed settings must not prevent reuse, even without `keep`."""
    task = make(tmp_path / "new", since=(str(FIXTURES / name),), on_changed_settings="redo")
    [previous] = build_plan(task, find_checkpoint(task.settings), None).config["since"]
    assert previous["recomputed_because"] == []


def test_an_old_run_is_not_resumed_with_another_plan(copy_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The input is elsewhere now, so the shards are others. The folder stays as it was."""
    folder = copy_of("unfinished")
    before = digests(folder)
    monkeypatch.setattr(composition, "_execute", without_ray)
    with pytest.raises(PlanMismatch, match=r"input added: .*000\.parquet"):
        composition.run(summarize(folder))
    assert digests(folder) == before


def moved_input(folder: Path) -> None:
    """Let the plan in `folder` name the corpus where it is now, as if 0.1.0 had planned it there."""
    values = json.loads((folder / PLAN).read_text("utf-8").replace("/data/corpus/", f"{FIXTURES}/corpus/"))
    del values["sha256"]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (folder / PLAN).write_text(json.dumps({**values, "sha256": digest}), "utf-8")


def test_an_old_run_resumes_with_the_same_settings(copy_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder then has files of both versions."""
    folder = copy_of("unfinished")
    moved_input(folder)
    before = digests(folder)
    monkeypatch.setattr(composition, "_execute", without_ray)
    result = composition.run(summarize(folder))
    store = open_store(str(folder))
    assert (result.shards_done, verify(store).problems) == (1, [])
    assert digests(folder).items() >= before.items() and status(store).finished
    counts = ("rows", "ok", "failed", "truncated", "input_tokens", "failures")
    assert {name: result.manifest[name] for name in counts} == {
        name: EXPECTED["summaries"]["manifest"][name] for name in counts
    }
    assert composition.run(summarize(folder)).shards_done == 0
    task = summarize(folder.with_name("new"), since=(str(folder),))
    assert run(task, monkeypatch)[0]["reused"] == 7


def test_an_input_column_with_a_new_name_is_not_taken_for_the_result(tmp_path: Path, copy_of: Any) -> None:
    """Version 0.1.0 allowed --passthrough chunks reused_from. Such columns come from the input."""
    folder = copy_of("answers")
    for part in folder.glob("part-*"):
        table = pq.read_table(part)
        footer = table.schema.metadata
        for name in ("reused_from", "chunks"):
            table = table.add_column(1, name, pa.array(["of the input"] * len(table)))
        pq.write_table(table.replace_schema_metadata(footer), part, write_page_checksum=True)
    store = open_store(str(folder))
    assert verify(store).problems == []
    task = answer(tmp_path / "new", since=(str(folder),))
    previous = load_previous_runs(describe_previous_runs(task.settings, read_plan(store).config), task.schema)
    assert previous is not None
    rows = old_rows("answers")
    found = previous.find([row["doc_id"] for row in rows], [row["text_hash"] for row in rows], task.schema)
    assert [row and row["chunks"] for row in found] == [
        row["chunks"] if row["text_hash"] else None for row in rows
    ]
    assert all(row["reused_from"] != "of the input" for row in found if row)
