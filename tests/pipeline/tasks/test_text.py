"""Tasks that generate text: what their methods return and raise becomes rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import PipelineError, UsageError
from pipeline.tasks.base import Document
from pipeline.tasks.generated import Generated
from pipeline.tasks.settings import TextSettings
from pipeline.tasks.summarize import Summarize
from pipeline.tasks.text import TextInput, TextTask
from tests.conftest import words
from tests.pipeline.readers import rows_of

TEXTS: list[str | None] = [words(9, 1), words(40, 2), None, words(3, 3)]


class Copy(TextTask):
    name = "copy"
    columns = pa.schema([("copy", pa.string())])

    def row(self, generated: Generated) -> dict[str, Any]:
        return {"copy": generated.text}


class Halves(Copy):
    """Two rows of a document."""

    name = "halves"
    number_column = "half"
    columns = pa.schema([("copy", pa.string()), ("side", pa.string())])

    def inputs(self, document: Document) -> list[TextInput]:
        middle = len(document.text) // 2
        left, right = document.text[:middle], document.text[middle:]
        return [TextInput(left, {"side": "left"}), TextInput(right, {"side": "right"})]


def settings(model: Path, **given: Any) -> dict[str, Any]:
    return {"input": ("a",), "output": "o", "model": str(model), **given}


@pytest.fixture
def rows(model_folder: Path, write_corpus: Callable[..., Path]) -> Callable[..., list[dict[str, Any]]]:
    """The rows of a task for `TEXTS`."""
    corpus: list[Path] = []

    def rows(task: type[TextTask], **given: Any) -> list[dict[str, Any]]:
        if not corpus:
            corpus.append(write_corpus(TEXTS) / "000.parquet")
        return rows_of(task(task.settings_class(**settings(model_folder, **given))), model_folder, corpus[0])

    return rows


def test_a_task_without_inputs_reads_what_summarization_reads(rows: Any) -> None:
    copied, summarized = rows(Copy), rows(Summarize)
    assert [row["copy"] for row in copied] == [row["summary"] for row in summarized]
    for name in ("status", "reason", "output_tokens", "score", "text_hash", "input_tokens"):
        assert [row[name] for row in copied] == [row[name] for row in summarized]


def test_a_document_may_have_several_rows(rows: Any) -> None:
    found = rows(Halves)
    assert [(row["doc_id"], row["half"], row["side"]) for row in found] == [
        ("d0", 0, "left"),
        ("d0", 1, "right"),
        ("d1", 0, "left"),
        ("d1", 1, "right"),
        ("d2", 0, None),
        ("d3", 0, "left"),
        ("d3", 1, "right"),
    ]
    assert [row["status"] for row in found] == ["ok"] * 4 + ["failed"] + ["ok"] * 2
    assert len({row["text_hash"] for row in found}) == 7
    whole = rows(Copy)
    assert found[0]["input_tokens"] + found[1]["input_tokens"] > whole[0]["input_tokens"]


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (lambda g: 3, "row() returned int; it must return values by column"),
        (lambda g: None, "row() returned NoneType; it must return values by column"),
        (lambda g: {"other": 1}, "row() returned the column 'other', which the task does not declare"),
        (lambda g: {"copy": "a", "score": 0.0}, "row() returned the column 'score'"),
        (lambda g: {"copy": 3}, "row() returned a int for the column 'copy', which holds string"),
        (lambda g: 1 / 0, "row() raised ZeroDivisionError: division by zero"),
        (lambda g: {}["x"], "row() raised KeyError: 'x'"),
        (lambda g: int("no number"), "invalid literal for int()"),
    ],
)
def test_a_text_that_row_refuses_is_a_failed_row(
    returned: Callable[[Generated], Any], reason: str, rows: Any
) -> None:
    class Odd(Copy):
        def row(self, generated: Generated) -> dict[str, Any]:
            if generated.output_tokens and generated.input and generated.input.startswith(words(1, 3)):
                return {"copy": "fine"}
            result: dict[str, Any] = returned(generated)
            return result

        @property
        def keeps_input(self) -> bool:
            return True

    found = rows(Odd)
    good = [row for row in found if row["doc_id"] == "d3"]
    assert [(row["status"], row["copy"]) for row in good] == [("ok", "fine")]
    for row in (found[0], found[1]):
        assert (row["status"], row["stage"], row["copy"]) == ("failed", "predict", None)
        assert reason in row["reason"]


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (lambda d: "  ", "inputs() returned no text"),
        (lambda d: 3, "inputs() returned int; it must return a text or a list of texts"),
        (lambda d: None, "inputs() returned NoneType; it must return a text or a list of texts"),
        (lambda d: [], "inputs() returned no text"),
        (lambda d: [3], "inputs() returned no text"),
        (lambda d: TextInput("pump", {"other": 1}), "inputs() returned the column 'other'"),
        (lambda d: TextInput("pump", {"copy": 3}), "inputs() returned a int for the column 'copy'"),
        (lambda d: TextInput("pump", {"number": 3}), "inputs() returned the column 'number'"),
        (lambda d: d.values["x"], "inputs() raised KeyError: 'x'"),
    ],
)
def test_a_document_that_inputs_refuses_is_a_failed_row(
    returned: Callable[[Document], Any], reason: str, rows: Any
) -> None:
    class Odd(Copy):
        number_column = "number"

        def inputs(self, document: Document) -> Any:
            return document.text if document.id == "d3" else returned(document)

    found = rows(Odd)
    assert [row["status"] for row in found] == ["failed", "failed", "failed", "ok"]
    for row in (found[0], found[1]):
        assert row["stage"] == "read" and reason in row["reason"], row
    assert found[2]["reason"] == "the text is null"


def test_a_list_of_inputs_needs_a_number_column(rows: Any) -> None:
    class Odd(Copy):
        def inputs(self, document: Document) -> list[str]:
            return [document.text]

    with pytest.raises(UsageError, match="set number_column"):
        rows(Odd)


def test_an_error_of_the_pipeline_ends_the_run(rows: Any) -> None:
    class Odd(Copy):
        def inputs(self, document: Document) -> str:
            raise PipelineError("the glossary cannot be fetched")

    with pytest.raises(PipelineError, match="the glossary cannot be fetched"):
        rows(Odd)


def test_parts_are_the_texts_of_the_chunks(rows: Any) -> None:
    class Parts(TextTask):
        name = "parts"
        columns = pa.schema([("texts", pa.list_(pa.string())), ("ends", pa.list_(pa.int32()))])

        def row(self, generated: Generated) -> dict[str, Any]:
            return {
                "texts": [part.text for part in generated.parts],
                "ends": [part.end for part in generated.parts],
            }

    given = {"overflow": "concat", "chunk_tokens": 24}
    found, summarized = rows(Parts, **given), rows(Summarize, keep_partial_summaries=True, **given)
    assert found[1]["chunks"] > 1
    for row, expected in zip(found, summarized, strict=True):
        partial = expected["partial_summaries"] or []
        assert (row["texts"] or []) == [part["summary"] for part in partial]
        assert (row["ends"] or []) == [part["end"] for part in partial]


def test_settings_of_chunks_need_chunks() -> None:
    with pytest.raises(UsageError, match="it needs --overflow concat or fuse"):
        TextSettings(input=("a",), output="o", model="m", chunk_tokens=8)
