"""Verification counts from the bytes, and finds whatever does not fit the plan."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.commit import commit, finish
from pipeline.errors import UsageError
from pipeline.inputs import InputFile
from pipeline.local_store import LocalStore
from pipeline.shards import MANIFEST, PLAN, SUCCESS, make_plan
from pipeline.verify import status, verify
from tests.pipeline.test_commit import block

ROOT = Path(__file__).parents[2]
RUN = make_plan([InputFile("/in", 1, 8, "h", 1)], {"weights_sha256": "w"}, 3)


def committed(folder: Path, shards: int = 3, first: int = 0) -> LocalStore:
    """A run of three shards of which the first ones are committed; with all of them, finished."""
    store = LocalStore(folder)
    store.create(PLAN, RUN.to_json())
    facts = {"plan": RUN.fingerprint}
    receipts = {s.shard_id: commit(store, block(s.shard_id, s.documents, s.documents, first + s.start), facts)
                for s in RUN.shards[:shards]}  # fmt: skip
    if shards == len(RUN.shards):
        finish(store, RUN, receipts)
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
def test_whatever_was_done_to_the_files_is_found(harm: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    store = committed(tmp_path)
    harm(tmp_path)
    assert any(says in problem for problem in verify(store).problems)


def test_ids_that_name_two_rows_are_told(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.create(PLAN, RUN.to_json())
    for shard in RUN.shards[:2]:
        commit(store, block(shard.shard_id, 3, 3, 0), {"plan": RUN.fingerprint})
    findings = verify(store)
    assert findings.problems == [] and str(findings).endswith("3 documents have the doc_id of another, such as d0, d1, d2")


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
    assert check() == (0, "8/8 documents, 3/3 shards committed; finished\n8 rows = 5 ok + 3 failed + 0 skipped\n"
                          "every planned document is one row\n")  # fmt: skip
    (tmp_path / SUCCESS).write_text("{}")
    code, text = check()
    assert code == 1 and "_SUCCESS is not of this" in text
