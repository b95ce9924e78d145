"""Crashes are counted by shard, by document and by run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from pipeline.workers.crashes import CrashCounts


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_crashes_are_counted_and_a_document_is_quarantined_after_two_alone() -> None:
    assert [CrashCounts("run", "s").start() for _ in range(3)] == [(0, set()), (1, set()), (2, set())]
    counts = CrashCounts("run", "s")
    for document in (0, 1, 2):
        counts.start_document(document)
    assert counts.start() == (3, set())
    for document in (0, 1, 2):
        counts.start_document(document)
    assert counts.start() == (4, {2})
    counts.start_document(0)
    assert counts.start() == (5, {2})


def test_counts_belong_to_a_shard_and_run_and_end_with_the_shard(
    tmp_path: Path,
) -> None:
    counts = CrashCounts("run", "s")
    counts.start()
    assert CrashCounts("run", "t").start() == CrashCounts("other", "s").start() == (0, set())
    counts.finish()
    assert CrashCounts("run", "s").start() == (0, set())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["led-other-s", "led-run-s", "led-run-t"]
