"""The report of a run: one HTML file that needs nothing else. Made from the committed rows; text is escaped.

It is a view, not a result: it may be written again.
"""

from __future__ import annotations

import heapq
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from pipeline.commit import Receipt, read_columns
from pipeline.evaluation import rouge
from pipeline.plots import STYLE, curve, escaped, histogram, shares, strip
from pipeline.shards import FORECAST, MANIFEST, REPORT, Plan
from pipeline.store import Store, open_store
from pipeline.tally import Totals, throughput
from pipeline.tasks import TASKS

# Rows shown: of the worst, of the best, and drawn at random.
WORST, BEST, RANDOM = 20, 10, 20

# Rows whose ROUGE is measured.
_SCORED = 500

# Where attention is counted from: the reach of models that read this many tokens.
_REACHES = (1024, 4096)

_BINS = 48

_STYLE = f"""{STYLE}
body{{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:1.5rem auto;padding:0 1rem;color:var(--ink);
background:var(--page)}}
table{{border-collapse:collapse;margin:.5rem 0 1.5rem}}td,th{{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;
overflow-wrap:anywhere}}td:first-child,.n{{white-space:nowrap}}.wide{{overflow-x:auto}}
th{{font-weight:600;color:var(--soft)}}.n{{text-align:right;font-variant-numeric:tabular-nums}}
.plots{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1rem 2rem}}
figure{{margin:0;max-width:34rem}}
figcaption,small{{color:var(--soft)}}article{{border-top:1px solid var(--line);padding:.6rem 0;overflow-wrap:anywhere}}
.flag{{border:1px solid var(--mark);color:var(--mark);border-radius:3px;padding:0 .3rem;margin-right:.3rem;font-size:.85em}}
"""

Row = dict[str, Any]


@dataclass
class Findings:
    """What the report says of the rows, gathered one file at a time: lengths, attention, and rows to look at."""

    seed: str
    input_tokens: Counter[int] = field(default_factory=Counter)
    whole_tokens: Counter[int] = field(default_factory=Counter)
    output_tokens: Counter[int] = field(default_factory=Counter)
    samples: list[Row] = field(default_factory=list)
    scored: list[Row] = field(default_factory=list)
    looked: int = 0
    beyond: dict[int, float] = field(default_factory=lambda: dict.fromkeys(_REACHES, 0.0))
    rows: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._worst: list[tuple[Any, ...]] = []
        self._best: list[tuple[Any, ...]] = []

    def add(self, rows: Iterable[Row]) -> None:
        """Count these rows; every written row has the same chance to be among the samples."""
        for row in rows:
            if row["status"] != "ok":
                continue
            self.input_tokens[row["input_tokens"]] += 1
            self.whole_tokens[row["input_tokens"] + row["truncated_tokens"]] += 1
            if "output_tokens" in row:
                self.output_tokens[row["output_tokens"]] += 1
            self.rows += 1
            self._draw(self.samples, row, RANDOM)
            self._draw(self.scored, row, _SCORED)
            rank = (len(row.get("flags") or ()), -_score(row), self.rows)
            _keep(self._worst, (*rank, row), WORST)
            _keep(self._best, (*(-value for value in rank), row), BEST)
            if row.get("attention"):
                self.looked += 1
                for reach in _REACHES:
                    self.beyond[reach] += share_beyond(row["attention"], row["input_tokens"], reach)

    def worst(self) -> list[Row]:
        """The rows with the most flags and the lowest scores, the worst first."""
        return [item[-1] for item in sorted(self._worst, key=lambda item: item[:-1], reverse=True)]

    def best(self) -> list[Row]:
        """The rows without flags and with the highest scores, the best first."""
        return [item[-1] for item in sorted(self._best, key=lambda item: item[:-1], reverse=True)]

    def _draw(self, chosen: list[Row], row: Row, most: int) -> None:
        place = self._rng.randrange(self.rows)
        if len(chosen) < most:
            chosen.append(row)
        elif place < most:
            chosen[place] = row


def share_beyond(strip_: Sequence[float], tokens: int, reach: int) -> float:
    """The share of attention that lies beyond the first `reach` of a document's tokens."""
    total = sum(strip_)
    if tokens <= reach or not total:
        return 0.0
    border = reach / tokens * len(strip_)
    whole = int(border)
    return (sum(strip_[whole + 1 :]) + strip_[whole] * (whole + 1 - border)) / total


def write_report(
    store: Store, plan: Plan, manifest: dict[str, Any], reference_column: str | None = None, price: float | None = None
) -> None:
    """Write the report of a finished run into its folder; one result file is in memory at a time."""
    findings = Findings(plan.fingerprint)
    # Of the columns carried over only the reference is read: they may be the documents themselves.
    unread = {name for name in plan.passthrough.names if name != reference_column}
    for name in sorted(manifest["shards"]):
        with store.open(name) as file:
            columns = [column for column in pq.read_schema(file).names if column not in unread]
        findings.add(read_columns(store, name, columns).to_pylist())
    forecast = json.loads(store.read(FORECAST)) if FORECAST in store.names() else None
    page = render(plan, manifest, findings, forecast, _night_before(plan), reference_column, price)
    store.replace(REPORT, page.encode())


