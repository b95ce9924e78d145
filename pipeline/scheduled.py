"""Scheduled runs: one folder per run below a common folder, and the arguments of the next run.

A run is named by its date, optionally with a suffix (`2026-11-24-retry`). The names sort in the order of the
runs. Each run reuses the rows of earlier ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from pipeline.errors import PipelineError, UsageError, check_no_credentials, one_line
from pipeline.file_systems import locate
from pipeline.retry import is_transient, retrying
from pipeline.stop_time import parse_stop_time, stop_time_passed_message

NAME = re.compile(r"\d{4}-\d\d-\d\d[a-z0-9-]*")


def earlier_runs(folder: str, name: str) -> list[str]:
    """The names of the runs before `name` in `folder`, newest first, back to the newest finished one.

    Unfinished runs are included, since their rows are reused too.

    Raises:
        PipelineError: the folder cannot be listed because of a transient fault.
        UsageError: the folder cannot be listed for another reason.
    """
    check_no_credentials(folder, "--runs")
    try:
        return retrying(lambda: _earlier_runs(folder, name))
    except Exception as error:
        kind = PipelineError if is_transient(error) else UsageError
        raise kind(
            f"the scheduled runs in {folder} cannot be listed: {type(error).__name__}: {one_line(error)} "
            "Check the address, AWS_ENDPOINT_URL and the credentials."
        ) from error


def _earlier_runs(folder: str, name: str) -> list[str]:
    fs, root = locate(folder)
    fs.invalidate_cache()
    try:
        names = [path.rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(root, detail=False)]
    except FileNotFoundError:
        return []
    runs = []
    for earlier in sorted((other for other in names if NAME.fullmatch(other) and other < name), reverse=True):
        if fs.exists(f"{root}/{earlier}/_plan.json"):
            runs.append(earlier)
        if fs.exists(f"{root}/{earlier}/_SUCCESS"):
            break
    return runs


def run_arguments(folder: str, name: str, since: Sequence[str], stop_at: str | None, now: float) -> list[str]:
    """The settings of the run `name` in `folder`, as command line arguments.

    A stop time gets its date, so that another attempt at the same run stops at the same time. `since` are
    names of earlier runs.

    Raises:
        UsageError: --stop-at is not a time, or has passed, so that no run would do anything.
    """
    arguments = ["--output", f"{folder}/{name}"]
    if since:
        arguments += ["--since", *(f"{folder}/{earlier}" for earlier in since)]
    stop_time = parse_stop_time(stop_at, now)
    if stop_time is None:
        return arguments
    if stop_time <= now:
        raise UsageError(stop_time_passed_message(stop_at))
    # With its offset, since a local time may occur twice.
    local = datetime.fromtimestamp(stop_time).astimezone()
    return [*arguments, "--stop-at", local.isoformat(timespec="minutes")]
