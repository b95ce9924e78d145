"""Settings from a YAML file with flags over them, switches too."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import ReportSettings, main, parse
from pipeline.errors import UsageError
from pipeline.settings import SummarizeSettings


def settings(path: Path, text: str, *flags: str) -> SummarizeSettings:
    path.write_text("input: [a, b]\noutput: o\nmodel: m\n" + text)
    return parse(SummarizeSettings, "", ["--config", str(path), *flags])


def test_switches_are_set_by_file_and_flag(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    on = "since: s\nretry_failed: true\n"
    assert settings(path, on).retry_failed and settings(path, on).input == ("a", "b")
    assert not settings(path, on, "--no-retry-failed").retry_failed
    assert settings(path, "since: s\nretry_failed: false\n", "--retry-failed").retry_failed
    assert not settings(path, "since: s\nretry_failed: false\n").retry_failed


def test_flags_win_and_unknown_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    assert settings(path, "num_beams: 4\n", "--num-beams", "2").num_beams == 2
    with pytest.raises(UsageError, match=r"num_beam.* is no setting; did you mean num_beams"):
        settings(path, "num_beam: 4\n")


@pytest.mark.parametrize(
    "content",
    [b"input: [caf\xe9]\n", b"max_failed: 2026-13-45\n", b"input: [a\n"],
    ids=["latin-1", "no date", "no YAML"],
)
def test_a_file_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"--config {path} cannot be read: "):
        parse(SummarizeSettings, "", ["--config", str(path)])


def test_a_report_is_told_what_devices_there_were_and_what_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs import commands

    told: list[ReportSettings] = []
    monkeypatch.setattr(commands, "report", told.append)
    monkeypatch.setattr(
        "sys.argv", ["job", "report", "--output", "o", "--price-per-hour", "2.5", "--gpus", "0.5"]
    )
    main(SummarizeSettings, lambda _: pytest.fail("a report is no task"), "Summarise.")
    assert told == [ReportSettings(output="o", price_per_hour=2.5, gpus=0.5)]
