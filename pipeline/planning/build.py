"""From the inputs named to a plan: each file described, several at a time, its columns checked, cut, its ids compared.

Files that are as they were in the plan of an earlier run are not opened again: resuming takes a listing of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.settings import RunSettings
from pipeline.inputs.splits import Cut
from pipeline.planning.document_ids import check_ids
from pipeline.errors import UsageError
from pipeline.inputs.files import find_files
from pipeline.inputs.read import Input, check_columns, check_same_types, describe
from pipeline.planning.plan import Plan, make_plan

_FILES_AT_ONCE = 16  # to describe a file is mostly to wait for its store


def describe_inputs(settings: RunSettings, before: Plan | None) -> list[Input]:
    """Every file of the input with its cuts.

    Raises:
        UsageError: there is no input, or a file lacks a column.
        CorruptInput: a file cannot be read, and the settings do not say to skip it.
        Unreachable: a file cannot be fetched.
    """
    cuts: dict[str, list[Cut]] = {}
    for shard in before.shards if before else ():
        cuts.setdefault(shard.path, []).append(shard.cut)
    known = {f.path: Input(f, tuple(cuts.get(f.path, ()))) for f in (before.inputs if before else ())}
    found, skip_bad = find_files(settings.input), settings.on_bad_shard == "skip"
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        longest, documents = settings.max_document_bytes, settings.shard_documents
        inputs = list(pool.map(lambda f: describe(f, documents, known, skip_bad=skip_bad, longest=longest), found))
    for each in inputs:
        if each.schema is not None:
            check_columns(each.file.path, each.schema, settings.text_column, settings.id_column, settings.carried_columns)
    return inputs


def plan_inputs(inputs: Sequence[Input], facts: dict[str, Any], settings: RunSettings, before: Plan | None) -> Plan:
    """The plan over described files. Ids are compared when a run is planned first, not when it goes on.

    Raises:
        UsageError: there are no documents, two have one id, or a column has two types.
        CorruptInput: the ids of a file cannot be read, and the settings do not say to skip what cannot.
    """
    schemas = {each.file.path: each.schema for each in inputs if each.schema is not None}
    types = check_same_types(schemas, settings.passthrough) if schemas else before.passthrough if before else pa.schema([])
    cuts = {each.file.path: each.cuts for each in inputs}
    plan = make_plan([each.file for each in inputs], facts, settings.shard_documents, cuts, types)
    if not plan.documents:
        raise UsageError(f"the input has no documents: {len(inputs)} files, {len(plan.skipped)} of them unreadable.")
    if settings.on_duplicate_id == "fail" and before is None:
        check_ids(plan, settings)
    return plan
