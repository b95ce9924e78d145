"""Rows of one key are one document, whatever the format, the shards and the row groups."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from led.checkpoint.hub import resolve
from pipeline.errors import UsageError
from pipeline.forecast.calibrate import sample_shards
from pipeline.inputs.groups import group_bounds
from pipeline.planning.plan import Plan
from pipeline.prepare import build_plan
from pipeline.tasks.base import InputLimits
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from pipeline.workers.reader import ShardReader
from tests.conftest import words


def corpus_rows(groups: int = 23) -> list[dict[str, Any]]:
    rng = random.Random(1)
    return [
        {"site": f"s{key}", "text": words(1 + rng.randrange(9), 50 * key + n), "note": f"{key}-{n}"}
        for key in range(groups)
        for n in range(rng.randint(1, 7))
    ]


def write(folder: Path, rows: list[dict[str, Any]], kind: str) -> Path:
    folder.mkdir()
    half = next(i for i in range(len(rows) // 2, len(rows)) if rows[i]["site"] != rows[i - 1]["site"])
    for number, part in enumerate((rows[:half], rows[half:])):
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(part), folder / f"{number}.parquet", row_group_size=5)
        else:
            (folder / f"{number}.jsonl").write_text("\n".join(map(json.dumps, part)))
    return folder


def task_of(corpus: Path, model: Path, **settings: Any) -> Summarize:
    given: dict[str, Any] = {"group_by": "site", "shard_documents": 4, "passthrough": ("note", "text")}
    output = str(corpus.parent / "out")
    return Summarize(
        SummarizeSettings(input=(str(corpus),), output=output, model=str(model), **{**given, **settings})
    )


def read(task: Summarize, plan: Plan, model: Path, shards: Any = None) -> list[dict[str, Any]]:
    limits = InputLimits(**plan.config["input_limits"])
    types = plan.passthrough if task.settings.passthrough else None
    reader = ShardReader(task, str(model), None, limits, types)
    return [row for shard in shards or plan.shards for row in reader(shard).to_pylist()]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("documents", [1, 4, 100])
def test_groups_are_those_of_the_keys(model_folder: Path, tmp_path: Path, kind: str, documents: int) -> None:
    rows = corpus_rows()
    corpus = write(tmp_path / "corpus", rows, kind)
    task = task_of(corpus, model_folder, shard_documents=documents)
    plan = build_plan(task, resolve(str(model_folder)), None)
    expected = [(key, list(group)) for key, group in itertools.groupby(rows, lambda row: row["site"])]
    assert plan.documents == len(expected)
    assert all(shard.documents <= documents for shard in plan.shards)
    written = read(task, Plan.from_json(plan.to_json()), model_folder)
    assert [row["doc_id"] for row in written] == [key for key, _ in expected]
    for row, (_, group) in zip(written, expected, strict=True):
        assert len(row["documents"]) == len(group) and row["status"] == "ok"
        assert row["note"] == group[0]["note"]
        assert row["text"] == "\n\n".join(each["text"] for each in group)
        lists = Summarize(
            SummarizeSettings(input=("c",), output="o", model=str(model_folder), multi_document=True)
        )
        file = tmp_path / "one.parquet"
        texts = [each["text"] for each in group]
        pq.write_table(pa.table({"doc_id": ["x"], "text": [texts]}), file)
        [same] = read(lists, plan, model_folder, [plan.shards[0].__class__("s", str(file), 0, 1)])
        assert row["_input_ids"] == same["_input_ids"]
    again = build_plan(task, resolve(str(model_folder)), plan)  # unchanged files are not opened again
    assert again == plan
    pieces = sample_shards(plan, 1, 5, 0)
    sampled = read(task, plan, model_folder, pieces)
    assert {row["doc_id"] for row in sampled} <= {key for key, _ in expected} and len(sampled) == len(pieces)


def test_a_row_that_cannot_be_read_fails_its_group(model_folder: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    lines = ['{"site": "a", "text": "x"}', '{"site": "a", "text": 3}', '{"site": null, "text": "y"}']
    lines += ['{"site": null, "text": null}', '{"site": "b", "text": "z"}', "not JSON"]
    (corpus / "a.jsonl").write_text("\n".join(lines))
    task = task_of(corpus, model_folder, passthrough=())
    plan = build_plan(task, resolve(str(model_folder)), None)
    rows = read(task, plan, model_folder)
    assert [row["status"] for row in rows] == ["failed", "ok", "failed", "ok", "failed"]
    assert rows[0]["reason"] == "row 2 of the group: the text is a number, not a string"
    assert rows[2]["reason"] == "the list has no text"
    assert rows[4]["reason"].startswith("row 1 of the group: the line is not JSON")
    assert [row["doc_id"] for row in rows][0::3] == ["a", "b"] and rows[1]["doc_id"].endswith(":1")


def test_folders_of_texts(model_folder: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    for site, count in (("a", 3), ("b", 1), ("c", 2)):
        (corpus / f"site={site}").mkdir(parents=True)
        for n in range(count):
            (corpus / f"site={site}" / f"{n}.txt").write_text(words(3, n))
    task = task_of(corpus, model_folder, passthrough=(), shard_documents=2)
    plan = build_plan(task, resolve(str(model_folder)), None)
    rows = read(task, plan, model_folder)
    assert [(row["doc_id"], len(row["documents"])) for row in rows] == [("a", 3), ("b", 1), ("c", 2)]


def test_keys_in_several_places_are_refused(model_folder: Path, tmp_path: Path) -> None:
    rows = [*corpus_rows(5), {"site": "s1", "text": "again", "note": ""}]
    corpus = write(tmp_path / "corpus", rows, "parquet")
    with pytest.raises(UsageError, match="1 keys of --group-by site occur in several places, such as s1"):
        build_plan(task_of(corpus, model_folder), resolve(str(model_folder)), None)
    task = task_of(corpus, model_folder, on_duplicate_id="keep")
    assert build_plan(task, resolve(str(model_folder)), None).documents == 6


def test_a_column_that_is_missing_is_named(model_folder: Path, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", corpus_rows(6), "parquet")
    with pytest.raises(UsageError, match=r"has no column 'plant'; it has site, text, note"):
        build_plan(task_of(corpus, model_folder, group_by="plant"), resolve(str(model_folder)), None)


def test_bounds() -> None:
    assert group_bounds(iter(["a", "a", "b", None, None, "b"])) == [0, 2, 3, 4, 5, 6]
    assert group_bounds(iter([])) == [0]
