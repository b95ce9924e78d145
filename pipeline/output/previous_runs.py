"""Rows of earlier runs, finished or not, that `--since` reuses.

A row is reused if document ID and text are the same. The index takes 24 bytes per document: a hash of both,
the position of the row, and a hash of the ID. A hash only finds the row. The row itself is compared before it
is reused.
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

from pipeline.errors import UsageError
from pipeline.output.commit import read_columns
from pipeline.output.open_store import open_store
from pipeline.output.verify import read_plan
from pipeline.planning.plan import Plan, config_differences
from pipeline.schema import COUNTS, DOC_ID, PROVENANCE, STATE
from pipeline.settings import RunSettings
from pipeline.versions import stored_names

_FILES_AT_ONCE = 16

# Parts of a run config that do not change a row.
_IGNORED = ("since", "duplicates_kept")

Row = dict[str, Any]


def describe_previous_runs(
    settings: RunSettings, config: Mapping[str, Any], hashed: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The entries of a plan for the runs of --since: the run, its files, and why its rows are recomputed, if
    they are. `hashed` names parts of the config that each row's `text_hash` covers, so that a change of them
    changes no old row.

    Raises:
        UsageError: a folder holds no run, or it is this run's own output.
    """
    ignored = (*_IGNORED, *hashed)
    return [_describe(folder.rstrip("/"), settings, config, ignored) for folder in settings.since]


def _describe(
    folder: str, settings: RunSettings, config: Mapping[str, Any], ignored: Sequence[str]
) -> dict[str, Any]:
    if folder == settings.output.rstrip("/"):
        raise UsageError(
            f"--since and --output are both {folder}; results are never overwritten: name a new --output."
        )
    store = open_store(folder)
    plan = read_plan(store)
    before, now = (
        {name: value for name, value in each.items() if name not in ignored}
        for each in (plan.config, json.loads(json.dumps(config, default=str)))
    )
    parts = _committed_parts(plan, store.names())
    return {
        "output": folder,
        "plan": plan.fingerprint,
        "parts": len(parts),
        "parts_sha256": _digest(parts),
        "finished": len(parts) == len(plan.shards),
        "retry_failed": settings.retry_failed,
        "recomputed_because": []
        if settings.on_changed_settings == "keep"
        else config_differences(before, now),
    }


def _committed_parts(plan: Plan, names: Collection[str]) -> list[str]:
    """The committed files of a plan, sorted. Files never change, so their names identify their content."""
    return sorted(shard.part for shard in plan.shards if shard.part in names)


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Part(NamedTuple):
    """A committed file of an earlier run: the run's folder and plan, and the name of the file."""

    url: str
    plan: str
    name: str


@dataclass(frozen=True)
class PreviousRuns:
    """An index of the rows of earlier runs.

    `keys` are the sorted hashes of the rows. `files` and `rows` give the position of each: its file among
    `parts`, and its row in that file. `ids` are the sorted hashes of all document IDs, failed documents
    included, or None if some runs are not reused. If a document has rows in several runs, the run named first
    wins.
    """

    parts: Sequence[Part]
    keys: np.ndarray
    files: np.ndarray
    rows: np.ndarray
    ids: np.ndarray | None

    def count_new(self, doc_ids: Sequence[str]) -> int | None:
        """How many of these documents no earlier run had. None if that is unknown."""
        if self.ids is None:
            return None
        keys = np.array([_hash(doc_id) for doc_id in doc_ids], np.int64)
        return int((np.searchsorted(self.ids, keys) == np.searchsorted(self.ids, keys, "right")).sum())

    def find(
        self, doc_ids: Sequence[str], hashes: Sequence[str | None], columns: pa.Schema
    ) -> list[Row | None]:
        """The earlier row of each document, with `reused_from` and the task's `columns`. None if there is
        none."""
        found: list[Row | None] = [None] * len(doc_ids)
        wanted: dict[int, list[tuple[int, int]]] = {}
        for i, (doc_id, text_hash) in enumerate(zip(doc_ids, hashes, strict=True)):
            if text_hash is None:
                continue
            key = _hash(f"{text_hash} {doc_id}")
            for place in range(*np.searchsorted(self.keys, [key, key + 1])):
                wanted.setdefault(int(self.files[place]), []).append((int(self.rows[place]), i))
        names = [DOC_ID.name, *STATE.names, *COUNTS.names, *PROVENANCE.names, *columns.names]
        for number, places in sorted(wanted.items()):
            part = self.parts[number]
            table = read_columns(open_store(part.url), part.name, names)
            for row, (_, i) in zip(
                table.take([place for place, _ in places]).to_pylist(), places, strict=True
            ):
                if found[i] is None and (row.pop("doc_id"), row["text_hash"]) == (doc_ids[i], hashes[i]):
                    found[i] = {**row, "reused_from": row["reused_from"] or f"{part.plan}/{part.name}"}
        return found


def load_previous_runs(since: Sequence[Mapping[str, Any]], columns: pa.Schema) -> PreviousRuns | None:
    """The index of the runs in a plan's `since`. None if there are none, or if the rows of all of them are
    recomputed.

    Raises:
        UsageError: a run has changed since it was planned with, or its rows lack one of the task's `columns`.
    """
    runs = [(run, _unchanged_parts(run, columns)) for run in since if not run["recomputed_because"]]
    parts = [
        (Part(run["output"], run["plan"], name), run["retry_failed"]) for run, names in runs for name in names
    ]
    if not parts:
        return None
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        hashed = list(pool.map(lambda part: _hash_rows(part[0], retry_failed=part[1]), parts))
    keys, rows, ids = (np.concatenate(each) for each in zip(*hashed, strict=True))
    files = np.repeat(np.arange(len(parts), dtype=np.int32), [len(keys) for keys, _, _ in hashed])
    order = np.argsort(keys, kind="stable")
    known_ids = np.unique(ids) if len(runs) == len(since) else None
    return PreviousRuns([part for part, _ in parts], keys[order], files[order], rows[order], known_ids)


def _unchanged_parts(run: Mapping[str, Any], columns: pa.Schema) -> list[str]:
    """The committed files of an earlier run, checked against the plan."""
    store = open_store(run["output"])
    parts = _committed_parts(read_plan(store), store.names())
    if _digest(parts) != run["parts_sha256"]:
        raise UsageError(
            f"--since {run['output']} has {len(parts)} shards; it had {run['parts']} when this run was "
            "planned. Let no other run write there, and choose another --output."
        )
    wanted = [*PROVENANCE.names, *columns.names]
    for name in parts[:1]:
        with store.open(name) as file:
            schema = pq.read_schema(file)
        missing = sorted(column for column in wanted if not stored_names([column], schema))
        if missing:
            raise UsageError(
                f"the rows of --since {run['output']} have no column {', '.join(missing)}; they are of "
                "another task or version: leave --since out."
            )
    return parts


def _hash_rows(part: Part, *, retry_failed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The hashes of the reusable rows of a file, their row numbers, and the hashes of the IDs of all its
    rows."""
    table = read_columns(open_store(part.url), part.name, [DOC_ID.name, "status", "text_hash"])
    reusable = {"ok"} if retry_failed else {"ok", "failed"}
    keys, rows, ids = [], [], []
    for i, row in enumerate(table.to_pylist()):
        ids.append(_hash(row["doc_id"]))
        if row["status"] in reusable and row["text_hash"] is not None:
            keys.append(_hash(f"{row['text_hash']} {row['doc_id']}"))
            rows.append(i)
    return np.array(keys, np.int64), np.array(rows, np.int32), np.array(ids, np.int64)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 2  # two bits less, so that this number plus 1 is still an int64
