"""Nights follow one another: what a night carries over, and the settings of its run."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.scheduled import earlier_runs, run_arguments


def nights_with(folder: Path, *finished: str, unfinished: tuple[str, ...] = ()) -> str:
    for name in (*finished, *unfinished):
        (folder / name).mkdir(parents=True)
        (folder / name / "_plan.json").touch()
    for name in finished:
        (folder / name / "_SUCCESS").touch()
    return str(folder)


def test_the_nights_before_go_back_to_the_newest_that_finished(tmp_path: Path) -> None:
    nights = nights_with(
        tmp_path / "n", "2026-11-20", "2026-11-21", "2026-11-25", "a-trial", unfinished=("2026-11-22",)
    )
    (tmp_path / "n" / "2026-11-23").mkdir()  # it never had a plan
    assert earlier_runs(nights, "2026-11-24") == ["2026-11-22", "2026-11-21"]
    assert earlier_runs(nights, "2026-11-20") == []
    assert earlier_runs(str(tmp_path / "none"), "2026-11-24") == []


def test_what_failed_is_retried_in_a_folder_between_two_nights(tmp_path: Path) -> None:
    nights = nights_with(tmp_path / "n", "2026-11-23")
    assert earlier_runs(nights, "2026-11-23-retry") == ["2026-11-23"]
    nights_with(tmp_path / "n", "2026-11-23-retry")
    assert earlier_runs(nights, "2026-11-24") == ["2026-11-23-retry"]


def test_a_second_try_ends_at_the_same_hour() -> None:
    assert run_arguments("s3://b/n", "2026-11-24", [], None, 0) == ["--output", "s3://b/n/2026-11-24"]
    now = datetime(2026, 11, 24, 22, 0).timestamp()
    words = run_arguments("s3://b/n", "2026-11-24", ["2026-11-23", "2026-11-21"], "06:00", now)
    assert words == [
        "--output",
        "s3://b/n/2026-11-24",
        "--since",
        "s3://b/n/2026-11-23",
        "s3://b/n/2026-11-21",
        "--stop-at",
        "2026-11-25T06:00",
    ]
    assert datetime.fromisoformat(words[-1]) - datetime.fromtimestamp(now) == timedelta(hours=8)
    odd: Any = 1320  # what YAML makes of 22:00
    with pytest.raises(UsageError, match=r"--stop-at is 1320; write 06:00, .* in YAML in quotes"):
        run_arguments("s3://b/n", "2026-11-24", [], odd, now)
    with pytest.raises(
        UsageError, match="--stop-at is '2026-11-24T21:00', which is past; name a later moment, or an hour"
    ):
        run_arguments("s3://b/n", "2026-11-24", [], "2026-11-24T21:00", now)
