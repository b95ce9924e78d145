"""The report of a run: one HTML file that needs nothing else. Made from the committed rows; text is escaped.

It is a view, not a result: it may be written again.
"""

from __future__ import annotations

import heapq
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import CorruptOutput, UsageError, one_line
from pipeline.logs import event
from pipeline.monitor.stats import Totals, device_hours, throughput
from pipeline.output.commit import ShardMetadata, new_rows, parse_json_object, read_columns, rows_recomputed
from pipeline.output.store import Store, open_store
from pipeline.planning.plan import FORECAST, MANIFEST, REPORT, Plan
from pipeline.report.charts import STYLE, curve, escaped, histogram, shares, strip
from pipeline.report.scores import rouge
from pipeline.tasks import TASKS

# Rows shown: of the worst, of the best, and drawn at random.
WORST, BEST, RANDOM = 20, 10, 20

# Rows whose ROUGE is measured.
_SCORED = 500

_FILES_AT_ONCE = 16  # each is mostly a wait for the store

# The columns that are counted, of every row.
LOOKED_AT = (
    "status",
    "input_tokens",
    "truncated_tokens",
    "output_tokens",
    "flags",
    "quality.mean_log_probability",
    "score",
    "label_score",
    "answer_score",
    "attention",
)

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


class Place(NamedTuple):
    """Where a row stands: in which file, and which of its rows it is."""

    part: str
    row: int


Ranked = tuple[Any, Place]


@dataclass
class Findings:
    """What the report says of the rows of some files: lengths, attention, and where the rows to look at
    stand; it adds up.

    Rows are the worst by the number of their flags and then by how unlikely they were to the model; `drawn`
    holds (a random number, place), so that every written row has the same chance in whatever order files
    come. `texts` are the rows themselves.
    """

    most_drawn: int = RANDOM
    input_tokens: Counter[int] = field(default_factory=Counter)
    whole_tokens: Counter[int] = field(default_factory=Counter)
    output_tokens: Counter[int] = field(default_factory=Counter)
    looked: int = 0
    beyond: dict[int, float] = field(default_factory=lambda: dict.fromkeys(_REACHES, 0.0))
    worst: list[Ranked] = field(default_factory=list)
    best: list[Ranked] = field(default_factory=list)
    drawn: list[Ranked] = field(default_factory=list)
    texts: dict[Place, Row] = field(default_factory=dict)

    def add(self, other: Findings) -> None:
        """Add those of another file."""
        for name in ("input_tokens", "whole_tokens", "output_tokens"):
            getattr(self, name).update(getattr(other, name))
        self.looked += other.looked
        for reach in _REACHES:
            self.beyond[reach] += other.beyond[reach]
        self.worst = heapq.nlargest(WORST, [*self.worst, *other.worst])
        self.best = heapq.nsmallest(BEST, [*self.best, *other.best])
        self.drawn = heapq.nsmallest(self.most_drawn, [*self.drawn, *other.drawn])

    def places(self) -> dict[str, set[int]]:
        """The rows to be shown, by file."""
        wanted: dict[str, set[int]] = {}
        for _, place in (*self.worst, *self.best, *self.drawn):
            wanted.setdefault(place.part, set()).add(place.row)
        return wanted

    def rows(self, ranked: Sequence[Ranked]) -> list[Row]:
        """The rows at these places."""
        return [self.texts[place] for _, place in ranked]


def findings_of(part: str, table: pa.Table, seed: str) -> Findings:
    """What the report says of the rows of one file, from the columns `LOOKED_AT` that it has."""
    written = pc.equal(table["status"], "ok")
    places, table = pc.indices_nonzero(written).to_pylist(), table.filter(written)
    found, names = Findings(), table.column_names
    tokens = table["input_tokens"].to_pylist()
    found.input_tokens.update(tokens)
    found.whole_tokens.update(
        n + cut for n, cut in zip(tokens, table["truncated_tokens"].to_pylist(), strict=True)
    )
    if "output_tokens" in names:
        found.output_tokens.update(table["output_tokens"].to_pylist())
    for shares_, n in (
        zip(table["attention"].to_pylist(), tokens, strict=True) if "attention" in names else ()
    ):
        if shares_:
            found.looked += 1
            for reach in _REACHES:
                found.beyond[reach] += share_beyond(shares_, n, reach)
    flags = [len(each or ()) for each in table["flags"].to_pylist()] if "flags" in names else [0] * len(table)
    ranks = zip(flags, (-each for each in _likelihoods(table)), strict=True)
    rng = random.Random(f"{seed} {part}")
    here = [Place(part, row) for row in places]
    ranked = list(zip(ranks, here, strict=True))
    found.worst, found.best, found.drawn = ranked, ranked, [(rng.random(), place) for place in here]
    return found


