"""The command `led-corpus`: subcommands, settings from flags over a YAML file, error messages and exit codes.

Exit codes: 0 done, 1 the run failed (rerun the same command to resume), 2 the command must change, 3 more
documents failed than --max-failed allows, 130 interrupted or stopped gracefully (rerun the same command to
resume).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, make_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from jobs.aliases import current_flags, current_keys, current_subcommand
from jobs.options import (
    INTERRUPTED,
    DoctorOptions,
    EvaluateOptions,
    EvaluateTextsOptions,
    OutputOptions,
    PlanOptions,
    PreviewOptions,
    ReportOptions,
    VerifyOptions,
)
from pipeline import __version__
from pipeline.errors import PipelineError, UsageError, escape_controls, hint
from pipeline.settings import RunSettings, as_setting, check_setting
from pipeline.tasks.registry import BUILT_IN, find_task, installed_tasks, is_task

Settings = TypeVar("Settings", bound=RunSettings)
Options = TypeVar("Options")

# Subcommands of a task.
ACTIONS = {
    "run": "process the corpus, or resume an interrupted run (the default)",
    "plan": "estimate documents, tokens, time, memory and cost; writes only _forecast.json",
    "preview": "process a few documents in this process and show them",
    "status": "show the progress of the run in --output",
    "verify": "check every byte in --output against plan, manifest and, if asked, input",
    "retry-failed": "run, and recompute the documents that failed in --since",
    "report": "write the report of the finished run in --output again",
}

# Subcommands without a task.
COMMANDS = {
    "status": ACTIONS["status"],
    "verify": ACTIONS["verify"],
    "report": ACTIONS["report"],
    "evaluate": "compare results with references: evaluate [texts|labels|answers]",
    "doctor": "examine this machine: processor, dtypes, GPU, memory, disks, credentials, Ray",
    "nightly": "run a task as a scheduled run, into a folder of its own",
}

_DEEPEST_YAML = 10

_EVALUATE_HELP = """Compare the results of a finished run with references.

