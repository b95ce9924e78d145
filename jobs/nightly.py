#!/usr/bin/env python3
"""Run a job as tonight's: into a folder of its own, carrying over what the nights before it did.

    python jobs/nightly.py --runs s3://bucket/out -- jobs/summarize_corpus.py --config nightly.yaml

calls the job with --output s3://bucket/out/2026-11-24 and --since of the nights before, back to the newest
that was finished. A try that fails (exit code 1) is made again. Where the last fails, --on-failure is given
to a shell, with the night in $NIGHT and the exit code in $CODE. The exit code is the job's; 0 also where it
ended as it was asked to (130).
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

import tyro

from jobs.cli import INTERRUPTED, exit_code
from pipeline.errors import PipelineError, UsageError
from pipeline.scheduled import NAME, earlier_runs, run_arguments


@dataclass(frozen=True, kw_only=True)
class NightlySettings:
    """Where nights are, and what to do about one."""

    nights: str
    """Folder of all nights, a path or s3://bucket/folder."""
    night: str = field(default_factory=lambda: date.today().isoformat())
    """The night's name: a date, and perhaps something after it, as 2026-11-24-retry."""
    stop_at: str | None = None
    """An hour to stop at, such as 06:00; the next night goes on."""
    tries: int = 3
    """How often a job is called that fails."""
    pause_seconds: float = 60.0
    """Seconds before another try."""
    on_failure: str | None = None
    """A command for a shell, for when the night has failed."""


def main(argv: Sequence[str]) -> int:
    """The night; its exit code.

    Raises:
        UsageError: no job is named, or the night's name is none.
    """
    own, job = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    settings = tyro.cli(NightlySettings, args=own, description=__doc__)
    if not job:
        raise UsageError("no job is named; write it last: -- jobs/summarize_corpus.py --config nightly.yaml")
    if not NAME.fullmatch(settings.night):
        raise UsageError(f"--name is {settings.night!r}; name nights 2026-11-24 or 2026-11-24-retry.")
    code = _tried(job, settings)
    if code in (0, INTERRUPTED):
        return 0
    print(f"the night {settings.night} failed with exit code {code}.", file=sys.stderr, flush=True)
    if settings.on_failure:
        environment = {**os.environ, "NIGHT": settings.night, "CODE": str(code)}
        subprocess.run(settings.on_failure, shell=True, env=environment, check=False)
    return code


def _tried(job: Sequence[str], settings: NightlySettings) -> int:
    """The exit code of the last try; the hour to stop at is that of the first."""
    nights, now = settings.nights.rstrip("/"), time.time()
    for left in reversed(range(max(1, settings.tries))):
        try:
            words = run_arguments(
                nights, settings.night, earlier_runs(nights, settings.night), settings.stop_at, now
            )
            code = _call([sys.executable, *job, *words])
        except PipelineError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            code = error.exit_code
        if code != 1 or not left:
            return code
        time.sleep(settings.pause_seconds)
    return code


def _call(command: Sequence[str]) -> int:
    print(shlex.join(command), file=sys.stderr, flush=True)
    with subprocess.Popen(command) as job, _signals_to(job) as asked:
        code = job.wait()
    if code in (-signal.SIGINT, -signal.SIGTERM) or (asked and code not in (0, 2, 3)):
        return INTERRUPTED
    return code if code >= 0 else 1  # a job that the kernel killed goes on in the next try


@contextmanager
def _signals_to(job: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """A job ends by itself when it is asked to, and this process after it; what asked it. A terminal asks
    both by itself."""
    asked: list[int] = []

    def tell(number: int, frame: object) -> None:
        asked.append(number)
        job.terminate()

    before = signal.signal(signal.SIGTERM, tell), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def _run() -> None:
    code = main(sys.argv[1:])
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    sys.exit(exit_code(_run))
