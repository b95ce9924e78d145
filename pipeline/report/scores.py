"""How good the written summaries, labels and answers are, against references carried over into the output."""

from __future__ import annotations

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
from pipeline.schema import NUMBER

_FILES_AT_ONCE = 16

Row = dict[str, Any]

_NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}


def read_rows(store: Store, columns: Sequence[str], lists: str | None = None) -> list[Row]:
    """These columns of all rows of a finished run; of those carried over, `lists` may hold lists, also where
    its input was JSON lines, whose columns are text.

    Raises:
        UsageError: the run is not finished, or has no such column.
    """
    names = store.names()
    if SUCCESS not in names:
        raise UsageError(f"{store.url} holds no finished run (no {SUCCESS}); run the job to its end first.")
    plan = Plan.from_json(store.read(PLAN)) if lists is not None and PLAN in names else None
    sources = {shard.part: shard.path for shard in plan.shards} if plan else {}

    def read(name: str) -> list[Row]:
        with store.open(name) as opened:
            file = pq.ParquetFile(opened)
            missing = [c for c in columns if c not in file.schema_arrow.names]
            if missing:
                raise UsageError(
                    f"{store.url} has no column {', '.join(missing)}; carry it over with --passthrough when running."
                )
            table = file.read(columns=list(columns))
        rows: list[Row] = table.to_pylist()
        if lists is not None and name in sources:
            values = column_values(sources[name], table.select([lists]))
            rows = [row | value for row, value in zip(rows, values, strict=True)]
        return rows

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return [
            row for rows in pool.map(read, sorted(n for n in names if n.startswith("part-"))) for row in rows
        ]


def evaluate_summaries(
    store: Store, reference: str, facts: str | None, *, stemmer: bool = False
) -> dict[str, float | int]:
    """Mean ROUGE F1 in [0, 1] over all documents, and the share of facts found; failed documents count as
    empty.

    Raises:
        UsageError: the run is not finished, has no such column, or the columns hold something else than
            texts.
    """
    rows = read_rows(store, ["summary", reference, *([facts] if facts else [])], facts)
    if not all(isinstance(row[reference], str | None) for row in rows):
        raise UsageError(
            f"column {reference!r} holds something else than texts; it must hold the right summaries."
        )
    result: dict[str, float | int] = {"documents": len(rows)}
    result |= rouge([(row[reference] or "", row["summary"] or "") for row in rows], stemmer=stemmer)
    if facts:
        hits = [fact in (row["summary"] or "") for row in rows for fact in _facts_in(row[facts], facts)]
        result["facts"] = len(hits)
        result["facts found"] = fmean(hits) if hits else 0.0
    return result


def _facts_in(value: Any, column: str) -> list[str]:
    """The facts in a value of the column: a list of texts, or a text, which is one."""
    facts = [value] if isinstance(value, str) else value or []
    if not isinstance(facts, list) or not all(isinstance(fact, str) for fact in facts):
        raise UsageError(f"column {column!r} holds {type(value).__name__}; it must hold lists of texts.")
    return facts


def rouge(pairs: Sequence[tuple[str, str]], *, stemmer: bool = False) -> dict[str, float]:
    """Mean ROUGE F1 in [0, 1] of (reference, summary) pairs, at least one, by the name of the measure."""
    scorer = RougeScorer(list(_NAMES), use_stemmer=stemmer)
    found = [scorer.score(sentences(reference), sentences(summary)) for reference, summary in pairs]
    return {shown: fmean(score[name].fmeasure for score in found) for name, shown in _NAMES.items()}


def evaluate_labels(store: Store, reference: str) -> dict[str, float | int]:
    """Accuracy and macro-F1 (the mean over the references' labels) of all documents; one that failed or was
    skipped is wrong.

    Raises:
        UsageError: the run is not finished, has no such column, or wrote values instead of labels.
    """
    rows = read_rows(store, ["label", "labels", "status", reference])
    if all(row["labels"] is None for row in rows):
        raise UsageError(f"{store.url} has no labels: a regression, or nothing was labelled.")
    written, wanted = [row["label"] for row in rows], [row[reference] for row in rows]
    # Of a row that could not be read the right label is not there either.
    if not all(
        isinstance(row[reference], str) or (row[reference] is None and row["status"] != "ok") for row in rows
    ):
        raise UsageError(
            f"column {reference!r} holds something else than one label a row; it must name the right one."
        )
    return {
        "documents": len(rows),
        "accuracy": fmean(a == b is not None for a, b in zip(written, wanted, strict=True)),
        "macro-F1": fmean(_f1_of_label(label, written, wanted) for label in sorted({*wanted} - {None})),
    }


def _f1_of_label(label: str, written: Sequence[str | None], wanted: Sequence[str | None]) -> float:
    right = sum(a == b == label for a, b in zip(written, wanted, strict=True))
    return 2 * right / (sum(a == label for a in written) + sum(b == label for b in wanted))


def evaluate_answers(store: Store, reference: str) -> dict[str, float | int]:
    """Exact match and token F1 (arXiv:1606.05250) over all questions; one that failed or was skipped is
    wrong, and so is one without an answer that has one.

    `reference` is a column with the answer (a text), or for several questions a list of answers or of records
    with a field `answer`, in the order of the questions.

    Raises:
        UsageError: the run is not finished, or has no such column.
    """
    rows = read_rows(store, ["answer", "status", NUMBER, reference], reference)
    answered = [row for row in rows if row["status"] == "ok"]
    pairs = [
        (_plain(row["answer"] or ""), _plain(_reference_answer(row[reference], row[NUMBER], reference)))
        for row in answered
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


def _plain(text: str) -> list[str]:
    """The words of an answer without case, articles and punctuation."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def _f1_of_words(written: Sequence[str], wanted: Sequence[str]) -> float:
    common = (Counter(written) & Counter(wanted)).total()
    return 2 * common / (len(written) + len(wanted)) if written or wanted else 1.0


def sentences(text: str) -> str:
    """The text with a sentence on each line, as ROUGE-Lsum reads it."""
    return "\n".join(re.split(r"(?<=[.!?])\s+", text.strip()))
