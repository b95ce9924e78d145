"""What an output folder holds, counted again: from its listing while a run goes on, from every byte to prove the end."""

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

from pipeline.schema import DOC_ID, FLAGS, NUMBER, STATUSES
from pipeline.output.commit import Receipt, as_values, counts_of, facts_of, manifest_of, mark_of, read_columns, receipt_of
from pipeline.planning.document_ids import doc_ids
from pipeline.planning.duplicates import hashes_of, repeated
from pipeline.errors import CorruptOutput, UsageError
from pipeline.planning.plan import MANIFEST, PLAN, SUCCESS, Plan, Shard, remaining
from pipeline.output.store import Store

# Lines shown of one kind of trouble.
_SHOWN = 5

_FILES_AT_ONCE = 16  # each is mostly a wait for the store

# Of the columns that are only read to see that they can be, rows in memory at a time: they may be whole documents.
_ROWS_AT_ONCE = 8

_COUNTED = (DOC_ID.name, "status", "stage", "reason", "input_tokens", "truncated_tokens", "origin", "output_tokens", NUMBER,
            FLAGS.name)  # fmt: skip


@dataclass(frozen=True)
class Status:
    """How far a run is, by the names that exist: documents and shards in all and committed; is its end marked?"""

    documents: int
    documents_committed: int
    shards: int
    shards_committed: int
    finished: bool

    def __str__(self) -> str:
        end = "finished" if self.finished else "unfinished: the command that began it goes on from here"
        return (f"{self.documents_committed}/{self.documents} documents, {self.shards_committed}/{self.shards} shards "
                f"committed; {end}")  # fmt: skip


@dataclass
class Findings:
    """What the bytes say: documents, rows by status, ids that name more than one document (how many, some of them), and what is
    wrong."""

    documents: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    repeats: int = 0
    repeated_ids: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.rows.total()} rows = " + " + ".join(f"{self.rows[name]} {name}" for name in STATUSES)
        return f"{text}; {self.repeated()}" if self.repeats else text

    def repeated(self) -> str:
        """The ids that name more than one document, in words."""
        return f"{self.repeats} doc_ids stand for more than one document, such as {', '.join(self.repeated_ids[:3])}"


class _Read(NamedTuple):
    """A committed file that is right: its receipt, and a hash of each of its documents' ids."""

    receipt: Receipt
    hashes: np.ndarray


def read_plan(store: Store) -> Plan:
    """The plan of the run in this folder.

    Raises:
        UsageError: there is none.
    """
    if PLAN not in store.names():
        raise UsageError(f"{store.url} holds no run (no {PLAN}); name the folder given as --output.")
    return Plan.from_json(store.read(PLAN))


def status(store: Store) -> Status:
    """How far the run in this folder is; reads the plan and a listing, nothing else.

    Raises:
        UsageError: it holds no run.
    """
    plan, names = read_plan(store), store.names()
    left = remaining(plan, names)
    missing = sum(shard.documents for shard in left)
    return Status(plan.documents, plan.documents - missing, len(plan.shards), len(plan.shards) - len(left), SUCCESS in names)


def verify(store: Store) -> Findings:
    """Count every committed row again and hold it against the plan, the files' own receipts, the manifest and the end mark.

    Several files are read at a time, and eight bytes of every document kept. Documents of one id are right only in a run that
    was asked to keep them.

    Raises:
        UsageError: the folder holds no run.
    """
    plan, names = read_plan(store), store.names()
    findings = Findings()
    planned = {shard.part for shard in plan.shards}
    strange = sorted(name for name in names if name.startswith("part-") and name not in planned)
    _note(findings, strange, "is no part of the plan")
    left = remaining(plan, names)
    if left and SUCCESS in names:
        _note(findings, [shard.part for shard in left], "is missing, though the run is marked as finished")
    there = [shard for shard in plan.shards if shard.part in names]
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        read = list(pool.map(lambda shard: _read_or_says(store, shard, plan), there))
    findings.problems += [says for says in read if isinstance(says, str)]
    right = {shard.part: found for shard, found in zip(there, read, strict=True) if isinstance(found, _Read)}
    receipts = {found.receipt.shard_id: found.receipt for found in right.values()}
    for receipt in receipts.values():
        findings.documents += receipt.documents
        findings.rows.update({name: getattr(receipt, name) for name in STATUSES})
    hashes = [found.hashes for found in right.values()]
    findings.repeats, findings.repeated_ids = repeated(hashes, [partial(_ids, store, part) for part in right])
    if findings.repeats and not plan.facts.get("duplicates_kept"):
        findings.problems.append(findings.repeated())
    whole = len(receipts) == len(plan.shards)
    if MANIFEST in names and whole and _values(store, MANIFEST, findings) != manifest_of(plan, receipts):
        findings.problems.append(f"{MANIFEST} says other than the files")
    if SUCCESS in names:
        manifest = store.read(MANIFEST) if MANIFEST in names else b""
        if _values(store, SUCCESS, findings) != mark_of(plan, manifest):
            findings.problems.append(f"{SUCCESS} is not of this {MANIFEST}")
        if findings.documents != plan.documents:
            findings.problems.append(f"rows of {findings.documents} documents for {plan.documents} planned ones")
    return findings


