"""Receipts of shards that are committed meanwhile are added up, and told."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.pipeline.shards_metadata import shard_metadata

from pipeline.errors import PipelineError
from pipeline.inputs.read import InputFile
from pipeline.monitor.stats import RunStats
from pipeline.monitor.watcher import Observer, ProgressWatcher
from pipeline.output.commit import ShardMetadata, read_shard_metadata
from pipeline.output.local import LocalStore
from pipeline.planning.plan import make_plan

PLAN = make_plan([InputFile("/in", 1, 40, "h", "1")], {}, 10)


def test_shards_are_added_once_and_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, told = LocalStore(tmp_path), list[int]()
    made = {
        shard.part: shard_metadata(shard.shard_id, documents=10, finished_at=time.time())
        for shard in PLAN.shards
    }
    monkeypatch.setattr("pipeline.monitor.watcher.read_shard_metadata", lambda store, name: made[name])
    stats = RunStats(40, 4, 1)
    with ProgressWatcher(
        store, PLAN.shards[1:], stats, [lambda t, seconds: told.append(t.own.counts["documents"])], 0.02
    ):
        store.create(PLAN.shards[0].part, b"")  # done by a run before
        for shard in PLAN.shards[1:3]:
            store.create(shard.part, b"")
            time.sleep(0.1)
        store.create(PLAN.shards[3].part, b"")
    assert told == sorted(told) and told[-1] == 30 and 10 in told


def watched(store: LocalStore, observers: Sequence[Observer], stats: RunStats, seconds: float = 0.15) -> None:
    with ProgressWatcher(store, PLAN.shards, stats, observers, 0.02):
        time.sleep(seconds)


def test_an_observer_that_fails_is_logged_once_and_the_others_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(stats: RunStats, seconds: float) -> None:
        raise OSError("no disk")

    told: list[float] = []
    with caplog.at_level(logging.WARNING):
        watched(LocalStore(tmp_path), [fail, lambda stats, seconds: told.append(seconds)], RunStats(40, 4, 1))
    assert len(told) > 3 and len(caplog.records) == 1 and "Traceback" in caplog.text
    assert "the run could not be looked at" in caplog.text and "OSError: no disk); it goes on" in caplog.text


def test_observers_are_told_while_the_folder_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One of them is what ends a run when it is asked to."""

    def names(self: LocalStore) -> set[str]:
        raise PipelineError("the store does not answer")

    monkeypatch.setattr(LocalStore, "names", names)
    told: list[float] = []
    with caplog.at_level(logging.WARNING):
        watched(LocalStore(tmp_path), [lambda stats, seconds: told.append(seconds)], RunStats(40, 4, 1))
    assert (
        len(told) > 3
        and told == sorted(told)
        and caplog.text.count("PipelineError: the store does not answer") == 1
    )


def test_a_file_without_a_receipt_is_warned_of_once_and_hides_no_other(
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
        watched(store, [], stats)
    assert stats.own.counts["documents"] == 20 and (reads.count(foreign), reads.count(good)) == (1, 1)
    assert reads.count(slow) == 3 and len(caplog.records) == 2 and foreign in caplog.text
