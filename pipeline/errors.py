"""The errors a user may see, and the exit code of each.

PipelineError            1   the run failed; what is committed stays, the same command resumes
├── CorruptInput         1   the bytes of an input file cannot be read
├── Unreachable          1   an input file could not be fetched; its bytes may be well
├── CorruptOutput        1   the output folder holds something this system did not write
├── Stopped            130  the run ended at a shard border, as it was asked to
├── TooManyFailures      3   more documents failed than --max-failed allows
└── UsageError           2   the command or its settings must change before anything can run
    └── PlanMismatch     2   the output folder belongs to a run with another plan
"""

from __future__ import annotations

import re


class PipelineError(Exception):
    """The run failed."""

    exit_code = 1


class CorruptInput(PipelineError):
    """The bytes of an input file cannot be read."""


class Unreachable(PipelineError):
    """An input file could not be fetched; its bytes may be well."""


class CorruptOutput(PipelineError):
    """The output folder holds something this system did not write."""


class Stopped(PipelineError):
    """The run ended at a shard border, as it was asked to; the same command goes on."""

    exit_code = 130


class TooManyFailures(PipelineError):
    """More documents failed than --max-failed allows."""

    exit_code = 3


class UsageError(PipelineError):
    """The command or its settings must change before anything can run."""

    exit_code = 2


class PlanMismatch(UsageError):
    """The output folder belongs to a run with another plan."""


def one_line(error: BaseException, longest: int = 200) -> str:
    """What `error` says, in one line, without the credentials that an address in it may carry."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return re.sub(r"//[^/@\s]+@", "//…@", text)[:longest]
