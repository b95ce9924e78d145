"""Column values as tasks read them. Lists and objects of JSON lines are restored. Texts of Parquet stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.inputs.formats import column_values
from pipeline.inputs.read import read_rows
from pipeline.inputs.splits import Split
from pipeline.tasks.answer import Answer
from pipeline.tasks.base import Document
from pipeline.tasks.settings import AnswerSettings

VALUES: list[tuple[Any, Any]] = [
    (["Who signed?", "When?"], ["Who signed?", "When?"]),
    ([], []),
    ("Who signed?", "Who signed?"),
    ("[draft] Who signed?", "[draft] Who signed?"),
    ([{"question": "Who?", "answer": None}], [{"question": "Who?", "answer": None}]),
    ({"question": "Who?"}, {"question": "Who?"}),
    (None, None),
    (7, "7"),
    ([7, True, None], ["7", "true", None]),
    (["half \\ud800"], ["half \\ud800"]),
    ("[" * 5000, "[" * 5000),
    ("[" * 100_000 + "]" * 100_000, "[" * 100_000 + "]" * 100_000),
]


@pytest.mark.parametrize("ending", ["jsonl", "json", "ndjson.gz"])
def test_lists_of_json_lines_are_lists(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    lines = "".join(json.dumps({"text": "a", "asked": value}) + "\n" for value, _ in VALUES)
    with pa.output_stream(str(path), compression="gzip" if ending.endswith("gz") else None) as out:
        out.write(lines.encode())
    table = read_rows(str(path), Split(0, len(VALUES)), "text", ["text", "asked"], 1 << 20).table
    assert [row["asked"] for row in column_values(str(path), table)] == [expected for _, expected in VALUES]
    assert {row["text"] for row in column_values(str(path), table)} == {b"a"}
    assert column_values(str(path), table.select([])) == [{}] * len(VALUES)


def test_a_half_of_a_surrogate_pair_in_a_list_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "asked": ["half \\ud800?"]}\n')
    [row] = column_values(str(path), read_rows(str(path), Split(0, 1), "text", ["asked"], 1 << 20).table)
    assert row["asked"] == ["half \\ud800?"] and row["asked"][0].encode()


def test_a_text_of_parquet_is_a_text_whatever_it_holds() -> None:
    table = pa.table({"asked": ['["Who?", "When?"]', "[]", None], "lists": [["a"], [], None]})
    assert column_values("/in/a.parquet", table) == table.to_pylist()


def test_questions_of_json_lines_are_those_of_parquet() -> None:
    task = Answer.of(AnswerSettings(input=("i",), output="o", model="m", question_column="asked"))
    given: list[Any] = [["Who?", "When?"], [{"question": "Who?"}], "Who?"]
    lines = pa.table({"asked": [value if isinstance(value, str) else json.dumps(value) for value in given]})
    asked = [
        [row.known_columns["question"] for row in task.expand_rows(Document("d", "pump", values))]
        for values in column_values("/in/a.jsonl", lines)
    ]
    assert asked == [["Who?", "When?"], ["Who?"], ["Who?"]]
    [nothing, other] = column_values("/in/a.jsonl", pa.table({"asked": ["[]", '[{"answer": "x"}]']}))
    with pytest.raises(ValueError, match="the document has no question in column 'asked'"):
        task.expand_rows(Document("d", "pump", nothing))
    with pytest.raises(ValueError, match="a record in column 'asked' has no field `question`"):
        task.expand_rows(Document("d", "pump", other))
