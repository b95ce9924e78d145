"""Only what is new, changed or failed is done; all else stands in the new output as it stood, and says where
it is from."""

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
from pipeline.output import previous_runs as previous
from pipeline.output.commit import new_rows, rows_recomputed
from pipeline.output.local import LocalStore
from pipeline.output.previous_runs import load_previous_runs
from pipeline.output.verify import verify
from pipeline.planning.plan import Plan
from pipeline.settings import SummarizeSettings
from pipeline.tasks import Summarize
from tests.conftest import read_output, words
from tests.pipeline.crash import one_by_one


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "_execute", one_by_one)


@pytest.fixture
def first(tmp_path: Path, model_folder: Path, write_corpus: Callable[..., Path]) -> SummarizeSettings:
    """The settings of a night that is done: seven documents, of which one is empty and one null."""
    texts = [words(3 + n, n) for n in range(5)]
    corpus = write_corpus([*texts[:3], ""], [None, *texts[3:]])
    settings = SummarizeSettings(
        input=(str(corpus),), output=str(tmp_path / "one"), model=str(model_folder), shard_documents=2
    )
    composition.run(Summarize(settings))
    return settings


def night(
    settings: SummarizeSettings, name: str, **changes: Any
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The manifest and the rows, by id, of the next night, which is verified."""
    output = Path(settings.output).with_name(name)
    changes = {"since": (settings.output,), **changes}
    manifest = composition.run(Summarize(replace(settings, output=str(output), **changes))).manifest
    findings = verify(LocalStore(output))
    assert findings.problems == [] and findings.rows.total() == manifest["documents"]
    return manifest, {row["doc_id"]: row for row in read_output(output)}


def rewrite(corpus: Path, name: str, **texts: str) -> None:
    """Put other texts into a file, by id; ids that are not there are added."""
    table = pq.read_table(corpus / name)
    rows = {row["doc_id"]: row for row in table.to_pylist()}
    for doc_id, text in texts.items():
        rows[doc_id] = {"doc_id": doc_id, "text": text, "number": 0}
    pq.write_table(pa.Table.from_pylist(list(rows.values()), table.schema), corpus / name)


def test_what_is_as_it_was_is_carried_over_and_says_from_where(first: SummarizeSettings) -> None:
    before = {row["doc_id"]: row for row in read_output(Path(first.output))}
    rewrite(Path(first.input[0]), "000.parquet", d1=words(9, 99), new=words(6, 6))
    manifest, rows = night(first, "two")
    assert (manifest["documents"], manifest["ok"], manifest["failed"], manifest["reused"]) == (8, 6, 2, 5)
    assert new_rows(manifest) == 1
    assert [(run["output"], run["finished"], run["recomputed_because"]) for run in manifest["since"]] == [
        (first.output, True, [])
    ]
    done = {name for name, row in rows.items() if row["reused_from"] is None}
    assert done == {"d1", "new", "d4"}  # of a null text nothing shows that it is as it was
    plan = Plan.from_json((Path(first.output) / "_plan.json").read_bytes())
    parts = {shard.part for shard in plan.shards}
    for name in rows.keys() - done:
        whence, part = rows[name].pop("reused_from").split("/")
        assert whence == plan.fingerprint and part in parts
        assert rows[name] == {k: v for k, v in before[name].items() if k != "reused_from"}


def test_the_origin_is_that_of_the_run_that_made_the_row(first: SummarizeSettings) -> None:
    _, two = night(first, "two")
    manifest, three = night(replace(first, output=str(Path(first.output).with_name("two"))), "three")
    assert manifest["reused"] == 6
    assert {n: row["reused_from"] for n, row in three.items()} == {
        n: row["reused_from"] for n, row in two.items()
    }


def test_what_failed_is_done_again_where_asked(first: SummarizeSettings) -> None:
    manifest, rows = night(first, "two", retry_failed=True)
    assert manifest["reused"] == 5 and {n for n, row in rows.items() if row["reused_from"] is None} == {
        "d3",
        "d4",
    }
    assert rows["d3"]["status"] == "failed" and rows["d3"]["reason"] == "the text is empty"


def test_with_other_settings_all_is_done_again_or_carried_as_asked(first: SummarizeSettings) -> None:
    manifest, rows = night(first, "two", num_beams=1)
    assert (
        manifest["reused"] == 0
        and "settings.num_beams: was None, is 1" in manifest["since"][0]["recomputed_because"]
    )
    assert new_rows(manifest) is None
    assert all(row["reused_from"] is None for row in rows.values())
    manifest, _ = night(first, "three", num_beams=1, on_changed_settings="keep")
    assert manifest["reused"] == 6


def test_a_row_is_found_by_what_it_is_though_hashes_meet(
    first: SummarizeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previous, "_key", lambda text: 5)
    manifest, rows = night(first, "two")
    before = {row["doc_id"]: row for row in read_output(Path(first.output))}
    assert manifest["reused"] == 6 and all(rows[n]["summary"] == before[n]["summary"] for n in rows)


def test_the_index_takes_24_bytes_a_document(first: SummarizeSettings) -> None:
    task = Summarize(replace(first, output=first.output + "-2", since=(first.output,)))
    checkpoint = find_checkpoint(first)
    index = load_previous_runs(composition.build_plan(task, checkpoint, None).config["since"], task.columns)
    assert index is not None and index.ids is not None and np.all(np.diff(index.keys) >= 0)
    assert sum(part.nbytes for part in (index.keys, index.files, index.rows, index.ids)) == 16 * 6 + 8 * 7
    assert index.count_new(["d0", "d4", "d6", "d7", ""]) == 2


def test_what_cannot_be_carried_from_is_refused(first: SummarizeSettings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--since and --output are both"):
        night(first, Path(first.output).name)
    with pytest.raises(UsageError, match="holds no run"):
        night(first, "two", since=(str(tmp_path),))
    with pytest.raises(UsageError, match="--retry-failed is True; it needs --since"):
        replace(first, retry_failed=True)


def test_a_night_that_was_stopped_is_carried_over_and_what_it_did_not_reach_from_the_one_before(
    first: SummarizeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the corpus has grown meanwhile, with which the stopped night itself could not go on."""
    rewrite(Path(first.input[0]), "000.parquet", d0=words(9, 99), d1=words(9, 98))
    monkeypatch.setattr(
        composition,
        "_execute",
        lambda task, checkpoint, plan, left, *rest: one_by_one(task, checkpoint, plan, left[:1], *rest),
    )
    with pytest.raises(PipelineError, match="3 of 4 shards are not committed"):
        night(first, "two")
    monkeypatch.setattr(composition, "_execute", one_by_one)
    two = str(Path(first.output).with_name("two"))
    rewrite(Path(first.input[0]), "001.parquet", new=words(6, 6))
    manifest, rows = night(first, "three", since=(two, first.output))
    assert [(run["finished"], run["parts"]) for run in manifest["since"]] == [(False, 1), (True, 4)]
    assert {n for n, row in rows.items() if row["reused_from"] is None} == {"new", "d4"}  # d4 is null
    assert new_rows(manifest) == 1 and rows_recomputed(manifest, 1) == 1
    plans = {row["reused_from"].split("/")[0] for row in rows.values() if row["reused_from"]}
    assert plans == {run["plan"] for run in manifest["since"]}


def test_what_is_new_is_not_said_where_a_night_before_cannot_be_used(first: SummarizeSettings) -> None:
    night(first, "two", num_beams=1)
    since = (str(Path(first.output).with_name("two")), first.output)
    manifest, _ = night(first, "three", num_beams=1, since=since)
    assert [bool(run["recomputed_because"]) for run in manifest["since"]] == [False, True]
    assert manifest["reused"] == 6 and new_rows(manifest) is None


def test_another_run_in_the_folder_since_is_noticed(first: SummarizeSettings) -> None:
    task = Summarize(replace(first, output=first.output + "-2", since=(first.output,)))
    since = composition.build_plan(task, find_checkpoint(first), None).config["since"]
    with pytest.raises(UsageError, match="have no label"):
        load_previous_runs(since, pa.schema({"label": pa.string()}))
    next(Path(first.output).glob("part-*")).unlink()
    with pytest.raises(UsageError, match="has 3 shards, not the 4 that were planned with"):
        load_previous_runs(since, task.columns)
