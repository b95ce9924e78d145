"""A task as a step of a user's own Ray Data pipeline."""

from __future__ import annotations

from typing import Any

from pipeline.api.functions import make_task
from pipeline.checkpoint import checkpoint_hashes, find_checkpoint
from pipeline.cluster.processing import Processor
from pipeline.errors import UsageError
from pipeline.tasks.base import Task

# Settings of a run over files, which a step of a pipeline has no use for.
_OF_RUNS = (
    "input",
    "output",
    "passthrough",
    "on_bad_shard",
    "on_duplicate_id",
    "max_failed",
    "since",
    "retry_failed",
    "on_changed_settings",
    "shard_documents",
    "stop_at",
    "price_per_hour",
    "max_cost",
    "log_file",
    "ray_progress",
    "accept_unsafe_store",
    "sign_key",
    "table",
    "table_mode",
    "group_by",
    "reference_column",
)


def build_processor(
    task: str | type[Task],
    *,
    model: str,
    batch_documents: int = 64,
    preserve_order: bool = False,
    **settings: Any,
) -> Processor:
    """A processor for datasets of Ray Data. It keeps their columns and adds those of the task.

    `task` and `settings` are those of `run`, without the settings of input and output files. Documents are
    read from `text_column`. A document without a result has the status `failed`, and the columns `stage` and
    `reason` say why. `batch_documents` travel together, and a replica decodes those of several batches
    together. With `preserve_order`, the rows keep the order of the dataset.

    Raises:
        UsageError: there is no such task, setting or model, or a value breaks a rule.
    """
    unused = sorted(set(settings) & set(_OF_RUNS))
    if unused:
        raise UsageError(
            f"{', '.join(unused)} is for runs over files; a processor reads and returns a dataset."
        )
    if batch_documents < 1:
        raise UsageError(f"batch_documents is {batch_documents}; it must be at least 1.")
    made = make_task(task, {**settings, "model": model, "input": "-", "output": "-"})
    checkpoint = find_checkpoint(made.settings)
    try:
        made.run_config(checkpoint.folder)
        made.input_limits(checkpoint.folder)
        hashes = checkpoint_hashes(checkpoint.folder)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"model {model}: {error}") from error
    return Processor(made, checkpoint, hashes, batch_documents, preserve_order)
