"""The commit: a shard's rows as one Parquet file, written once; its receipt; the manifest and the end mark.

The file is the commit. Its footer says whose it is (attempt) and what it holds (receipt), so what happened can be read from
the bytes alone, whatever died.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.schema import FLAGS, INTERNAL, MEASURED, NUMBER, STATUSES
from pipeline.errors import CorruptOutput, PipelineError
from pipeline.planning.plan import MANIFEST, SUCCESS, Plan, Shard, remaining
from pipeline.output.store import Outcome, Store

# Footers read at once.
_READERS = 32

_RECEIPT, _FACTS = b"led.receipt", b"led.facts"

_NUMBER = re.compile(r"(?<![\w-])(0x[0-9a-f]+|[0-9]+)\b")


@dataclass(frozen=True)
class Receipt:
    """What a committed shard holds. `attempt` names the write that made it; the model was done with it at `finished_at`
    (Unix time, seconds).

    A document has several rows where it was asked several questions; it is among `failed_documents` if one of them failed.
    `carried` rows were made by an earlier run and count among the others too. `failures` are counts by stage and reason, with
    `#` for numbers; `flags` counts by flag. `seconds` is the predictor's time, `measured` what else was measured on the way.
    """

    shard_id: str
    attempt: str
    documents: int
    rows: int
    ok: int
    failed: int
    skipped: int
    failed_documents: int
    carried: int
    input_tokens: int
    truncated: int
    output_tokens: int
    failures: dict[str, int]
    flags: dict[str, int]
    finished_at: float
    seconds: float
    measured: dict[str, float]


def commit(store: Store, block: pa.Table, facts: Mapping[str, Any]) -> Receipt:
    """Write one shard's rows under the shard's name; where another wrote it first, theirs stands and its receipt is given.

    Raises:
        PipelineError: the block is not one whole shard.
    """
    shard_ids = pc.unique(block["_shard"]).to_pylist()
    expected = block["_rows"][0].as_py()
    if len(shard_ids) != 1 or len(block) != expected:
        raise PipelineError(f"a block of {len(block)} rows of shards {shard_ids} came to the commit; expected one whole shard.")
    measured = {name: round(value, 3) for name, value in json.loads(block[MEASURED.name][0].as_py()).items()}
    receipt = Receipt(
        shard_id=shard_ids[0],
        attempt=uuid.uuid4().hex,
        finished_at=measured.pop("finished_at", round(time.time(), 3)),
        seconds=measured.pop("predict_seconds", 0.0),
        measured=measured,
        **counts_of(block),
    )
    table = block.drop_columns(INTERNAL)
    metadata = {_RECEIPT: json.dumps(asdict(receipt)), _FACTS: json.dumps(dict(facts))}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd", write_page_checksum=True)
    name = Shard(receipt.shard_id, "", 0, 0).part
    if store.create(name, buffer.getvalue()) is Outcome.CREATED:
        return receipt
    return read_receipt(store, name)


def counts_of(rows: pa.Table) -> dict[str, Any]:
    """What a receipt counts, from the rows themselves."""
    return {
        "documents": _total(pc.equal(rows[NUMBER], 0)) if NUMBER in rows.column_names else len(rows),
        "rows": len(rows),
        **{name: _total(pc.equal(rows["status"], name)) for name in STATUSES},
        "failed_documents": _failed_documents(rows),
        "carried": len(rows) - rows["origin"].null_count,
        "input_tokens": _total(rows["input_tokens"]),
        "truncated": _total(pc.greater(rows["truncated_tokens"], 0)),
        "output_tokens": _total(rows["output_tokens"]) if "output_tokens" in rows.column_names else 0,
        "failures": _failures(rows),
        "flags": _flags(rows),
    }


def read_receipt(store: Store, name: str) -> Receipt:
    """The receipt in a committed file's footer.

    Raises:
        CorruptOutput: it is no file of this system.
    """
    try:
        with store.open(name) as file:
            return receipt_of(pq.read_schema(file).metadata or {})
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise CorruptOutput(f"{store.url}/{name} is no result of this system ({error!r}); choose another folder.") from error


def read_columns(store: Store, name: str, columns: Sequence[str]) -> pa.Table:
    """These columns of a committed file.

    Not by `pq.read_table`: the threads of its scanner may outlive the interpreter, which then ends a short command by SIGABRT.
    """
    with store.open(name) as file:
        return pq.ParquetFile(file).read(columns=list(columns))


def receipt_of(metadata: Mapping[bytes, bytes]) -> Receipt:
    """The receipt in a footer's metadata; raises what a lookup, JSON and a dataclass raise where it is none."""
    return Receipt(**json.loads(metadata[_RECEIPT]))


