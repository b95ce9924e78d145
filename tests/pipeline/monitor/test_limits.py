"""Graceful shutdown at a time, a cost, a number of failures or a signal."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime
from typing import Any

import pytest

from pipeline.errors import Stopped, TooManyFailures, UsageError
from pipeline.monitor.limits import RunLimits, StopRequest, stop_on_signals
from pipeline.monitor.stats import RunStats
from pipeline.tasks.settings import SummarizeSettings
from tests.pipeline.shard_metadata import shard_metadata


def settings(**changes: Any) -> SummarizeSettings:
    return SummarizeSettings(input=("i",), output="o", model="m", **changes)


def test_an_invalid_stop_time_is_refused() -> None:
    with pytest.raises(UsageError, match="--stop-at is '25:00'"):
        settings(stop_at="25:00")


def test_a_cost_limit_needs_a_price() -> None:
    with pytest.raises(UsageError, match=r"--max-cost is 3\.0; it needs --price-per-hour"):
        settings(max_cost=3.0)


def requested(seconds: float, failed: int = 0, **changes: Any) -> Exception | None:
    """The stop requested after `seconds`, if any."""
    stop, stats = StopRequest(), RunStats(100, 10, 2)
    stats.add(shard_metadata(documents=10, failed_documents=failed), 1.0)
    stats.advance_clock(seconds)
    published: list[bool] = []
    RunLimits(stop, settings(**changes), lambda: published.append(True))(stats, seconds)
    assert bool(published) == (stop.error is not None)
    return stop.error


def test_limits_request_a_stop_when_they_are_reached() -> None:
    assert requested(1e9) is None
    assert requested(1e9, price_per_hour=0.0, max_cost=2.0) is None
    assert requested(1700, price_per_hour=2.0, max_cost=2.0) is None
    reached = requested(1900, price_per_hour=2.0, max_cost=2.0)
    assert (
        isinstance(reached, Stopped)
        and "the run has cost 2.11 (--max-cost 2)" in str(reached)
        and reached.exit_code == 130
    )
    assert isinstance(requested(1800, price_per_hour=2.0, max_cost=2.0), Stopped)
    assert requested(1, failed=4, max_failed=4) is None
    assert isinstance(requested(1, failed=5, max_failed=4), TooManyFailures)


def test_a_stop_time_is_reached_at_its_second(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, moment = StopRequest(), datetime(2100, 1, 1, 6)
    limits = RunLimits(stop, settings(stop_at=moment.isoformat()), lambda: None)
    monkeypatch.setattr(time, "time", moment.timestamp)
    limits(RunStats(100, 10, 2), 1.0)
    assert isinstance(stop.error, Stopped)
    with pytest.raises(Stopped, match="which has passed"):
        RunLimits(StopRequest(), settings(stop_at=moment.isoformat()), lambda: None)


def test_a_run_stops_at_its_stop_time_and_a_past_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, moment = StopRequest(), datetime.fromtimestamp(time.time() + 100).isoformat()
    limits = RunLimits(stop, settings(stop_at=moment), lambda: None)
    limits(RunStats(100, 10, 2), 1.0)
    assert stop.error is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 101)
    limits(RunStats(100, 10, 2), 102.0)
    assert isinstance(stop.error, Stopped)
    with pytest.raises(Stopped, match=rf"--stop-at is '{moment}', which has passed; give a later time"):
        RunLimits(StopRequest(), settings(stop_at=moment), lambda: None)


def test_a_limit_prints_its_reason_once(capsys: pytest.CaptureFixture[str]) -> None:
    limits, stats = (
        RunLimits(StopRequest(), settings(price_per_hour=2.0, max_cost=2.0), lambda: None),
        RunStats(100, 10, 2),
    )
    for seconds in (1900, 1902):
        stats.advance_clock(seconds)
        limits(stats, seconds)
    assert (
        capsys.readouterr().err == "\nthe run has cost 2.11 (--max-cost 2). Finishing the shards in flight.\n"
    )


def test_the_first_reason_stays() -> None:
    stop = StopRequest()
    stop.request(Stopped("one"))
    stop.request(TooManyFailures("two"))
    assert str(stop.error) == "one"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_requests_a_stop_and_the_second_interrupts(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    outside, stop = signal.signal(number, signal.default_int_handler), StopRequest()
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stop_on_signals(stop):
        os.kill(os.getpid(), number)
        assert isinstance(stop.error, Stopped) and number.name in str(stop.error)
        assert "finishing the shards in flight" in capsys.readouterr().err
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    signal.signal(number, outside)


def test_a_signal_after_a_limit_counts_as_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    outside, stop = signal.signal(signal.SIGINT, signal.default_int_handler), StopRequest()
    stop.request(Stopped("it is six."))
    printed = ""
    with pytest.raises(KeyboardInterrupt), stop_on_signals(stop):
        os.kill(os.getpid(), signal.SIGINT)
        printed = capsys.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)
    assert "Press Ctrl-C again to stop now and lose them" in printed and str(stop.error) == "it is six."
    signal.signal(signal.SIGINT, outside)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals(StopRequest()):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
