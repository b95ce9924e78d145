"""Verification counts from the bytes, and finds whatever does not fit the plan."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq
import pytest
from tests.pipeline.test_commit import block

from pipeline.errors import UsageError
from pipeline.inputs.read import InputFile
from pipeline.output.commit import commit, finish
from pipeline.output.local import LocalStore
from pipeline.output.verify import status, verify
from pipeline.planning.document_ids import document_ids
from pipeline.planning.plan import MANIFEST, PLAN, SUCCESS, make_plan

ROOT = Path(__file__).parents[2]
RUN = make_plan([InputFile("/in", 1, 8, "h", 1)], {"weights_sha256": "w"}, 3)


def committed(folder: Path, shards: int = 3, first: int = 0) -> LocalStore:
    """A run of three shards of which the first ones are committed; with all of them, finished."""
    store = LocalStore(folder)
    store.create(PLAN, RUN.to_json())
    config = {"plan": RUN.fingerprint}
    for shard in RUN.shards[:shards]:
        commit(store, block(shard.shard_id, shard.documents, shard.documents, first + shard.start), config)
    if shards == len(RUN.shards):
        finish(store, RUN)
    return store


def test_a_finished_run_is_right(tmp_path: Path) -> None:
    store = committed(tmp_path)
    assert str(status(store)) == "8/8 documents, 3/3 shards committed; finished"
    findings = verify(store)
    assert (findings.problems, str(findings)) == ([], "8 rows = 5 ok + 3 failed + 0 skipped")


def test_an_unfinished_run_is_right_as_far_as_it_is(tmp_path: Path) -> None:
    store = committed(tmp_path, 2)
    assert str(status(store)).startswith("6/8 documents, 2/3 shards committed; unfinished")
    assert verify(store).problems == []


def another_plan(folder: Path) -> None:
    shard = RUN.shards[1]
    (folder / shard.part).unlink()
    commit(LocalStore(folder), block(shard.shard_id, 3, 3), {"plan": "other"})


def fewer_rows(folder: Path) -> None:
    table = pq.read_table(folder / RUN.shards[1].part)
    pq.write_table(table.slice(1), folder / RUN.shards[1].part)


def another_status(folder: Path) -> None:
    table = pq.read_table(folder / RUN.shards[1].part)
    pq.write_table(table.set_column(1, "status", [["ok"] * 3]), folder / RUN.shards[1].part)


def no_status(folder: Path) -> None:
    table = pq.read_table(folder / RUN.shards[1].part)
    pq.write_table(table.set_column(1, "status", [["ok", "fine", "ok"]]), folder / RUN.shards[1].part)


def torn(folder: Path) -> None:
    part = folder / RUN.shards[1].part
    part.write_bytes(part.read_bytes()[:-20])


def renamed(folder: Path) -> None:
    (folder / RUN.shards[1].part).write_bytes((folder / RUN.shards[0].part).read_bytes())


def lost(folder: Path) -> None:
    (folder / RUN.shards[1].part).unlink()


def strange(folder: Path) -> None:
    (folder / "part-of-something.parquet").write_bytes(b"")


def other_manifest(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"ok": 99}))


def rotten(folder: Path) -> None:
    """A bit of a column that is not counted."""
    data = bytearray((folder / RUN.shards[1].part).read_bytes())
    column = pq.ParquetFile(folder / RUN.shards[1].part).metadata.row_group(0).column(2)
    data[column.data_page_offset + column.total_compressed_size - 8] ^= 1
    (folder / RUN.shards[1].part).write_bytes(data)


def no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


HARMS: list[tuple[Callable[[Path], None], str]] = [
    (another_plan, "written for another plan"),
    (fewer_rows, "has rows of 2 documents; the plan has 3"),
    (another_status, "is not what its receipt says: ok 3, not 2, failed 0, not 1"),
    (no_status, "has rows whose status is none of ok, failed, skipped"),
    (torn, "cannot be read"),
    (rotten, "cannot be read"),
    (renamed, "another plan or shard"),
    (lost, "is missing, though"),
    (strange, "part-of-something.parquet is no part of the plan"),
    (other_manifest, "_manifest.json says other than the files"),
    (no_manifest, "_SUCCESS is not of this _manifest.json"),
]


@pytest.mark.parametrize(("harm", "says"), HARMS, ids=[harm.__name__ for harm, _ in HARMS])
def test_whatever_was_done_to_the_files_is_found(
    harm: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    store = committed(tmp_path)
    harm(tmp_path)
    assert any(says in problem for problem in verify(store).problems)


def with_repeats(folder: Path, config: dict[str, Any], **columns: list[Any]) -> Findings:
    """What is found of a run in which two shards of three rows have the same ids."""
    store, plan = (
        LocalStore(folder),
        make_plan([InputFile("/in/a", 1, 8, "h", "1")], {"weights_sha256": "w", **config}, 3),
    )
    store.create(PLAN, plan.to_json())
    for shard in plan.shards[:2]:
        rows = block(shard.shard_id, 3, 3, 0)
        for name, values in columns.items():
            rows = rows.set_column(rows.column_names.index(name), name, [values])
        commit(store, rows, {"plan": plan.fingerprint})
    return verify(store)


def test_ids_that_name_two_documents_are_wrong_unless_they_were_to_be_kept(tmp_path: Path) -> None:
    says = "3 doc_ids stand for more than one document, such as d0, d1, d2"
    found = with_repeats(tmp_path / "refused", {})
    assert found.problems == [says] and str(found).endswith(says) and found.repeated_ids == ["d0", "d1", "d2"]
    kept = with_repeats(tmp_path / "kept", {"duplicates_kept": True})
    assert kept.problems == [] and str(kept).endswith(says)


def test_the_places_of_skipped_rows_are_no_ids(tmp_path: Path) -> None:
    skipped = with_repeats(tmp_path, {}, status=["skipped"] * 3)
    assert skipped.problems == [] and skipped.repeats == 0


def test_ids_that_were_made_are_those_of_the_rows(tmp_path: Path) -> None:
    plan = make_plan([InputFile("/in/a.parquet", 1, 3, "h", "1")], {"settings": {"id_column": None}}, 3)
    [shard] = plan.shards
    for folder, ids in (
        ("right", document_ids(None, shard.source, 0, 3)),
        ("wrong", [f"{shard.source}:{n}" for n in (0, 2, 1)]),
    ):
        store = LocalStore(tmp_path / folder)
        store.create(PLAN, plan.to_json())
        rows = block(shard.shard_id, 3, 3)
        commit(
            store,
            rows.set_column(rows.column_names.index("doc_id"), "doc_id", [ids]),
            {"plan": plan.fingerprint},
        )
        problems = verify(store).problems
        assert problems == [] if folder == "right" else "has other doc_ids than a.parquet-" in problems[0]


def test_files_are_read_together_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together, whole, opened = threading.Barrier(3), LocalStore.open, list[str]()
    store = committed(tmp_path)

    def open_(self: LocalStore, name: str) -> BinaryIO:
        if name.startswith("part-"):
            opened.append(name)
            together.wait(timeout=10)
        return whole(self, name)

    monkeypatch.setattr(LocalStore, "open", open_)
    assert verify(store).problems == [] and sorted(opened) == sorted(shard.part for shard in RUN.shards)


def test_a_folder_without_a_run_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run \(no _plan.json\)"):
        status(LocalStore(tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()


def test_the_command_says_it_and_its_exit_code_too(tmp_path: Path) -> None:
    def check(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, ROOT / "jobs" / "verify_output.py", "--output", tmp_path, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    committed(tmp_path, 2)
    code, text = check()
    assert code == 1 and "what is committed is right; 2 documents are left" in text
    assert check("--status-only")[0] == 0
    (tmp_path / PLAN).unlink()
    for path in tmp_path.glob("part-*"):
        path.unlink()
    committed(tmp_path)
    assert check() == (
        0,
        "8/8 documents, 3/3 shards committed; finished\n8 rows = 5 ok + 3 failed + 0 skipped\n"
        "every planned document is one row\n",
    )
    (tmp_path / SUCCESS).write_text("{}")
    code, text = check()
    assert code == 1 and "_SUCCESS is not of this" in text
