"""Ends that are asked for: hours, costs, failures, signals."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime
from typing import Any

import pytest
from tests.pipeline.shards_metadata import shard_metadata

from pipeline.errors import Stopped, TooManyFailures, UsageError
from pipeline.monitor.limits import RunLimits, StopRequest, stop_on_signals
from pipeline.monitor.stats import RunStats
from pipeline.settings import SummarizeSettings


def settings(**given: Any) -> SummarizeSettings:
    return SummarizeSettings(input=("i",), output="o", model="m", **given)


def test_an_hour_that_is_none_is_no_setting() -> None:
    with pytest.raises(UsageError, match="--stop-at is '25:00'"):
        settings(stop_at="25:00")


def test_a_cost_needs_a_price() -> None:
    with pytest.raises(UsageError, match=r"--max-cost is 3\.0; it needs --price-per-hour"):
        settings(max_cost=3.0)


def asked(seconds: float, failed: int = 0, **given: Any) -> Exception | None:
    stop, stats = StopRequest(), RunStats(100, 10, 2)
    stats.add(shard_metadata(documents=10, failed_documents=failed), 1.0)
    stats.advance_clock(seconds)
    told: list[bool] = []
    RunLimits(stop, settings(**given), lambda: told.append(True))(stats, seconds)
    assert bool(told) == (stop.error is not None)
    return stop.error


def test_limits_ask_when_they_are_reached_and_not_before() -> None:
    assert asked(1e9) is None
    assert asked(1700, price_per_hour=2.0, max_cost=2.0) is None
    reached = asked(1900, price_per_hour=2.0, max_cost=2.0)
    assert (
        isinstance(reached, Stopped)
        and "the run has cost 2.11 (--max-cost 2)" in str(reached)
        and reached.exit_code == 130
    )
    assert asked(1, failed=4, max_failed=4) is None
    assert isinstance(asked(1, failed=5, max_failed=4), TooManyFailures)


def test_a_moment_is_reached_and_one_that_is_past_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, moment = StopRequest(), datetime.fromtimestamp(time.time() + 100).isoformat()
    limits = RunLimits(stop, settings(stop_at=moment), lambda: None)
    limits(RunStats(100, 10, 2), 1.0)
    assert stop.error is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 101)
    limits(RunStats(100, 10, 2), 102.0)
    assert isinstance(stop.error, Stopped)
    with pytest.raises(
        Stopped, match=rf"--stop-at is '{moment}', which is past; name a later moment, or an hour"
    ):
        RunLimits(StopRequest(), settings(stop_at=moment), lambda: None)


def test_a_limit_says_its_reason_once(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_the_first_reason_stands() -> None:
    stop = StopRequest()
    stop.request(Stopped("one"))
    stop.request(TooManyFailures("two"))
    assert str(stop.error) == "one"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(
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


def test_the_first_signal_after_a_limit_is_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    outside, stop = signal.signal(signal.SIGINT, signal.default_int_handler), StopRequest()
    stop.request(Stopped("it is six."))
    said = ""
    with pytest.raises(KeyboardInterrupt), stop_on_signals(stop):
        os.kill(os.getpid(), signal.SIGINT)
        said = capsys.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)
    assert "once more ends the run at once" in said and str(stop.error) == "it is six."
    signal.signal(signal.SIGINT, outside)


def test_who_is_deaf_to_a_signal_stays_deaf() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals(StopRequest()):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
