"""Count the content of an output folder again: from its listing for the status, from every byte for the
proof."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import CorruptOutput, UsageError
from pipeline.output.commit import (
    ShardMetadata,
    counts_of,
    make_manifest,
    parse_json_object,
    parse_manifest,
    parse_run_config,
    parse_shard_metadata,
    read_columns,
    success_marker,
)
from pipeline.output.store import Store
from pipeline.planning.document_ids import document_ids
from pipeline.planning.duplicates import find_duplicates, hash_ids
from pipeline.planning.plan import MANIFEST, PLAN, SUCCESS, Plan, Shard, remaining
from pipeline.schema import DOC_ID, FLAGS, NUMBER, STATUSES, TRUNCATED
from pipeline.versions import stored_names, with_current_names

# File names shown of one kind of problem.
_SHOWN = 5

_FILES_AT_ONCE = 16  # reading a file is mostly waiting for the store

# Rows in memory at a time, of the columns that are only read to check that they can be. They may be whole
# documents.
_ROWS_AT_ONCE = 8

_COUNTED = (
    DOC_ID.name,
    "status",
    "stage",
    "reason",
    "input_tokens",
    *TRUNCATED,
    "reused_from",
    "output_tokens",
    NUMBER,
    FLAGS.name,
)


@dataclass(frozen=True)
class Status:
    """The progress of a run, from a listing: documents and shards in total and committed, and whether it is
    finished."""

    documents: int
    documents_committed: int
    shards: int
    shards_committed: int
    finished: bool

    def __str__(self) -> str:
        state = "finished" if self.finished else "unfinished: rerun the same command to resume"
        return (
            f"{self.documents_committed}/{self.documents} documents, {self.shards_committed}/{self.shards} "
            f"shards committed; {state}"
        )


@dataclass
class Verification:
    """What the bytes hold: documents, rows by status, duplicate IDs (their number and some of them), and the
    problems."""

    documents: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    duplicate_ids: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.rows.total()} rows = " + " + ".join(f"{self.rows[name]} {name}" for name in STATUSES)
        return f"{text}; {self.describe_duplicates()}" if self.duplicates else text

    def describe_duplicates(self) -> str:
        """The duplicate IDs, in words."""
        examples = ", ".join(self.duplicate_ids[:3])
        return f"{self.duplicates} document IDs occur more than once, such as {examples}"


class _VerifiedShard(NamedTuple):
    """A committed file without problems: its metadata, and a hash of each document ID."""

    metadata: ShardMetadata
    hashes: np.ndarray


def read_plan(store: Store) -> Plan:
    """The plan of the run in this folder.

    Raises:
        UsageError: the folder holds no run.
    """
    if PLAN not in store.names():
        raise UsageError(f"{store.url} holds no run (no {PLAN}); name the folder that was given as --output.")
    return Plan.from_json(store.read(PLAN))


def status(store: Store) -> Status:
    """The progress of the run in this folder. Reads the plan and a listing, nothing else.

    Raises:
        UsageError: the folder holds no run.
    """
    plan, names = read_plan(store), store.names()
    todo = remaining(plan, names)
    missing = sum(shard.documents for shard in todo)
    return Status(
        plan.documents,
        plan.documents - missing,
        len(plan.shards),
        len(plan.shards) - len(todo),
        SUCCESS in names,
    )


def verify(store: Store) -> Verification:
    """Count every committed row again and compare with the plan, the footers, the manifest and the success
    marker.

    Several files are read in parallel. Eight bytes of every document ID are kept. Duplicate IDs are a problem
    unless the run had --on-duplicate-id keep.

    Raises:
        UsageError: the folder holds no run.
    """
    plan, names = read_plan(store), store.names()
    result = Verification()
    planned = {shard.part for shard in plan.shards}
    unplanned = sorted(name for name in names if name.startswith("part-") and name not in planned)
    _add_problems(result, unplanned, "is not in the plan")
    todo = remaining(plan, names)
    if todo and SUCCESS in names:
        _add_problems(
            result, [shard.part for shard in todo], "is missing, though the run is marked as finished"
        )
    committed = [shard for shard in plan.shards if shard.part in names]
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        checked = list(pool.map(lambda shard: _check_shard(store, shard, plan), committed))
    result.problems += [problem for problem in checked if isinstance(problem, str)]
    pairs = zip(committed, checked, strict=True)
    verified = {shard.part: shard_ for shard, shard_ in pairs if isinstance(shard_, _VerifiedShard)}
    shards_metadata = {shard.metadata.shard_id: shard.metadata for shard in verified.values()}
    for metadata in shards_metadata.values():
        result.documents += metadata.documents
        result.rows.update({name: getattr(metadata, name) for name in STATUSES})
    hashes = [shard.hashes for shard in verified.values()]
    result.duplicates, result.duplicate_ids = find_duplicates(
        hashes, [partial(_read_ids, store, part) for part in verified]
    )
    if result.duplicates and not plan.config.get("duplicates_kept"):
        result.problems.append(result.describe_duplicates())
    complete = len(shards_metadata) == len(plan.shards)
    if (
        MANIFEST in names
        and complete
        and _read_manifest(store, result) != make_manifest(plan, shards_metadata)
    ):
        result.problems.append(f"{MANIFEST} does not match the files")
    if SUCCESS in names:
        manifest = store.read(MANIFEST) if MANIFEST in names else b""
        if _read_marker(store, result) != success_marker(plan, manifest):
            result.problems.append(f"{SUCCESS} does not match {MANIFEST}")
        if result.documents != plan.documents:
            result.problems.append(
                f"there are rows of {result.documents} documents; the plan has {plan.documents}"
            )
    return result


def _read_manifest(store: Store, result: Verification) -> dict[str, Any]:
    try:
        return parse_manifest(store.read(MANIFEST), MANIFEST)
    except CorruptOutput as error:
        result.problems.append(str(error))
        return {}


def _read_marker(store: Store, result: Verification) -> dict[str, Any]:
    try:
        return parse_json_object(store.read(SUCCESS), SUCCESS)
    except CorruptOutput as error:
        result.problems.append(str(error))
        return {}


def _check_shard(store: Store, shard: Shard, plan: Plan) -> _VerifiedShard | str:
    """The verified shard, or what is wrong with it."""
    try:
        return _verify_shard(store, shard, plan)
    except CorruptOutput as error:
        return str(error)


def _verify_shard(store: Store, shard: Shard, plan: Plan) -> _VerifiedShard:
    """Read a committed file to its last byte.

    Raises:
        CorruptOutput: its rows do not match the plan or its footer.
    """
    path = f"{store.url}/{shard.part}"
    try:
        with store.open(shard.part) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            footer, names = parquet.schema_arrow.metadata or {}, parquet.schema_arrow.names
            counted = stored_names(_COUNTED, parquet.schema_arrow)
            table = with_current_names(parquet.read(columns=counted))
            others = [name for name in names if name not in counted]
            for _ in parquet.iter_batches(_ROWS_AT_ONCE, columns=others) if others else ():
                pass
        metadata, config, counts = parse_shard_metadata(footer), parse_run_config(footer), counts_of(table)
        ids = table["doc_id"].cast(DOC_ID.type)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CorruptOutput(f"{path} cannot be read ({error!r})") from error
    if config.get("plan") != plan.fingerprint or metadata.shard_id != shard.shard_id:
        raise CorruptOutput(f"{path} was written for another plan or shard")
    if counts["documents"] != shard.documents:
        raise CorruptOutput(
            f"{path} has rows of {counts['documents']} documents; the plan has {shard.documents}"
        )
    if sum(counts[name] for name in STATUSES) != len(table):
        raise CorruptOutput(f"{path} has rows whose status is none of {', '.join(STATUSES)}")
    if ids.null_count:
        raise CorruptOutput(f"{path} has rows without a doc_id")
    wrong = [
        f"{name} {n}, not {getattr(metadata, name)}"
        for name, n in counts.items()
        if n != getattr(metadata, name)
    ]
    if wrong:
        raise CorruptOutput(f"{path} does not match its footer: {', '.join(wrong)}")
    table = table.set_column(table.column_names.index(DOC_ID.name), DOC_ID, ids)
    settings = plan.config.get("settings", {})
    if settings.get("id_column", "") is None and settings.get("group_by") is None:
        expected = document_ids(None, shard.source, shard.start, shard.stop)
        if _first_rows(table)[DOC_ID.name].to_pylist() != expected:
            raise CorruptOutput(
                f"{path} has other doc_ids than {expected[0]} to {expected[-1]}, which its rows must have"
            )
    return _VerifiedShard(metadata, hash_ids(_ids_in(table)))


def _first_rows(table: pa.Table) -> pa.Table:
    """The first row of each document."""
    return table.filter(pc.equal(table[NUMBER], 0)) if NUMBER in table.column_names else table


def _ids_in(table: pa.Table) -> list[str]:
    """The document IDs. A skipped row has no ID of its own, only its position."""
    rows = _first_rows(table)
    return rows.filter(pc.not_equal(rows["status"], "skipped"))[DOC_ID.name].cast(DOC_ID.type).to_pylist()


def _read_ids(store: Store, part: str) -> list[list[str]]:
    return [_ids_in(read_columns(store, part, [DOC_ID.name, "status", NUMBER]))]


def _add_problems(result: Verification, names: list[str], problem: str) -> None:
    result.problems += [f"{name} {problem}" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        result.problems.append(f"and {len(names) - _SHOWN} more of these")
