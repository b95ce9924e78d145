"""Trying again what may pass: one place that says how often and how long, and what is not worth it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from pipeline.errors import PipelineError, UsageError

logger = logging.getLogger(__name__)

# About a minute in all: a store that answers 503 for longer has trouble of its own.
ATTEMPTS = 8
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 16.0

# What a store raises: s3fs turns most answers into OSError and lets some of botocore's errors and of its client's through.
TRANSIENT = (OSError, TimeoutError, BotoCoreError, ClientError, ConnectionError)

Result = TypeVar("Result")


def waits() -> list[float]:
    """Seconds to wait before each further attempt: doubled each time, and drawn, so that many clients do not come back at
    once."""
    return [min(_LONGEST_WAIT, _FIRST_WAIT * 2**n) * random.uniform(0.5, 1.0) for n in range(ATTEMPTS - 1)]


def retrying(what: str, call: Callable[[], Result], sleep: Callable[[float], None] = time.sleep) -> Result:
    """What `call` returns, tried again after a transient error; `what` says in a message what it does.

    Raises:
        FileNotFoundError: there is no such name; trying again does not help.
        UsageError: the store knows no such user, or forbids it.
        PipelineError: it failed to the last.
    """
    for wait in [*waits(), None]:
        try:
            return call()
        except (FileNotFoundError, FileExistsError):
            raise
        except (PermissionError, NoCredentialsError) as error:
            raise UsageError(f"{what}: refused ({first_line(error)}); check the credentials and what they may do.") from error
        except TRANSIENT as error:
            if wait is None:
                raise PipelineError(
                    f"{what}: failed {ATTEMPTS} times, last {first_line(error)}. The same command goes on from here."
                ) from error
            logger.warning("%s: %s; again in %.1f s", what, first_line(error), wait)
            sleep(wait)
    raise AssertionError("unreachable")


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
