"""Structured logs with one JSON object per event and line. Each has the ID of the run.

On a terminal, the progress line and plain messages report the same.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import UsageError

logger = logging.getLogger("pipeline")

# The attribute of a log record that holds the fields of an event.
_EVENT = "event_fields"


class JsonLines(logging.Formatter):
    """Formats a log record as a line of JSON.

    Its keys are time (UTC), level, run, logger, event, the fields of the event, and error if there is one.
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run

    def format(self, record: logging.LogRecord) -> str:
        moment = (
            time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        )
        line: dict[str, Any] = {
            "time": moment,
            "level": record.levelname.lower(),
            "run": self._run,
            "logger": record.name,
        }
        line |= {"event": record.getMessage(), **getattr(record, _EVENT, {})}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def event(name: str, **fields: Any) -> None:
    """Log an event with its fields."""
    logger.info(name, extra={_EVENT: fields})


class _LogFile(logging.FileHandler):
    """A log file. If it cannot be written, the run says so once and continues."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._failed:
            self._failed = True
            print(f"warning: {self.baseFilename} cannot be written; the run continues.", file=sys.stderr)


@contextmanager
def logging_to(path: str | None, run: str) -> Iterator[None]:
    """Append everything that the package logs to the file at `path`, if there is one.

    Raises:
        UsageError: the file cannot be written.
    """
    if path is None:
        yield
        return
    try:
        handler = _LogFile(path, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--log-file {path} cannot be written ({error.strerror}); create its folder, or give another."
        ) from error
    handler.setFormatter(JsonLines(run))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        handler.close()


def log_to_stderr(run: str) -> None:
    """Log to the standard error of a worker process. Ray keeps it among its logs."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(run))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
