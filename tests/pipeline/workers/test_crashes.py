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
    counts = CrashCounts("run", "s")
    for attempt in range(3):
        assert counts.read() == (attempt, set())
        counts.start()
    for document in (0, 1, 2):
        counts.start_document(document)
    assert counts.read() == (3, set())
    counts.start()
    for document in (0, 1, 2):
        counts.start_document(document)
    assert counts.read() == (4, {2})
    counts.start()
    counts.start_document(0)
    assert counts.read() == (5, {2})


def test_counts_belong_to_a_shard_and_run_and_end_with_the_shard(
    tmp_path: Path,
) -> None:
    counts = CrashCounts("run", "s")
    counts.start()
    assert CrashCounts("run", "t").read() == CrashCounts("other", "s").read() == (0, set())
    CrashCounts("other", "s").start()
    counts.finish()
    assert CrashCounts("run", "s").read() == (0, set())
    assert [path.name for path in tmp_path.iterdir()] == ["led-other-s"]
