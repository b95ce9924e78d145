"""Deaths are told apart: of the shard, of a document alone, of another run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from pipeline.workers.crashes import CrashCounts


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_deaths_are_counted_and_a_document_is_given_up_after_two_alone() -> None:
    assert [CrashCounts("run", "s").start() for _ in range(3)] == [(0, set()), (1, set()), (2, set())]
    attempts = CrashCounts("run", "s")
    for document in (0, 1, 2):
        attempts.start_document(document)
    assert attempts.start() == (3, set())
    for document in (0, 1, 2):
        attempts.start_document(document)
    assert attempts.start() == (4, {2})
    attempts.start_document(0)
    assert attempts.start() == (5, {2})


def test_other_shards_and_runs_know_nothing_of_it_and_a_shard_that_is_done_is_forgotten(
    tmp_path: Path,
) -> None:
    attempts = CrashCounts("run", "s")
    attempts.start()
    assert CrashCounts("run", "t").start() == CrashCounts("other", "s").start() == (0, set())
    attempts.finish()
    assert CrashCounts("run", "s").start() == (0, set())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["led-other-s", "led-run-s", "led-run-t"]
