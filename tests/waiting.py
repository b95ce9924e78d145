"""How tests wait: for an event, as long as the process that causes it is alive.

No test expects a duration, since a busy machine may be ten times slower. `HANG_S` only ends a test that
hangs.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

HANG_S = 1800


def wait_until(happened: Callable[[], Any], process: subprocess.Popen[Any] | None = None) -> None:
    """Wait until `happened()` is true or `process` has ended.

    Raises:
        TimeoutError: neither was the case within `HANG_S` seconds.
    """
    start = time.monotonic()
    while not happened() and (process is None or process.poll() is None):
        if time.monotonic() - start > HANG_S:
            raise TimeoutError(f"nothing happened in {HANG_S} seconds")
        time.sleep(0.02)


# Tests that take long, and that shorter tests of the same code mostly cover.
long_test = pytest.mark.skipif(os.environ.get("LONG_TESTS") != "1", reason="takes long; set LONG_TESTS=1")
