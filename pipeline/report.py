"""The report of a run: one HTML file that needs nothing else. Made from the committed rows; text is escaped.

It is a view, not a result: it may be written again.
"""

from __future__ import annotations

import html
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.columns import COUNTS, DOC_ID, STATE
from pipeline.commit import read_columns
from pipeline.shards import REPORT, Plan
from pipeline.store import Store
from pipeline.tasks import Task

SAMPLES = 12

COLUMNS = [DOC_ID.name, *STATE.names, *COUNTS.names]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.25rem .8rem .25rem 0;text-align:left;vertical-align:top}
th{font-weight:600;color:#57606a}.n{text-align:right;font-variant-numeric:tabular-nums}
article{border-top:1px solid #d0d7de;padding:.6rem 0}small{color:#57606a}svg text{font-size:11px;fill:#57606a}
"""


@dataclass
class Findings:
    """What the report says of the rows, gathered one file at a time: counts by length and by failure, and a fair sample."""

    seed: str
    input_tokens: Counter[int] = field(default_factory=Counter)
    output_tokens: Counter[int] = field(default_factory=Counter)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Count these rows; every written row has the same chance to be a sample."""
        for row in rows:
            if row["status"] != "ok":
                self.failures[row["stage"], row["reason"]] += 1
                continue
            self.input_tokens[row["input_tokens"]] += 1
            if "output_tokens" in row:
                self.output_tokens[row["output_tokens"]] += 1
            place = self._rng.randrange(self.input_tokens.total())
            if len(self.samples) < SAMPLES:
                self.samples.append(row)
            elif place < SAMPLES:
                self.samples[place] = row


def write_report(store: Store, plan: Plan, manifest: dict[str, Any], task: Task) -> None:
    """Write the report of a finished run into its folder; one result file is in memory at a time."""
    findings = Findings(plan.fingerprint)
    for name in sorted(manifest["shards"]):
        findings.add(read_columns(store, name, [*COLUMNS, *task.columns.names]).to_pylist())
    store.replace(REPORT, render(plan, manifest, findings, task).encode())


def render(plan: Plan, manifest: dict[str, Any], findings: Findings, task: Task) -> str:
    """The page."""
    seconds = sum(shard["seconds"] for shard in manifest["shards"].values())
    totals = [
        ("documents", manifest["documents"]),
        ("rows", manifest["rows"]),
        ("ok", manifest["ok"]),
        ("failed", manifest["failed"]),
        ("skipped", manifest["skipped"]),
        ("carried over from an earlier run", manifest["carried"]),
        ("files skipped", len(plan.skipped)),
        ("cut at the input limit", manifest["truncated"]),
        ("input tokens", manifest["input_tokens"]),
        ("output tokens", manifest["output_tokens"]),
        ("predictor seconds, all actors", round(seconds, 1)),
        ("input tokens per predictor second", round(manifest["input_tokens"] / seconds) if seconds else 0),
        ("shards", len(plan.shards)),
        ("plan", plan.fingerprint),
        ("weights", plan.facts["weights_sha256"][:16]),
    ]
    failures = [(*reason, count) for reason, count in findings.failures.most_common()]
    parts = [
        f"<h1>{task.title} run</h1>",
        _table(("", ""), totals),
        "<h2>Input length, tokens</h2>",
        histogram(findings.input_tokens),
    ]
    if "output_tokens" in task.columns.names:
        parts += ["<h2>Output length, tokens</h2>", histogram(findings.output_tokens)]
    if failures:
        parts += ["<h2>Failed and skipped</h2>", _table(("stage", "reason", "rows"), failures)]
    if plan.skipped:
        parts += ["<h2>Files skipped</h2>", _table(("file", "reason"), [(f.path, f.skipped) for f in plan.skipped])]
    parts += ["<h2>Samples</h2>", *(_sample(row, task) for row in findings.samples)]
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Run report</title><style>{_STYLE}</style>{body}</html>\n'
    )


def histogram(values: Mapping[int, int], bins: int = 24) -> str:
    """An SVG histogram of whole numbers, given as value to count."""
    if not values:
        return "<p>none</p>"
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // bins))
    counts: Counter[int] = Counter()
    for value, count in values.items():
        counts[(value - low) // width] += count
    shown = range((high - low) // width + 1)
    tallest = max(counts.values())
    bars = []
    for place in shown:
        height = 100 * counts[place] / tallest
        title = f"{low + place * width} to {low + (place + 1) * width - 1}: {counts[place]}"
        bars.append(
            f'<rect x="{place * 24}" y="{104 - height:.1f}" width="22" height="{height:.1f}" fill="#2f6f9f">'
            f"<title>{title}</title></rect>"
        )
    end = len(shown) * 24
    labels = f'<text x="0" y="120">{low}</text><text x="{end}" y="120" text-anchor="end">{high}</text>'
    caption = f"<p><small>highest bar: {tallest} rows; a bar is {width} tokens wide</small></p>"
    return f'<svg width="{end}" height="124" role="img">{"".join(bars)}{labels}</svg>{caption}'


def _sample(row: dict[str, Any], task: Task) -> str:
    shown, outcome = task.describe(row)
    facts = f"{row['input_tokens']} tokens in, {shown}"
    if row["truncated_tokens"]:
        facts += f", {row['truncated_tokens']} tokens cut"
    return f"<article><b>{_text(row['doc_id'])}</b> <small>{_text(facts)}</small><br>{_text(outcome)}</article>"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        number = isinstance(value, int | float)
        return f'<td class="n">{value:,}</td>' if number else f"<td>{_text(value)}</td>"

    top = "".join(f"<th>{_text(h)}</th>" for h in head) if any(head) else ""
    return f"<table><tr>{top}</tr>" + "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows) + "</table>"


def _text(value: Any) -> str:
    return html.escape(str(value))
