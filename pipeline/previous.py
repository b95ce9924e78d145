"""The rows of an earlier run, found again by document: what `--since` carries over instead of doing it once more.

A row is carried where doc_id and text are the same. The index takes 16 bytes a document: a hash of both, and where the row
stands; the row itself says whether it is the right one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import COUNTS, DOC_ID, PROVENANCE, QUESTIONS, STATE
from pipeline.commit import as_values, read_columns
from pipeline.config import RunSettings
from pipeline.errors import UsageError
from pipeline.shards import MANIFEST, SUCCESS, fact_differences
from pipeline.store import Store, open_store
from pipeline.verify import read_plan

_FILES_AT_ONCE = 16

Row = dict[str, Any]


def since_facts(settings: RunSettings, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the plan says of the run before: which it is, what is taken of it, and why nothing is; None without one.

    Raises:
        UsageError: there is no finished run.
    """
    if settings.since is None:
        return None
    if settings.since.rstrip("/") == settings.output.rstrip("/"):
        raise UsageError(f"--since and --output are both {settings.output}; results are never changed: name a new --output.")
    store = open_store(settings.since)
    plan = read_plan(store)
    if SUCCESS not in store.names():
        raise UsageError(f"--since {settings.since} is not finished (no {SUCCESS}); finish it by its own command first.")
    # A row's text_hash names its question too, so other questions change no row of those that were asked before.
    then, now = (
        {name: value for name, value in each.items() if name not in ("since", QUESTIONS)}
        for each in (plan.facts, json.loads(json.dumps(facts, default=str)))
    )
    changed = [] if settings.on_changed_settings == "keep" else fact_differences(then, now)
    return {
        "output": settings.since,
        "plan": plan.fingerprint,
        "manifest_sha256": hashlib.sha256(store.read(MANIFEST)).hexdigest(),
        "retry_failed": settings.retry_failed,
        "redone_because": changed,
    }


@dataclass(frozen=True)
class Previous:
    """An index of an earlier run's rows: `keys` (rows), sorted, and for each its place among `parts` and in that file."""

    url: str
    plan: str
    parts: Sequence[str]
    keys: np.ndarray
    files: np.ndarray
    rows: np.ndarray

    def find(self, doc_ids: Sequence[str], hashes: Sequence[str | None], columns: pa.Schema) -> list[Row | None]:
        """For each document its row, with its origin, and those of the task's `columns`; None where it is not there."""
        found: list[Row | None] = [None] * len(doc_ids)
        wanted: dict[int, list[tuple[int, int]]] = {}
        for i, (doc_id, text_hash) in enumerate(zip(doc_ids, hashes, strict=True)):
            if text_hash is None:
                continue
            key = _key(doc_id, text_hash)
            for place in range(*np.searchsorted(self.keys, [key, key + 1])):
                wanted.setdefault(int(self.files[place]), []).append((int(self.rows[place]), i))
        store, names = open_store(self.url), [DOC_ID.name, *STATE.names, *COUNTS.names, *PROVENANCE.names, *columns.names]
        for number, places in wanted.items():
            part = self.parts[number]
            table = read_columns(store, part, names)
            for row, (_, i) in zip(table.take([place for place, _ in places]).to_pylist(), places, strict=True):
                if (row.pop("doc_id"), row["text_hash"]) == (doc_ids[i], hashes[i]):
                    found[i] = {**row, "origin": row["origin"] or f"{self.plan}/{part}"}
        return found


def read_previous(since: Mapping[str, Any], columns: pa.Schema) -> Previous | None:
    """The index of the run that a plan's `since` names; None where all of it is done again.

    Raises:
        UsageError: it is another run by now, or its rows have not the task's `columns`.
    """
    if since["redone_because"]:
        return None
    store = open_store(since["output"])
    manifest = store.read(MANIFEST)
    if hashlib.sha256(manifest).hexdigest() != since["manifest_sha256"]:
        raise UsageError(f"--since {since['output']} is another run than when this one was planned; choose another --output.")
    parts = sorted(as_values(manifest, f"{store.url}/{MANIFEST}").get("shards", ()))
    if not parts:
        raise UsageError(f"--since {since['output']} has a {MANIFEST} without shards; verify that run.")
    with store.open(parts[0]) as file:
        missing = {*PROVENANCE.names, *columns.names} - {*pq.read_schema(file).names}
    if missing:
        raise UsageError(f"the rows of --since {since['output']} have no {', '.join(sorted(missing))}; they are of another "
                         "task or version: leave --since away.")  # fmt: skip
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        found = list(pool.map(lambda part: _keys(store, part, retry_failed=since["retry_failed"]), parts))
    keys = np.concatenate([keys for keys, _ in found])
    rows = np.concatenate([rows for _, rows in found])
    files = np.repeat(np.arange(len(parts), dtype=np.int32), [len(keys) for keys, _ in found])
    order = np.argsort(keys, kind="stable")
    return Previous(since["output"], since["plan"], parts, keys[order], files[order], rows[order])


def _keys(store: Store, part: str, *, retry_failed: bool) -> tuple[np.ndarray, np.ndarray]:
    """The keys of the rows of a file that may be carried, and their numbers."""
    table = read_columns(store, part, [DOC_ID.name, "status", "text_hash"])
    carried = {"ok"} if retry_failed else {"ok", "failed"}
    keys, rows = [], []
    for i, row in enumerate(table.to_pylist()):
        if row["status"] in carried and row["text_hash"] is not None:
            keys.append(_key(row["doc_id"], row["text_hash"]))
            rows.append(i)
    return np.array(keys, np.int64), np.array(rows, np.int32)


def _key(doc_id: str, text_hash: str) -> int:
    both = hashlib.blake2b(f"{text_hash} {doc_id}".encode(), digest_size=8).digest()
    return int.from_bytes(both) >> 2  # in the range of whole numbers of 64 bits, the next one too
