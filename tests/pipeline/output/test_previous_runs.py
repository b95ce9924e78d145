"""Only new, changed and failed documents are computed. Other rows are reused and have their source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import run as composition
from pipeline.checkpoint import find_checkpoint
from pipeline.errors import PipelineError, UsageError
from pipeline.output import previous_runs
from pipeline.output.commit import new_rows, rows_recomputed
from pipeline.output.local import LocalStore
from pipeline.output.previous_runs import load_previous_runs
from pipeline.output.verify import verify
from pipeline.planning.plan import Plan
from pipeline.prepare import build_plan
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.summarize import Summarize
from tests.conftest import read_output, words
from tests.pipeline.crash import one_by_one


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "_execute", one_by_one)


@pytest.fixture
def first(tmp_path: Path, model_folder: Path, write_corpus: Callable[..., Path]) -> SummarizeSettings:
    """The settings of a finished run with seven documents, of which one is empty and one null."""
    texts = [words(3 + n, n) for n in range(5)]
    corpus = write_corpus([*texts[:3], ""], [None, *texts[3:]])
    settings = SummarizeSettings(
        input=(str(corpus),), output=str(tmp_path / "one"), model=str(model_folder), shard_documents=2
    )
    composition.run(Summarize(settings))
    return settings


def next_run(
    settings: SummarizeSettings, name: str, **changes: Any
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The manifest of the next run, and its rows by ID. The output is verified."""
    output = Path(settings.output).with_name(name)
    changes = {"since": (settings.output,), **changes}
    manifest = composition.run(Summarize(replace(settings, output=str(output), **changes))).manifest
    result = verify(LocalStore(output))
    assert result.problems == [] and result.rows.total() == manifest["documents"]
    return manifest, {row["doc_id"]: row for row in read_output(output)}


def rewrite(corpus: Path, name: str, **texts: str) -> None:
    """Change texts of a file by ID. New IDs are added."""
    table = pq.read_table(corpus / name)
    rows = {row["doc_id"]: row for row in table.to_pylist()}
    for doc_id, text in texts.items():
        rows[doc_id] = {"doc_id": doc_id, "text": text, "number": 0}
    pq.write_table(pa.Table.from_pylist(list(rows.values()), table.schema), corpus / name)


def test_unchanged_rows_are_reused_with_their_source(first: SummarizeSettings) -> None:
    before = {row["doc_id"]: row for row in read_output(Path(first.output))}
    rewrite(Path(first.input[0]), "000.parquet", d1=words(9, 99), new=words(6, 6))
    manifest, rows = next_run(first, "two")
    assert (manifest["documents"], manifest["ok"], manifest["failed"], manifest["reused"]) == (8, 6, 2, 5)
    assert new_rows(manifest) == 1
    assert [(run["output"], run["finished"], run["recomputed_because"]) for run in manifest["since"]] == [
        (first.output, True, [])
    ]
    done = {name for name, row in rows.items() if row["reused_from"] is None}
    assert done == {"d1", "new", "d4"}  # a null text has no hash, so it counts as changed
    plan = Plan.from_json((Path(first.output) / "_plan.json").read_bytes())
    parts = {shard.part for shard in plan.shards}
    for name in rows.keys() - done:
        source, part = rows[name].pop("reused_from").split("/")
        assert source == plan.fingerprint and part in parts
        assert rows[name] == {k: v for k, v in before[name].items() if k != "reused_from"}


def test_reused_from_is_the_run_that_computed_the_row(first: SummarizeSettings) -> None:
    _, two = next_run(first, "two")
    manifest, three = next_run(replace(first, output=str(Path(first.output).with_name("two"))), "three")
    assert manifest["reused"] == 6
    assert {n: row["reused_from"] for n, row in three.items()} == {
        n: row["reused_from"] for n, row in two.items()
    }


def test_failed_rows_are_recomputed_on_request(first: SummarizeSettings) -> None:
    manifest, rows = next_run(first, "two", retry_failed=True)
    assert manifest["reused"] == 5 and {n for n, row in rows.items() if row["reused_from"] is None} == {
        "d3",
        "d4",
    }
    assert rows["d3"]["status"] == "failed" and rows["d3"]["reason"] == "the text is empty"


