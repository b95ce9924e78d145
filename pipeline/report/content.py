"""The content of a report, section by section: plain texts, numbers and charts. Pure functions.

The template `page.html.j2` has the layout and the titles of the sections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from pipeline.errors import printable
from pipeline.monitor.stats import Totals, device_hours, throughput
from pipeline.output.commit import ShardMetadata, chunked_rows, hardware_of, new_rows, rows_recomputed
from pipeline.planning.plan import FORECAST, Plan
from pipeline.report.charts import curve, histogram, shares, strip
from pipeline.report.rows import RANDOM, Findings, Row
from pipeline.report.scores import as_text, rouge
from pipeline.tasks.registry import describe_row_of

# Points of the curves over time.
_TIME_BINS = 48

# The counts of a manifest that are compared with those of the previous run.
_COMPARED = ("documents", "rows", "ok", "failed", "skipped", "truncated", "input_tokens", "output_tokens")

# Measures of a summary that list words, the reasons for its flags.
_LISTED_MEASURES = ("numbers", "misplaced_numbers", "names")


@dataclass(frozen=True)
class Table:
    """Rows of texts and numbers, and the titles of their columns, if any."""

    rows: Sequence[Sequence[Any]]
    head: Sequence[str] = ()


# A caption and a chart.
Chart = tuple[str, Markup]


@dataclass(frozen=True)
class Sample:
    """An output row to show. `details` are its counts and scores. `measures` explain its quality flags."""

    doc_id: str
    details: str
    result: str
    flags: Sequence[str]
    measures: str
    profile: Markup | None
    reference: str | None


@dataclass(frozen=True)
class Page:
    """The sections in their order. A section that is None is left out. A text in place of a table explains
    why the table is missing."""

    title: str
    figures: Table
    config: Table
    forecast: Table | str | None
    earlier_runs: Table | None
    change: Table | str | None
    throughput: Sequence[Chart]
    lengths: Sequence[Chart]
    failures: Table | None
    skipped_files: Table | None
    reference_column: str | None
    rouge: Table | None
    flags: Markup | None
    attention: Table | None
    worst: Sequence[Sample]
    best: Sequence[Sample]
    random: Sequence[Sample]


def page_content(
    plan: Plan,
    manifest: Mapping[str, Any],
    findings: Findings,
    forecast: Mapping[str, Any] | None = None,
    previous: Mapping[str, Any] | None = None,
    *,
    reference_column: str | None = None,
    price_per_hour: float | None = None,
    gpus: float = 0.0,
) -> Page:
    """The content of the page. `previous` is the manifest of the previous run."""
    metadata = [ShardMetadata(**values) for values in manifest["shards"].values()]
    # Shards in which every row is reused took no time.
    computed = [shard for shard in metadata if shard.reused < shard.rows]
    scored, since = findings.rows_at(findings.sampled), plan.config.get("since")
    random = scored[:RANDOM]

    def samples(rows: Sequence[Row]) -> list[Sample]:
        return [_sample(row, plan, reference_column) for row in rows]

    return Page(
        title=plan.task.title,
        figures=_key_figures(plan, manifest, metadata, computed, price_per_hour, gpus),
        config=_config(plan),
        forecast=None
        if forecast is None
        else _table_or_note(FORECAST, lambda: _forecast(forecast, manifest, computed)),
        earlier_runs=_earlier_runs(since) if since else None,
        change=None
        if previous is None
        else _table_or_note("The manifest of the previous run", lambda: _change(previous, manifest)),
        throughput=_throughput(computed),
        lengths=_lengths(plan, findings),
        failures=_failures(manifest) if manifest["failures"] else None,
        skipped_files=_skipped_files(plan) if plan.skipped or plan.left_out else None,
        reference_column=reference_column,
        rouge=_rouge(scored, reference_column, plan.task.result)
        if reference_column is not None and scored
        else None,
        flags=_flags(manifest) if any("flags" in row for row in random) else None,
        attention=_attention(findings) if findings.profiles else None,
        worst=samples(findings.rows_at(findings.worst)),
        best=samples(findings.rows_at(findings.best)),
        random=samples(random),
    )


def _key_figures(
    plan: Plan,
    manifest: Mapping[str, Any],
    metadata: Sequence[ShardMetadata],
    computed: Sequence[ShardMetadata],
    price_per_hour: float | None,
    gpus: float,
) -> Table:
    totals = Totals.of(metadata)
    # Every shard is predicted by one replica, so the seconds of all shards are replica-seconds.
    hours = device_hours(totals.counts["seconds"], gpus)
    figures: list[tuple[str, Any]] = [
        ("documents", manifest["documents"]),
        ("rows", manifest["rows"]),
        ("ok", manifest["ok"]),
        ("failed", manifest["failed"]),
        ("skipped", manifest["skipped"]),
        ("reused from earlier runs", manifest["reused"]),
        *_new_and_recomputed(manifest),
        ("skipped files", len(plan.skipped)),
        *([("files left out", plan.left_out)] if plan.left_out else []),
        ("truncated at the input limit", manifest["truncated"]),
        ("read in several chunks", chunked_rows(manifest)),
        ("input tokens", manifest["input_tokens"]),
        ("output tokens", manifest["output_tokens"]),
        ("shards", len(plan.shards)),
        ("device-hours of prediction", round(hours, 4)),
    ]
    if price_per_hour is not None:
        figures.append(("cost of prediction", round(hours * price_per_hour, 2)))
    if totals.tokens_per_second is not None:
        figures.append(("throughput of a replica, tokens per second", round(totals.tokens_per_second)))
    if totals.slot_utilization is not None:
        figures.append(("slot utilization", f"{totals.slot_utilization:.0%}"))
    if peak := totals.measured.get("peak_bytes"):
        figures.append(("peak memory of a replica, GiB", round(peak / 2**30, 2)))
    figures += [
        (f"shards in {dtype} on {processor}", count)
        for (processor, dtype), count in hardware_of(computed).items()
    ]
    if computed:
        last = time.localtime(max(shard.finished_at for shard in computed))
        figures.append(("last shard finished", time.strftime("%Y-%m-%d %H:%M", last)))
    return Table([*figures, ("plan", plan.fingerprint)])


def _new_and_recomputed(manifest: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Why rows were computed although there are earlier runs."""
    new = new_rows(manifest)
    if new is None:
        return []
    recomputed = rows_recomputed(manifest, new)
    return [("rows of new documents", new), ("recomputed rows (changed, or failed before)", recomputed)]


