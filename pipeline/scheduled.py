"""A corpus run every night: a folder for each night below one of all nights, and what the next one carries
over.

Nights are named by their date, and may have something after it (`2026-11-24-retry`); they follow one another
by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import fsspec

from pipeline.errors import PipelineError, UsageError, one_line
from pipeline.retry import is_transient, retrying
from pipeline.stop_time import parse_stop_time, stop_time_passed_message

NAME = re.compile(r"\d{4}-\d\d-\d\d[a-z0-9-]*")


def earlier_runs(nights: str, night: str) -> list[str]:
    """The runs before `night` below the folder `nights`, newest first, back to one whose end is marked.

    A night that was stopped half-way is one of them: what it did is carried over.

    Raises:
        PipelineError: the folder cannot be looked at now; a later try may well do.
        UsageError: it may not be looked at.
    """
    try:
        return retrying(lambda: _earlier_runs(nights, night))
    except Exception as error:
        kind = PipelineError if is_transient(error) else UsageError
        raise kind(
            f"the nights in {nights} cannot be listed: {type(error).__name__}: {one_line(error)} Check the address, "
            "AWS_ENDPOINT_URL and the credentials."
        ) from error


def _earlier_runs(nights: str, night: str) -> list[str]:
    fs, root = fsspec.core.url_to_fs(nights)
    fs.invalidate_cache()
    try:
        names = [path.rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(root, detail=False)]
    except FileNotFoundError:
        return []
    found = []
    for name in sorted((name for name in names if NAME.fullmatch(name) and name < night), reverse=True):
        if fs.exists(f"{root}/{name}/_plan.json"):
            found.append(name)
        if fs.exists(f"{root}/{name}/_SUCCESS"):
            break
    return found


def run_arguments(
    nights: str, night: str, since: Sequence[str], stop_at: str | None, now: float
) -> list[str]:
    """The settings of a night's run, as words of its command. An hour to stop at gets its date, so that a
    second try of the same night ends at the same hour.

    Raises:
        UsageError: the hour is none, or a moment that is past: no night would ever do anything.
    """
    words = ["--output", f"{nights}/{night}"]
    if since:
        words += ["--since", *(f"{nights}/{name}" for name in since)]
    until = parse_stop_time(stop_at, now)
    if until is not None and until <= now:
        raise UsageError(stop_time_passed_message(stop_at))
    return (
        words
        if until is None
        else [*words, "--stop-at", datetime.fromtimestamp(until).isoformat(timespec="minutes")]
    )
