"""What the verbs do, and what they print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from pipeline.errors import PipelineError, UsageError
from pipeline.monitor.progress import clock
from pipeline.monitor.stats import Estimate
from pipeline.output.commit import new_rows, rows_recomputed
from pipeline.output.store import open_store
from pipeline.planning.plan import FORECAST, MANIFEST, REPORT, SUCCESS

if TYPE_CHECKING:
    from jobs.cli import PlanOptions, ReportSettings, SampleOptions
    from pipeline.forecast.calibrate import Forecast
    from pipeline.tasks import Task

# Characters of a document that are shown.
_HEAD = 700


def run(task: Task) -> None:
    """Run, and print what a finished run wrote, in a few lines that add up."""
    from pipeline.run import run

    result = run(task)
    counts = result.manifest
    done = f"{counts['ok']} ok + {counts['failed']} failed + {counts['skipped']} skipped"
    rows = "" if counts["rows"] == counts["documents"] else f", {counts['rows']} rows"
    print(f"{counts['documents']} documents{rows} = {done}; {counts['truncated']} cut at the limit")
    if counts["since"]:
        print(
            f"{counts['reused']} of them carried over from {', '.join(run['output'] for run in counts['since'])}"
        )
        new = new_rows(counts)
        if new is not None:
            print(f"{new} are of new documents, {rows_recomputed(counts, new)} were done again")
    for run_before in counts["since"]:
        if run_before["recomputed_because"]:
            print(f"nothing from {run_before['output']}: {', '.join(run_before['recomputed_because'])}")
    for file in result.files_skipped:
        print(f"skipped: {file.skipped}")
    print(f"rows: {result.output}/part-*.parquet\nreport: {result.report}")


def plan(task: Task, options: PlanOptions) -> None:
    """Forecast the run, print it, and keep it beside the run's results, where the report finds it."""
    from pipeline.forecast.calibrate import forecast
    from pipeline.report.charts import lengths_picture

    found = forecast(task, options.sample_documents, options.calibration_seconds)
    open_store(task.settings.output).replace(FORECAST, found.to_json())
    print("\n".join(_forecast_lines(found)))
    if options.picture:
        Path(options.picture).write_text(lengths_picture(found.lengths, found.limit), "utf-8")
        print(f"picture: {options.picture}")


def _forecast_lines(found: Forecast) -> list[str]:
    def about(value: Estimate, unit: str = "") -> str:
        middle = f"{value.middle:,.0f}{unit}"
        if value.high - value.low < 0.5:
            return middle
        return f"{middle} ({value.low:,.0f} to {value.high:,.0f})"

    seconds, hours = found.seconds, found.device_hours
    lines = [
        f"documents      {found.documents:,}, in {found.shards:,} shards",
        f"rows           {about(found.rows)}",
        f"input tokens   {about(found.input_tokens)}",
        f"output tokens  {about(found.output_tokens)}",
        f"cut            {about(found.truncated)} rows have more than {found.limit:,} tokens",
        f"will fail      {about(found.failed)} rows, of what cannot be read",
        f"time           {clock(seconds.middle)} ({clock(seconds.low)} to {clock(seconds.high)}), "
        f"{clock(found.startup_seconds)} of it until the first shard is begun; {found.replicas} model copies",
        f"device-hours   {hours.middle:.3g} ({hours.low:.3g} to {hours.high:.3g})",
    ]
    if found.cost is not None:
        lines.append(
            f"cost           {found.cost.middle:.2f} ({found.cost.low:.2f} to {found.cost.high:.2f})"
        )
    batches = f"; batches of decoding {found.fill:.0%} full" if found.fill else ""
    lines += [
        f"padding        none in encoding{batches}",
        f"memory         {found.memory_bytes / 2**30:.2f} GiB for each model copy, as measured",
        f"output         {found.output_bytes.middle / 2**20:,.1f} MiB",
        f"from           the lengths of {found.sampled:,} rows, and {found.rehearsed:,} rows done on the run's own devices; "
        "intervals hold four times in five",
        "",
        *_length_lines(found.lengths, found.limit),
    ]
    return lines


def _length_lines(lengths: tuple[int, ...], limit: int) -> list[str]:
    """The lengths as bars of text, a line for each doubling."""
    lines, low = ["lengths, tokens"], 1
    while low <= max(lengths[-1], limit):
        high = 2 * low
        share = sum(low <= n < high for n in lengths) / len(lengths)
        mark = "  <- the limit" if low <= limit < high else ""
        if share or mark:
            lines.append(f"{low:>12,} to {high - 1:<10,} {'#' * round(40 * share):<40} {share:5.1%}{mark}")
        low = high
    return lines


def preview(task: Task, options: SampleOptions) -> None:
    """Do a few documents and show each beside what came of it."""
    from pipeline.forecast.calibrate import preview

    console = Console(soft_wrap=False)
    width = max(30, (console.width - 2) // 2)
    for text, row in preview(task, options.documents, options.draw):
        shown = (text or "")[:_HEAD] + (" …" if len(text or "") > _HEAD else "")
        facts, outcome = task.describe(row) if row["status"] == "ok" else (row["stage"], row["reason"])
        flags = ", ".join(row.get("flags") or [])
        below = (
            f"{row['input_tokens']} tokens in, {facts}"
            if row["status"] == "ok"
            else f"{row['status']}: {facts}"
        )
        side = Text(f"{outcome}\n\n{below}" + (f"\nflags: {flags}" if flags else ""))
        panels = [
            Panel(Text(shown), title=Text(row["doc_id"]), width=width),
            Panel(side, title="output", width=width),
        ]
        console.print(Columns(panels))


def status(output: str) -> None:
    """Print how far the run in a folder is, by a listing."""
    from pipeline.output.verify import status

    print(status(open_store(output)))


def verify(output: str) -> None:
    """Count what a folder holds again, from every byte.

    Raises:
        PipelineError: it is not what its plan says, or not yet all of it.
    """
    from pipeline.output.verify import status, verify

    store = open_store(output)
    found = status(store)
    print(found)
    findings = verify(store)
    print(findings)
    if findings.problems:
        raise PipelineError("the output is not what its plan says:\n  " + "\n  ".join(findings.problems))
    if not found.finished:
        raise PipelineError(
            f"what is committed is right; {found.documents - found.documents_committed} documents are left."
        )
    print("every planned document is one row")


def report(settings: ReportSettings) -> None:
    """Write the report of a finished run again.

    Raises:
        UsageError: the folder holds no finished run, or not the column of references.
    """
    from pipeline.output.commit import parse_json_object
    from pipeline.output.verify import read_plan
    from pipeline.report.page import write_report

    store = open_store(settings.output)
    plan = read_plan(store)
    if SUCCESS not in store.names():
        raise UsageError(
            f"{store.url} holds no finished run (no {SUCCESS}); the command that began it goes on from here."
        )
    write_report(
        store,
        plan,
        parse_json_object(store.read(MANIFEST), f"{store.url}/{MANIFEST}"),
        reference_column=settings.reference_column,
        price_per_hour=settings.price_per_hour,
        gpus=settings.gpus,
    )
    print(f"report: {store.url}/{REPORT}")


def show_scores(scores: Mapping[str, float | int]) -> None:
    """Print scores, a line each."""
    for name, value in scores.items():
        print(f"{name:<14} {value:.4f}" if isinstance(value, float) else f"{name:<14} {value}")
