"""The rows of earlier runs, finished or not, found again by document: what `--since` carries over.

A row is carried where doc_id and text are the same. The index takes 24 bytes a document: a hash of both, where the row
stands, and a hash of the id; the row itself says whether it is the right one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.schema import COUNTS, DOC_ID, PROVENANCE, QUESTIONS, STATE
from pipeline.output.commit import read_columns
from pipeline.settings import RunSettings
from pipeline.errors import UsageError
from pipeline.planning.plan import Plan, fact_differences
from pipeline.output.store import open_store
from pipeline.output.verify import read_plan

_FILES_AT_ONCE = 16

Row = dict[str, Any]


def since_facts(settings: RunSettings, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the plan says of each run before: which it is, what is taken of it, and why nothing is.

    Raises:
        UsageError: a folder holds no run, or it is this one's.
    """
    return [_since(folder.rstrip("/"), settings, facts) for folder in settings.since]


def _since(folder: str, settings: RunSettings, facts: Mapping[str, Any]) -> dict[str, Any]:
    if folder == settings.output.rstrip("/"):
        raise UsageError(f"--since and --output are both {folder}; results are never changed: name a new --output.")
    store = open_store(folder)
    plan = read_plan(store)
    # A row's text_hash names its question too, so other questions change no row of those that were asked before.
    then, now = (
        {name: value for name, value in each.items() if name not in ("since", "duplicates_kept", QUESTIONS)}
        for each in (plan.facts, json.loads(json.dumps(facts, default=str)))
    )
    parts = _parts(plan, store.names())
    return {
        "output": folder,
        "plan": plan.fingerprint,
        "parts": len(parts),
        "parts_sha256": _digest(parts),
        "finished": len(parts) == len(plan.shards),
        "retry_failed": settings.retry_failed,
        "redone_because": [] if settings.on_changed_settings == "keep" else fact_differences(then, now),
    }


def _parts(plan: Plan, names: Collection[str]) -> list[str]:
    """The committed files of a plan, in order; files never change, so their names say what they hold."""
    return sorted(shard.part for shard in plan.shards if shard.part in names)


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Part(NamedTuple):
    """A committed file of an earlier run: the run's folder and plan, and the file's name."""

    url: str
    plan: str
    name: str


@dataclass(frozen=True)
class Previous:
    """An index of earlier runs' rows: `keys` (rows), sorted, and for each its place among `parts` and in that file; `ids`,
    sorted, of all their documents, those that failed too, or None where of some of the runs nothing may be taken.

    Of rows that stand in several runs, that of the run named first is taken.
    """

    parts: Sequence[Part]
    keys: np.ndarray
    files: np.ndarray
    rows: np.ndarray
    ids: np.ndarray | None

    def count_new(self, doc_ids: Sequence[str]) -> int | None:
        """How many of these are of documents that no earlier run had; None where that is not known."""
        if self.ids is None:
            return None
        keys = np.array([_key(doc_id) for doc_id in doc_ids], np.int64)
        return int((np.searchsorted(self.ids, keys) == np.searchsorted(self.ids, keys, "right")).sum())

    def find(self, doc_ids: Sequence[str], hashes: Sequence[str | None], columns: pa.Schema) -> list[Row | None]:
        """For each document its row, with its origin, and those of the task's `columns`; None where it is not there."""
        found: list[Row | None] = [None] * len(doc_ids)
        wanted: dict[int, list[tuple[int, int]]] = {}
        for i, (doc_id, text_hash) in enumerate(zip(doc_ids, hashes, strict=True)):
            if text_hash is None:
                continue
            key = _key(f"{text_hash} {doc_id}")
            for place in range(*np.searchsorted(self.keys, [key, key + 1])):
                wanted.setdefault(int(self.files[place]), []).append((int(self.rows[place]), i))
        names = [DOC_ID.name, *STATE.names, *COUNTS.names, *PROVENANCE.names, *columns.names]
        for number, places in sorted(wanted.items()):
            part = self.parts[number]
            table = read_columns(open_store(part.url), part.name, names)
            for row, (_, i) in zip(table.take([place for place, _ in places]).to_pylist(), places, strict=True):
                if found[i] is None and (row.pop("doc_id"), row["text_hash"]) == (doc_ids[i], hashes[i]):
                    found[i] = {**row, "origin": row["origin"] or f"{part.plan}/{part.name}"}
        return found


def read_previous(since: Sequence[Mapping[str, Any]], columns: pa.Schema) -> Previous | None:
    """The index of the runs that a plan's `since` names; None where there are none, or all of them is done again.

    Raises:
        UsageError: one is another run by now, or its rows have not the task's `columns`.
    """
    runs = [(run, _unchanged_parts(run, columns)) for run in since if not run["redone_because"]]
    parts = [(Part(run["output"], run["plan"], name), run["retry_failed"]) for run, names in runs for name in names]
    if not parts:
        return None
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        found = list(pool.map(lambda part: _keys(part[0], retry_failed=part[1]), parts))
    keys, rows, ids = (np.concatenate(each) for each in zip(*found, strict=True))
    files = np.repeat(np.arange(len(parts), dtype=np.int32), [len(keys) for keys, _, _ in found])
    order = np.argsort(keys, kind="stable")
    known = np.unique(ids) if len(runs) == len(since) else None
    return Previous([part for part, _ in parts], keys[order], files[order], rows[order], known)


def _unchanged_parts(run: Mapping[str, Any], columns: pa.Schema) -> list[str]:
    """The committed files of an earlier run, which are those that were planned with."""
    store = open_store(run["output"])
    parts = _parts(read_plan(store), store.names())
    if _digest(parts) != run["parts_sha256"]:
        raise UsageError(f"--since {run['output']} has {len(parts)} shards, not the {run['parts']} that were planned with; "
                         "let nothing else go on with it, and choose another --output.")  # fmt: skip
    for name in parts[:1]:
        with store.open(name) as file:
            missing = {*PROVENANCE.names, *columns.names} - {*pq.read_schema(file).names}
        if missing:
            raise UsageError(f"the rows of --since {run['output']} have no {', '.join(sorted(missing))}; they are of another "
                             "task or version: leave --since away.")  # fmt: skip
    return parts


def _keys(part: Part, *, retry_failed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The keys of the rows of a file that may be carried, their numbers, and those of the ids of all its rows."""
    table = read_columns(open_store(part.url), part.name, [DOC_ID.name, "status", "text_hash"])
    carried = {"ok"} if retry_failed else {"ok", "failed"}
    keys, rows, ids = [], [], []
    for i, row in enumerate(table.to_pylist()):
        ids.append(_key(row["doc_id"]))
        if row["status"] in carried and row["text_hash"] is not None:
            keys.append(_key(f"{row['text_hash']} {row['doc_id']}"))
            rows.append(i)
    return np.array(keys, np.int64), np.array(rows, np.int32), np.array(ids, np.int64)


def _key(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 2  # in the range of whole numbers of 64 bits, the next one too
