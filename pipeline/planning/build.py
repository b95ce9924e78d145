"""Build a plan from the inputs: inspect each file, check its columns, split it, compare the document IDs.

Files that are unchanged since the plan of an earlier run are not opened again, so resuming takes only a
listing of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.errors import UsageError
from pipeline.inputs.files import find_files
from pipeline.inputs.read import PlannedFile, check_columns, check_same_types, inspect_file
from pipeline.inputs.splits import Split
from pipeline.planning.document_ids import check_duplicate_ids
from pipeline.planning.plan import Plan, make_plan
from pipeline.settings import RunSettings

_FILES_AT_ONCE = 16  # inspecting a file is mostly waiting for its store


def inspect_inputs(settings: RunSettings, previous: Plan | None) -> list[PlannedFile]:
    """Every file of the input with its splits.

    Raises:
        UsageError: there is no input, or a file lacks a column.
        CorruptInput: a file cannot be read, and --on-bad-shard is fail.
        Unreachable: a file cannot be fetched.
    """
    splits: dict[str, list[Split]] = {}
    for shard in previous.shards if previous else ():
        splits.setdefault(shard.path, []).append(shard.split)
    known_files = previous.inputs if previous else ()
    known = {file.path: PlannedFile(file, tuple(splits.get(file.path, ()))) for file in known_files}
    skip_bad, max_bytes, documents = (
        settings.on_bad_shard == "skip",
        settings.max_document_bytes,
        settings.shard_documents,
    )
    entries = find_files(settings.input)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        inspected = pool.map(
            lambda entry: inspect_file(
                entry,
                documents,
                known,
                skip_bad=skip_bad,
                max_bytes=max_bytes,
                group_by=settings.group_column,
            ),
            entries,
        )
        inputs = list(inspected)
    for each in inputs:
        if each.schema is not None:
            columns = settings.text_column, settings.document_id_column, settings.extra_columns
            check_columns(each.file.path, each.schema, *columns, lists=settings.joins_documents)
    return inputs


def plan_inputs(
    inputs: Sequence[PlannedFile], config: dict[str, Any], settings: RunSettings, previous: Plan | None
) -> Plan:
    """The plan over inspected files. Document IDs are compared when a run is planned first, not when it
    resumes.

    Raises:
        UsageError: there are no documents, two have one ID, or a column has two types.
        CorruptInput: the IDs of a file cannot be read, and --on-bad-shard is fail.
    """
    schemas = {each.file.path: each.schema for each in inputs if each.schema is not None}
    if schemas:
        types = check_same_types(schemas, settings.passthrough)
    else:
        types = previous.passthrough if previous else pa.schema([])
    splits = {each.file.path: each.splits for each in inputs}
    plan = make_plan([each.file for each in inputs], config, settings.shard_documents, splits, types)
    if not plan.documents:
        unreadable = len(plan.skipped)
        raise UsageError(f"the input has no documents: {len(inputs)} files, {unreadable} of them unreadable.")
    if settings.on_duplicate_id == "fail" and previous is None:
        check_duplicate_ids(plan, settings)
    return plan
