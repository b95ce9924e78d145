"""Names that output of version 0.1.0 uses, and how it is read under today's names.

A folder of version 0.1.0 has a `_plan.json` of version 2, a `_manifest.json` of version 1, and Parquet files
whose footer has the key `led.receipt`. Everything else of the format is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from pipeline.schema import TaskInfo
from pipeline.settings import fingerprint

# old names
_COLUMNS = {"reused_from": "origin", "chunks": "windows"}
_COUNTS = {"carried": "reused"}
_MEASURED = {"places": "slot_steps"}
_CONFIG = {"reading": "input_limits"}
_SETTINGS = {"window_tokens": "chunk_tokens", "window_overlap": "chunk_overlap"}
_PREVIOUS_RUN = {"redone_because": "recomputed_because"}
_ESTIMATE = {"middle": "value"}
_FORECAST = {"actors": "replicas", "fill": "slot_utilization", "rehearsed": "calibration_rows"}
SHARD_METADATA_0_1, RUN_CONFIG_0_1 = b"led.receipt", b"led.facts"
# end of old names

# The tasks of plans that do not describe their task, by name.
_TASKS = {
    "summarize": TaskInfo("Summarization", "summary", "score"),
    "classify": TaskInfo("Classification", "label", "label_score", evaluation="labels"),
    "answer": TaskInfo(
        "Question answering", "answer", "answer_score", "question_number", "answers", hashes_text_alone=False
    ),
}


def task_info(config: Mapping[str, Any]) -> dict[str, Any]:
    """The description of the task of a plan that has none, by the plan's run config."""
    info = _TASKS.get(config.get("task", ""), TaskInfo())
    settings = config.get("settings", {})
    spans = any(rule.startswith("column:") for rule in settings.get("global_attention", ()))
    alone = info.hashes_text_alone and not spans and not settings.get("prefix_column")
    return {**asdict(info), "hashes_text_alone": alone}


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}


def _old_columns(schema: pa.Schema) -> Mapping[str, str]:
    """The old names of columns by today's names. Empty for a file of this version.

    The footer decides, not the columns. An input column of either version may have a name that the other
    version uses.
    """
    return _COLUMNS if SHARD_METADATA_0_1 in (schema.metadata or {}) else {}


def stored_names(columns: Sequence[str], schema: pa.Schema) -> list[str]:
    """The names under which a file of this schema holds `columns`. Columns that it lacks are left out."""
    old = _old_columns(schema)
    names = [old.get(name, name) for name in columns]
    return [name for name in names if name in schema.names]


def with_current_names(table: pa.Table) -> pa.Table:
    """The same table under today's column names."""
    names = {old: name for name, old in _old_columns(table.schema).items()}
    return table.rename_columns([names.get(name, name) for name in table.column_names])


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The run config of a plan of version 2."""
    config = _renamed(config, _CONFIG)
    limits, settings = config.get("input_limits"), config.get("settings")
    if isinstance(limits, dict):
        config["input_limits"] = _renamed(limits, _SETTINGS)
    if isinstance(settings, dict):
        config["settings"] = _renamed(settings, _SETTINGS)
    config["since"] = [_renamed(run, _PREVIOUS_RUN) for run in config.get("since") or []]
    return config


def upgrade_plan(values: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The values of a `_plan.json` of version 2 under today's names, and the fingerprint that its files
    carry.

    Raises:
        ValueError: it is of another version.
    """
    if values["version"] != 2:
        raise ValueError(f"version {values['version']}")
    return {**values, "config": upgrade_config(values["facts"])}, fingerprint(values["facts"])


def upgrade_shard_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of one shard, as a footer or manifest of version 0.1.0 has it."""
    values = _renamed(values, _COUNTS)
    return {**values, "measured": _renamed(values["measured"], _MEASURED)}


def upgrade_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of version 1 as one of version 2."""
    manifest = _renamed(manifest, _COUNTS)
    shards = {part: upgrade_shard_metadata(values) for part, values in manifest["shards"].items()}
    since = manifest.get("since")
    return {
        **manifest,
        "version": 2,
        "since": None if since is None else [_renamed(run, _PREVIOUS_RUN) for run in since],
        "shards": shards,
    }


def upgrade_forecast(forecast: Mapping[str, Any]) -> dict[str, Any]:
    """A `_forecast.json` without a version."""
    forecast = _renamed(forecast, _FORECAST)
    return {
        name: _renamed(value, _ESTIMATE) if isinstance(value, dict) else value
        for name, value in forecast.items()
    }
