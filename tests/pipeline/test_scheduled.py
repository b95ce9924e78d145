"""Scheduled runs: the earlier runs that a run reuses, and its arguments."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import retry, scheduled
from pipeline.errors import PipelineError, UsageError
from pipeline.scheduled import earlier_runs, run_arguments


def folder_with(folder: Path, *finished: str, unfinished: tuple[str, ...] = ()) -> str:
    for name in (*finished, *unfinished):
        (folder / name).mkdir(parents=True)
        (folder / name / "_plan.json").touch()
    for name in finished:
        (folder / name / "_SUCCESS").touch()
    return str(folder)


def test_earlier_runs_go_back_to_the_newest_finished_one(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "n", "2026-11-20", "2026-11-21", "2026-11-25", "a-trial", unfinished=("2026-11-22",)
    )
    (tmp_path / "n" / "2026-11-23").mkdir()  # it has no plan
    assert earlier_runs(folder, "2026-11-24") == ["2026-11-22", "2026-11-21"]
    assert earlier_runs(folder, "2026-11-20") == []
    assert earlier_runs(str(tmp_path / "none"), "2026-11-24") == []


def test_a_retry_has_a_folder_between_two_runs(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "n", "2026-11-23")
    assert earlier_runs(folder, "2026-11-23-retry") == ["2026-11-23"]
    folder_with(tmp_path / "n", "2026-11-23-retry")
    assert earlier_runs(folder, "2026-11-24") == ["2026-11-23-retry"]


def test_another_attempt_stops_at_the_same_time() -> None:
    assert run_arguments("s3://b/n", "2026-11-24", [], None, 0) == ["--output", "s3://b/n/2026-11-24"]
    now = datetime(2026, 11, 24, 22, 0).timestamp()
    arguments = run_arguments("s3://b/n", "2026-11-24", ["2026-11-23", "2026-11-21"], "06:00", now)
    assert arguments == [
        "--output",
        "s3://b/n/2026-11-24",
        "--since",
        "s3://b/n/2026-11-23",
        "s3://b/n/2026-11-21",
        "--stop-at",
        arguments[-1],
    ]
    assert datetime.fromisoformat(arguments[-1]).timestamp() == now + timedelta(hours=8).total_seconds()
    assert datetime.fromisoformat(arguments[-1]).utcoffset() is not None
    number: Any = 1320  # YAML reads 22:00 as this number
    with pytest.raises(
        UsageError, match=r"--stop-at is 1320; write 06:00 or 2026-11-24T06:00, in quotes in YAML"
    ):
        run_arguments("s3://b/n", "2026-11-24", [], number, now)
    with pytest.raises(
        UsageError,
        match="--stop-at is '2026-11-24T21:00', which has passed; give a later time, or a time of day",
    ):
        run_arguments("s3://b/n", "2026-11-24", [], "2026-11-24T21:00", now)
    with pytest.raises(UsageError, match="which has passed"):
        run_arguments("s3://b/n", "2026-11-24", [], "2026-11-24T22:00", now)


@pytest.mark.parametrize(
    ("fault", "kind"), [(PermissionError("no"), UsageError), (TimeoutError("slow"), PipelineError)]
)
def test_a_folder_that_cannot_be_listed_is_named(
    fault: Exception, kind: type[PipelineError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: str, name: str) -> list[str]:
        raise fault

    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0)
    monkeypatch.setattr(scheduled, "_earlier_runs", fail)
    with pytest.raises(PipelineError, match=r"the scheduled runs in s3://b/n cannot be listed") as raised:
        earlier_runs("s3://b/n", "2026-11-24")
    assert type(raised.value) is kind