def test_with_other_settings_rows_are_recomputed_or_kept_on_request(first: SummarizeSettings) -> None:
    manifest, rows = next_run(first, "two", num_beams=1)
    assert (
        manifest["reused"] == 0
        and "settings.num_beams: was None, is 1" in manifest["since"][0]["recomputed_because"]
    )
    assert new_rows(manifest) is None
    assert all(row["reused_from"] is None for row in rows.values())
    manifest, _ = next_run(first, "three", num_beams=1, on_changed_settings="keep")
    assert manifest["reused"] == 6


def test_the_right_row_is_found_despite_colliding_hashes(
    first: SummarizeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previous_runs, "_hash", lambda text: 5)
    manifest, rows = next_run(first, "two")
    before = {row["doc_id"]: row for row in read_output(Path(first.output))}
    assert manifest["reused"] == 6 and all(rows[n]["summary"] == before[n]["summary"] for n in rows)


def test_the_index_takes_24_bytes_per_document(first: SummarizeSettings) -> None:
    task = Summarize(replace(first, output=first.output + "-2", since=(first.output,)))
    checkpoint = find_checkpoint(first)
    index = load_previous_runs(build_plan(task, checkpoint, None).config["since"], task.schema)
    assert index is not None and index.ids is not None and np.all(np.diff(index.keys) >= 0)
    assert sum(part.nbytes for part in (index.keys, index.files, index.rows, index.ids)) == 16 * 6 + 8 * 7
    assert index.count_new(["d0", "d4", "d6", "d7", ""]) == 2


def test_folders_that_cannot_be_reused_are_refused(first: SummarizeSettings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--since and --output are both"):
        next_run(first, Path(first.output).name)
    with pytest.raises(UsageError, match="holds no run"):
        next_run(first, "two", since=(str(tmp_path),))
    with pytest.raises(UsageError, match="--retry-failed is True; it needs --since"):
        replace(first, retry_failed=True)


def test_a_stopped_run_is_reused_and_its_missing_rows_come_from_the_run_before(
    first: SummarizeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corpus has also grown since, so the stopped run itself could not resume."""
    rewrite(Path(first.input[0]), "000.parquet", d0=words(9, 99), d1=words(9, 98))
    monkeypatch.setattr(
        composition,
        "_execute",
        lambda task, checkpoint, plan, todo, *rest: one_by_one(task, checkpoint, plan, todo[:1], *rest),
    )
    with pytest.raises(PipelineError, match="3 of 4 shards are not in"):
        next_run(first, "two")
    monkeypatch.setattr(composition, "_execute", one_by_one)
    two = str(Path(first.output).with_name("two"))
    rewrite(Path(first.input[0]), "001.parquet", new=words(6, 6))
    manifest, rows = next_run(first, "three", since=(two, first.output))
    assert [(run["finished"], run["parts"]) for run in manifest["since"]] == [(False, 1), (True, 4)]
    assert {n for n, row in rows.items() if row["reused_from"] is None} == {"new", "d4"}  # d4 is null
    assert new_rows(manifest) == 1 and rows_recomputed(manifest, 1) == 1
    plans = {row["reused_from"].split("/")[0] for row in rows.values() if row["reused_from"]}
    assert plans == {run["plan"] for run in manifest["since"]}


def test_new_rows_are_unknown_if_an_earlier_run_cannot_be_used(first: SummarizeSettings) -> None:
    next_run(first, "two", num_beams=1)
    since = (str(Path(first.output).with_name("two")), first.output)
    manifest, _ = next_run(first, "three", num_beams=1, since=since)
    assert [bool(run["recomputed_because"]) for run in manifest["since"]] == [False, True]
    assert manifest["reused"] == 6 and new_rows(manifest) is None


def test_a_change_of_an_earlier_run_is_detected(first: SummarizeSettings) -> None:
    task = Summarize(replace(first, output=first.output + "-2", since=(first.output,)))
    since = build_plan(task, find_checkpoint(first), None).config["since"]
    with pytest.raises(UsageError, match="have no column label"):
        load_previous_runs(since, pa.schema({"label": pa.string()}))
    next(Path(first.output).glob("part-*")).unlink()
    with pytest.raises(UsageError, match="has 3 shards; it had 4 when this run was planned"):
        load_previous_runs(since, task.schema)
