"""The errors that a user may see, and the exit code of each.

PipelineError            1   the run failed. Committed shards stay. Rerun the same command to resume
├── CorruptInput         1   the bytes of an input file cannot be read
├── Unreachable          1   an input file could not be fetched. Its bytes may be intact
├── CorruptOutput        1   the output folder has a file that this system did not write
├── Stopped            130   the run stopped gracefully at a shard boundary
├── TooManyFailures      3   more documents failed than --max-failed allows
└── UsageError           2   the command or its settings must change
    └── PlanMismatch     2   the output folder belongs to a run with another plan
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from pydantic import ValidationError

# Control characters, and those that change the direction of a text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class PipelineError(Exception):
    """The run failed. Committed shards stay."""

    exit_code = 1


class CorruptInput(PipelineError):
    """The bytes of an input file cannot be read."""


class Unreachable(PipelineError):
    """An input file could not be fetched. Its bytes may be intact."""


class CorruptOutput(PipelineError):
    """The output folder has a file that this system did not write."""


class Stopped(PipelineError):
    """The run stopped gracefully at a shard boundary. Rerun the same command to resume."""

    exit_code = 130


class TooManyFailures(PipelineError):
    """More documents failed than --max-failed allows."""

    exit_code = 3


class UsageError(PipelineError):
    """The command or its settings must change."""

    exit_code = 2


class PlanMismatch(UsageError):
    """The output folder belongs to a run with another plan."""


def check_no_credentials(address: str, flag: str) -> None:
    """Check that an address has no credentials in it, before anything prints or logs it.

    Raises:
        UsageError: it has. The message does not repeat them.
    """
    scheme, separator, rest = address.partition("://")
    # The name of a bucket has no colon. A secret may have a slash.
    if separator and re.match(r"[^/]*:.*@", rest):
        raise UsageError(
            f"the address of {flag} on {scheme} has credentials in it; remove them and set environment "
            "variables such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )


def first_problem(error: ValidationError) -> str:
    """The first problem of a value that pydantic has checked: where it is, and what is wrong."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names with commas between them. Of more than `most` the first ones and the number of the others."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def escape_controls(text: str) -> str:
    """A text without control characters, which could change the terminal. Line breaks and tabs stay."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable(name: str) -> str:
    """A file name that may not be UTF-8 as text: its other bytes are escaped, such as `caf\\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(error: BaseException, max_length: int = 200) -> str:
    """The first line of an error's message. Credentials in addresses are removed."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return re.sub(r"//[^/@\s]+@", "//…@", text)[:max_length]


def hint(name: object, known: Iterable[str], otherwise: str) -> str:
    """The most similar known name as a question, or all known names after the word `otherwise`."""
    similar = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {similar[0]}?" if similar else f"{otherwise} {', '.join(known)}."
