"""Trying again: what a moment later may well work is tried a few times, with growing pauses; all else is
raised at once."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

ATTEMPTS = 5
FIRST_PAUSE_S = 0.5

_PASSING = frozenset(
    {
        errno.EBUSY,  # how s3fs names 503 and SlowDown
        errno.EIO,  # and an answer it has no name for
        getattr(errno, "EREMOTEIO", errno.EIO),  # and 500; not every system has the number
        errno.EAGAIN,
        errno.ETIMEDOUT,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.ESTALE,
    }
)
# Errors of these libraries are named, so that they need not be installed or imported to be known.
_NETWORK = {"aiohttp", "botocore", "aiobotocore", "httpx", "httpcore", "urllib3", "requests"}
_NETWORK_WORDS = (
    "Connect",
    "Timeout",
    "Disconnected",
    "Protocol",
    "Payload",
    "ReadError",
    "WriteError",
    "IncompleteRead",
)


def is_transient(error: BaseException) -> bool:
    """Is it a fault of the network or of a busy server, which may be gone a moment later, or was it raised
    from one?"""
    if error.__cause__ is not None and is_transient(error.__cause__):
        return True
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    kind = type(error)
    return kind.__module__.split(".")[0] in _NETWORK and any(word in kind.__name__ for word in _NETWORK_WORDS)


def retrying(
    work: Callable[[], T], attempts: int = ATTEMPTS, sleep: Callable[[float], object] = time.sleep
) -> T:
    """What `work` returns; a transient fault is met with another try, up to `attempts` in all.

    The pauses double from half a second, each drawn between half and the whole of it, so that many workers do
    not come back at once: five attempts take at most 7.5 seconds more.

    Raises:
        Exception: whatever `work` raises that is not transient, or the last transient fault.
    """
    for attempt in range(1, attempts + 1):
        try:
            return work()
        except Exception as error:
            if attempt == attempts or not is_transient(error):
                raise
        sleep(FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1))
    raise AssertionError("the loop returns or raises")
