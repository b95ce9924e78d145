"""The file is the commit: one name, one winner, a receipt in the footer, and an end only where all is
there."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorruptOutput, PipelineError
from pipeline.inputs.read import InputFile
from pipeline.output.commit import commit, finish, read_shard_metadata
from pipeline.output.local import LocalStore
from pipeline.planning.plan import MANIFEST, SUCCESS, make_plan

PLAN = make_plan([InputFile("/in", 1, 5, "h", "1")], {"weights_sha256": "w"}, 3)


def block(shard_id: str, rows: int, expected: int, first: int = 0) -> pa.Table:
    return pa.table(
        {
            "_shard": [shard_id] * rows,
            "_rows": pa.array([expected] * rows, pa.int32()),
            "doc_id": [f"d{first + i}" for i in range(rows)],
            "status": ["failed" if i == 0 else "ok" for i in range(rows)],
            "stage": ["read" if i == 0 else None for i in range(rows)],
            "reason": ["the text is not UTF-8 (byte 0xff at 24)" if i == 0 else None for i in range(rows)],
            "input_tokens": [None if i == 0 else 10 for i in range(rows)],
            "truncated_tokens": [None if i == 0 else i for i in range(rows)],
            "reused_from": pa.nulls(rows, pa.string()),
            "output_tokens": [None if i == 0 else 2 for i in range(rows)],
            "_measured": ['{"predict_seconds": 1.5, "read_seconds": 0.5}'] * rows,
        }
    )


def test_a_second_commit_leaves_the_first_and_gives_its_receipt(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    shard = PLAN.shards[0]
    first = commit(store, block(shard.shard_id, 3, 3), {"model": "m"})
    data = (tmp_path / shard.part).read_bytes()
    second = commit(store, block(shard.shard_id, 3, 3, first=7), {"model": "m"})
    assert second == first == read_shard_metadata(store, shard.part)
    assert (tmp_path / shard.part).read_bytes() == data
    assert (first.rows, first.ok, first.failed, first.input_tokens, first.truncated, first.output_tokens) == (
        3,
        2,
        1,
        20,
        2,
        4,
    )
    table = pq.read_table(tmp_path / shard.part)
    counted = ["input_tokens", "truncated_tokens", "reused_from", "output_tokens"]
    assert table.column_names == ["doc_id", "status", "stage", "reason", *counted]
    assert first.failures == {"read: the text is not UTF-8 (byte # at #)": 1}
    assert (first.seconds, first.measured) == (1.5, {"read_seconds": 0.5})
    assert json.loads(table.schema.metadata[b"led.facts"]) == {"model": "m"}


def test_documents_of_several_rows_are_counted_once(tmp_path: Path) -> None:
    rows = block(PLAN.shards[0].shard_id, 6, 6)
    status = pa.array(["ok", "failed", "failed", "ok", "ok", "failed"])
    rows = rows.set_column(rows.column_names.index("status"), "status", status)
    shard_metadata = commit(
        LocalStore(tmp_path), rows.append_column("question_number", pa.array([0, 1, 2, 0, 0, 1])), {}
    )
    assert (
        shard_metadata.documents,
        shard_metadata.rows,
        shard_metadata.failed,
        shard_metadata.failed_documents,
    ) == (3, 6, 3, 2)


def test_a_part_of_a_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="one whole shard"):
        commit(LocalStore(tmp_path), block("a", 2, 3), {})
    with pytest.raises(PipelineError, match="one whole shard"):
        commit(LocalStore(tmp_path), pa.concat_tables([block("a", 1, 2), block("b", 1, 2)]), {})
    assert not LocalStore(tmp_path).names()


def test_the_end_needs_every_shard_and_is_written_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first, second = PLAN.shards
    commit(store, block(first.shard_id, first.documents, first.documents), {})
    with pytest.raises(
        PipelineError, match=r"1 of 2 shards are not committed in .*one folder for all machines"
    ):
        finish(store, PLAN)
    assert SUCCESS not in store.names()
    commit(store, block(second.shard_id, second.documents, second.documents, second.start), {})
    manifest = finish(store, PLAN)
    assert (manifest["documents"], manifest["ok"], manifest["failed"]) == (5, 3, 2)
    before = {name: (tmp_path / name).read_bytes() for name in (MANIFEST, SUCCESS)}
    assert finish(store, PLAN) == manifest
    assert before == {name: (tmp_path / name).read_bytes() for name in (MANIFEST, SUCCESS)}


def test_a_file_under_another_shards_name_is_no_end(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first, second = PLAN.shards
    commit(store, block(first.shard_id, first.documents, first.documents), {})
    store.create(second.part, store.read(first.part))
    with pytest.raises(PipelineError, match=f"1 of 2 shards are not committed as planned: {second.part}"):
        finish(store, PLAN)
    assert SUCCESS not in store.names()


def test_a_shard_of_another_number_of_documents_is_no_end(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for shard in PLAN.shards:
        commit(store, block(shard.shard_id, 2, 2), {})
    with pytest.raises(PipelineError, match="1 of 2 shards are not committed as planned: part-"):
        finish(store, PLAN)
    assert SUCCESS not in store.names()


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 100])
def test_a_foreign_file_under_a_shards_name_is_said_to_be_one(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "part-a.parquet").write_bytes(content)
    with pytest.raises(CorruptOutput, match=r"part-a\.parquet is no result of this system"):
        read_shard_metadata(LocalStore(tmp_path), "part-a.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "part-b.parquet")
    with pytest.raises(CorruptOutput, match=r"part-b\.parquet is no result of this system"):
        read_shard_metadata(LocalStore(tmp_path), "part-b.parquet")
