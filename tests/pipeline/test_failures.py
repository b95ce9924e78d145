"""How many documents may fail, and the end of a run where more do."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commit import Receipt
from pipeline.errors import TooManyFailures
from pipeline.failures import FailureWatch, allowed_failures, check_failures
from pipeline.inputs import InputFile
from pipeline.local_store import LocalStore
from pipeline.shards import make_plan

PLAN = make_plan([InputFile("/in", 1, 40, "h", "1")], {}, 10)


@pytest.mark.parametrize(
    ("max_failed", "documents", "allowed"), [(None, 9, None), (0, 9, 0), (3, 9, 3), (1, 9, 1), (0.05, 200, 10), (0.05, 10, 0)]
)
def test_a_number_or_a_share(max_failed: float | None, documents: int, allowed: int | None) -> None:
    assert allowed_failures(max_failed, documents) == allowed
    check_failures(allowed or 0, max_failed, documents)
    if allowed is not None:
        with pytest.raises(TooManyFailures, match=f"{allowed + 1} of {documents} documents failed; --max-failed is") as raised:
            check_failures(allowed + 1, max_failed, documents)
        assert raised.value.exit_code == 3


def receipt(place: int, failed: int) -> Receipt:
    return Receipt(PLAN.shards[place].shard_id, "a", 10, 10, 10 - failed, failed, 0, failed, 0, 0, 0, 0, 0.0)


def test_an_interruption_that_is_lost_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.failures.read_receipt", lambda store, name: receipt(1, 3))
    monkeypatch.setattr("pipeline.failures._PATIENCE_S", 0.1)
    store, lost = LocalStore(tmp_path), 0
    with pytest.raises(TooManyFailures), FailureWatch(PLAN, store, [receipt(0, 2)], 4, 0.02):
        store.create(PLAN.shards[1].part, b"")
        while True:
            try:
                time.sleep(20)
            except KeyboardInterrupt:
                lost += 1
                if lost == 3:
                    raise
    assert lost == 3


@pytest.mark.parametrize("interrupts", [signal.default_int_handler, signal.SIG_IGN], ids=["heard", "ignored"])
def test_shards_committed_while_it_watches_end_the_block(
    interrupts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    monkeypatch.setattr("pipeline.failures.read_receipt", lambda store, name: receipt(1, 3))
    before = signal.signal(signal.SIGINT, interrupts)  # a script's background commands ignore them
    try:
        with pytest.raises(TooManyFailures, match="5 of 40"), FailureWatch(PLAN, store, [receipt(0, 2)], 4, 0.02):
            store.create(PLAN.shards[1].part, b"")
            time.sleep(20)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interruption_by_the_user_stays_one_and_no_limit_watches_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), FailureWatch(PLAN, LocalStore(tmp_path), [receipt(0, 2)], 4, 0.02):
        raise KeyboardInterrupt
    pq.write_table(pa.table({"a": [1]}), tmp_path / PLAN.shards[0].part)  # no receipt: it would raise if it were read
    with FailureWatch(PLAN, LocalStore(tmp_path), [], None, 0.01):
        time.sleep(0.1)
    with pytest.raises(TooManyFailures), FailureWatch(PLAN, LocalStore(tmp_path), [receipt(0, 2)], 1, 0.01):
        pytest.fail("it had failed before it began")
