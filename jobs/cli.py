"""What the jobs share: settings from flags over a YAML file, plain error messages, exit codes.

Exit codes: 0 done · 1 the run failed, the same command goes on · 2 the command must change · 3 more documents failed than
--max-failed allows · 130 interrupted, resumable.
"""

from __future__ import annotations

import argparse
import difflib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro
import yaml

from pipeline.config import RunSettings
from pipeline.errors import PipelineError, UsageError

if TYPE_CHECKING:
    from pipeline.run import RunResult

Settings = TypeVar("Settings", bound=RunSettings)

INTERRUPTED = 130


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
    except (OSError, yaml.YAMLError) as error:
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


def show(result: RunResult) -> None:
    """Print what a finished run wrote, in a few lines that add up."""
    counts = result.manifest
    done = f"{counts['ok']} ok + {counts['failed']} failed + {counts['skipped']} skipped"
    rows = "" if counts["rows"] == counts["documents"] else f", {counts['rows']} rows"
    print(f"{counts['documents']} documents{rows} = {done}; {counts['truncated']} cut at the limit")
    if since := counts["since"]:
        why = f"; all were done again: {', '.join(since['redone_because'])}" if since["redone_because"] else ""
        print(f"{counts['carried']} of them carried over from {since['output']}{why}")
    for file in result.files_skipped:
        print(f"skipped: {file.skipped}")
    print(f"rows: {result.output}/part-*.parquet\nreport: {result.report}")


def show_scores(scores: Mapping[str, float | int]) -> None:
    """Print scores, a line each."""
    for name, value in scores.items():
        print(f"{name:<14} {value:.4f}" if isinstance(value, float) else f"{name:<14} {value}")


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
