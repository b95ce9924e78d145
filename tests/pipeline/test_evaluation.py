"""Scores against references in the output."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UsageError
from pipeline.evaluation import evaluate_summaries
from pipeline.local_store import LocalStore


def output(folder: Path, summaries: list[str | None]) -> LocalStore:
    table = pa.table({"summary": summaries, "reference": ["A pump failed. It was replaced."] * len(summaries),
                      "facts": [["pump", "was replaced"]] * len(summaries)})  # fmt: skip
    pq.write_table(table, folder / "part-a.parquet")
    (folder / "_SUCCESS").write_text("")
    return LocalStore(folder)


def test_perfect_failed_and_reordered_summaries(tmp_path: Path) -> None:
    perfect = evaluate_summaries(output(tmp_path, ["A pump failed. It was replaced."]), "reference", "facts")
    assert perfect == {"documents": 1, "ROUGE-1": 1, "ROUGE-2": 1, "ROUGE-L": 1, "ROUGE-Lsum": 1, "facts": 2, "facts found": 1}
    failed = evaluate_summaries(output(tmp_path, [None]), "reference", "facts")
    assert (failed["ROUGE-1"], failed["facts found"]) == (0, 0)
    reordered = evaluate_summaries(output(tmp_path, ["It was replaced. A pump failed."]), "reference", None)
    assert reordered["ROUGE-Lsum"] > reordered["ROUGE-L"]  # the sum reads sentence by sentence
    assert "facts found" not in reordered


def test_an_unfinished_run_and_a_missing_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished run"):
        evaluate_summaries(LocalStore(tmp_path), "reference", None)
    with pytest.raises(UsageError, match=r"no column other.*--passthrough"):
        evaluate_summaries(output(tmp_path, ["x"]), "other", None)
