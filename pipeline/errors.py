"""The errors a user may see, and the exit code of each.

PipelineError            1   the run failed; what is committed stays, the same command resumes
├── CorruptInput         1   an input file cannot be read
├── CorruptOutput        1   the output folder holds something this system did not write
└── UsageError           2   the command or its settings must change before anything can run
    └── PlanMismatch     2   the output folder belongs to a run with another plan
"""

from __future__ import annotations


class PipelineError(Exception):
    """The run failed."""

    exit_code = 1


class CorruptInput(PipelineError):
    """An input file cannot be read."""


class CorruptOutput(PipelineError):
    """The output folder holds something this system did not write."""


class UsageError(PipelineError):
    """The command or its settings must change before anything can run."""

    exit_code = 2


class PlanMismatch(UsageError):
    """The output folder belongs to a run with another plan."""
