"""Build the plan of a run, and freeze it in the output folder."""

from __future__ import annotations

from dataclasses import asdict

from led.checkpoint.hub import Checkpoint
from led.config import LEDConfig
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline import RESULTS_VERSION
from pipeline.checkpoint import checkpoint_hashes
from pipeline.errors import PlanMismatch, UsageError
from pipeline.output.previous_runs import describe_previous_runs
from pipeline.output.store import Store
from pipeline.planning.build import inspect_inputs, plan_inputs
from pipeline.planning.plan import PLAN, Plan, plan_differences
from pipeline.schema import COUNTED, output_columns
from pipeline.tasks import Task

# Differences shown in an error message.
_SHOWN = 20


def existing_plan(store: Store) -> Plan | None:
    """The plan in the output folder, or None for a new run."""
    return Plan.from_json(store.read(PLAN)) if PLAN in store.names() else None


def build_plan(task: Task, checkpoint: Checkpoint, previous: Plan | None) -> Plan:
    """The plan of `task` over its current input. Nothing is written. Files that have not changed since
    `previous` stay closed.

    Raises:
        UsageError: the input has no documents, lacks a column or has a duplicate ID, or the settings do
            not fit the checkpoint.
        CorruptInput: a file cannot be read, and --on-bad-shard is fail.
    """
    settings = task.settings
    reserved = {*output_columns(task.columns), *COUNTED}
    clash = [name for name in settings.passthrough if name in reserved]
    if clash:
        raise UsageError(
            f"--passthrough {', '.join(clash)}: the output has columns of that name; rename the input's."
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
            "settings": settings.fingerprinted_settings(),
            "input_limits": limits,
            **checkpoint_hashes(checkpoint.folder),
            **task.run_config(checkpoint.folder),
        }
        tokenizer = LEDTokenizer.from_pretrained(checkpoint.folder)
        tokenizer.check_embedding(LEDConfig.from_pretrained(checkpoint.folder).vocab_size)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"--model {settings.model}: {error}") from error
    config["since"] = describe_previous_runs(settings, config)
    if settings.on_duplicate_id == "keep":
        config["duplicates_kept"] = True
    return plan_inputs(inputs, config, settings, previous)


def freeze_plan(store: Store, plan: Plan, previous: Plan | None = None) -> Plan:
    """Write the plan create-only. A plan that is already in the folder must equal this one.

    Raises:
        PlanMismatch: the folder has another plan. The message lists what differs.
    """
    if previous is None:  # without conditional writes, a second write would replace the plan
        store.create(PLAN, plan.to_json())
    frozen = previous or Plan.from_json(store.read(PLAN))
    changed = plan_differences(frozen, plan)
    if changed:
        lines = [*changed[:_SHOWN], *([f"and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else [])]
        raise PlanMismatch(
            f"{store.url} holds a run with another plan:\n  " + "\n  ".join(lines) + "\n"
            "Use that run's settings to resume it, or another --output to start a new run."
        )
    return frozen