def _likelihoods(table: pa.Table) -> list[float]:
    """How sure the model was of each row: of a summary the mean over its tokens, where it was measured."""
    names = table.column_names
    found = [table[name].to_pylist() for name in ("score", "label_score", "answer_score") if name in names]
    if "quality" in names:
        found.insert(0, [(each or {}).get("mean_log_probability") for each in table["quality"].to_pylist()])
    return [next((each for each in row if each is not None), 0.0) for row in zip(*found, strict=True)] or [
        0.0
    ] * len(table)


def share_beyond(strip_: Sequence[float], tokens: int, reach: int) -> float:
    """The share of attention that lies beyond the first `reach` of a document's tokens."""
    total = sum(strip_)
    if tokens <= reach or not total:
        return 0.0
    border = reach / tokens * len(strip_)
    whole = int(border)
    return (sum(strip_[whole + 1 :]) + strip_[whole] * (whole + 1 - border)) / total


def write_report(
    store: Store,
    plan: Plan,
    manifest: Mapping[str, Any],
    *,
    reference_column: str | None = None,
    price_per_hour: float | None = None,
    gpus: float = 0.0,
) -> None:
    """Write the report of a finished run into its folder; `gpus` are those of each model copy,
    `price_per_hour` one device's.

    Of every file the columns are read that are counted, several files at a time, and of a few files the rows
    that are shown.

    Raises:
        UsageError: the reference column is not there, or holds something else than texts.
    """
    check_reference(plan, reference_column)
    findings = Findings(RANDOM if reference_column is None else _SCORED)
    # Of the columns carried over only the reference is read: they may be the documents themselves.
    unread = {name for name in plan.passthrough.names if name != reference_column}
    counted = [name for name in LOOKED_AT if name not in plan.passthrough.names]

    def look(part: str) -> Findings:
        return findings_of(part, read_columns(store, part, counted), plan.fingerprint)

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        for found in pool.map(look, sorted(manifest["shards"])):
            findings.add(found)
        for rows in pool.map(
            lambda item: _rows_at(store, item[0], item[1], unread), findings.places().items()
        ):
            findings.texts |= rows
    forecast = _values(store, FORECAST) if FORECAST in store.names() else None
    page = render(
        plan,
        manifest,
        findings,
        forecast,
        _previous_manifest(plan),
        reference_column=reference_column,
        price_per_hour=price_per_hour,
        gpus=gpus,
    )
    store.replace(REPORT, page.encode())


def try_report(store: Store, plan: Plan, manifest: Mapping[str, Any], **given: Any) -> bool:
    """Write the report (`write_report`) of a run whose rows are all committed; what keeps it from being
    written is said, and is no failure of the run. Was it written?"""
    try:
        write_report(store, plan, manifest, **given)
    except Exception as error:
        says = f"{type(error).__name__}: {one_line(error)}"
        print(
            f"warning: the report could not be written ({says}); all rows are there, and the verb `report` writes it again.",
            file=sys.stderr,
        )
        event("report not written", error=says)
        return False
    return True


def check_reference(plan: Plan, column: str | None) -> None:
    """See that the column of the right summaries is carried over, and holds texts.

    Raises:
        UsageError: it is not, or does not.
    """
    if column is None:
        return
    if column not in plan.passthrough.names:
        raise UsageError(
            f"--reference-column {column}: the output has no such column; carry it over by --passthrough."
        )
    kind = whole = plan.passthrough.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    types = pa.types
    if not any(
        check(kind) for check in (types.is_null, types.is_string, types.is_large_string, types.is_string_view)
    ):
        raise UsageError(
            f"--reference-column {column}: the column holds {whole}; it must hold the right summaries, as texts."
        )


def _rows_at(store: Store, part: str, rows: Iterable[int], unread: Container[str]) -> dict[Place, Row]:
    """These rows of a file, all columns but those that are not read."""
    places = sorted(rows)
    with store.open(part) as opened:
        file = pq.ParquetFile(opened)
        table = file.read(columns=[name for name in file.schema_arrow.names if name not in unread])
    return {
        Place(part, row): values for row, values in zip(places, table.take(places).to_pylist(), strict=True)
    }


def _values(store: Store, name: str) -> dict[str, Any]:
    """The values of a file that may be another version's, none where they make no sense."""
    try:
        return parse_json_object(store.read(name), name)
    except CorruptOutput:
        return {}


