"""Settings and options from flags, over a YAML file, over the defaults."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, make_dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from jobs.aliases import current_flags, current_keys
from pipeline.errors import UsageError, hint
from pipeline.settings import RunSettings, as_setting, check_setting

Settings = TypeVar("Settings", bound=RunSettings)
Options = TypeVar("Options")

_DEEPEST_YAML = 10


def parse_options(options: type[Options], args: Sequence[str], prog: str, description: str) -> Options:
    """The options of a command line.

    Raises:
        SystemExit: 0 after --help, 2 after a wrong flag, which is reported.
    """
    return tyro.cli(options, args=list(args), prog=prog, description=description)


def parse(
    settings_class: type[Settings],
    arguments: Sequence[str],
    command: str = "led-corpus",
    description: str = "",
    option_class: type[Options] | None = None,
) -> tuple[Settings, Options | None]:
    """The settings and options of a command line: flags over the YAML file of `--config` over the defaults.

    `--print-config` prints the settings as YAML and exits.

    Raises:
        UsageError: the file cannot be read, or has an unknown key or a wrong value.
        SystemExit: 2 after a wrong flag, which is reported.
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--config", type=Path)
    own.add_argument("--print-config", action="store_true")
    given, flags = own.parse_known_args(current_flags(arguments))
    values = _read_yaml(given.config, settings_class) if given.config else {}
    groups: dict[str, type] = {"run": settings_class}
    defaults: dict[str, Any] = {"run": _partial(settings_class, values)}
    if option_class is not None:
        groups = {"own": option_class, **groups}
        defaults["own"] = option_class()
    note = "Also: --config FILE.yaml (settings by name, flags override them) and --print-config."
    command_class = make_dataclass("Command", list(groups.items()))
    parsed = tyro.cli(
        command_class,
        args=flags,
        default=command_class(**defaults),
        prog=command,
        description=f"{description}\n\n{note}".strip(),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    settings, options = parsed.run, getattr(parsed, "own", None)
    if given.print_config:
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(settings).items()}
        print(yaml.safe_dump(plain, sort_keys=False), end="")
        raise SystemExit(0)
    return settings, options


def _partial(settings_class: type[Settings], values: Mapping[str, Any]) -> Settings:
    """An instance with these values and the defaults, which is not validated yet. Missing ones are marked for
    tyro."""
    partial = object.__new__(settings_class)
    for f in fields(settings_class):
        default = tyro.MISSING if f.default is MISSING else f.default
        if f.default_factory is not MISSING:
            default = f.default_factory()
        object.__setattr__(partial, f.name, values.get(f.name, default))
    return partial


def _read_yaml(path: Path, settings_class: type[RunSettings]) -> dict[str, Any]:
    """The settings in a YAML file, each checked against its field."""
    try:
        values = yaml.load(path.read_text("utf-8"), _Loader) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or an invalid date
        raise UsageError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config {path} has no settings; write lines like `num_beams: 4`.")
    known = [f.name for f in fields(settings_class)]
    settings = {}
    for key, value in current_keys(values).items():
        if key not in known:
            advice = hint(key, known, "known:")
            raise UsageError(f"--config {path} has the key {key!r}, which is not a setting; {advice}")
        settings[key] = as_setting(settings_class, key, value)
        check_setting(settings_class, key, settings[key])
    return settings


class _Loader(yaml.SafeLoader):
    """A loader for settings: values, and lists of values. Aliases, with which a short file can describe a
    huge value, and deep nesting are errors."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name); write the value out")
        self._depth += 1
        if self._depth > _DEEPEST_YAML:
            raise yaml.YAMLError("its values are nested too deeply")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1
