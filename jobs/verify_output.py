#!/usr/bin/env python3
"""See how far a run is, and count what it wrote again from the bytes.

    python jobs/verify_output.py --output out/

Prints the status, which needs a listing alone, also while the run goes on; then reads every committed file
and holds its rows against the plan, its own receipt, the manifest and the end mark. Exit code 0: finished,
and every planned document is one row.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import tyro

from jobs.cli import exit_code


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """What to look at."""

    output: str
    """Folder of a run, a path or s3://bucket/folder."""
    status_only: bool = False
    """Print the status and read nothing else."""


def main() -> None:
    settings = tyro.cli(VerifySettings, description=__doc__)

    from jobs import commands

    (commands.status if settings.status_only else commands.verify)(settings.output)


if __name__ == "__main__":
    sys.exit(exit_code(main))
