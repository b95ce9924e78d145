"""A file is written once, completely, and never changes."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from pipeline.errors import CorruptOutput, PipelineError, UsageError
from pipeline.output.local import LocalStore
from pipeline.output.open_store import open_store
from pipeline.output.store import PROBE, Outcome, probe
from tests.waiting import HANG_S


def test_the_first_write_is_kept(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "new" / "folder")
    assert store.create("a", b"first") is Outcome.CREATED
    assert store.create("a", b"second") is Outcome.EXISTS
    assert store.read("a") == b"first"
    assert store.names() == {"a"} and os.listdir(store.folder) == ["a"]


def _write_all(folder: str, number: int, rounds: int, results: multiprocessing.Queue[list[bool]]) -> None:
    store = LocalStore(folder)
    results.put([store.create(f"name-{i}", bytes([number]) * 1000) is Outcome.CREATED for i in range(rounds)])


def test_of_parallel_writers_exactly_one_succeeds(tmp_path: Path) -> None:
    writers, rounds = 4, 60
    results: multiprocessing.Queue[list[bool]] = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(target=_write_all, args=(str(tmp_path), n, rounds, results))
        for n in range(writers)
    ]
    for process in processes:
        process.start()
    won = [results.get(timeout=HANG_S) for _ in processes]
    for process in processes:
        process.join()
    assert [sum(row[i] for row in won) for i in range(rounds)] == [1] * rounds
    for name in LocalStore(tmp_path).names():
        content = (tmp_path / name).read_bytes()
        assert len(content) == 1000 and len(set(content)) == 1


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PipelineError, match=r"a cannot be written \(No space left on device\); make room"):
        store.create("a", b"x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["../a", "a/b", "/etc/passwd", ".hidden", ""])
def test_names_stay_in_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        LocalStore(tmp_path).create(name, b"")


def test_reports_may_be_replaced_and_absent_names_are_an_error(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.replace("_report.html", b"1")
    store.replace("_report.html", b"2")
    assert store.read("_report.html") == b"2"
    with pytest.raises(CorruptOutput, match="does not exist"):
        store.read("absent")


def test_addresses_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url, message in [
        (
            "nowhere://bucket/out",
            "is on nowhere://, which does not support create-only writes; use one of s3://",
        ),
        ("gs://bucket/out", "gs:// cannot be used"),
        ("s3://bucket", "whole bucket"),
        (str(tmp_path / "file"), "is a file"),
    ]:
        with pytest.raises(UsageError, match=message):
            open_store(url)
    assert open_store(f"file://{tmp_path}/out").url == f"{tmp_path}/out"


def test_a_store_is_probed_again_and_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for _ in range(3):
        probe(store)
    assert store.names() == {PROBE}


def test_a_disk_without_hard_links_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(UsageError, match="does not support hard links"):
        LocalStore(tmp_path).create("a", b"x")
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_when_a_file_is_linked_is_no_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(
        PipelineError,
        match=r"cannot be written \(No space left on device\); make room, then rerun the same command",
    ) as raised:
        LocalStore(tmp_path).create("a", b"x")
    assert raised.value.exit_code == 1 and os.listdir(tmp_path) == []
