"""Receipts of shards that are committed meanwhile are added up, and told."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from pipeline.inputs import InputFile
from pipeline.local_store import LocalStore
from pipeline.shards import make_plan
from pipeline.tally import Tally
from pipeline.watch import Watch
from tests.pipeline.receipts import receipt

PLAN = make_plan([InputFile("/in", 1, 40, "h", "1")], {}, 10)


def test_shards_are_added_once_and_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, told = LocalStore(tmp_path), list[int]()
    made = {shard.part: receipt(shard.shard_id, documents=10, finished_at=time.time()) for shard in PLAN.shards}
    monkeypatch.setattr("pipeline.watch.read_receipt", lambda store, name: made[name])
    tally = Tally(40, 4, 1)
    with Watch(store, PLAN.shards[1:], tally, [lambda t, seconds: told.append(t.own.counts["documents"])], 0.02):
        store.create(PLAN.shards[0].part, b"")  # done by a run before
        for shard in PLAN.shards[1:3]:
            store.create(shard.part, b"")
            time.sleep(0.1)
        store.create(PLAN.shards[3].part, b"")
    assert told == sorted(told) and told[-1] == 30 and 10 in told


def test_an_error_of_a_look_is_logged_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(tally: Tally, seconds: float) -> None:
        raise OSError("no disk")

    with caplog.at_level(logging.ERROR), Watch(LocalStore(tmp_path), PLAN.shards, Tally(40, 4, 1), [fail], 0.02):
        time.sleep(0.1)
    assert "the run could not be looked at; it goes on" in caplog.text and "no disk" in caplog.text
