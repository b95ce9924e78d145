"""Structured logs are lines of JSON with the run's name. A file that cannot be written is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.logs import event, logging_to


def test_events_are_lines_with_their_fields(tmp_path: Path) -> None:
    with logging_to(str(tmp_path / "a.jsonl"), "run-7"):
        event("started", documents=3)
    [line] = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert (line["run"], line["event"], line["documents"]) == ("run-7", "started", 3)
    with logging_to(None, "run-7"):
        event("started")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "logs" / "x.jsonl", tmp_path, tmp_path / "file" / "x.jsonl"):
        message = rf"--log-file {path} cannot be written \(.+\); create its folder, or give another"
        with pytest.raises(UsageError, match=message), logging_to(str(path), "run-7"):
            pass
