"""The metadata of newly committed shards is added up and passed to the observers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.inputs.read import InputFile
from pipeline.monitor.stats import RunStats
from pipeline.monitor.watcher import Observer, ProgressWatcher
from pipeline.output.commit import ShardMetadata, read_shard_metadata
from pipeline.output.local import LocalStore
from pipeline.planning.plan import make_plan
from tests.pipeline.shard_metadata import shard_metadata
from tests.waiting import wait_until

PLAN = make_plan([InputFile("/in", 1, 40, "h", "1")], {}, 10)


def test_shards_are_added_once_and_observers_are_called_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, counts = LocalStore(tmp_path), list[int]()
    metadata = {
        shard.part: shard_metadata(shard.shard_id, documents=10, finished_at=time.time())
        for shard in PLAN.shards
    }
    monkeypatch.setattr("pipeline.monitor.watcher.read_shard_metadata", lambda store, name: metadata[name])
    stats = RunStats(40, 4, 1)
    with ProgressWatcher(
        store,
        PLAN.shards[1:],
        stats,
        [lambda stats, seconds: counts.append(stats.own.counts["documents"])],
        0.02,
    ):
        store.create(PLAN.shards[0].part, b"")  # committed by an earlier run
        for number, shard in enumerate(PLAN.shards[1:3], 1):
            store.create(shard.part, b"")
            wait_until(lambda number=number: counts and counts[-1] == 10 * number)
        store.create(PLAN.shards[3].part, b"")
    assert counts == sorted(counts) and counts[-1] == 30 and 10 in counts


def test_shards_are_added_in_the_order_in_which_they_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now, finished = LocalStore(tmp_path), time.time(), list[float]()
    names = sorted(shard.part for shard in PLAN.shards)
    metadata = {
        name: shard_metadata(name, documents=10, finished_at=now + 100 - 10 * n)
        for n, name in enumerate(names)
    }
    monkeypatch.setattr("pipeline.monitor.watcher.read_shard_metadata", lambda store, name: metadata[name])

    class Stats(RunStats):
        def add(self, shard: ShardMetadata, finished_after: float | None = None) -> None:
            finished.append(shard.finished_at)
            super().add(shard, finished_after)

    for name in names:
        store.create(name, b"")
    watch(store, [], Stats(40, 4, 1))
    assert finished == sorted(m.finished_at for m in metadata.values())


def watch(
    store: LocalStore, observers: Sequence[Observer], stats: RunStats, until: Callable[[], Any] = lambda: True
) -> None:
    with ProgressWatcher(store, PLAN.shards, stats, observers, 0.02):
        wait_until(until)


def test_a_failing_observer_is_logged_once_and_the_others_are_called(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(stats: RunStats, seconds: float) -> None:
        raise OSError("no disk")

    calls: list[float] = []
    with caplog.at_level(logging.WARNING):
        observers = [fail, lambda stats, seconds: calls.append(seconds)]
        watch(LocalStore(tmp_path), observers, RunStats(40, 4, 1), lambda: len(calls) > 3)
    assert len(calls) > 3 and len(caplog.records) == 1 and "Traceback" in caplog.text
    assert "the progress could not be updated" in caplog.text
    assert "OSError: no disk); the run continues" in caplog.text


def test_observers_are_called_while_the_folder_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One of them stops the run at its limits."""

    def names(self: LocalStore) -> set[str]:
        raise PipelineError("the store does not answer")

    monkeypatch.setattr(LocalStore, "names", names)
    calls: list[float] = []
    with caplog.at_level(logging.WARNING):
        observers = [lambda stats, seconds: calls.append(seconds)]
        watch(LocalStore(tmp_path), observers, RunStats(40, 4, 1), lambda: len(calls) > 3)
    assert (
        len(calls) > 3
        and calls == sorted(calls)
        and caplog.text.count("PipelineError: the store does not answer") == 1
    )


def test_a_file_without_metadata_is_logged_once_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    foreign, slow, good, _ = (shard.part for shard in PLAN.shards)
    reads: list[str] = []

    def read(store: LocalStore, name: str) -> ShardMetadata:
        reads.append(name)
        if name == foreign:
            return read_shard_metadata(store, name)
        if name == slow and reads.count(slow) < 3:
            raise ConnectionResetError("a moment")
        return shard_metadata(name, documents=10, finished_at=time.time())

    monkeypatch.setattr("pipeline.monitor.watcher.read_shard_metadata", read)
    store, stats = LocalStore(tmp_path), RunStats(40, 4, 1)
    for name in (foreign, slow, good):
        store.create(name, b"PAR1 torn")
    with caplog.at_level(logging.WARNING):
        watch(store, [], stats, lambda: stats.own.counts["documents"] == 20)
    assert stats.own.counts["documents"] == 20 and (reads.count(foreign), reads.count(good)) == (1, 1)
    assert reads.count(slow) == 3 and len(caplog.records) == 2 and foreign in caplog.text
