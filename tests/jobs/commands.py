"""The jobs as a user types them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(job: str, *arguments: object) -> list[str]:
    """The words of a command."""
    return [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *map(str, arguments)]


def environment() -> dict[str, str]:
    """That of the tests, with wide lines."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def call(job: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(job, *arguments), capture_output=True, text=True, env=environment(), timeout=300
    )