def facts_of(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The run's facts in a footer's metadata; raises what a lookup and JSON raise where there are none."""
    return dict(json.loads(metadata[_FACTS]))


def read_receipts(store: Store, shards: Sequence[Shard]) -> dict[str, Receipt]:
    """The receipts of these shards by shard id, many read at once since each is a wait for the store.

    Raises:
        CorruptOutput: one is no file of this system.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        return {receipt.shard_id: receipt for receipt in pool.map(lambda shard: read_receipt(store, shard.part), shards)}


def finish(store: Store, plan: Plan) -> dict[str, Any]:
    """Write the manifest of the committed files' receipts, then the end mark, each once; the manifest.

    Raises:
        PipelineError: shards are missing, or hold another number of documents than planned.
    """
    missing = remaining(plan, store.names())
    if missing:
        raise PipelineError(f"{len(missing)} of {len(plan.shards)} shards are not committed in {store.url}, though all were "
                            "worked on: it is not one folder for all machines. Give one that all mount, or s3://.")  # fmt: skip
    receipts = read_receipts(store, plan.shards)
    wrong = [s.part for s in plan.shards if s.shard_id not in receipts or receipts[s.shard_id].documents != s.documents]
    if wrong:
        raise PipelineError(f"{len(wrong)} of {len(plan.shards)} shards are not committed as planned: {', '.join(wrong[:5])}.")
    manifest = manifest_of(plan, receipts)
    store.create(MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    written = store.read(MANIFEST)
    manifest = as_values(written, f"{store.url}/{MANIFEST}")
    store.create(SUCCESS, (json.dumps(mark_of(plan, written)) + "\n").encode())
    return manifest


def mark_of(plan: Plan, manifest: bytes) -> dict[str, Any]:
    """What the end mark says: of which manifest it is the end."""
    return {"manifest_sha256": hashlib.sha256(manifest).hexdigest(), "documents": plan.documents}


def as_values(data: bytes, what: str) -> dict[str, Any]:
    """The values of a manifest or an end mark.

    Raises:
        CorruptOutput: it is neither.
    """
    try:
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}")
        return values
    except (ValueError, RecursionError) as error:
        raise CorruptOutput(f"{what} is not what this system wrote ({error!r}); choose another folder.") from error


def manifest_of(plan: Plan, receipts: Mapping[str, Receipt]) -> dict[str, Any]:
    """What a finished run holds: its counts in all and by shard."""
    return {
        "version": 1,
        "plan": plan.fingerprint,
        "documents": plan.documents,
        **{name: sum(getattr(r, name) for r in receipts.values())
           for name in ("rows", *STATUSES, "failed_documents", "carried", "truncated", "input_tokens", "output_tokens")},
        **{name: _sums(getattr(r, name) for r in receipts.values()) for name in ("failures", "flags")},
        "since": plan.facts.get("since"),
        "shards": {s.part: asdict(receipts[s.shard_id]) for s in plan.shards},
    }  # fmt: skip


def done_again(manifest: Mapping[str, Any], new: int) -> int:
    """Rows of documents that the runs before had, and that changed or had failed, where so many are new."""
    return int(manifest["rows"] - manifest["skipped"] - manifest["carried"] - new)


def new_rows(manifest: Mapping[str, Any]) -> int | None:
    """Rows of documents that none of the runs before had; None where there was none, or not all could be looked in."""
    counts = [shard["measured"].get("new_rows") for shard in manifest["shards"].values()]
    return None if None in counts else int(sum(counts))


def _failed_documents(rows: pa.Table) -> int:
    """Documents with a row that failed."""
    failed = pc.equal(rows["status"], "failed")
    if NUMBER not in rows.column_names:
        return _total(failed)
    document = pc.cumulative_sum(pc.equal(rows[NUMBER], 0).cast(pa.int64()))
    return len(pc.unique(document.filter(failed)))


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def _failures(rows: pa.Table) -> dict[str, int]:
    """How many rows failed at which stage and why, numbers in the reasons left out."""
    states = rows.filter(pc.not_equal(rows["status"], "ok")).select(["stage", "reason"]).to_pylist()
    counts = Counter(f"{state['stage']}: {_NUMBER.sub('#', state['reason'] or '')}"[:120] for state in states)
    return dict(sorted(counts.items()))


def _flags(rows: pa.Table) -> dict[str, int]:
    """How many rows have each flag."""
    if FLAGS.name not in rows.column_names:
        return {}
    counts = Counter(pc.list_flatten(rows[FLAGS.name]).to_pylist())
    return dict(sorted(counts.items()))


def _total(column: pa.ChunkedArray) -> int:
    return pc.sum(column).as_py() or 0
