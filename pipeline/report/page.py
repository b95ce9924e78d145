"""The report of a run: one self-contained HTML file, made from the committed rows.

`content.py` computes what the page shows, and the template `page.html.j2` renders it. The template escapes
every text, so documents cannot change the page. A report is not a result, so it may be written again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.errors import CorruptOutput, UsageError, one_line
from pipeline.logs import event
from pipeline.output.commit import parse_json_object, parse_manifest
from pipeline.output.open_store import open_store
from pipeline.output.store import Store
from pipeline.planning.plan import FORECAST, FORECAST_VERSION, MANIFEST, REPORT, Plan
from pipeline.report.charts import STYLE
from pipeline.report.content import page_content
from pipeline.report.rows import Findings, collect_findings
from pipeline.versions import upgrade_forecast


def write_report(
    store: Store,
    plan: Plan,
    manifest: Mapping[str, Any],
    *,
    reference_column: str | None = None,
    price_per_hour: float | None = None,
    gpus: float = 0.0,
    compare_previous: bool = True,
) -> None:
    """Write the report of a finished run into its folder.

    `gpus` are those of each replica. `price_per_hour` is the price of one device-hour. With
    `compare_previous`, the manifest of the previous run is read, at the address that the plan names.

    Raises:
        UsageError: the reference column does not exist or does not hold texts.
    """
    check_reference(plan, reference_column)
    findings = collect_findings(store, plan, manifest["shards"], reference_column)
    page = render(
        plan,
        manifest,
        findings,
        _read_forecast(store),
        _read_previous_manifest(plan) if compare_previous else None,
        reference_column=reference_column,
        price_per_hour=price_per_hour,
        gpus=gpus,
    )
    store.replace(REPORT, page.encode())


def try_report(store: Store, plan: Plan, manifest: Mapping[str, Any], **options: Any) -> bool:
    """Call `write_report` for a run whose rows are all committed. An error is printed and logged, since the
    run itself did not fail. Returns whether the report was written."""
    try:
        write_report(store, plan, manifest, **options)
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        print(
            f"warning: the report could not be written ({reason}). All rows are committed. Run the "
            "subcommand report to write it again.",
            file=sys.stderr,
        )
        event("report not written", error=reason)
        return False
    return True


def check_reference(plan: Plan, column: str | None) -> None:
    """Check that the column of reference summaries, if there is one, is in the output and holds texts.

    Raises:
        UsageError: it does not exist or does not hold texts.
    """
    if column is None:
        return
    if column not in plan.passthrough.names:
        raise UsageError(
            f"--reference-column {column}: the output has no such column; copy it with --passthrough."
        )
    kind = value_type = plan.passthrough.field(column).type
    if pa.types.is_dictionary(kind):
        value_type = kind.value_type
    types = pa.types
    text_types = (types.is_null, types.is_string, types.is_large_string, types.is_string_view)
    if not any(is_type(value_type) for is_type in text_types):
        raise UsageError(
            f"--reference-column {column}: the column holds {kind}; it must hold the reference summaries, as "
            "texts."
        )


def _read_forecast(store: Store) -> Mapping[str, Any] | None:
    """The forecast in the folder, if there is one. Empty if it cannot be read or is of an unknown version."""
    if FORECAST not in store.names():
        return None
    try:
        forecast = parse_json_object(store.read(FORECAST), FORECAST)
    except CorruptOutput:
        return {}
    if "version" not in forecast:
        return upgrade_forecast(forecast)
    return forecast if forecast["version"] == FORECAST_VERSION else {}


def _read_previous_manifest(plan: Plan) -> Mapping[str, Any] | None:
    """The manifest of the newest finished run among those of --since. Empty if it cannot be read."""
    for run in plan.config.get("since", ()):
        store = open_store(run["output"])
        if MANIFEST in store.names():
            try:
                return parse_manifest(store.read(MANIFEST), MANIFEST)
            except CorruptOutput:
                return {}
    return None


def render(
    plan: Plan,
    manifest: Mapping[str, Any],
    findings: Findings,
    forecast: Mapping[str, Any] | None = None,
    previous: Mapping[str, Any] | None = None,
    **options: Any,
) -> str:
    """The page as HTML. `previous` is the manifest of the previous run. For options see `page_content`."""
    environment = Environment(
        loader=PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = page_content(plan, manifest, findings, forecast, previous, **options)
    return environment.get_template("page.html.j2").render(page=page, chart_style=STYLE)
