"""The example tasks: what they make of what a model writes, and whole rows by a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.tasks.base import Document, Task
from pipeline.tasks.generated import Generated, TextPart
from pipeline.tasks.registry import find_task
from pipeline.tasks.text import TextTask
from tests.conftest import words
from tests.pipeline.readers import rows_of

TASKS = Path(__file__).parents[2] / "examples" / "tasks"


def make(name: str, model: Path | str = "m", **settings: Any) -> TextTask:
    entry = find_task(f"{TASKS}/{name}")
    task: Task = entry.make(entry.settings_class(input=("a",), output="o", model=str(model), **settings))
    assert isinstance(task, TextTask)
    return task


def wrote(text: str, finish_reason: str = "stop", parts: tuple[TextPart, ...] = ()) -> Generated:
    return Generated(text, 5, finish_reason, -0.5, -0.1, parts)


def test_keywords_are_the_entries_of_the_list() -> None:
    task = make("keywords.py:Keywords", max_keywords=3)
    assert task.inputs(Document("a", "the pump", {})) == "keywords: the pump"
    assert task.row(wrote("Pump, valve; pump.\nseal , gasket")) == {"keywords": ["pump", "valve", "seal"]}
    with pytest.raises(ValueError, match="the model wrote no keywords"):
        task.row(wrote(" , ;"))


def test_a_translation_has_its_chunks_and_is_not_cut() -> None:
    task = make("translate.py:Translate")
    assert task.settings.overflow == "concat"
    parts = (TextPart(0, 9, "die Pumpe"), TextPart(9, 20, "das Ventil"))
    row = task.row(wrote("die Pumpe\ndas Ventil", parts=parts))
    assert row["translation"] == "die Pumpe\ndas Ventil"
    assert row["chunk_translations"][1] == {"start": 9, "end": 20, "text": "das Ventil"}
    with pytest.raises(ValueError, match="was cut; raise --max-new-tokens"):
        task.row(wrote("die", "length"))


@pytest.mark.parametrize(
    ("text", "site", "parts", "repaired"),
    [
        ('{"site": "A", "parts": ["seal"]}', "A", ["seal"], False),
        ('Here it is: {"site": "A"} and more', "A", [], False),
        ('{"site": "A", "parts": ["seal", "gas', "A", ["seal", "gas"], True),
        ('{"site": "A", "parts": ["seal",', "A", ["seal"], True),
        ('{"site": "A", "parts": [', "A", [], True),
        ('{"site": "A", "cau', "A", [], True),
        ('{"site": "A \\" {", "parts": ["x"', 'A " {', ["x"], True),
    ],
)
def test_facts_are_checked_and_repaired(text: str, site: str, parts: list[str], repaired: bool) -> None:
    row = make("key_facts.py:KeyFacts").row(wrote(text))
    assert row == {"facts": {"site": site, "cause": None, "parts": parts}, "repaired": repaired}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no facts", "the model wrote no JSON object but 'no facts'"),
        ("[1]", "the model wrote no JSON object but '\\[1\\]'"),
        ('{"parts": []}', "the JSON is not valid: site: Field required"),
        ('{"site": 3}', "the JSON is not valid: site: Input should be a valid string"),
        ('{"site": "A", "other": 1}', "the JSON is not valid: other: Extra inputs are not permitted"),
    ],
)
def test_facts_that_are_not_valid_fail_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make("key_facts.py:KeyFacts").row(wrote(text))


def test_rows_of_the_examples(model_folder: Path, write_corpus: Callable[..., Path]) -> None:
    file = write_corpus([words(9, 1), words(60, 2), ""]) / "000.parquet"
    long = {"max_new_tokens": 60, "min_new_tokens": 50, "do_sample": True}
    keywords = rows_of(make("keywords.py:Keywords", model_folder, **long), model_folder, file)
    assert [row["status"] for row in keywords] == ["ok", "ok", "failed"] and keywords[0]["keywords"]
    chunks = {"chunk_tokens": 24, "max_new_tokens": 60}
    translated = rows_of(make("translate.py:Translate", model_folder, **chunks), model_folder, file)
    for row in translated[:2]:
        if row["status"] == "ok":
            assert len(row["chunk_translations"]) == row["chunks"]
        else:
            assert row["reason"] == "the translation of a chunk was cut; raise --max-new-tokens"
    facts = rows_of(make("key_facts.py:KeyFacts", model_folder), model_folder, file)
    assert [row["status"] for row in facts] == ["failed"] * 3
    assert facts[0]["reason"].startswith("the model wrote no JSON object but")
