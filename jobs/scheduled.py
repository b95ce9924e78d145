"""Run a task as a scheduled run: into a folder of its own, reusing the rows of earlier runs.

    led-corpus nightly --runs s3://bucket/out -- summarize --config nightly.yaml

calls the task with --output s3://bucket/out/2026-11-24, and with --since for the earlier runs back to the
newest finished one. An attempt that fails with exit code 1 is repeated. If the last one fails, --on-failure
is run by a shell, with the name of the run in $NAME and the exit code in $CODE. The exit code is the task's.
It is 0 as well if the task stopped gracefully (130).
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

import tyro

from jobs.aliases import current_flags
from jobs.options import INTERRUPTED, NightlyOptions
from pipeline.errors import PipelineError, UsageError
from pipeline.scheduled import NAME, earlier_runs, run_arguments
from pipeline.tasks.registry import is_task


def main(arguments: Sequence[str]) -> int:
    """Run the command line. Returns the exit code.

    Raises:
        UsageError: no task is given, or the name of the run is invalid.
    """
    split = arguments.index("--") if "--" in arguments else len(arguments)
    own, job = current_flags(arguments[:split]), arguments[split + 1 :]
    options = tyro.cli(NightlyOptions, args=own, prog="led-corpus nightly", description=__doc__)
    if not job:
        raise UsageError("no task is given; write it last: -- summarize --config nightly.yaml")
    if not NAME.fullmatch(options.name):
        raise UsageError(f"--name is {options.name!r}; name runs 2026-11-24 or 2026-11-24-retry.")
    code = _run_attempts(_command(job), options)
    if code in (0, INTERRUPTED):
        return 0
    print(f"the run {options.name} failed with exit code {code}.", file=sys.stderr, flush=True)
    if options.on_failure:
        # NIGHT is the old name of NAME.
        environment = {**os.environ, "NAME": options.name, "NIGHT": options.name, "CODE": str(code)}
        subprocess.run(options.on_failure, shell=True, env=environment, check=False)
    return code


def _command(job: Sequence[str]) -> list[str]:
    """The command of a task, or of a script such as jobs/summarize_corpus.py."""
    # With -P, a folder named `jobs` in the working directory does not hide this package.
    is_own = is_task(job[0]) or job[0] == "--task" or job[0].startswith("--task=")
    own = ["-P", "-m", "jobs.cli"] if is_own else []
    return [sys.executable, *own, *job]


def _run_attempts(command: Sequence[str], options: NightlyOptions) -> int:
    """The exit code of the last attempt. All attempts share the stop time of the first."""
    folder, now = options.runs.rstrip("/"), time.time()
    for left in reversed(range(max(1, options.attempts))):
        try:
            since = earlier_runs(folder, options.name)
            code = _call([*command, *run_arguments(folder, options.name, since, options.stop_at, now)])
        except PipelineError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            code = error.exit_code
        if code != 1 or not left:
            return code
        time.sleep(options.pause_seconds)
    return code


def _call(command: Sequence[str]) -> int:
    print(shlex.join(command), file=sys.stderr, flush=True)
    with subprocess.Popen(command) as job, _forward_signals(job) as received:
        code = job.wait()
    if code in (-signal.SIGINT, -signal.SIGTERM) or (received and code not in (0, 2, 3)):
        return INTERRUPTED
    return code if code >= 0 else 1  # a job that the kernel killed resumes in the next attempt


@contextmanager
def _forward_signals(job: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Forward SIGTERM to the job, so that it stops gracefully before this process ends. Yields the signals
    received.

    A terminal sends SIGINT to both processes by itself.
    """
    received: list[int] = []

    def forward(number: int, frame: object) -> None:
        received.append(number)
        job.terminate()

    handlers = signal.signal(signal.SIGTERM, forward), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, handlers[0])
        signal.signal(signal.SIGINT, handlers[1])
