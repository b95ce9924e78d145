"""What the jobs share: verbs, settings from flags over a YAML file, plain error messages, exit codes.

Exit codes: 0 done · 1 the run failed, the same command goes on · 2 the command must change · 3 more
documents failed than --max-failed allows · 130 interrupted, or ended as it was asked to; the same command
goes on.
"""

from __future__ import annotations

import argparse
import difflib
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro
import yaml

from pipeline.errors import PipelineError, UsageError
from pipeline.settings import RunSettings

if TYPE_CHECKING:
    from pipeline.tasks import Task

Settings = TypeVar("Settings", bound=RunSettings)

INTERRUPTED = 130

VERBS = {
    "run": "do the corpus, or go on where a run stopped (the default)",
    "plan": "say what the run will take: documents, tokens, time, memory, cost; nothing is written but _forecast.json",
    "sample": "do a few documents in this process and show them",
    "status": "how far the run in --output is",
    "verify": "count what --output holds again, from its bytes",
    "retry-failed": "run, and of --since do again what failed",
    "report": "write the report of the finished run in --output again",
}


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """What to look at."""

    output: str
    """Folder of a run, a path or s3://bucket/folder."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings(OutputSettings):
    """What to look at, and what the plan does not say of it."""

    reference_column: str | None = None
    """Column of the output that holds the right summaries."""
    price_per_hour: float | None = None
    """What an hour of one device costs: of a GPU, or without GPUs of one model copy's CPUs."""
    gpus: float = 0.0
    """GPUs that each model copy had."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What to compare."""

    output: str
    """Folder of a finished run."""
    reference_column: str
    """Column with what is right, carried over with --passthrough."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """How well to look before the run."""

    sample_documents: int = 2000
    """Documents whose lengths are looked at."""
    calibration_seconds: float = 60.0
    """Seconds of work that are rehearsed on the run's own devices."""
    picture: str | None = None
    """File for a picture of the lengths (.svg)."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How many documents to show."""

    documents: int = 5
    """Documents, drawn at random."""
    draw: int = 0
    """Another number draws others."""


def main(settings: type[Settings], make_task: Callable[[Settings], Task], description: str) -> None:
    """A job: the verb, its settings, and what it does."""
    verb, words = split_subcommand(sys.argv[1:])
    listed = "\n".join(f"  {name:<13} {what}" for name, what in VERBS.items())
    note = f"{description.strip()}\n\nVerbs, before the settings:\n{listed}\n\nNow: {verb}."
    if verb in ("status", "verify", "report"):
        kind_of_output = ReportSettings if verb == "report" else OutputSettings
        given = tyro.cli(kind_of_output, args=words, description=note)
        from jobs import commands

        if isinstance(given, ReportSettings):
            commands.report(given)
        else:
            (commands.status if verb == "status" else commands.verify)(given.output)
        return
    options: PlanOptions | SampleOptions | None = None
    if verb in ("plan", "sample"):
        kind = PlanOptions if verb == "plan" else SampleOptions
        if {"-h", "--help"} & set(words):
            note += "\n\nOnly of this verb:\n" + "\n".join(f"  {line}" for line in _describe(kind))
        else:
            options, words = tyro.cli(kind, args=words, return_unknown_args=True)
    parsed = parse(settings, note, words)
    if verb == "retry-failed":
        if not parsed.since:
            raise UsageError("retry-failed needs --since, the run that they failed in.")
        parsed = replace(parsed, retry_failed=True)

    from jobs import commands

    if isinstance(options, PlanOptions):
        commands.plan(make_task(parsed), options)
    elif isinstance(options, SampleOptions):
        commands.preview(make_task(parsed), options)
    else:
        commands.run(make_task(parsed))


def split_subcommand(words: Sequence[str]) -> tuple[str, list[str]]:
    """The verb of a command line, and what stands after it.

    Raises:
        UsageError: the first word is neither a verb nor a flag.
    """
    if not words or words[0].startswith("-"):
        return "run", list(words)
    if words[0] not in VERBS:
        near = difflib.get_close_matches(words[0], VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}."
        raise UsageError(f"{words[0]!r} is no verb; {hint}")
    return words[0], list(words[1:])


def _describe(kind: type) -> list[str]:
    """A line for each field of a dataclass: flag and default."""
    return [f"--{f.name.replace('_', '-')} (default: {f.default})" for f in fields(kind)]


def parse(settings: type[Settings], description: str, argv: Sequence[str] | None = None) -> Settings:
    """The settings of a command line: flags, over the YAML file that `--config` names, over the defaults.

    `--print-config` prints them as YAML and exits.

    Raises:
        UsageError: the file cannot be read or has a key that is no setting.
        SystemExit: 2 for a flag that is wrong, after saying what is.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--print-config", action="store_true")
    own, rest = first.parse_known_args(argv)
    lines = _read_yaml(own.config, settings) if own.config else {}
    written = [word for name, words in lines.items() if not _has_flag(rest, name) for word in (name, *words)]
    note = f"{description.strip()}\n\nAlso: --config FILE.yaml (settings by name; flags win over it) and --print-config."
    parsed = tyro.cli(settings, args=[*written, *rest], description=note)
    if own.print_config:
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(parsed).items()}
        print(yaml.safe_dump(values, sort_keys=False), end="")
        raise SystemExit(0)
    return parsed


def _read_yaml(path: Path, settings: type[RunSettings]) -> dict[str, list[str]]:
    """The settings of a YAML file, each as its flag and the words after it."""
    try:
        values = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or a date that is none
        raise UsageError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config {path} holds no settings by name; write lines like `num_beams: 4`.")
    known = [f.name for f in fields(settings)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}."
            raise UsageError(f"--config {path} has a key {key!r} that is no setting; {hint}")
    switches = {f.name for f in fields(settings) if f.type == "bool"}
    flags: dict[str, list[str]] = {}
    for key, value in values.items():
        name = key.replace("_", "-")
        if key in switches and isinstance(value, bool):
            flags[f"--{name}" if value else f"--no-{name}"] = []
        else:
            flags[f"--{name}"] = [str(v) for v in (value if isinstance(value, list) else [value])]
    return flags


def _has_flag(words: Sequence[str], flag: str) -> bool:
    """Is a flag given, or the one that switches it the other way?"""
    given = (word.split("=")[0].replace("_", "-") for word in words)
    return any(word.replace("--no-", "--", 1) == flag.replace("--no-", "--", 1) for word in given)


def exit_code(job: Callable[[], None]) -> int:
    """Run `job` and say in one place how it ended."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        job()
        return 0
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here.", file=sys.stderr)
        return INTERRUPTED


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
