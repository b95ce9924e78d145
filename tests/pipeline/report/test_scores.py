"""Scores against references in the output."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UsageError
from pipeline.inputs.read import InputFile
from pipeline.output.local import LocalStore
from pipeline.planning.plan import PLAN, make_plan
from pipeline.report import scores as of_tasks
from pipeline.schema import TaskInfo
from tests.waiting import HANG_S

Scores = dict[str, float | int]


def evaluate_summaries(store: LocalStore, reference: str, facts: str | None) -> Scores:
    return of_tasks.evaluate_texts(store, TaskInfo(result="summary"), reference, facts)


def evaluate_labels(store: LocalStore, reference: str) -> Scores:
    return of_tasks.evaluate_labels(store, TaskInfo(result="label"), reference)


def evaluate_answers(store: LocalStore, reference: str) -> Scores:
    return of_tasks.evaluate_answers(store, TaskInfo(result="answer", number="question_number"), reference)


def output(folder: Path, summaries: list[str | None]) -> LocalStore:
    table = pa.table(
        {
            "summary": summaries,
            "reference": ["A pump failed. It was replaced."] * len(summaries),
            "facts": [["pump", "was replaced"]] * len(summaries),
        }
    )
    pq.write_table(table, folder / "part-a.parquet")
    (folder / "_SUCCESS").write_text("")
    return LocalStore(folder)


def test_perfect_failed_and_reordered_summaries(tmp_path: Path) -> None:
    perfect = evaluate_summaries(output(tmp_path, ["A pump failed. It was replaced."]), "reference", "facts")
    assert perfect == {
        "documents": 1,
        "ROUGE-1": 1,
        "ROUGE-2": 1,
        "ROUGE-L": 1,
        "ROUGE-Lsum": 1,
        "facts": 2,
        "facts found": 1,
    }
    failed = evaluate_summaries(output(tmp_path, [None]), "reference", "facts")
    assert (failed["ROUGE-1"], failed["facts found"]) == (0, 0)
    reordered = evaluate_summaries(output(tmp_path, ["It was replaced. A pump failed."]), "reference", None)
    assert reordered["ROUGE-Lsum"] > reordered["ROUGE-L"]  # ROUGE-Lsum compares sentence by sentence
    assert "facts found" not in reordered


def of_json_lines(folder: Path, path: str = "/in/a.jsonl", **columns: Any) -> LocalStore:
    """A finished run that copied the columns `right` and `facts` from a file."""
    store, table = LocalStore(folder), pa.table(columns)
    plan = make_plan(
        [InputFile(path, 1, len(table), "h", "1")],
        {},
        len(table),
        passthrough=pa.schema({name: pa.string() for name in ("right", "facts") if name in columns}),
    )
    (folder / PLAN).write_bytes(plan.to_json())
    pq.write_table(table, folder / plan.shards[0].part)
    (folder / "_SUCCESS").write_text("")
    return store


def test_facts_and_answers_of_json_lines_are_lists(tmp_path: Path) -> None:
    facts = ['["pump", "was replaced"]', "[]", None, "[1] pump"]
    store = of_json_lines(
        tmp_path,
        summary=["The pump was replaced."] * 4,
        right=["[1] The pump", "[2]", None, "x"],
        facts=facts,
    )
    scores = evaluate_summaries(store, "right", "facts")
    assert (scores["facts"], scores["facts found"]) == (3, pytest.approx(2 / 3))
    (tmp_path / "answers").mkdir()
    right = ['["x", "y"]', '["x", "y"]', '[{"question": "?", "answer": "z"}]', "[a] z"]
    store = of_json_lines(
        tmp_path / "answers",
        answer=["x", "y", "z", "[a] z"],
        question_number=[0, 1, 0, 0],
        right=right,
        status=["ok"] * 4,
    )
    assert evaluate_answers(store, "right")["exact match"] == 1


def test_a_parquet_text_that_looks_like_a_list_stays_a_text(tmp_path: Path) -> None:
    store = of_json_lines(
        tmp_path, "/in/a.parquet", answer=["[x]"], question_number=[0], right=['["x"]'], status=["ok"]
    )
    assert evaluate_answers(store, "right")["exact match"] == 1
    store = of_json_lines(
        tmp_path, "/in/a.parquet", summary=['["x", "y"]'], right=["a"], facts=['["x", "y"]']
    )
    scores = evaluate_summaries(store, "right", "facts")
    assert (scores["facts"], scores["facts found"]) == (1, 1)


def test_a_column_without_texts_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="column 'right' holds something else than texts"):
        evaluate_summaries(finished(tmp_path, summary=["a"], right=[3]), "right", None)
    with pytest.raises(UsageError, match="column 'right' holds something else than texts"):
        evaluate_summaries(finished(tmp_path, summary=["a"], right=[["a"]]), "right", None)
    for facts in ([3], [[3]]):
        with pytest.raises(UsageError, match=r"column 'facts' holds (int|list); it must hold lists of texts"):
            evaluate_summaries(finished(tmp_path, summary=["a"], right=["a"], facts=facts), "right", "facts")


def test_files_are_read_in_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier, original = threading.Barrier(4), LocalStore.open

    def opened(self: LocalStore, name: str) -> BinaryIO:
        barrier.wait(timeout=HANG_S)
        return original(self, name)

    store = finished(tmp_path, label=["a"], labels=[["a"]], right=["a"])
    for n in range(3):
        (tmp_path / f"part-{n}.parquet").write_bytes((tmp_path / "part-a.parquet").read_bytes())
    monkeypatch.setattr(LocalStore, "open", opened)
    assert evaluate_labels(store, "right") == {"documents": 4, "accuracy": 1, "macro-F1": 1}


def test_an_unfinished_run_and_a_missing_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished run"):
        evaluate_summaries(LocalStore(tmp_path), "reference", None)
    with pytest.raises(UsageError, match=r"no column other.*--passthrough"):
        evaluate_summaries(output(tmp_path, ["x"]), "other", None)


def finished(folder: Path, **columns: object) -> LocalStore:
    table = pa.table(columns)
    if "status" not in columns:
        table = table.append_column("status", pa.array(["ok"] * len(table)))
    pq.write_table(table, folder / "part-a.parquet")
    (folder / "_SUCCESS").write_text("")
    return LocalStore(folder)


def test_failed_and_skipped_rows_count_as_wrong(tmp_path: Path) -> None:
    status = ["ok", "failed", "skipped"]
    store = finished(
        tmp_path, answer=[None] * 3, question_number=[0] * 3, right=["", "", None], status=status
    )
    assert evaluate_answers(store, "right") == {"questions": 3, "exact match": 1 / 3, "token F1": 1 / 3}
    store = finished(
        tmp_path, label=["a", None, None], labels=[["a"], None, None], right=["a", "a", None], status=status
    )
    assert evaluate_labels(store, "right") == {
        "documents": 3,
        "accuracy": 1 / 3,
        "macro-F1": pytest.approx(2 / 3),
    }
    store = finished(
        tmp_path, label=["a", None], labels=[["a"], None], right=["a", None], status=["ok", "failed"]
    )
    assert evaluate_labels(store, "right") == {"documents": 2, "accuracy": 1 / 2, "macro-F1": 1}


def test_accuracy_and_macro_f1_of_labels(tmp_path: Path) -> None:
    written, wanted = ["a", "a", "b", None, "c"], ["a", "b", "b", "b", "d"]
    store = finished(tmp_path, label=written, labels=[[x] if x else None for x in written], right=wanted)
    scores = evaluate_labels(store, "right")
    # F1: a 2*1/(2+1), b 2*1/(1+3), d 0; c is no reference's label.
    assert scores == {
        "documents": 5,
        "accuracy": pytest.approx(2 / 5),
        "macro-F1": pytest.approx((2 / 3 + 1 / 2 + 0) / 3),
    }


def test_a_regression_has_no_labels(tmp_path: Path) -> None:
    store = finished(
        tmp_path, label=pa.nulls(2, pa.string()), labels=pa.nulls(2, pa.list_(pa.string())), right=["a", "b"]
    )
    with pytest.raises(UsageError, match="has no labels"):
        evaluate_labels(store, "right")
    with pytest.raises(UsageError, match="it must hold the right label"):
        evaluate_labels(finished(tmp_path, label=["a"], labels=[["a"]], right=[3]), "right")


def test_answers_are_compared_without_case_articles_and_punctuation(tmp_path: Path) -> None:
    written = ["The Pump, failed", "a red pump", None, ""]
    references = [["a pump failed."], ["the pump"], ["lost"], [""]]
    store = finished(tmp_path, answer=written, question_number=[0, 0, 0, 0], right=references)
    scores = evaluate_answers(store, "right")
    # The last question has no answer, and none was written.
    assert scores["questions"] == 4 and scores["exact match"] == 0.5
    assert scores["token F1"] == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)


def test_reference_answers_are_texts_lists_or_records(tmp_path: Path) -> None:
    numbers = [0, 1]
    for right in (["x", "x"], [["x", "x"]] * 2, [[{"question": "?", "answer": "x"}] * 2] * 2):
        store = finished(tmp_path, answer=["x", "y"], question_number=numbers, right=right)
        assert evaluate_answers(store, "right")["exact match"] == 0.5
    short = finished(tmp_path, answer=["x", "y"], question_number=numbers, right=[["x"]] * 2)
    assert evaluate_answers(short, "right")["exact match"] == 0.5
    with pytest.raises(UsageError, match="holds int; it must hold answers"):
        evaluate_answers(finished(tmp_path, answer=["x"], question_number=[0], right=[3]), "right")
