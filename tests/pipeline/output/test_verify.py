"""Verification counts from the bytes, and finds everything that does not match the plan."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq
import pytest

from pipeline.errors import UsageError
from pipeline.inputs.read import InputFile
from pipeline.output.commit import commit, finish
from pipeline.output.local import LocalStore
from pipeline.output.verify import Verification, status, verify
from pipeline.planning.document_ids import document_ids
from pipeline.planning.plan import MANIFEST, PLAN, SUCCESS, make_plan
from pipeline.schema import TaskInfo
from tests.pipeline.output.test_commit import block
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[3]
RUN = make_plan([InputFile("/in", 1, 8, "h", "1")], {"weights_sha256": "w"}, 3)


def committed(folder: Path, shards: int = 3, first: int = 0) -> LocalStore:
    """A run of three shards, of which the first `shards` are committed. With all three, it is finished."""
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
    result = verify(store)
    assert (result.problems, str(result)) == ([], "8 rows = 5 ok + 3 failed + 0 skipped")


def test_an_unfinished_run_is_right_as_far_as_it_got(tmp_path: Path) -> None:
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


def unplanned(folder: Path) -> None:
    (folder / "part-of-something.parquet").write_bytes(b"")


def other_manifest(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"ok": 99}))


def rotten(folder: Path) -> None:
    """Flip a bit of a data page."""
    data = bytearray((folder / RUN.shards[1].part).read_bytes())
    column = pq.ParquetFile(folder / RUN.shards[1].part).metadata.row_group(0).column(2)
    data[column.data_page_offset + column.total_compressed_size - 8] ^= 1
    (folder / RUN.shards[1].part).write_bytes(data)


def no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


HARMS: list[tuple[Callable[[Path], None], str]] = [
    (another_plan, "written for another plan"),
    (fewer_rows, "has rows of 2 documents; the plan has 3"),
    (another_status, "does not match its footer: ok 3, not 2, failed 0, not 1"),
    (no_status, "has rows whose status is none of ok, failed, skipped"),
    (torn, "cannot be read"),
    (rotten, "cannot be read"),
    (renamed, "another plan or shard"),
    (lost, "is missing, though"),
    (unplanned, "part-of-something.parquet is not in the plan"),
    (other_manifest, "_manifest.json does not match the files"),
    (no_manifest, "_SUCCESS does not match _manifest.json"),
]


@pytest.mark.parametrize(("harm", "message"), HARMS, ids=[harm.__name__ for harm, _ in HARMS])
def test_every_change_of_the_files_is_found(
    harm: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    store = committed(tmp_path)
    harm(tmp_path)
    assert any(message in problem for problem in verify(store).problems)


def test_a_finished_run_with_a_lost_shard_has_too_few_documents(tmp_path: Path) -> None:
    store = committed(tmp_path)
    lost(tmp_path)
    assert verify(store).problems == [
        f"{RUN.shards[1].part} is missing, though the run is marked as finished",
        "there are rows of 5 documents; the plan has 8",
    ]


@pytest.mark.parametrize("plan", ["", "0", "other"])
def test_a_shard_of_any_other_plan_is_found(plan: str, tmp_path: Path) -> None:
    store, shard = committed(tmp_path, 0), RUN.shards[0]
    commit(store, block(shard.shard_id, 3, 3), {"plan": plan})
    assert verify(store).problems == [f"{store.url}/{shard.part} was written for another plan or shard"]


def test_shards_that_changed_places_are_found(tmp_path: Path) -> None:
    store, parts = committed(tmp_path, 2), [shard.part for shard in RUN.shards[:2]]
    first, second = (store.read(part) for part in parts)
    (tmp_path / parts[0]).write_bytes(second)
    (tmp_path / parts[1]).write_bytes(first)
    message = "was written for another plan or shard"
    assert verify(store).problems == [f"{store.url}/{part} {message}" for part in parts]


def test_a_shard_with_too_many_documents_is_found(tmp_path: Path) -> None:
    store, shard = committed(tmp_path, 0), RUN.shards[0]
    commit(store, block(shard.shard_id, 4, 4), {"plan": RUN.fingerprint})
    assert verify(store).problems == [f"{store.url}/{shard.part} has rows of 4 documents; the plan has 3"]


def test_status_counts_shards_and_documents(tmp_path: Path) -> None:
    store, plan = LocalStore(tmp_path), make_plan([InputFile("/in", 1, 4, "h", "1")], {}, 1)
    store.create(PLAN, plan.to_json())
    for shard in plan.shards[:3]:
        commit(store, block(shard.shard_id, 1, 1), {"plan": plan.fingerprint})
    assert str(status(store)).startswith("3/4 documents, 3/4 shards committed; unfinished")


@pytest.mark.parametrize("name", [MANIFEST, SUCCESS])
def test_a_torn_manifest_or_marker_is_a_problem(name: str, tmp_path: Path) -> None:
    store = committed(tmp_path)
    (tmp_path / name).write_text("{")
    assert any(f"{name} was not written by this system" in problem for problem in verify(store).problems)


def test_three_duplicate_ids_are_named() -> None:
    ids = ["a", "b", "c", "d"]
    text = Verification(duplicates=4, duplicate_ids=ids).describe_duplicates()
    assert text == "4 document IDs occur more than once, such as a, b, c"


def test_rot_in_a_column_that_is_not_counted_is_found(tmp_path: Path) -> None:
    store, shard = committed(tmp_path, 0), RUN.shards[0]
    rows = block(shard.shard_id, 3, 3).append_column("title", [["one", "two", "three"]])
    commit(store, rows, {"plan": RUN.fingerprint})
    assert verify(store).problems == []
    path = tmp_path / shard.part
    data, file = bytearray(path.read_bytes()), pq.ParquetFile(path)
    column = file.metadata.row_group(0).column(file.schema_arrow.names.index("title"))
    start = column.dictionary_page_offset or column.data_page_offset
    data[start + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    assert any("cannot be read" in problem for problem in verify(store).problems)


@pytest.mark.parametrize(("number", "more"), [(5, []), (11, ["and 6 more of these"])])
def test_five_files_with_the_same_problem_are_named(number: int, more: list[str], tmp_path: Path) -> None:
    store, names = committed(tmp_path), [f"part-{i:02d}.parquet" for i in range(number)]
    for name in names:
        (tmp_path / name).touch()
    assert (
        verify(store).problems
        == [f"{name} is not in the plan, but readers of the folder would read its rows" for name in names[:5]]
        + more
    )


def test_ids_of_documents_with_several_rows_are_compared_once(tmp_path: Path) -> None:
    store, (first, second, _) = committed(tmp_path, 0), RUN.shards
    plan = replace(RUN, task=TaskInfo(number="question_number"))
    (tmp_path / PLAN).write_bytes(plan.to_json())
    for shard, ids, numbers in (
        (first, ["d0", "d0", "d1", "d2"], [0, 1, 0, 0]),
        (second, ["d3", "d3", "d2", "d4"], [0, 1, 0, 0]),
    ):
        rows = block(shard.shard_id, 4, 4).append_column("question_number", [numbers])
        rows = rows.set_column(rows.column_names.index("doc_id"), "doc_id", [ids])
        commit(store, rows, {"plan": RUN.fingerprint}, "question_number")
    result = verify(store)
    assert (result.documents, result.rows.total(), result.duplicate_ids) == (6, 8, ["d2"])


def with_duplicates(folder: Path, config: dict[str, Any], **columns: list[Any]) -> Verification:
    """The verification of a run in which two shards of three rows have the same IDs."""
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


def test_duplicate_ids_are_a_problem_unless_the_run_allows_them(tmp_path: Path) -> None:
    message = "3 document IDs occur more than once, such as d0, d1, d2"
    refused = with_duplicates(tmp_path / "refused", {})
    assert refused.problems == [message] and str(refused).endswith(message)
    assert (refused.duplicates, refused.duplicate_ids) == (3, ["d0", "d1", "d2"])
    kept = with_duplicates(tmp_path / "kept", {"duplicates_kept": True})
    assert kept.problems == [] and str(kept).endswith(message)


def test_positions_of_skipped_rows_are_not_compared_as_ids(tmp_path: Path) -> None:
    skipped = with_duplicates(tmp_path, {}, status=["skipped"] * 3)
    assert skipped.problems == [] and (skipped.duplicates, skipped.duplicate_ids) == (0, [])


def test_generated_ids_are_those_of_the_rows(tmp_path: Path) -> None:
    plan = make_plan([InputFile("/in/a.parquet", 1, 3, "h", "1")], {"settings": {"id_column": None}}, 3)
    [shard] = plan.shards
    for folder, ids in (
        ("right", document_ids(None, shard.source, 0, 3)),
        ("swapped", [f"{shard.source}:{n}" for n in (0, 2, 1)]),
        ("repeated", [f"{shard.source}:{n}" for n in (0, 1, 1)]),
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
        expected = f"has other doc_ids than {shard.source}:0 to {shard.source}:2, which"
        assert problems == [] if folder == "right" else expected in problems[0]


def test_files_are_read_in_parallel_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together, whole, opened = threading.Barrier(3), LocalStore.open, list[str]()
    store = committed(tmp_path)

    def open_(self: LocalStore, name: str) -> BinaryIO:
        if name.startswith("part-"):
            opened.append(name)
            together.wait(timeout=HANG_S)
        return whole(self, name)

    monkeypatch.setattr(LocalStore, "open", open_)
    assert verify(store).problems == [] and sorted(opened) == sorted(shard.part for shard in RUN.shards)


def test_a_folder_without_a_run_is_named_and_not_created(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run \(no _plan.json\)"):
        status(LocalStore(tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()


def test_the_command_prints_the_result_and_returns_its_exit_code(tmp_path: Path) -> None:
    def check(subcommand: str = "verify") -> tuple[int, str]:
        command = [sys.executable, "-m", "jobs.cli", subcommand, "--output", tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        return done.returncode, done.stdout + done.stderr

    committed(tmp_path, 2)
    code, text = check()
    assert code == 1 and "the committed rows are correct, but 2 documents are missing" in text
    assert check("status") == (
        0,
        "6/8 documents, 2/3 shards committed; unfinished: rerun the same command to resume\n",
    )
    (tmp_path / PLAN).unlink()
    for path in tmp_path.glob("part-*"):
        path.unlink()
    committed(tmp_path)
    assert check() == (
        0,
        "8/8 documents, 3/3 shards committed; finished\n8 rows = 5 ok + 3 failed + 0 skipped\n"
        "Verified: 8 documents, 8 rows, no duplicates. Every file has the SHA-256 in the manifest.\n",
    )
    (tmp_path / SUCCESS).write_text("{}")
    code, text = check()
    assert code == 1 and "_SUCCESS does not match _manifest.json" in text