def render(
    plan: Plan,
    manifest: Mapping[str, Any],
    findings: Findings,
    forecast: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
    reference_column: str | None = None,
    price: float | None = None,
) -> str:
    """The page."""
    receipts = [Receipt(**values) for values in manifest["shards"].values()]
    made = [receipt for receipt in receipts if receipt.carried < receipt.rows]
    totals = Totals.of(receipts)
    parts = [
        f"<h1>{TASKS[plan.facts['task']].title} run</h1>",
        _table(("", ""), _key_figures(plan, manifest, totals, made, price)),
        "<h2>What ran</h2>",
        _table(("", ""), [(name, _plain(value)) for name, value in plan.facts.items() if name not in ("since", "version")]),
    ]
    if forecast is not None:
        parts += ["<h2>Forecast and actual</h2>", _forecast_table(forecast, manifest, made)]
    if before is not None:
        parts += ["<h2>Change against the run before</h2>", _change_table(before, manifest)]
    parts += ["<h2>Over time</h2>", _over_time(made), "<h2>Lengths</h2>", _lengths(plan, findings)]
    if manifest["failures"]:
        rows = sorted(manifest["failures"].items(), key=lambda item: -item[1])
        parts += ["<h2>Failed and skipped</h2>", _table(("stage: reason", "rows"), rows)]
    if plan.skipped:
        parts += ["<h2>Files skipped</h2>", _table(("file", "reason"), [(f.path, f.skipped) for f in plan.skipped])]
    if reference_column is not None and findings.scored:
        parts += [f"<h2>ROUGE against {escaped(reference_column)}</h2>", _rouge_table(findings.scored, reference_column)]
    if any("flags" in row for row in findings.samples):
        parts += ["<h2>Flags</h2>", _flags(manifest)]
    if findings.looked:
        parts += ["<h2>Where the summaries looked</h2>", _attention(findings)]
    for title, rows in (("To look at", findings.worst()), ("The best", findings.best()), ("At random", findings.samples)):
        parts += [f"<h2>{title}</h2>", *(_sample(row, plan, reference_column) for row in rows)]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Run report</title>'
    icon = '<link rel="icon" href="data:,">'
    return f'<!doctype html><html lang="en">{head}{icon}<style>{_STYLE}</style>' + "\n".join(parts) + "</html>\n"


def _key_figures(
    plan: Plan, manifest: Mapping[str, Any], totals: Totals, made: Sequence[Receipt], price: float | None
) -> list[tuple[str, Any]]:
    seconds = totals.counts["seconds"]
    hours = seconds / 3600 * (plan.facts.get("settings", {}).get("gpus") or 1)
    figures: list[tuple[str, Any]] = [
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
        ("shards", len(plan.shards)),
        ("device-hours at work", round(hours, 4)),
    ]
    if price is not None:
        figures.append(("cost of these hours", round(hours * price, 2)))
    if (pace := totals.tokens_per_second) is not None:
        figures.append(("tokens per second of work", round(pace)))
    if totals.fill is not None:
        figures.append(("decoding batches full", f"{totals.fill:.0%}"))
    if peak := totals.measured.get("peak_bytes"):
        figures.append(("memory of a model copy, peak, GiB", round(peak / 2**30, 2)))
    if made:
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(r.finished_at for r in made)))
        figures.append(("last shard done", at))
    return [*figures, ("plan", plan.fingerprint)]


def _forecast_table(forecast: Mapping[str, Any], manifest: Mapping[str, Any], made: Sequence[Receipt]) -> str:
    work = max(r.finished_at for r in made) - min(r.finished_at - r.seconds for r in made) if made else 0.0
    startup = forecast["startup_seconds"]
    rows = []
    for name, actual, less in (
        ("rows", manifest["rows"], 0.0),
        ("input tokens", manifest["input_tokens"], 0.0),
        ("output tokens", manifest["output_tokens"], 0.0),
        ("truncated", manifest["truncated"], 0.0),
        ("failed", manifest["failed"], 0.0),
        ("seconds", work, startup),
    ):
        guess = forecast[name.replace(" ", "_")]
        low, middle, high = (round(guess[part] - less) for part in ("low", "middle", "high"))
        off = f"{actual / middle - 1:+.0%}" if middle else ""
        rows.append((name if not less else "seconds at work", middle, f"{low:,} to {high:,}", round(actual), off))
    return _table(("", "forecast", "four times in five", "actual", "off by"), rows)


