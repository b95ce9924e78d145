"""The command line: commands and actions, settings from a YAML file with flags over them, old names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import ACTIONS, COMMANDS, main, split_action
from jobs.options import ReportOptions
from jobs.parsing import parse
from pipeline import __version__
from pipeline.errors import UsageError
from pipeline.tasks.registry import BUILT_IN
from pipeline.tasks.settings import AnswerSettings, SummarizeSettings
from tests.jobs.commands import ROOT, environment, led_corpus


def settings(path: Path, text: str, *flags: str) -> SummarizeSettings:
    path.write_text("input: [a, b]\noutput: o\nmodel: m\n" + text)
    return parse(SummarizeSettings, ["--config", str(path), *flags])[0]


def test_run_is_the_default_action_and_typos_are_named() -> None:
    assert split_action(["--input", "x"]) == ("run", ["--input", "x"]) and split_action([]) == ("run", [])
    assert split_action(["plan", "--input", "x"]) == ("plan", ["--input", "x"])
    with pytest.raises(UsageError, match=r"'previw' is not a known action; did you mean preview\?"):
        split_action(["previw"])
    with pytest.raises(UsageError, match=r"'sumarize' is not a known command; did you mean summarize\?"):
        main(["sumarize"])
    with pytest.raises(UsageError, match="o holds no run"):
        main(["evaluate", "--output", "o"])


def test_the_help_lists_every_command_and_action(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown for name in (*BUILT_IN, *ACTIONS, *COMMANDS))
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"led-corpus {__version__}\n"


HELP = """
import sys
from jobs.cli import main
try:
    main([*sys.argv[1:], "--help"])
except SystemExit as ended:
    assert not ended.code
assert not {"torch", "ray", "pyarrow"} & set(sys.modules)
"""


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("task", BUILT_IN)
def test_every_action_has_help_without_torch_ray_or_pyarrow(task: str, action: str) -> None:
    command = [sys.executable, "-c", HELP, task, action]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.returncode == 0 and "--output" in done.stdout, done.stderr
    assert f"usage: led-corpus {task} {action} " in done.stdout
    assert ("--calibration-seconds" in done.stdout) == (action == "plan")
    assert ("--draw" in done.stdout) == (action == "preview")


@pytest.mark.parametrize(
    "words", [["evaluate", "labels"], ["evaluate", "summaries"], ["nightly"], ["verify"]]
)
def test_every_command_has_help(words: list[str]) -> None:
    done = led_corpus(*words, "--help")
    assert done.returncode == 0 and f"usage: led-corpus {' '.join(words)} " in done.stdout, done.stderr


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
    with pytest.raises(UsageError, match=r"num_beam', which is not a setting; did you mean num_beams"):
        settings(path, "num_beam: 4\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_beams: four\n", "--num-beams is 'four'; it must be a whole number"),
        ("num_beams: 0\n", "--num-beams is 0; it must be at least 1"),
        ("top_p: high\n", "--top-p is 'high'; it must be a number"),
        ("flags: maybe\n", "--flags is 'maybe'; it must be true or false"),
        ("dtype: fp16\n", "--dtype is 'fp16'; it must be 'auto', 'float32', 'float16', 'bfloat16' or 'int8'"),
        ("passthrough: [1]\n", "--passthrough is .1,.; it must be a text"),
        ("text_column: [a]\n", r"--text-column is \['a'\]; it must be a text"),
    ],
)
def test_a_wrong_value_in_the_file_is_named_with_its_rule(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        settings(tmp_path / "job.yaml", text)


def test_a_required_setting_may_come_from_the_file_or_a_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("output: o\nmodel: m\nquestion: ['Who?', 'When?']\n")
    parsed = parse(AnswerSettings, ["--config", str(path), "--input", "a", "b"])[0]
    assert parsed.input == ("a", "b") and parsed.question == ("Who?", "When?")
    with pytest.raises(SystemExit):
        parse(AnswerSettings, ["--config", str(path)])
    assert "--input" in capsys.readouterr().err


def test_printed_settings_are_a_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--input", "a", "--output", "o", "--model", "m", "--num-beams", "3", "--since", "x", "y"]
    with pytest.raises(SystemExit):
        parse(SummarizeSettings, [*arguments, "--print-config"])
    path = tmp_path / "job.yaml"
    path.write_text(capsys.readouterr().out)
    assert parse(SummarizeSettings, ["--config", str(path)])[0] == parse(SummarizeSettings, arguments)[0]


@pytest.mark.parametrize(
    "content",
    [b"input: [caf\xe9]\n", b"max_failed: 2026-13-45\n", b"input: [a\n"],
    ids=["latin-1", "no date", "no YAML"],
)
def test_a_file_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"--config {path} cannot be read: "):
        parse(SummarizeSettings, ["--config", str(path)])


# old names
OLD_FLAGS = ["--actors", "3", "--documents_in_flight=5", "--encoder-tokens", "9", "--max-actors=4"]
OLD_KEYS = "actors: 3\ndocuments_in_flight: 5\nencoder_tokens: 9\nmax_actors: 4\n"
# end of old names


def test_old_names_work_and_warn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {"replicas": 3, "max_num_seqs": 5, "max_num_batched_tokens": 9, "max_replicas": 4}
    for text, flags in (("", OLD_FLAGS), (OLD_KEYS, [])):
        parsed = settings(tmp_path / "job.yaml", text, *flags)
        assert {name: getattr(parsed, name) for name in expected} == expected
        warned = capsys.readouterr().err
        assert warned.count("is deprecated; use ") == 4 and "replicas." in warned
    assert split_action(["sample"]) == ("preview", [])  # old names
    assert "is deprecated; use preview." in capsys.readouterr().err


def test_a_report_gets_the_devices_and_their_price(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs import commands

    received: list[ReportOptions] = []
    monkeypatch.setattr(commands, "report", received.append)
    for words in (["report"], ["summarize", "report"]):
        assert main([*words, "--output", "o", "--price-per-hour", "2.5", "--gpus", "0.5"]) == 0
    assert received == [ReportOptions(output="o", price_per_hour=2.5, gpus=0.5)] * 2


def test_evaluate_help_lists_the_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    assert "summaries|labels|answers" in capsys.readouterr().out
