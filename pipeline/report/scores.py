"""Scores of texts, labels and answers against references that were copied to the output."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
from rouge_score.rouge_scorer import RougeScorer

from pipeline.errors import UsageError
from pipeline.inputs.formats import column_values
from pipeline.output.store import Store
from pipeline.planning.plan import PLAN, SUCCESS, Plan
from pipeline.schema import TaskInfo

_FILES_AT_ONCE = 16  # reading a file is mostly waiting for the store

Row = dict[str, Any]

_NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}


def read_rows(store: Store, columns: Sequence[str], lists: str | None = None) -> list[Row]:
    """These columns of all rows of a finished run.

    The column `lists` may hold lists. If the input was JSON lines, the output has them as JSON texts, which
    are parsed here.

    Raises:
        UsageError: the run is not finished or has no such column.
    """
    names = store.names()
    if SUCCESS not in names:
        raise UsageError(f"{store.url} holds no finished run (no {SUCCESS}); finish the run first.")
    plan = Plan.from_json(store.read(PLAN)) if lists is not None and PLAN in names else None
    sources = {shard.part: shard.path for shard in plan.shards} if plan else {}

    def read(name: str) -> list[Row]:
        with store.open(name) as opened:
            file = pq.ParquetFile(opened)
            missing = [column for column in columns if column not in file.schema_arrow.names]
            if missing:
                raise UsageError(
                    f"{store.url} has no column {', '.join(missing)}; run the job with --passthrough to copy "
                    "it."
                )
            table = file.read(columns=list(columns))
        rows: list[Row] = table.to_pylist()
        if lists is not None and name in sources:
            values = column_values(sources[name], table.select([lists]))
            rows = [row | value for row, value in zip(rows, values, strict=True)]
        return rows

    parts = sorted(name for name in names if name.startswith("part-"))
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return [row for rows in pool.map(read, parts) for row in rows]


def evaluate(
    store: Store,
    task: TaskInfo,
    kind: str,
    reference: str,
    facts: str | None = None,
    *,
    stemmer: bool = False,
) -> dict[str, float | int]:
    """The scores of a finished run by name: of texts (also called summaries), labels or answers. `facts` and
    `stemmer` are for texts.

    Raises:
        UsageError: the run is not finished, has no such column, or a column holds something else.
    """
    if kind == "labels":
        return evaluate_labels(store, task, reference)
    if kind == "answers":
        return evaluate_answers(store, task, reference)
    return evaluate_texts(store, task, reference, facts, stemmer=stemmer)


def evaluate_texts(
    store: Store, task: TaskInfo, reference: str, facts: str | None = None, *, stemmer: bool = False
) -> dict[str, float | int]:
    """Mean ROUGE F1 in [0, 1] over all rows, and the share of facts in the texts that `task` wrote.

    `reference` is the column of reference texts, and `facts` a column of lists of texts. A failed document
    counts as an empty text. A result that is a list of texts counts as one text.

    Raises:
        UsageError: the run is not finished, has no such column, or a column does not hold texts.
    """
    rows = read_rows(store, [task.result, reference, *([facts] if facts else [])], facts)
    if not all(isinstance(row[reference], str | None) for row in rows):
        raise UsageError(
            f"column {reference!r} holds something else than texts; it must hold reference texts."
        )
    result: dict[str, float | int] = {"documents": len(rows)}
    texts = [as_text(row[task.result]) for row in rows]
    result |= rouge(
        [(row[reference] or "", text) for row, text in zip(rows, texts, strict=True)], stemmer=stemmer
    )
    if facts:
        pairs = zip(rows, texts, strict=True)
        hits = [fact in text for row, text in pairs for fact in _facts_in(row[facts], facts)]
        result["facts"] = len(hits)
        result["facts found"] = fmean(hits) if hits else 0.0
    return result


def as_text(value: Any) -> str:
    """A result as a text. Texts of a list are joined, and other values are JSON."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, default=str)