def _night_before(plan: Plan) -> dict[str, Any] | None:
    """The manifest of the run that rows were carried over from."""
    since = plan.facts.get("since")
    if not since:
        return None
    store = open_store(since["output"])
    return json.loads(store.read(MANIFEST)) if MANIFEST in store.names() else None


def _change_table(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = ("documents", "rows", "ok", "failed", "skipped", "truncated", "input_tokens", "output_tokens")
    rows = [(name.replace("_", " "), before[name], now[name], f"{now[name] - before[name]:+,}") for name in names]
    for flag in sorted({*before.get("flags", {}), *now["flags"]}):
        was, is_ = (m.get("flags", {}).get(flag, 0) / max(1, m["ok"]) for m in (before, now))
        rows.append((f"flag {flag}", f"{was:.1%}", f"{is_:.1%}", f"{100 * (is_ - was):+.1f} points"))
    return _table(("", "before", "now", "change"), rows)


def _over_time(made: Sequence[Receipt]) -> str:
    spans = throughput(made, _BINS)
    actors = max((busy for _, _, busy in spans), default=0.0)
    return _plots(
        ("documents per second", curve([(at, pace) for at, pace, _ in spans], "/s")),
        ("model copies at work", curve([(at, busy) for at, _, busy in spans], "", max(1.0, round(actors + 0.49)))),
    )


def _lengths(plan: Plan, findings: Findings) -> str:
    limit = plan.facts.get("reading", {}).get("max_input_tokens", 0)
    plots = [("tokens of the documents", histogram(findings.whole_tokens, marks={"limit": limit} if limit else None))]
    if findings.output_tokens:
        plots.append(("tokens written", histogram(findings.output_tokens)))
    return _plots(*plots)


def _flags(manifest: Mapping[str, Any]) -> str:
    rows = max(1, manifest["ok"])
    found = {name: count / rows for name, count in sorted(manifest["flags"].items(), key=lambda item: -item[1])}
    if not found:
        return "<p>none</p>"
    note = "<p><small>Share of the written rows. A flag is a reason to look, not a verdict; docs/flags.md says what each is."
    return f"{note}</small></p>" + _plots(("", shares(found, max(found.values()))))


def _attention(findings: Findings) -> str:
    rows = [(f"beyond token {reach:,}", f"{sum_ / findings.looked:.1%}") for reach, sum_ in findings.beyond.items()]
    return _table(("share of attention", ""), rows)


def _rouge_table(rows: Sequence[Row], reference_column: str) -> str:
    scores = rouge([(row[reference_column] or "", row["summary"] or "") for row in rows])
    return _table(
        ("", f"mean of {len(rows)} rows drawn at random"), [(name, round(value, 4)) for name, value in scores.items()]
    )


def _sample(row: Row, plan: Plan, reference_column: str | None) -> str:
    shown, outcome = TASKS[plan.facts["task"]].describe(row)
    facts = f"{row['input_tokens']:,} tokens in, {shown}"
    if row["truncated_tokens"]:
        facts += f", {row['truncated_tokens']:,} tokens cut"
    flags = "".join(f'<span class="flag">{escaped(flag)}</span>' for flag in row.get("flags") or ())
    quality = row.get("quality") or {}
    named = ", ".join(f"{name.replace('_', ' ')}: {' '.join(found)}" for name in ("numbers", "misplaced_numbers", "names")
                      if (found := quality.get(name)))  # fmt: skip
    parts = [f"<b>{escaped(row['doc_id'])}</b> <small>{escaped(facts)}</small><br>{flags}{escaped(outcome)}"]
    if named:
        parts.append(f"<br><small>{escaped(named)}</small>")
    if row.get("attention"):
        parts.append(strip(row["attention"]))
    if reference_column and row.get(reference_column):
        parts.append(f"<br><small>reference: {escaped(row[reference_column])}</small>")
    return f"<article>{''.join(parts)}</article>"


def _score(row: Row) -> float:
    """How sure the model was of a row."""
    return next((row[name] for name in ("score", "label_score", "answer_score") if row.get(name) is not None), 0.0)


def _keep(heap: list[tuple[Any, ...]], item: tuple[Any, ...], most: int) -> None:
    """Keep the `most` largest; items differ before their last part."""
    if len(heap) < most:
        heapq.heappush(heap, item)
    elif item[:-1] > heap[0][:-1]:
        heapq.heapreplace(heap, item)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items() if each is not None)
    return str(value)


def _plots(*plots: tuple[str, str]) -> str:
    figures = [f"<figure>{svg}<figcaption>{escaped(caption)}</figcaption></figure>" for caption, svg in plots]
    return f'<div class="plots">{"".join(figures)}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        number = isinstance(value, int | float)
        return f'<td class="n">{value:,}</td>' if number else f"<td>{escaped(value)}</td>"

    top = "".join(f"<th>{escaped(h)}</th>" for h in head) if any(head) else ""
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'
