"""From the inputs named to a plan: each file described, several at a time, its columns checked, cut, its ids compared.

Files that are as they were in the plan of an earlier run are not opened again: resuming takes a listing of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.settings import RunSettings
from pipeline.inputs.splits import Split
from pipeline.planning.document_ids import check_duplicate_ids
from pipeline.errors import UsageError
from pipeline.inputs.files import find_files
from pipeline.inputs.read import PlannedFile, check_columns, check_same_types, inspect_file
from pipeline.planning.plan import Plan, make_plan

_FILES_AT_ONCE = 16  # to describe a file is mostly to wait for its store


def inspect_inputs(settings: RunSettings, before: Plan | None) -> list[PlannedFile]:
    """Every file of the input with its cuts.

    Raises:
        UsageError: there is no input, or a file lacks a column.
        CorruptInput: a file cannot be read, and the settings do not say to skip it.
        Unreachable: a file cannot be fetched.
    """
    splits: dict[str, list[Split]] = {}
    for shard in before.shards if before else ():
        splits.setdefault(shard.path, []).append(shard.split)
    known = {f.path: PlannedFile(f, tuple(splits.get(f.path, ()))) for f in (before.inputs if before else ())}
    found, skip_bad = find_files(settings.input), settings.on_bad_shard == "skip"
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        longest, documents = settings.max_document_bytes, settings.shard_documents
        inputs = list(pool.map(lambda f: inspect_file(f, documents, known, skip_bad=skip_bad, longest=longest), found))
    for each in inputs:
        if each.schema is not None:
            check_columns(each.file.path, each.schema, settings.text_column, settings.id_column, settings.extra_columns)
    return inputs


def plan_inputs(inputs: Sequence[PlannedFile], config: dict[str, Any], settings: RunSettings, before: Plan | None) -> Plan:
    """The plan over described files. Ids are compared when a run is planned first, not when it goes on.

    Raises:
        UsageError: there are no documents, two have one id, or a column has two types.
        CorruptInput: the ids of a file cannot be read, and the settings do not say to skip what cannot.
    """
    schemas = {each.file.path: each.schema for each in inputs if each.schema is not None}
    types = check_same_types(schemas, settings.passthrough) if schemas else before.passthrough if before else pa.schema([])
    splits = {each.file.path: each.splits for each in inputs}
    plan = make_plan([each.file for each in inputs], config, settings.shard_documents, splits, types)
    if not plan.documents:
        raise UsageError(f"the input has no documents: {len(inputs)} files, {len(plan.skipped)} of them unreadable.")
    if settings.on_duplicate_id == "fail" and before is None:
        check_duplicate_ids(plan, settings)
    return plan