def _config(plan: Plan) -> Table:
    config = plan.config.items()
    return Table([(name, _text(value)) for name, value in config if name not in ("since", "version")])


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items() if item is not None)
    return str(value)


def _table_or_note(source: str, table: Callable[[], Table]) -> Table | str:
    """The table, or a note if `source` lacks the values for it."""
    try:
        return table()
    except (KeyError, TypeError, ValueError, AttributeError):
        return f"{source} was written by another version of this system and is left out."


def _forecast(
    forecast: Mapping[str, Any], manifest: Mapping[str, Any], computed: Sequence[ShardMetadata]
) -> Table:
    starts = [shard.finished_at - shard.seconds for shard in computed]
    seconds = max(shard.finished_at for shard in computed) - min(starts) if computed else 0.0
    rows = []
    for label, name, actual, offset in (
        ("rows", "rows", manifest["rows"], 0.0),
        ("input tokens", "input_tokens", manifest["input_tokens"], 0.0),
        ("output tokens", "output_tokens", manifest["output_tokens"], 0.0),
        ("truncated", "truncated", manifest["truncated"], 0.0),
        ("failed", "failed", manifest["failed"], 0.0),
        ("seconds after startup", "seconds", seconds, forecast["startup_seconds"]),
    ):
        estimate = forecast[name]
        low, value, high = (round(estimate[field] - offset) for field in ("low", "value", "high"))
        difference = f"{actual / value - 1:+.0%}" if value else ""
        rows.append((label, value, f"{low:,} to {high:,}", round(actual), difference))
    return Table(rows, ("", "estimate", "80 % interval", "actual", "difference"))


