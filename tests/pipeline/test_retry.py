"""Transient faults are retried a few times. Other errors are raised at once."""

from __future__ import annotations

import errno

import pytest

from pipeline.errors import Unreachable
from pipeline.retry import ATTEMPTS, is_transient, retrying


class ClientConnectionError(Exception):
    pass


ClientConnectionError.__module__ = "aiohttp.client_exceptions"


class NoCredentialsError(Exception):
    pass


NoCredentialsError.__module__ = "botocore.exceptions"

TRANSIENT = [
    OSError(errno.EBUSY, "SlowDown"),
    ConnectionResetError(),
    TimeoutError(),
    ClientConnectionError("gone"),
]
PERMANENT = [
    FileNotFoundError(2, "no"),
    PermissionError(13, "no"),
    OSError("bad thrift"),
    ValueError("x"),
    NoCredentialsError(),
]


@pytest.mark.parametrize("error", [*TRANSIENT, *PERMANENT], ids=repr)
def test_only_transient_faults_are_retried_with_growing_pauses(error: Exception) -> None:
    pauses: list[float] = []
    calls = 0

    def work() -> str:
        nonlocal calls
        calls += 1
        raise error

    assert is_transient(error) == (error in TRANSIENT)
    with pytest.raises(type(error)):
        retrying(work, sleep=pauses.append)
    assert calls == (ATTEMPTS if error in TRANSIENT else 1) and len(pauses) == calls - 1
    assert all(0.25 * 2**i <= pause <= 0.5 * 2**i for i, pause in enumerate(pauses))


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def test_an_error_is_transient_if_its_cause_is() -> None:
    assert all(is_transient(raised_from(Unreachable("no answer"), cause)) for cause in TRANSIENT)
    assert not any(is_transient(raised_from(Unreachable("gone"), cause)) for cause in PERMANENT)


def test_the_result_of_a_later_attempt_is_returned() -> None:
    answers: list[Exception | str] = [TimeoutError(), ConnectionResetError(), "there"]

    def work() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retrying(work, sleep=lambda _: None) == "there"
