"""What passes is tried again, a few times; what does not is raised at once."""

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
LASTING = [
    FileNotFoundError(2, "no"),
    PermissionError(13, "no"),
    OSError("bad thrift"),
    ValueError("x"),
    NoCredentialsError(),
]


@pytest.mark.parametrize("error", [*TRANSIENT, *LASTING], ids=repr)
def test_only_what_may_pass_is_tried_again_with_growing_pauses(error: Exception) -> None:
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


def test_an_error_is_as_passing_as_what_it_was_raised_from() -> None:
    assert all(is_transient(raised_from(Unreachable("no answer"), cause)) for cause in TRANSIENT)
    assert not any(is_transient(raised_from(Unreachable("gone"), cause)) for cause in LASTING)


def test_what_works_in_the_end_is_the_result() -> None:
    answers: list[Exception | str] = [TimeoutError(), ConnectionResetError(), "there"]

    def work() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retrying(work, sleep=lambda _: None) == "there"
