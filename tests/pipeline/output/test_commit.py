"""The file is the commit. The first writer wins, the footer has shard metadata, and a run ends only if
complete."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorruptOutput, PipelineError
from pipeline.inputs.read import InputFile
from pipeline.output.commit import (
    commit,
    counts_of,
    finish,
    hardware_of,
    make_manifest,
    new_rows,
    parse_json_object,
    parse_manifest,
    parse_run_config,
    read_digest,
    read_shard_metadata,
    rows_recomputed,
)
from pipeline.output.digests import FileDigest
from pipeline.output.local import LocalStore
from pipeline.planning.plan import MANIFEST, SUCCESS, make_plan

PLAN = make_plan([InputFile("/in", 1, 5, "h", "1")], {"weights_sha256": "w"}, 3)


HARDWARE = {"processor": "AMD EPYC 7763, AVX2", "dtype": "float32"}
MEASURED = {"predict_seconds": 1.5, "read_seconds": 0.5, "hardware": HARDWARE}


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
            "_measured": [json.dumps(MEASURED)] * rows,
        }
    )


def test_a_second_commit_keeps_the_first_and_returns_its_metadata(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    shard = PLAN.shards[0]
    first, digest = commit(store, block(shard.shard_id, 3, 3), {"model": "m"})
    data = (tmp_path / shard.part).read_bytes()
    assert digest == (len(data), hashlib.sha256(data).hexdigest()) == read_digest(store, shard.part)
    second, unknown = commit(store, block(shard.shard_id, 3, 3, first=7), {"model": "m"})
    assert unknown is None
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
    assert first.hardware == HARDWARE
    older = replace(first, hardware={})
    assert hardware_of([first, older, first]) == {("AMD EPYC 7763, AVX2", "float32"): 2}
    assert json.loads(table.schema.metadata[b"led.run_config"]) == {"model": "m"}


def test_documents_with_several_rows_are_counted_once(tmp_path: Path) -> None:
    rows = block(PLAN.shards[0].shard_id, 6, 6)
    status = pa.array(["ok", "failed", "failed", "ok", "ok", "failed"])
    rows = rows.set_column(rows.column_names.index("status"), "status", status)
    rows = rows.append_column("number", pa.array([0, 1, 2, 0, 0, 1]))
    shard_metadata, _ = commit(LocalStore(tmp_path), rows, {}, "number")
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
        commit(LocalStore(tmp_path), block("a", 4, 3), {})
    with pytest.raises(PipelineError, match="one whole shard"):
        commit(LocalStore(tmp_path), pa.concat_tables([block("a", 1, 2), block("b", 1, 2)]), {})
    assert not LocalStore(tmp_path).names()


def test_the_success_marker_needs_every_shard_and_is_written_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first, second = PLAN.shards
    commit(store, block(first.shard_id, first.documents, first.documents), {})
    with pytest.raises(
        PipelineError, match=r"1 of 2 shards are not in .*Use a folder that all machines mount"
    ):
        finish(store, PLAN)
    assert SUCCESS not in store.names()
    commit(store, block(second.shard_id, second.documents, second.documents, second.start), {})
    manifest = finish(store, PLAN)
    assert (manifest["version"], manifest["documents"], manifest["ok"], manifest["failed"]) == (3, 5, 3, 2)
    assert {name: FileDigest(**values) for name, values in manifest["files"].items()} == {
        shard.part: read_digest(store, shard.part) for shard in PLAN.shards
    }
    assert manifest["failures"] == {"read: the text is not UTF-8 (byte # at #)": 2}
    before = {name: (tmp_path / name).read_bytes() for name in (MANIFEST, SUCCESS)}
    assert finish(store, PLAN) == manifest
    assert before == {name: (tmp_path / name).read_bytes() for name in (MANIFEST, SUCCESS)}


def test_a_file_of_another_shard_does_not_finish_a_run(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first, second = PLAN.shards
    commit(store, block(first.shard_id, first.documents, first.documents), {})
    store.create(second.part, store.read(first.part))
    with pytest.raises(PipelineError, match=f"1 of 2 shards are not committed as planned: {second.part}"):
        finish(store, PLAN)
    assert SUCCESS not in store.names()


@pytest.mark.parametrize("documents", [2, 3])
def test_a_shard_with_another_number_of_documents_does_not_finish_a_run(
    documents: int, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path)
    for shard in PLAN.shards:
        commit(store, block(shard.shard_id, documents, documents), {})
    with pytest.raises(PipelineError, match="1 of 2 shards are not committed as planned: part-"):
        finish(store, PLAN)
    assert SUCCESS not in store.names()


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 100])
def test_a_foreign_file_with_a_shards_name_is_reported(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "part-a.parquet").write_bytes(content)
    with pytest.raises(CorruptOutput, match=r"part-a\.parquet was not written by this system"):
        read_shard_metadata(LocalStore(tmp_path), "part-a.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "part-b.parquet")
    with pytest.raises(CorruptOutput, match=r"part-b\.parquet was not written by this system"):
        read_shard_metadata(LocalStore(tmp_path), "part-b.parquet")


def test_five_wrong_shards_are_named(tmp_path: Path) -> None:
    store, plan = LocalStore(tmp_path), make_plan([InputFile("/in", 1, 14, "h", "1")], {}, 2)
    for shard in plan.shards:
        commit(store, block(shard.shard_id, 1, 1), {})
    listed = ", ".join(shard.part for shard in plan.shards[:5])
    with pytest.raises(PipelineError, match=rf"7 of 7 shards are not committed as planned: {listed}\.$"):
        finish(store, plan)


def test_pages_have_checksums(tmp_path: Path) -> None:
    commit(LocalStore(tmp_path), block("a", 3, 3), {"model": "m"})
    path = tmp_path / "part-a.parquet"
    data, column = bytearray(path.read_bytes()), pq.ParquetFile(path).metadata.row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data[start + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"CRC|checksum"):
        pq.ParquetFile(path, page_checksum_verification=True).read()


def test_the_run_config_is_in_the_footer() -> None:
    assert parse_run_config({b"led.run_config": b'{"model": "m"}'}) == {"model": "m"}
    with pytest.raises(KeyError):
        parse_run_config({})


def changed(rows: pa.Table, **columns: list[object]) -> pa.Table:
    """The same rows with other values in these columns."""
    for name, values in columns.items():
        rows = rows.set_column(rows.column_names.index(name), name, [values])
    return rows


def test_every_count_is_that_of_the_rows() -> None:
    rows = changed(
        block("a", 4, 4),
        status=["ok", "failed", "skipped", "failed"],
        stage=[None, "task", "read", "task"],
        reason=[None, "x" * 200, None, "x" * 200],
        truncated_tokens=[None, 0, 2, 3],
        reused_from=["p/f", "p/f", "p/f", None],
    )
    assert counts_of(rows.drop_columns(["output_tokens"])) == {
        "documents": 4,
        "rows": 4,
        **{"ok": 1, "failed": 2, "skipped": 1, "failed_documents": 2, "reused": 3},
        **{"input_tokens": 30, "truncated": 2, "output_tokens": 0},
        "failures": {"read: ": 1, "task: " + "x" * 114: 2},
        "flags": {},
    }
    assert counts_of(changed(rows, status=["ok"] * 4))["failed"] == 0
    rows = changed(rows, status=["failed", "failed", "ok", "ok"])
    assert counts_of(rows.append_column("number", [[0, 0, 1, 2]]), "number")["failed_documents"] == 2
    flags = pa.array([["short"], [], None, ["short", "copied"]], pa.list_(pa.string()))
    assert counts_of(rows.append_column("flags", flags))["flags"] == {"copied": 1, "short": 2}


def test_measurements_are_rounded_to_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 7.12345)
    for name, given, expected in (
        ("none", "{}", (7.123, 0.0, {})),
        ("all", '{"finished_at": 2.34567, "predict_seconds": 1.0, "a": 0.98765}', (2.346, 1.0, {"a": 0.988})),
    ):
        rows = changed(block("a", 1, 1), _measured=[given])
        metadata = commit(LocalStore(tmp_path / name), rows, {}).metadata
        assert (metadata.finished_at, metadata.seconds, metadata.measured) == expected


def test_rows_of_changed_and_of_new_documents() -> None:
    assert rows_recomputed({"rows": 100, "skipped": 7, "reused": 50}, 13) == 30
    shards = {name: {"measured": {"new_rows": n}} for name, n in (("a", 2), ("b", 3))}
    assert new_rows({"shards": shards}) == 5
    assert new_rows({"shards": shards | {"c": {"measured": {}}}}) is None


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_a_manifest_is_a_json_object(data: bytes) -> None:
    with pytest.raises(CorruptOutput, match=r"^_manifest\.json was not written by this system"):
        parse_json_object(data, MANIFEST)


def test_only_a_manifest_of_version_1_is_upgraded() -> None:
    empty = make_manifest(make_plan([], {}, 1), {})
    for version in (0, 2, 3):
        given = empty | {"version": version}
        assert parse_manifest(json.dumps(given).encode(), MANIFEST) == given
    old = {("carried" if name == "reused" else name): value for name, value in empty.items()}
    assert parse_manifest(json.dumps(old | {"version": 1}).encode(), MANIFEST) == empty
    for shards in ({"a": {"measured": 1}}, {"a": {}}, [], {"a": None}):
        with pytest.raises(CorruptOutput, match="was not written by this system"):
            parse_manifest(json.dumps(old | {"version": 1, "shards": shards}).encode(), MANIFEST)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("documents", "many"),
        ("documents", 1e300),
        ("ok", None),
        ("failures", {"a": "b"}),
        ("since", 3),
        ("shards", {"../../etc/passwd": {}}),
        ("files", {"/etc/passwd": {"size": 1, "sha256": "0"}}),
        ("files", {"part-a.parquet": {"size": "1"}}),
    ],
)
def test_a_manifest_with_other_values_is_refused(name: str, value: object) -> None:
    manifest = make_manifest(make_plan([], {}, 1), {}) | {name: value}
    with pytest.raises(CorruptOutput, match=f"{MANIFEST} was not written by this system") as raised:
        parse_manifest(json.dumps(manifest).encode(), MANIFEST)
    assert "\n" not in str(raised.value)