Without a kind, it is that of the run's task. `led-corpus evaluate KIND --help` lists the options of one
kind."""

EVALUATIONS: dict[str, type[EvaluateOptions] | type[EvaluateTextsOptions]] = {
    "texts": EvaluateTextsOptions,
    "summaries": EvaluateTextsOptions,
    "labels": EvaluateOptions,
    "answers": EvaluateOptions,
}


def console() -> None:
    """The entry point of the command `led-corpus`."""
    sys.exit(exit_code(lambda: main(sys.argv[1:])))


def script(task: str) -> None:
    """The entry point of the scripts in jobs/, one for each task."""
    sys.exit(exit_code(lambda: main([task, *sys.argv[1:]])))


def main(arguments: Sequence[str]) -> int:
    """Run a command line. Returns the exit code.

    Raises:
        PipelineError: the command failed.
        SystemExit: 0 after --help, 2 after a wrong flag, which is reported.
    """
    name, rest = (arguments[0], list(arguments[1:])) if arguments else ("--help", [])
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"led-corpus {__version__}")
        return 0
    if name == "--task" or name.startswith("--task="):
        name, *rest = [*name.split("=")[1:], *rest] or [""]
    if not is_task(name):
        choose(name, {**BUILT_IN, **installed_tasks(), **COMMANDS}, "command")
    if name == "nightly":
        from jobs import scheduled

        return scheduled.main(rest)
    if name == "doctor":
        return doctor(rest)
    if name == "evaluate":
        evaluate(rest)
    elif name in COMMANDS:
        inspect_output(name, rest, f"led-corpus {name}")
    else:
        run_task(name, rest)
    return 0


def usage() -> str:
    """The help text of the command."""
    lines = ["Usage: led-corpus COMMAND …", "", "Tasks: led-corpus TASK [ACTION] [settings]", ""]
    lines += [f"  {name:<14}{task.help}" for name, task in BUILT_IN.items()]
    lines += [f"  {name:<14}of {task.value}" for name, task in installed_tasks().items()]
    lines += [f"  {'FILE.py:CLASS':<14}a task of your own, also --task FILE.py:CLASS"]
    lines += ["", "Actions of a task:", "", *(f"  {name:<14}{text}" for name, text in ACTIONS.items())]
    lines += ["", "Other commands:", "", *(f"  {name:<14}{text}" for name, text in COMMANDS.items())]
    lines += [
        "",
        "`led-corpus COMMAND --help` lists the settings. `led-corpus --version` prints the version.",
    ]
    return "\n".join(lines)


def run_task(reference: str, arguments: Sequence[str]) -> None:
    """Run an action of a task."""
    action, rest = split_action(arguments)
    command = f"led-corpus {reference} {action}"
    if action in ("status", "verify", "report"):
        return inspect_output(action, rest, command)
    task = find_task(reference)
    option_class = {"plan": PlanOptions, "preview": PreviewOptions}.get(action)
    actions = "\n".join(f"  {name:<14}{what}" for name, what in ACTIONS.items())
    choice = "|".join(ACTIONS)
    description = (
        f"{task.help[:1].upper()}{task.help[1:]}.\n\nUsage: led-corpus {reference} [{choice}] [settings]\n\n"
        f"{actions}"
    )
    settings, options = parse(task.settings_class, rest, command, description, option_class)
    if action == "retry-failed":
        if not settings.since:
            raise UsageError("retry-failed needs --since, the run in which documents failed.")
        settings = replace(settings, retry_failed=True)

    from jobs import commands

    if isinstance(options, PlanOptions):
        commands.plan(task.make(settings), options)
    elif isinstance(options, PreviewOptions):
        commands.preview(task.make(settings), options)
    else:
        commands.run(task.make(settings))


def inspect_output(action: str, arguments: Sequence[str], command: str) -> None:
    """Show the status of an output folder, verify it, or write its report again."""
    classes: dict[str, type[OutputOptions]] = {"report": ReportOptions, "verify": VerifyOptions}
    options = tyro.cli(
        classes.get(action, OutputOptions),
        args=current_flags(arguments),
        prog=command,
        description=f"{ACTIONS[action].capitalize()}.",
    )

    from jobs import commands

    if isinstance(options, ReportOptions):
        commands.report(options)
    elif isinstance(options, VerifyOptions):
        commands.verify(options)
    else:
        commands.status(options.output)


def doctor(arguments: Sequence[str]) -> int:
    """Examine this machine. Returns 1 if something is missing without which no run succeeds."""
    description = f"{COMMANDS['doctor'].capitalize()}."
    options = tyro.cli(DoctorOptions, args=list(arguments), prog="led-corpus doctor", description=description)

    from jobs import commands

    return commands.doctor(options)


def evaluate(arguments: Sequence[str]) -> None:
    """Compare the results of a finished run with references."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"Usage: led-corpus evaluate [{'|'.join(EVALUATIONS)}] [options]\n\n{_EVALUATE_HELP}")
        return
    if arguments and not arguments[0].startswith("-"):
        kind, rest = arguments[0], list(arguments[1:])
    else:
        own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        own.add_argument("--output")
        output = own.parse_known_args(arguments)[0].output
        if not output:
            raise UsageError("evaluate needs --output, the folder of a finished run.")
        from jobs import commands

        kind, rest = commands.evaluation_of(output), list(arguments)
    choose(kind, EVALUATIONS, "kind of evaluation")
    options = tyro.cli(
        EVALUATIONS[kind],
        args=rest,
        prog=f"led-corpus evaluate {kind}",
        description=f"Compare the {kind} of a finished run with references.",
    )

    from jobs import commands

    commands.evaluate(kind, options)


def split_action(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The action of a task and the arguments after it.

    Raises:
        UsageError: the first argument is neither an action nor a flag.
    """
    if not arguments or arguments[0].startswith("-"):
        return "run", list(arguments)
    action = current_subcommand(arguments[0])
    choose(action, ACTIONS, "action")
    return action, list(arguments[1:])


def choose(name: str, known: Mapping[str, object], kind: str) -> None:
    """Check that a name is known.

    Raises:
        UsageError: it is not. The message has the most similar name.
    """
    if name not in known:
        raise UsageError(f"{name!r} is not a known {kind}; {hint(name, known, 'there are')}")


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


def exit_code(job: Callable[[], int | None]) -> int:
    """Run `job`, report an error, and return the exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return job() or 0
    except PipelineError as error:
        print(f"error: {escape_controls(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:  # not of a file, so this advice would be wrong
            raise
        where = escape_controls(str(error.filename))
        print(
            f"error: {where} cannot be used ({error.strerror or error}); check the disk, then rerun the same "
            "command to resume.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted; rerun the same command to resume.", file=sys.stderr)
        return INTERRUPTED


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    console()