def render(
    plan: Plan,
    manifest: Mapping[str, Any],
    findings: Findings,
    forecast: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
    *,
    reference_column: str | None = None,
    price_per_hour: float | None = None,
    gpus: float = 0.0,
) -> str:
    """The page."""
    shards_metadata = [ShardMetadata(**values) for values in manifest["shards"].values()]
    made = [
        shard_metadata for shard_metadata in shards_metadata if shard_metadata.reused < shard_metadata.rows
    ]
    totals, samples = Totals.of(shards_metadata), findings.rows(findings.drawn[:RANDOM])
    parts = [
        f"<h1>{TASKS[plan.config['task']].title} run</h1>",
        _table(("", ""), _key_figures(plan, manifest, totals, made, price_per_hour, gpus)),
        "<h2>What ran</h2>",
        _table(
            ("", ""),
            [
                (name, _plain(value))
                for name, value in plan.config.items()
                if name not in ("since", "version")
            ],
        ),
    ]
    if forecast is not None:
        parts += [
            "<h2>Forecast and actual</h2>",
            _unless_other(FORECAST, lambda: _forecast_table(forecast, manifest, made)),
        ]
    if plan.config.get("since"):
        parts += ["<h2>Runs before</h2>", _runs_before(plan)]
    if before is not None:
        parts += [
            "<h2>Change against the run before</h2>",
            _unless_other("its manifest", lambda: _change_table(before, manifest)),
        ]
    parts += ["<h2>Over time</h2>", _over_time(made), "<h2>Lengths</h2>", _lengths(plan, findings)]
    if manifest["failures"]:
        rows = sorted(manifest["failures"].items(), key=lambda item: -item[1])
        parts += ["<h2>Failed and skipped</h2>", _table(("stage: reason", "rows"), rows)]
    if plan.skipped:
        parts += [
            "<h2>Files skipped</h2>",
            _table(("file", "reason"), [(f.path, f.skipped) for f in plan.skipped]),
        ]
    if reference_column is not None and samples:
        scored = findings.rows(findings.drawn)
        parts += [
            f"<h2>ROUGE against {escaped(reference_column)}</h2>",
            _rouge_table(scored, reference_column),
        ]
    if any("flags" in row for row in samples):
        parts += ["<h2>Flags</h2>", _flags(manifest)]
    if findings.looked:
        parts += ["<h2>Where the summaries looked</h2>", _attention(findings)]
    worst, best = findings.rows(findings.worst), findings.rows(findings.best)
    for title, rows in (("To look at", worst), ("The best", best), ("At random", samples)):
        parts += [f"<h2>{title}</h2>", *(_sample(row, plan, reference_column) for row in rows)]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Run report</title>'
    )
    icon = '<link rel="icon" href="data:,">'
    return (
        f'<!doctype html><html lang="en">{head}{icon}<style>{_STYLE}</style>' + "\n".join(parts) + "</html>\n"
    )


def _key_figures(
    plan: Plan,
    manifest: Mapping[str, Any],
    totals: Totals,
    made: Sequence[ShardMetadata],
    price: float | None,
    gpus: float,
) -> list[tuple[str, Any]]:
    # A receipt's seconds are of one model copy.
    hours = device_hours(totals.counts["seconds"], gpus)
    figures: list[tuple[str, Any]] = [
        ("documents", manifest["documents"]),
        ("rows", manifest["rows"]),
        ("ok", manifest["ok"]),
        ("failed", manifest["failed"]),
        ("skipped", manifest["skipped"]),
        ("carried over from an earlier run", manifest["reused"]),
        *_done_now(manifest),
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
    if totals.slot_utilization is not None:
        figures.append(("decoding batches full", f"{totals.slot_utilization:.0%}"))
    if peak := totals.measured.get("peak_bytes"):
        figures.append(("memory of a model copy, peak, GiB", round(peak / 2**30, 2)))
    if made:
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(r.finished_at for r in made)))
        figures.append(("last shard done", at))
    return [*figures, ("plan", plan.fingerprint)]


