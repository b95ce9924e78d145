"""What an output folder holds, counted again: from its listing while a run goes on, from every byte to prove the end."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.columns import DOC_ID, NUMBER, STATUSES
from pipeline.commit import Receipt, as_values, counts_of, facts_of, manifest_of, mark_of, receipt_of
from pipeline.errors import CorruptOutput, UsageError
from pipeline.shards import MANIFEST, PLAN, SUCCESS, Plan, Shard, remaining
from pipeline.store import Store

# Lines shown of one kind of trouble.
_SHOWN = 5


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
    """What the bytes say: documents, rows by status, ids that name more than one document, and what is wrong."""

    documents: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    repeated_ids: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.rows.total()} rows = " + " + ".join(f"{self.rows[name]} {name}" for name in STATUSES)
        if not self.repeated_ids:
            return text
        return (
            f"{text}; {len(self.repeated_ids)} documents have the doc_id of another, such as {', '.join(self.repeated_ids[:3])}"
        )


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

    One file is in memory at a time, and eight bytes of every document.

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
    receipts, keys = {}, set[bytes]()
    for shard in plan.shards:
        if shard.part not in names:
            continue
        try:
            table, receipt = _read(store, shard, plan)
        except CorruptOutput as error:
            findings.problems.append(str(error))
            continue
        receipts[shard.shard_id] = receipt
        findings.documents += receipt.documents
        findings.rows.update(table["status"].to_pylist())
        first_rows = table.filter(pc.equal(table[NUMBER], 0)) if NUMBER in table.column_names else table
        findings.repeated_ids += _seen_before(keys, first_rows["doc_id"].to_pylist())
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


def _read(store: Store, shard: Shard, plan: Plan) -> tuple[pa.Table, Receipt]:
    """The rows of a committed file, and its receipt.

    Raises:
        CorruptOutput: its rows are not what the plan and the receipt say.
    """
    where = f"{store.url}/{shard.part}"
    try:
        with store.open(shard.part) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            metadata = parquet.schema_arrow.metadata or {}
            table = parquet.read()
        receipt, facts, counted = receipt_of(metadata), facts_of(metadata), counts_of(table)
        table = table.set_column(table.column_names.index("doc_id"), DOC_ID, table["doc_id"].cast(DOC_ID.type))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CorruptOutput(f"{where} cannot be read ({error!r})") from error
    if facts.get("plan") != plan.fingerprint or receipt.shard_id != shard.shard_id:
        raise CorruptOutput(f"{where} was written for another plan or shard")
    if counted["documents"] != shard.documents:
        raise CorruptOutput(f"{where} has rows of {counted['documents']} documents; the plan has {shard.documents}")
    if sum(counted[name] for name in STATUSES) != len(table):
        raise CorruptOutput(f"{where} has rows whose status is none of {', '.join(STATUSES)}")
    if table["doc_id"].null_count:
        raise CorruptOutput(f"{where} has rows without a doc_id")
    wrong = [
        f"{name} {counted[name]}, not {getattr(receipt, name)}" for name in counted if counted[name] != getattr(receipt, name)
    ]
    if wrong:
        raise CorruptOutput(f"{where} is not what its receipt says: {', '.join(wrong)}")
    return table, receipt


def _seen_before(keys: set[bytes], doc_ids: Iterable[str]) -> list[str]:
    """The ids that stood before; all of them stand afterwards."""
    again = []
    for doc_id in doc_ids:
        key = hashlib.blake2b(doc_id.encode(), digest_size=8).digest()
        if key in keys:
            again.append(doc_id)
        keys.add(key)
    return again


def _note(findings: Findings, names: list[str], what: str) -> None:
    findings.problems += [f"{name} {what}" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        findings.problems.append(f"and {len(names) - _SHOWN} more of these")