def _earlier_runs(since: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (run["output"], "yes" if run["finished"] else "no", "; ".join(run["recomputed_because"]))
        for run in since
    ]
    return Table(rows, ("folder", "finished", "why no row was reused"))


def _change(previous: Mapping[str, Any], manifest: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, Any, Any, str]] = [
        (name.replace("_", " "), previous[name], manifest[name], f"{manifest[name] - previous[name]:+,}")
        for name in _COMPARED
    ]
    for flag in sorted({*previous.get("flags", {}), *manifest["flags"]}):
        before, now = (run.get("flags", {}).get(flag, 0) / max(1, run["ok"]) for run in (previous, manifest))
        rows.append((f"flag {flag}", f"{before:.1%}", f"{now:.1%}", f"{100 * (now - before):+.1f} points"))
    return Table(rows, ("", "previous run", "this run", "change"))


def _throughput(computed: Sequence[ShardMetadata]) -> list[Chart]:
    spans = throughput(computed, _TIME_BINS)
    most = max(1.0, round(max((busy for _, _, busy in spans), default=0.0) + 0.49))
    return [
        ("documents per second", curve([(start, rate) for start, rate, _ in spans], "/s")),
        ("busy replicas", curve([(start, busy) for start, _, busy in spans], "", most)),
    ]


def _lengths(plan: Plan, findings: Findings) -> list[Chart]:
    limits = plan.config.get("input_limits", {})
    known = [limits[name] for name in ("max_input_tokens", "chunk_tokens") if name in limits]
    marks = {"limit": min(known)} if known else None
    charts = [("tokens per document", histogram(findings.lengths, marks=marks))]
    if findings.output_lengths:
        charts.append(("output tokens", histogram(findings.output_lengths)))
    return charts


def _failures(manifest: Mapping[str, Any]) -> Table:
    reasons = sorted(manifest["failures"].items(), key=lambda item: -item[1])
    return Table(reasons, ("stage: reason", "rows"))


def _skipped_files(plan: Plan) -> Table:
    skipped = [(printable(file.path), file.skipped) for file in plan.skipped]
    left_out = [(path, "left out: no document by its name") for path in plan.left_out_examples]
    if plan.left_out > len(left_out):
        left_out.append((f"and {plan.left_out - len(left_out)} more", "left out"))
    return Table([*skipped, *left_out], ("file", "reason"))


def _rouge(rows: Sequence[Row], reference_column: str, result_column: str) -> Table:
    scores = rouge([(row[reference_column] or "", as_text(row[result_column])) for row in rows])
    values = [(name, round(value, 4)) for name, value in scores.items()]
    return Table(values, ("", f"mean of {len(rows)} random rows"))


def _flags(manifest: Mapping[str, Any]) -> Markup:
    flags = sorted(manifest["flags"].items(), key=lambda item: -item[1])
    values = {name: count / max(1, manifest["ok"]) for name, count in flags}
    return shares(values, max(values.values())) if values else Markup("<p>none</p>")


def _attention(findings: Findings) -> Table:
    shares_beyond = [
        (f"beyond token {reach:,}", f"{total / findings.profiles:.1%}")
        for reach, total in findings.attention_beyond.items()
    ]
    return Table(shares_beyond, ("share of attention", ""))


def _sample(row: Row, plan: Plan, reference_column: str | None) -> Sample:
    details, result = describe_row_of(plan.config["task"], plan.task, row)
    details = f"{row['input_tokens']:,} tokens in, {details}"
    if row["truncated_tokens"]:
        details += f", {row['truncated_tokens']:,} tokens truncated"
    elif row.get("truncated_characters"):
        details += f", {row['truncated_characters']:,} characters truncated"
    quality = row.get("quality") or {}
    measures = [
        f"{name.replace('_', ' ')}: {' '.join(words)}"
        for name in _LISTED_MEASURES
        if (words := quality.get(name))
    ]
    return Sample(
        doc_id=row["doc_id"],
        details=details,
        result=result,
        flags=row.get("flags") or (),
        measures=", ".join(measures),
        profile=strip(row["attention"]) if row.get("attention") else None,
        reference=row.get(reference_column) if reference_column else None,
    )
