"""A local cluster that starts slowly is tried again. One that cannot start is reported at once."""

from __future__ import annotations

import pytest

from pipeline.cluster import session
from pipeline.cluster.session import start_cluster
from pipeline.errors import PipelineError


class Clock:
    """Attempts to start a cluster, each of which takes some seconds on a clock of its own."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, attempts: list[tuple[float, Exception | None]]
    ) -> None:
        self.now, self.attempts, self.killed = 0.0, iter(attempts), 0
        monkeypatch.setattr(session.time, "monotonic", lambda: self.now)

    def init(self) -> None:
        seconds, error = next(self.attempts)
        self.now += seconds
        if error is not None:
            raise error

    def kill_all_processes(self, check_alive: bool, allow_graceful: bool) -> None:
        self.killed += 1


TIMED_OUT = Exception("The current node timed out during startup. This could happen because …")


def test_a_start_that_times_out_is_repeated_without_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, [(61, TIMED_OUT), (25, RuntimeError("no GCS")), (40, None)])
    start_cluster(clock.init, 300)
    assert clock.now == 126 and clock.killed == 2


def test_a_start_that_never_succeeds_ends_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, [(61, TIMED_OUT)] * 9)
    with pytest.raises(PipelineError) as caught:
        start_cluster(clock.init, 150)
    assert str(caught.value) == (
        "Ray did not start on this machine within 183 seconds, in 3 attempts: The current node timed out "
        "during startup. This could happen because … The machine is too busy or short of memory. Rerun the "
        "same command later, or raise --ray-start-seconds."
    )
    assert caught.value.exit_code == 1


def test_a_start_that_fails_at_once_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, [(2, ValueError("no space left in /tmp/ray"))])
    with pytest.raises(PipelineError, match=r"Ray cannot start.*: no space left in /tmp/ray `led-corpus doc"):
        start_cluster(clock.init, 300)
