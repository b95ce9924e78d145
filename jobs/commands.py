"""What the subcommands do, and what they print."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from pipeline.errors import CorruptOutput, PipelineError, UsageError, escape_controls, one_line
from pipeline.monitor.progress import clock
from pipeline.monitor.stats import Estimate
from pipeline.output.commit import (
    ShardMetadata,
    chunked_rows,
    hardware_of,
    new_rows,
    parse_manifest,
    rows_recomputed,
)
from pipeline.output.open_store import open_store
from pipeline.planning.plan import FORECAST, MANIFEST, REPORT, SUCCESS

if TYPE_CHECKING:
    from jobs.options import (
        DoctorOptions,
        EvaluateOptions,
        EvaluateTextsOptions,
        OutputOptions,
        PlanOptions,
        PreviewOptions,
        PrintOptions,
        ReportOptions,
        VerifyOptions,
    )
    from pipeline.forecast.calibrate import Forecast
    from pipeline.tasks.base import Task

# What a verification compared the content of the files with.
_BOUND_TO = {
    "files": "Every file has the SHA-256 in the manifest.",
    "rows": "The rows of every file have the digest in its footer.",
    "counts": "Counts and checksums match. This run is of a version that recorded no digests, so changed "
    "values would not be noticed.",
}

# Characters of a document that a preview shows.
_SHOWN_CHARACTERS = 700


def run(task: Task, options: PrintOptions) -> None:
    """Run the task, and print a summary of the finished run."""
    from pipeline.run import run

    result = run(task)
    manifest = result.manifest
    if options.json:
        counted = {name: value for name, value in manifest.items() if name not in ("shards", "files")}
        own = {"output": result.output, "report": result.report, "shards_computed": result.shards_done}
        own |= {"table": task.settings.table, "table_version": result.table_version}
        return _print_json({**counted, **own, "left_out": result.plan.left_out})
    counts = f"{manifest['ok']} ok + {manifest['failed']} failed + {manifest['skipped']} skipped"
    rows = "" if manifest["rows"] == manifest["documents"] else f", {manifest['rows']} rows"
    chunked = f", {many} in chunks" if (many := chunked_rows(manifest)) else ""
    print(f"{manifest['documents']} documents{rows} = {counts}; {manifest['truncated']} truncated{chunked}")
    if manifest["since"]:
        print(
            f"{manifest['reused']} rows reused from {', '.join(run['output'] for run in manifest['since'])}"
        )
        new = new_rows(manifest)
        if new is not None:
            print(f"{new} rows of new documents, {rows_recomputed(manifest, new)} rows recomputed")
    for previous in manifest["since"]:
        if previous["recomputed_because"]:
            print(f"nothing reused from {previous['output']}: {', '.join(previous['recomputed_because'])}")
    for file in result.plan.skipped:
        print(escape_controls(f"skipped: {file.skipped}"))
    if result.plan.left_out:
        print(escape_controls(result.plan.left_out_note))
    shards = (ShardMetadata(**values) for values in manifest["shards"].values())
    for (processor, dtype), count in hardware_of(shards).items():
        if dtype != task.settings.precision:
            where = _dtype_on(processor, dtype, task.settings.precision)
            print(f"{count} of {len(manifest['shards'])} shards computed in {where}")
    if result.table_version:
        print(f"table: {task.settings.table}, version {result.table_version}")
    print(f"rows: {result.output}/part-*.parquet\nreport: {result.report}")


def plan(task: Task, options: PlanOptions) -> None:
    """Estimate the run, print the forecast, and store it in the output folder, where the report finds it."""
    from pipeline.forecast.calibrate import forecast
    from pipeline.report.charts import lengths_picture

    result = forecast(task, options.sample_documents, options.calibration_seconds)
    open_store(task.settings.output).replace(FORECAST, result.to_json())
    if options.picture:
        Path(options.picture).write_text(lengths_picture(result.lengths, result.shown_limit), "utf-8")
    if options.json:
        return _print_json(json.loads(result.to_json()))
    print("\n".join(_forecast_lines(result, task.settings.precision)))
    if options.picture:
        print(f"picture: {options.picture}")


def _dtype_on(processor: str, dtype: str, requested: str) -> str:
    """The dtype in force and the processor, and why it is not the dtype that was requested."""
    reason = "" if dtype == requested else f", which has no products in {requested}"
    return f"{dtype} on {processor}{reason}"


def _forecast_lines(forecast: Forecast, requested: str) -> list[str]:
    def about(estimate: Estimate) -> str:
        if estimate.high - estimate.low < 0.5:
            return f"{estimate.value:,.0f}"
        return f"{estimate.value:,.0f} ({estimate.low:,.0f} to {estimate.high:,.0f})"

    seconds, hours = forecast.seconds, forecast.device_hours
    interval = f"({clock(seconds.low)} to {clock(seconds.high)})"
    lines = [
        f"documents      {forecast.documents:,}, in {forecast.shards:,} shards",
        f"rows           {about(forecast.rows)}",
        f"input tokens   {about(forecast.input_tokens)}",
        f"output tokens  {about(forecast.output_tokens)}",
        *_limit_lines(forecast, about),
        f"will fail      {about(forecast.failed)} rows, which cannot be read",
        f"time           {clock(seconds.value)} {interval} on {forecast.replicas} replicas, "
        f"{clock(forecast.startup_seconds)} of it for the start",
        f"device-hours   {hours.value:.3g} ({hours.low:.3g} to {hours.high:.3g})",
    ]
    if forecast.cost is not None:
        cost = forecast.cost
        lines.append(f"cost           {cost.value:.2f} ({cost.low:.2f} to {cost.high:.2f})")
    if forecast.slot_utilization:
        lines.append(
            f"slots          {forecast.slot_utilization:.0%} utilized in decoding, no padding in encoding"
        )
    if forecast.settings:
        lines.append(f"settings       {forecast.settings}")
    if forecast.left_out:
        lines.append(f"not read       {forecast.left_out}")
    for processor, dtype in forecast.hardware:
        lines.append(f"computed in    {_dtype_on(processor, dtype, requested)}")
    lines += [
        f"memory         {forecast.memory_bytes / 2**30:.2f} GiB per replica, as measured",
        f"output         {forecast.output_bytes.value / 2**20:,.1f} MiB",
        f"based on       the lengths of {forecast.sampled:,} rows, and {forecast.calibration_rows:,} rows "
        "computed on the run's own devices; 80 % intervals",
        "",
        *_length_lines(forecast.lengths, forecast.shown_limit),
    ]
    return lines


def _limit_lines(forecast: Forecast, about: Callable[[Estimate], str]) -> list[str]:
    """How many rows are truncated, and how many are read in chunks."""
    lines = []
    if forecast.limit is not None:
        lines.append(
            f"truncated      {about(forecast.truncated)} rows have more than {forecast.limit:,} tokens"
        )
    if forecast.limit is None or forecast.limit > forecast.chunk_tokens:
        share = forecast.chunked.value / max(1.0, forecast.rows.value)
        lines.append(
            f"in chunks      {about(forecast.chunked)} rows ({share:.1%}) have more than "
            f"{forecast.chunk_tokens:,} tokens; {about(forecast.chunks)} chunks in all"
        )
    return lines


def _length_lines(lengths: tuple[int, ...], limit: int) -> list[str]:
    """A histogram of the lengths as text, one line per power of two."""
    lines, low = ["lengths, tokens"], 1
    while low <= max(lengths[-1], limit):
        high = 2 * low
        share = sum(low <= n < high for n in lengths) / len(lengths)
        mark = "  <- the limit" if low <= limit < high else ""
        if share or mark:
            bar = "#" * round(40 * share)
            lines.append(f"{low:>12,} to {high - 1:<10,} {bar:<40} {share:5.1%}{mark}")
        low = high
    return lines


def preview(task: Task, options: PreviewOptions) -> None:
    """Process a few documents and show each beside its result."""
    from pipeline.checkpoint import find_checkpoint
    from pipeline.forecast.calibrate import preview

    if options.json:
        rows = preview(task, options.documents, options.draw)
        return _print_json({"rows": [{"text": text, **row} for text, row in rows]})
    if in_force := task.describe_settings(find_checkpoint(task.settings).folder):
        print(f"settings: {in_force}\n")
    console = Console(soft_wrap=False)
    width = max(30, (console.width - 2) // 2)
    for text, row in preview(task, options.documents, options.draw):
        head = (text or "")[:_SHOWN_CHARACTERS]
        shown = f"{head} …" if len(text or "") > _SHOWN_CHARACTERS else head
        if row["status"] == "ok":
            details, result = task.describe(row)
            below = f"{row['input_tokens']} tokens in, {details}"
        else:
            below, result = f"{row['status']}: {row['stage']}", row["reason"]
        flags = ", ".join(row.get("flags") or [])
        side = Text(escape_controls(f"{result}\n\n{below}" + (f"\nflags: {flags}" if flags else "")))
        panels = [
            Panel(Text(escape_controls(shown)), title=Text(escape_controls(row["doc_id"])), width=width),
            Panel(side, title="output", width=width),
        ]
        console.print(Columns(panels))


def doctor(options: DoctorOptions) -> int:
    """Print what is found on this machine. Returns 1 if there is an error."""
    from pipeline.doctor import examine

    findings = examine(options.gpus, options.ray_address, options.start_ray)
    if options.json:
        found = [asdict(finding) for finding in findings]
        errors = sum(finding["state"] == "error" for finding in found)
        _print_json({"errors": errors, "findings": found})
        return int(errors > 0)
    errors = 0
    for finding in findings:
        print(f"{finding.state:<9}{finding.subject:<15}{finding.text}", flush=True)
        errors += finding.state == "error"
    print(f"{errors} errors" if errors != 1 else "1 error")
    return int(errors > 0)


def status(options: OutputOptions) -> None:
    """Print the progress of the run in a folder, from a listing."""
    from pipeline.output.verify import status

    found = status(open_store(options.output))
    return _print_json(asdict(found)) if options.json else print(found)


def verify(options: VerifyOptions) -> None:
    """Check every byte of a folder.

    Raises:
        PipelineError: the output does not match its plan, or is not complete yet.
    """
    from pipeline.output.sign_key import read_key
    from pipeline.output.verify import status, verify

    store = open_store(options.output)
    key = read_key(options.sign_key) if options.sign_key else None
    progress = status(store)
    result = verify(store, key=key, against_input=options.against_input)
    if options.json:
        correct = progress.finished and not result.problems
        # `asdict` cannot copy a Counter.
        found = {f.name: getattr(result, f.name) for f in fields(result)}
        _print_json({"correct": correct, **asdict(progress), **found})
    else:
        print(progress)
        print(escape_controls(str(result)))
        for warning in result.warnings:
            print(escape_controls(f"warning: {warning}"))
    if result.problems:
        raise PipelineError("the output does not match its plan:\n  " + "\n  ".join(result.problems))
    if not progress.finished:
        missing = progress.documents - progress.documents_committed
        raise PipelineError(
            f"the committed rows are correct, but {missing} documents are missing; rerun the same command to "
            "resume."
        )
    if options.json:
        return
    duplicates = "" if result.duplicates else ", no duplicates"
    print(
        f"Verified: {result.documents} documents, {result.rows.total()} rows{duplicates}. "
        f"{_BOUND_TO[result.bound_to]}"
    )


def report(options: ReportOptions) -> None:
    """Write the report of a finished run again.

    Raises:
        UsageError: the folder holds no finished run, or lacks the reference column.
    """
    from pipeline.output.verify import read_plan
    from pipeline.report.page import write_report

    store = open_store(options.output)
    plan = read_plan(store)
    if SUCCESS not in store.names():
        raise UsageError(
            f"{store.url} holds no finished run (no {SUCCESS}); rerun the same command to resume it."
        )
    manifest = parse_manifest(store.read(MANIFEST), f"{store.url}/{MANIFEST}")
    try:
        write_report(
            store,
            plan,
            manifest,
            reference_column=options.reference_column,
            price_per_hour=options.price_per_hour,
            gpus=options.gpus,
            compare_previous=options.compare_previous,
        )
    except PipelineError:
        raise
    except Exception as error:  # the files of a foreign folder may hold anything
        raise CorruptOutput(
            f"the report of {store.url} cannot be made ({type(error).__name__}: {one_line(error)}); run "
            "verify to see what differs from the run."
        ) from error
    report = f"{store.url}/{REPORT}"
    return _print_json({"report": report}) if options.json else print(f"report: {report}")


def evaluation_of(output: str) -> str:
    """The kind of evaluation that fits the task of the run in a folder."""
    from pipeline.output.verify import read_plan

    return read_plan(open_store(output)).task.evaluation


def evaluate(kind: str, options: EvaluateOptions | EvaluateTextsOptions) -> None:
    """Print the scores of a finished run against references, one per line.

    Raises:
        UsageError: the folder holds no finished run, or lacks the reference column.
    """
    from jobs.options import EvaluateTextsOptions
    from pipeline.output.verify import read_plan
    from pipeline.report.scores import evaluate

    store = open_store(options.output)
    task, column = read_plan(store).task, options.reference_column
    if isinstance(options, EvaluateTextsOptions):
        scores = evaluate(store, task, kind, column, options.facts_column, stemmer=options.stemmer)
    else:
        scores = evaluate(store, task, kind, column)
    if options.json:
        return _print_json(scores)
    for name, value in scores.items():
        print(f"{name:<14} {value:.4f}" if isinstance(value, float) else f"{name:<14} {value}")


def _print_json(value: Mapping[str, Any]) -> None:
    """Print the result of a subcommand for a script."""
    print(json.dumps(value, default=str))
