"""Retry transient faults a few times, with growing pauses. Other errors are raised at once."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

ATTEMPTS = 5
FIRST_PAUSE_S = 0.5

_TRANSIENT = frozenset(
    {
        errno.EBUSY,  # s3fs raises it for 503 and SlowDown
        errno.EIO,  # s3fs raises it for an unknown reply
        getattr(errno, "EREMOTEIO", errno.EIO),  # s3fs raises it for 500. Not every system has the number.
        errno.EAGAIN,
        errno.ETIMEDOUT,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.ESTALE,
    }
)
# Errors of these libraries are recognized by name, so the libraries need not be installed.
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
    "Checksum",
)


def is_transient(error: BaseException) -> bool:
    """True for a fault of the network or of a busy server, or an error raised from one."""
    if error.__cause__ is not None and is_transient(error.__cause__):
        return True
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT:
        return True
    kind = type(error)
    return kind.__module__.split(".")[0] in _NETWORK and any(word in kind.__name__ for word in _NETWORK_WORDS)


def retrying(
    work: Callable[[], T], attempts: int = ATTEMPTS, sleep: Callable[[float], object] = time.sleep
) -> T:
    """The result of `work`, which is called up to `attempts` times while it raises transient faults.

    The pauses double from half a second. Each is drawn between half and the whole of that time, so that many
    workers do not retry at the same moment. Five attempts add at most 7.5 seconds.

    Raises:
        Exception: an error of `work` that is not transient, or the last transient fault.
    """
    for attempt in range(1, attempts + 1):
        try:
            return work()
        except Exception as error:
            if attempt == attempts or not is_transient(error):
                raise
        sleep(FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1))
    raise AssertionError("the loop returns or raises")
