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
    assert [CrashCounts("run", "s").begin() for _ in range(3)] == [(0, set()), (1, set()), (2, set())]
    attempts = CrashCounts("run", "s")
    for document in (0, 1, 2):
        attempts.alone(document)
    assert attempts.begin() == (3, set())
    for document in (0, 1, 2):
        attempts.alone(document)
    assert attempts.begin() == (4, {2})
    attempts.alone(0)
    assert attempts.begin() == (5, {2})


def test_other_shards_and_runs_know_nothing_of_it_and_a_shard_that_is_done_is_forgotten(tmp_path: Path) -> None:
    attempts = CrashCounts("run", "s")
    attempts.begin()
    assert CrashCounts("run", "t").begin() == CrashCounts("other", "s").begin() == (0, set())
    attempts.end()
    assert CrashCounts("run", "s").begin() == (0, set())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["led-other-s", "led-run-s", "led-run-t"]