def _done_now(manifest: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Why rows were made, where others could be carried over."""
    new = new_rows(manifest)
    if new is None:
        return []
    again = rows_recomputed(manifest, new)
    return [("new documents' rows", new), ("rows done again: changed, or failed before", again)]


def _runs_before(plan: Plan) -> str:
    since = plan.config["since"]
    rows = [
        (run["output"], "yes" if run["finished"] else "no", "; ".join(run["recomputed_because"]))
        for run in since
    ]
    return _table(("folder", "finished", "nothing taken of it, because"), rows)


def _forecast_table(
    forecast: Mapping[str, Any], manifest: Mapping[str, Any], made: Sequence[ShardMetadata]
) -> str:
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
        rows.append(
            (name if not less else "seconds at work", middle, f"{low:,} to {high:,}", round(actual), off)
        )
    return _table(("", "forecast", "four times in five", "actual", "off by"), rows)


def _previous_manifest(plan: Plan) -> dict[str, Any] | None:
    """The manifest of the newest finished run that rows were carried over from."""
    for run in plan.config.get("since", ()):
        store = open_store(run["output"])
        if MANIFEST in store.names():
            return _values(store, MANIFEST)
    return None


def _unless_other(what: str, table: Callable[[], str]) -> str:
    """A table of what may be another version's, or that it is."""
    try:
        return table()
    except (KeyError, TypeError, ValueError, AttributeError):
        return f"<p>{escaped(what)} was written by another version of this system and is left out.</p>"


def _change_table(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = ("documents", "rows", "ok", "failed", "skipped", "truncated", "input_tokens", "output_tokens")
    rows = [
        (name.replace("_", " "), before[name], now[name], f"{now[name] - before[name]:+,}") for name in names
    ]
    for flag in sorted({*before.get("flags", {}), *now["flags"]}):
        was, is_ = (m.get("flags", {}).get(flag, 0) / max(1, m["ok"]) for m in (before, now))
        rows.append((f"flag {flag}", f"{was:.1%}", f"{is_:.1%}", f"{100 * (is_ - was):+.1f} points"))
    return _table(("", "before", "now", "change"), rows)


def _over_time(made: Sequence[ShardMetadata]) -> str:
    spans = throughput(made, _BINS)
    replicas = max((busy for _, _, busy in spans), default=0.0)
    return _plots(
        ("documents per second", curve([(at, pace) for at, pace, _ in spans], "/s")),
        (
            "model copies at work",
            curve([(at, busy) for at, _, busy in spans], "", max(1.0, round(replicas + 0.49))),
        ),
    )


def _lengths(plan: Plan, findings: Findings) -> str:
    limit = plan.config.get("input_limits", {}).get("max_input_tokens", 0)
    plots = [
        (
            "tokens of the documents",
            histogram(findings.whole_tokens, marks={"limit": limit} if limit else None),
        )
    ]
    if findings.output_tokens:
        plots.append(("tokens written", histogram(findings.output_tokens)))
    return _plots(*plots)


def _flags(manifest: Mapping[str, Any]) -> str:
    rows = max(1, manifest["ok"])
    found = {
        name: count / rows for name, count in sorted(manifest["flags"].items(), key=lambda item: -item[1])
    }
    if not found:
        return "<p>none</p>"
    note = "<p><small>Share of the written rows. A flag is a reason to look, not a verdict; docs/flags.md says what each is."
    return f"{note}</small></p>" + _plots(("", shares(found, max(found.values()))))


def _attention(findings: Findings) -> str:
    rows = [
        (f"beyond token {reach:,}", f"{sum_ / findings.looked:.1%}")
        for reach, sum_ in findings.beyond.items()
    ]
    return _table(("share of attention", ""), rows)


def _rouge_table(rows: Sequence[Row], reference_column: str) -> str:
    scores = rouge([(row[reference_column] or "", row["summary"] or "") for row in rows])
    return _table(
        ("", f"mean of {len(rows)} rows drawn at random"),
        [(name, round(value, 4)) for name, value in scores.items()],
    )


def _sample(row: Row, plan: Plan, reference_column: str | None) -> str:
    shown, outcome = TASKS[plan.config["task"]].describe(row)
    config = f"{row['input_tokens']:,} tokens in, {shown}"
    if row["truncated_tokens"]:
        config += f", {row['truncated_tokens']:,} tokens cut"
    flags = "".join(f'<span class="flag">{escaped(flag)}</span>' for flag in row.get("flags") or ())
    quality = row.get("quality") or {}
    named = ", ".join(
        f"{name.replace('_', ' ')}: {' '.join(found)}"
        for name in ("numbers", "misplaced_numbers", "names")
        if (found := quality.get(name))
    )
    parts = [f"<b>{escaped(row['doc_id'])}</b> <small>{escaped(config)}</small><br>{flags}{escaped(outcome)}"]
    if named:
        parts.append(f"<br><small>{escaped(named)}</small>")
    if row.get("attention"):
        parts.append(strip(row["attention"]))
    if reference_column and row.get(reference_column):
        parts.append(f"<br><small>reference: {escaped(row[reference_column])}</small>")
    return f"<article>{''.join(parts)}</article>"


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
