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
from dataclasses import replace

from jobs.aliases import current_flags, current_subcommand
from jobs.options import (
    INTERRUPTED,
    DoctorOptions,
    EvaluateOptions,
    EvaluateTextsOptions,
    OutputOptions,
    PlanOptions,
    PreviewOptions,
    PrintOptions,
    ReportOptions,
    VerifyOptions,
)
from pipeline import __version__
from pipeline.errors import PipelineError, UsageError, escape_controls, hint
from pipeline.tasks.registry import BUILT_IN, find_task, installed_tasks, is_task

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
        given = [name.partition("=")[2]] if "=" in name else []
        name, *rest = [*given, *rest] or [""]
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
    option_class = {"plan": PlanOptions, "preview": PreviewOptions}.get(action, PrintOptions)
    actions = "\n".join(f"  {name:<14}{what}" for name, what in ACTIONS.items())
    choice = "|".join(ACTIONS)
    description = (
        f"{task.help[:1].upper()}{task.help[1:]}.\n\nUsage: led-corpus {reference} [{choice}] [settings]\n\n"
        f"{actions}"
    )

    from jobs.parsing import parse

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
        commands.run(task.make(settings), options or PrintOptions())


def inspect_output(action: str, arguments: Sequence[str], command: str) -> None:
    """Show the status of an output folder, verify it, or write its report again."""
    from jobs.parsing import parse_options

    classes: dict[str, type[OutputOptions]] = {"report": ReportOptions, "verify": VerifyOptions}
    options = parse_options(
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
        commands.status(options)


def doctor(arguments: Sequence[str]) -> int:
    """Examine this machine. Returns 1 if something is missing without which no run succeeds."""
    from jobs.parsing import parse_options

    description = f"{COMMANDS['doctor'].capitalize()}."
    options = parse_options(
        DoctorOptions, args=list(arguments), prog="led-corpus doctor", description=description
    )

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

    from jobs.parsing import parse_options

    options = parse_options(
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
