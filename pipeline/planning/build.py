"""Build a plan from the inputs: inspect each file, check its columns, split it, compare the document IDs.

Files that are unchanged since the plan of an earlier run are not opened again, so resuming takes only a
listing of the input.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.errors import UsageError
from pipeline.file_systems import is_inside, resolved
from pipeline.inputs.files import FileEntry, find_files
from pipeline.inputs.read import (
    PlannedFile,
    check_columns,
    check_same_types,
    has_column,
    inspect_file,
    type_in_all,
)
from pipeline.inputs.splits import Split
from pipeline.planning.document_ids import check_duplicate_ids
from pipeline.planning.plan import Plan, make_plan
from pipeline.schema import DOC_ID, TaskInfo
from pipeline.settings import RunSettings

_FILES_AT_ONCE = 16  # inspecting a file is mostly waiting for its store


# The column of document IDs where `doc_id`, the default of --id-column, does not exist.
_OTHER_ID = "id"


@dataclass(frozen=True)
class InspectedInputs:
    """Every file of the input with its splits, the paths of the files in its folders that are left out, the
    column with the document IDs, if there is one, and the version of each table by its address."""

    files: Sequence[PlannedFile]
    left_out: Sequence[str]
    id_column: str | None
    tables: Mapping[str, str]


def inspect_inputs(settings: RunSettings, previous: Plan | None) -> InspectedInputs:
    """Inspect every file of the input.

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
    found = find_files(settings.input, previous.tables if previous else None)
    _check_output_apart(settings, found.files)
    ids = _id_columns(settings)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        inspected = pool.map(
            lambda entry: inspect_file(
                entry,
                documents,
                known,
                skip_bad=skip_bad,
                max_bytes=max_bytes,
                group_by=settings.group_column,
                text=settings.text_column,
                columns=[*settings.passthrough, *ids[:1]],
                optional=ids[1:],
            ),
            found.files,
        )
        inputs = list(inspected)
    schemas = {each.file.path: each.schema for each in inputs if each.schema is not None and each.file.rows}
    id_column = _id_column(settings, schemas, previous)
    for path, schema in schemas.items():
        columns = settings.text_column, id_column, settings.extra_columns
        check_columns(path, schema, *columns, lists=settings.joins_documents)
    return InspectedInputs(inputs, found.left_out, id_column, found.tables)


def _id_columns(settings: RunSettings) -> list[str]:
    """The columns that may have the document IDs."""
    if settings.document_id_column == DOC_ID.name:
        return [DOC_ID.name, _OTHER_ID]
    return [settings.document_id_column] if settings.document_id_column else []


def _id_column(settings: RunSettings, schemas: Mapping[str, pa.Schema], previous: Plan | None) -> str | None:
    """The column with the document IDs: that of the settings, but `id` where no file has the default."""
    candidates = _id_columns(settings)
    if len(candidates) < 2:
        return settings.document_id_column
    if previous is not None and previous.id_column in candidates:
        return previous.id_column
    with_default, with_other = (
        [has_column(path, schema, column) for path, schema in schemas.items()] for column in candidates
    )
    return candidates[1] if not any(with_default) and with_other and all(with_other) else candidates[0]


def _check_output_apart(settings: RunSettings, files: Sequence[FileEntry]) -> None:
    """Check that the output is not among the inputs, where a later run would read it.

    Raises:
        UsageError: it is.
    """
    for given in settings.input:
        if is_inside(settings.output, given):
            raise UsageError(
                f"--output {settings.output} is inside of --input {given}, so the next command would read "
                "the results as documents; choose a folder elsewhere."
            )
    output = resolved(settings.output)
    folders = {file.path.rpartition("/")[0]: file.path for file in files if not file.members}
    for folder, path in folders.items():
        if resolved(folder) == output:
            raise UsageError(
                f"--output {settings.output} is the folder of the input {path}; choose an empty folder."
            )


def plan_inputs(
    inspected: InspectedInputs,
    config: dict[str, Any],
    settings: RunSettings,
    task: TaskInfo,
    previous: Plan | None,
    reserved: Collection[str] = (),
) -> Plan:
    """The plan of `task` over inspected files. `reserved` are names of columns that the output has.

    Document IDs are compared when a run is planned first, not when it resumes.

    Raises:
        UsageError: there are no documents, two have one ID, or a column has two types.
        CorruptInput: the IDs of a file cannot be read, and --on-bad-shard is fail.
    """
    inputs = inspected.files
    schemas = {each.file.path: each.schema for each in inputs if each.schema is not None and each.file.rows}
    if previous:
        types = previous.passthrough
    else:
        types = check_same_types(schemas, settings.passthrough) if schemas else pa.schema([])
        id_column = inspected.id_column
        copied = id_column in (None, DOC_ID.name, *settings.passthrough, *reserved)
        # Results can be joined by the name and type of the ID column, if all files have it in one type.
        if not copied and schemas and (kind := type_in_all(schemas, str(id_column))) is not None:
            types = types.append(pa.field(str(id_column), kind))
    splits = {each.file.path: each.splits for each in inputs}
    plan = make_plan(
        [each.file for each in inputs],
        config,
        settings.shard_documents,
        splits,
        types,
        inspected.left_out,
        task,
        inspected.tables,
    )
    if not plan.documents:
        unreadable = len(plan.skipped)
        raise UsageError(f"the input has no documents: {len(inputs)} files, {unreadable} of them unreadable.")
    if settings.on_duplicate_id == "fail" and previous is None:
        check_duplicate_ids(plan, settings, inspected.id_column)
    return plan
