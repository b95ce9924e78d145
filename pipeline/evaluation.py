"""How good the written summaries are, against references carried over into the output."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq
from rouge_score.rouge_scorer import RougeScorer

from pipeline.errors import UsageError
from pipeline.shards import SUCCESS
from pipeline.store import Store

_NAMES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}


def read_rows(store: Store, columns: Iterable[str]) -> pa.Table:
    """These columns of all rows of a finished run.

    Raises:
        UsageError: the run is not finished, or has no such column.
    """
    names = store.names()
    if SUCCESS not in names:
        raise UsageError(f"{store.url} holds no finished run (no {SUCCESS}); run the job to its end first.")
    tables = []
    for name in sorted(n for n in names if n.startswith("part-")):
        data = io.BytesIO(store.read(name))
        missing = [c for c in columns if c not in pq.read_schema(data).names]
        if missing:
            raise UsageError(f"{store.url} has no column {', '.join(missing)}; carry it over with --passthrough when running.")
        tables.append(pq.read_table(data, columns=list(columns)))
    return pa.concat_tables(tables)


def evaluate_summaries(store: Store, reference: str, facts: str | None, *, stemmer: bool = False) -> dict[str, float | int]:
    """Mean ROUGE F1 in [0, 1] over all documents, and the share of facts found; failed documents count as empty."""
    rows = read_rows(store, ["summary", reference, *([facts] if facts else [])]).to_pylist()
    scorer = RougeScorer(list(_NAMES), use_stemmer=stemmer)
    found = [scorer.score(sentences(row[reference] or ""), sentences(row["summary"] or "")) for row in rows]
    result: dict[str, float | int] = {"documents": len(rows)}
    result |= {shown: fmean(score[name].fmeasure for score in found) for name, shown in _NAMES.items()}
    if facts:
        hits = [fact in (row["summary"] or "") for row in rows for fact in row[facts] or []]
        result["facts"] = len(hits)
        result["facts found"] = fmean(hits) if hits else 0.0
    return result


def sentences(text: str) -> str:
    """The text with a sentence on each line, as ROUGE-Lsum reads it."""
    return "\n".join(re.split(r"(?<=[.!?])\s+", text.strip()))
