"""Build the plan of a run from its settings, checkpoint and input."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from led.checkpoint.hub import Checkpoint
from led.config import LEDConfig
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline import RESULTS_VERSION
from pipeline.checkpoint import checkpoint_hashes
from pipeline.errors import UsageError
from pipeline.output.previous_runs import describe_previous_runs
from pipeline.planning.build import inspect_inputs, plan_inputs
from pipeline.planning.plan import Plan
from pipeline.schema import COUNTED, INPUT, INTERNAL, output_columns
from pipeline.tasks.base import Task
from pipeline.tasks.registry import code_of


def build_plan(task: Task, checkpoint: Checkpoint, previous: Plan | None) -> Plan:
    """The plan of `task` over its current input. Nothing is written. Files that have not changed since
    `previous` stay closed.

    Raises:
        UsageError: the input has no documents, lacks a column or has a duplicate ID, or the settings do
            not fit the checkpoint.
        CorruptInput: a file cannot be read, and --on-bad-shard is fail.
    """
    settings = task.settings
    _check_names(task)
    reserved = {*output_columns(task.schema), *COUNTED, *INTERNAL, *INPUT.names}
    clash = [name for name in settings.passthrough if name in reserved]
    if clash:
        raise UsageError(
            f"--passthrough {', '.join(clash)}: the output has columns of that name, or the run uses it "
            "internally; rename the input's."
        )
    inputs = inspect_inputs(settings, previous)
    try:
        limits = asdict(task.input_limits(checkpoint.folder))
        # As in plans of versions that knew neither.
        for name, default in (("prefix", ""), ("chunk_ends", "token")):
            if limits[name] == default:
                del limits[name]
        config = {
            "code_version": RESULTS_VERSION,
            "settings": _with_id_column(settings.fingerprinted_settings(), inputs.id_column),
            "input_limits": limits,
            **checkpoint_hashes(checkpoint.folder),
            **task.run_config(checkpoint.folder),
            **code_of(type(task)),
        }
        tokenizer = LEDTokenizer.from_pretrained(checkpoint.folder)
        tokenizer.check_embedding(LEDConfig.from_pretrained(checkpoint.folder).vocab_size)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"--model {settings.model}: {error}") from error
    config["since"] = describe_previous_runs(settings, config, task.hashed_config)
    if settings.on_duplicate_id == "keep":
        config["duplicates_kept"] = True
    return plan_inputs(inputs, config, settings, task.info, previous, reserved)


def _check_names(task: Task) -> None:
    """Check the names of a task's columns, which a task of one's own chooses.

    Raises:
        UsageError: two columns have one name, or a column that the task names does not exist.
    """
    names = [*output_columns(task.schema), *INTERNAL, *INPUT.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"the task {task.name} has the column {', '.join(twice)}, which every run has; rename it in "
            "columns."
        )
    named = (task.result_column, task.score_column, task.number_column)
    missing = sorted({name for name in named if name is not None} - set(task.schema.names))
    if missing:
        raise UsageError(
            f"the task {task.name} names the column {', '.join(missing)}, which it does not have."
        )


def _with_id_column(values: dict[str, Any], id_column: str | None) -> dict[str, Any]:
    """The settings of a run with the column of document IDs that its input has."""
    return values if "group_by" in values else values | {"id_column": id_column}