def _facts_in(value: Any, column: str) -> list[str]:
    """The facts in a value of the column: a list of texts, or a single text."""
    facts = [value] if isinstance(value, str) else value or []
    if not isinstance(facts, list) or not all(isinstance(fact, str) for fact in facts):
        raise UsageError(f"column {column!r} holds {type(value).__name__}; it must hold lists of texts.")
    return facts


def rouge(pairs: Sequence[tuple[str, str]], *, stemmer: bool = False) -> dict[str, float]:
    """Mean ROUGE F1 in [0, 1] of (reference, text) pairs, by the name of the measure. At least one pair is
    needed."""
    scorer = RougeScorer(list(_NAMES), use_stemmer=stemmer)
    scores = [scorer.score(sentences(reference), sentences(text)) for reference, text in pairs]
    return {title: fmean(score[name].fmeasure for score in scores) for name, title in _NAMES.items()}


def evaluate_labels(store: Store, task: TaskInfo, reference: str) -> dict[str, float | int]:
    """Accuracy and macro-F1 of all documents. A failed or skipped document counts as wrong.

    Macro-F1 is the mean over the labels of the references.

    Raises:
        UsageError: the run is not finished, has no such column, or wrote values instead of labels.
    """
    rows = read_rows(store, [task.result, "status", reference])
    if all(row[task.result] is None for row in rows):
        raise UsageError(f"{store.url} has no labels: it is a regression, or no document was classified.")
    predicted, expected = [row[task.result] for row in rows], [row[reference] for row in rows]
    # A row that could not be read has no reference either.
    if not all(
        isinstance(row[reference], str) or (row[reference] is None and row["status"] != "ok") for row in rows
    ):
        raise UsageError(
            f"column {reference!r} holds something else than one label per row; it must hold the right label."
        )
    return {
        "documents": len(rows),
        "accuracy": fmean(a == b is not None for a, b in zip(predicted, expected, strict=True)),
        "macro-F1": fmean(_f1_of_label(label, predicted, expected) for label in sorted({*expected} - {None})),
    }


def _f1_of_label(label: str, predicted: Sequence[str | None], expected: Sequence[str | None]) -> float:
    hits = sum(a == b == label for a, b in zip(predicted, expected, strict=True))
    return 2 * hits / (sum(a == label for a in predicted) + sum(b == label for b in expected))


def evaluate_answers(store: Store, task: TaskInfo, reference: str) -> dict[str, float | int]:
    """Exact match and token F1 (arXiv:1606.05250) over all questions.

    A failed or skipped question counts as wrong, and so does a missing answer if the reference has one.
    `reference` is a column with the answer as a text. For several questions it holds a list of answers, or of
    records with a field `answer`, in the order of the questions.

    Raises:
        UsageError: the run is not finished or has no such column.
    """
    number = task.number
    rows = read_rows(store, [task.result, "status", reference, *([number] if number else [])], reference)
    pairs = [
        (
            _words(row[task.result] or ""),
            _words(_reference_answer(row[reference], row[number] if number else 0, reference)),
        )
        for row in rows
        if row["status"] == "ok"
    ]
    return {
        "questions": len(rows),
        "exact match": sum(a == b for a, b in pairs) / len(rows),
        "token F1": sum(_f1_of_words(a, b) for a, b in pairs) / len(rows),
    }


def _reference_answer(value: Any, number: int, column: str) -> str:
    if isinstance(value, list):
        value = value[number] if number < len(value) else None
    if isinstance(value, dict):
        value = value.get("answer")
    if value is not None and not isinstance(value, str):
        raise UsageError(
            f"column {column!r} holds {type(value).__name__}; it must hold answers, or lists of them."
        )
    return value or ""


def _words(text: str) -> list[str]:
    """The words of an answer without case, articles and punctuation."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def _f1_of_words(predicted: Sequence[str], expected: Sequence[str]) -> float:
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected)) if predicted or expected else 1.0


def sentences(text: str) -> str:
    """The text with one sentence per line, as ROUGE-Lsum expects it."""
    return "\n".join(re.split(r"(?<=[.!?])\s+", text.strip()))
