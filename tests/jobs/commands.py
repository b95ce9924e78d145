"""The commands as a user types them."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import ray

from jobs.cli import exit_code, main
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[2]


def command(job: str, *arguments: object) -> list[str]:
    """The command line of a script."""
    return [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *map(str, arguments)]


def led_corpus(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the console command to its end."""
    words = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=HANG_S, cwd=ROOT)


def environment() -> dict[str, str]:
    """The environment of the tests, with wide lines."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def call(job: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    return subprocess.run(
        command(job, *arguments), capture_output=True, text=True, env=environment(), timeout=HANG_S
    )


def call_here(task: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a subcommand in this process, which saves the imports."""
    words, out, err = [task, *map(str, arguments)], io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = exit_code(lambda: main(words))
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        signal.signal(signal.SIGTERM, handler)
        ray.shutdown()
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
