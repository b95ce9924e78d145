"""Old names of subcommands and settings. They still work and print a deprecation warning."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

# old names
SUBCOMMANDS = {"sample": "preview"}
SETTINGS = {
    "actors": "replicas",
    "max_actors": "max_replicas",
    "documents_in_flight": "max_num_seqs",
    "encoder_tokens": "max_num_batched_tokens",
    "window_tokens": "chunk_tokens",
    "window_overlap": "chunk_overlap",
    "rehearse_seconds": "calibration_seconds",
    "nights": "runs",
    "night": "name",
    "tries": "attempts",
}
# end of old names


def current_subcommand(name: str) -> str:
    """The current name of a subcommand."""
    if name in SUBCOMMANDS:
        _warn(name, SUBCOMMANDS[name])
    return SUBCOMMANDS.get(name, name)


def current_flags(arguments: Sequence[str]) -> list[str]:
    """The same arguments with the current names of flags."""
    return [_current_flag(argument) for argument in arguments]


def _current_flag(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    if not flag.startswith("--") or name not in SETTINGS:
        return argument
    current = f"--{SETTINGS[name].replace('_', '-')}"
    _warn(flag, current)
    return f"{current}{equals}{value}"


def current_keys(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same settings with the current names of keys."""
    for name in values:
        if name in SETTINGS:
            _warn(name, SETTINGS[name])
    return {SETTINGS.get(name, name): value for name, value in values.items()}


def _warn(old: str, new: str) -> None:
    print(f"warning: {old} is deprecated; use {new}.", file=sys.stderr)