def _values(store: Store, name: str, findings: Findings) -> dict[str, Any]:
    try:
        return as_values(store.read(name), name)
    except CorruptOutput as error:
        findings.problems.append(str(error))
        return {}


def _read_or_says(store: Store, shard: Shard, plan: Plan) -> _Read | str:
    """What a committed file holds, or what is wrong with it."""
    try:
        return _read(store, shard, plan)
    except CorruptOutput as error:
        return str(error)


def _read(store: Store, shard: Shard, plan: Plan) -> _Read:
    """What a committed file holds, read to its last byte.

    Raises:
        CorruptOutput: its rows are not what the plan and the receipt say.
    """
    where = f"{store.url}/{shard.part}"
    try:
        with store.open(shard.part) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            metadata = parquet.schema_arrow.metadata or {}
            table = parquet.read(columns=list(_COUNTED))
            others = [name for name in parquet.schema_arrow.names if name not in _COUNTED]
            for _ in parquet.iter_batches(_ROWS_AT_ONCE, columns=others) if others else ():
                pass
        receipt, facts, counted = receipt_of(metadata), facts_of(metadata), counts_of(table)
        ids = table["doc_id"].cast(DOC_ID.type)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CorruptOutput(f"{where} cannot be read ({error!r})") from error
    if facts.get("plan") != plan.fingerprint or receipt.shard_id != shard.shard_id:
        raise CorruptOutput(f"{where} was written for another plan or shard")
    if counted["documents"] != shard.documents:
        raise CorruptOutput(f"{where} has rows of {counted['documents']} documents; the plan has {shard.documents}")
    if sum(counted[name] for name in STATUSES) != len(table):
        raise CorruptOutput(f"{where} has rows whose status is none of {', '.join(STATUSES)}")
    if ids.null_count:
        raise CorruptOutput(f"{where} has rows without a doc_id")
    wrong = [
        f"{name} {counted[name]}, not {getattr(receipt, name)}" for name in counted if counted[name] != getattr(receipt, name)
    ]
    if wrong:
        raise CorruptOutput(f"{where} is not what its receipt says: {', '.join(wrong)}")
    table = table.set_column(table.column_names.index(DOC_ID.name), DOC_ID, ids)
    if plan.facts.get("settings", {}).get("id_column", "") is None:
        made = doc_ids(None, shard.source, shard.start, shard.stop)
        if _first_rows(table)[DOC_ID.name].to_pylist() != made:
            raise CorruptOutput(f"{where} has other doc_ids than {made[0]} to {made[-1]}, by which its rows are known")
    return _Read(receipt, hashes_of(_ids_of(table)))


def _first_rows(table: pa.Table) -> pa.Table:
    """One row of each document."""
    return table.filter(pc.equal(table[NUMBER], 0)) if NUMBER in table.column_names else table


def _ids_of(table: pa.Table) -> list[str]:
    """The ids of the documents; what was skipped has no id but its place."""
    rows = _first_rows(table)
    return rows.filter(pc.not_equal(rows["status"], "skipped"))[DOC_ID.name].cast(DOC_ID.type).to_pylist()


def _ids(store: Store, part: str) -> list[list[str]]:
    return [_ids_of(read_columns(store, part, [DOC_ID.name, "status", NUMBER]))]


def _note(findings: Findings, names: list[str], what: str) -> None:
    findings.problems += [f"{name} {what}" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        findings.problems.append(f"and {len(names) - _SHOWN} more of these")
