"""The prediction loop: shards of several calls share one stream, and errors stay with their documents."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pipeline.tasks.base import ModelInput, Row
from pipeline.workers.bisect import Failed
from pipeline.workers.prediction_loop import Predicted, PredictionLoop


class Fatal(Exception):
    """The accelerator failed."""


class Slots:
    """A model with two slots. A document of n tokens takes n steps. One that begins with -1 raises.

    `together` has the documents of each step. The model waits before each step while `paused` is set.
    """

    hardware: dict[str, str] = {}  # noqa: RUF012
    fatal = (Fatal,)

    def __init__(self) -> None:
        self.steps = 0
        self.together: list[list[int]] = []
        self.released = 0
        self.go = threading.Event()
        self.go.set()
        self.thread = threading.current_thread()

    @property
    def measured(self) -> dict[str, float]:
        return {"steps": self.steps}

    def predict(self, documents: Iterable[ModelInput | None]) -> Iterator[tuple[int, Row]]:
        assert threading.current_thread() is self.thread
        waiting, active, number, ended = iter(documents), dict[int, list[int]](), 0, False
        while True:
            while len(active) < 2 and not ended:
                try:
                    document = next(waiting)
                except StopIteration:
                    ended = True
                    break
                if document is None:
                    break
                if document.input_ids[0] == -1:
                    raise ValueError("a bad document")
                if document.input_ids[0] == -2:
                    raise Fatal
                active[number] = list(document.input_ids)
                number += 1
            if not active:
                return
            self.go.wait(10)
            self.steps += 1
            self.together.append(sorted(tokens[0] for tokens in active.values()))
            for i, tokens in list(active.items()):
                tokens.append(tokens[0])
                if len(tokens) >= 2 * tokens[1]:
                    del active[i]
                    yield i, {"first": tokens[0]}

    def release_memory(self) -> None:
        self.released += 1


def document(name: int, steps: int) -> ModelInput:
    """A document that takes `steps` steps."""
    return ModelInput([name, steps, *[0] * (steps - 2)], [])


@pytest.fixture
def model() -> Slots:
    return Slots.__new__(Slots)


@pytest.fixture
def loop(model: Slots) -> PredictionLoop:
    def load() -> Any:
        model.__init__()  # type: ignore[misc]
        return model

    return PredictionLoop(load)


def predict(loop: PredictionLoop, documents: list[ModelInput], **how: Any) -> Predicted | None:
    """Submit a shard and wait for its outcomes."""
    return loop.submit(documents, **how)()


def in_order(
    loop: PredictionLoop, model: Slots, *calls: Callable[[], Predicted | None]
) -> list[Future[Predicted | None]]:
    """Start these calls while the model is paused, one after another, and let it go on."""
    model.go.clear()
    pool = ThreadPoolExecutor(len(calls))
    futures = []
    for call in calls:
        futures.append(pool.submit(call))
        time.sleep(0.05)
    model.go.set()
    return futures


def test_shards_share_the_slots_and_each_call_gets_its_own_outcomes(
    loop: PredictionLoop, model: Slots
) -> None:
    shards = [[document(10 * s + i, 4) for i in range(3)] for s in range(1, 4)]
    futures = in_order(loop, model, *(lambda shard=shard: predict(loop, shard) for shard in shards))
    for shard, future in zip(shards, futures, strict=True):
        predicted = future.result(10)
        assert predicted is not None
        assert predicted.outcomes == [{"first": d.input_ids[0]} for d in shard]
    # Nine documents of equal length: only the last one has no other beside it.
    assert [len(step) for step in model.together] == [2] * 16 + [1] * 4
    assert [12, 20] in model.together and [21, 22] in model.together and [32] in model.together


def test_the_time_and_the_measurements_are_divided_without_overlap(
    loop: PredictionLoop, model: Slots
) -> None:
    start = time.monotonic()
    calls = [lambda s=s: predict(loop, [document(10 * s, 6), document(10 * s + 1, 4)]) for s in range(1, 6)]
    found = [future.result(10) for future in in_order(loop, model, *calls)]
    assert sum(p.measured["steps"] for p in found if p) == model.steps
    assert 0 < sum(p.seconds for p in found if p) <= time.monotonic() - start


def test_a_document_that_fails_fails_alone_and_the_stream_goes_on(loop: PredictionLoop, model: Slots) -> None:
    bad = ModelInput([-1, 4], [])
    shards = [
        [document(10, 4), document(11, 9)],
        [document(20, 3), bad, document(22, 3), document(23, 3)],
        [document(30, 3)],
    ]
    futures = in_order(loop, model, *(lambda shard=shard: predict(loop, shard) for shard in shards))
    first, second, third = (future.result(10) for future in futures)
    assert first and first.outcomes == [{"first": 10}, {"first": 11}]
    assert second and second.outcomes == [
        {"first": 20},
        Failed("ValueError: a bad document"),
        {"first": 22},
        {"first": 23},
    ]
    assert third and third.outcomes == [{"first": 30}] and model.released > 0


def test_a_shard_alone_runs_while_no_other_is_in_the_stream(loop: PredictionLoop, model: Slots) -> None:
    seen: list[int] = []

    def alone() -> Any:
        seen.append(model.steps)
        return loop.bisect([document(20, 4)])

    shards = [document(10, 4), document(11, 8)], [document(20, 4)], [document(30, 4), document(31, 4)]
    futures = in_order(
        loop,
        model,
        lambda: predict(loop, shards[0]),
        lambda: predict(loop, shards[1], alone=alone),
        lambda: predict(loop, shards[2]),
    )
    outcomes = [predicted.outcomes for future in futures if (predicted := future.result(10))]
    assert outcomes == [[{"first": d.input_ids[0]} for d in shard] for shard in shards]
    assert len(seen) == 1
    assert all(step == [20] for step in model.together if 20 in step)


def test_a_shard_that_is_not_wanted_when_its_turn_comes_is_not_processed(
    loop: PredictionLoop, model: Slots
) -> None:
    stopped = threading.Event()
    shards = [[document(10 * s + i, 4) for i in range(3)] for s in (1, 2, 3)]
    calls = [lambda s=s: predict(loop, s, start=lambda: not stopped.is_set()) for s in shards]
    model.go.clear()
    pool = ThreadPoolExecutor(3)
    futures = [pool.submit(calls[0])]
    time.sleep(0.1)  # its first documents are in the slots
    stopped.set()
    futures += [pool.submit(call) for call in calls[1:]]
    time.sleep(0.1)
    model.go.set()
    first, second, third = (future.result(10) for future in futures)
    assert first and len(first.outcomes) == 3 and second is None and third is None
    assert predict(loop, [], start=lambda: False) is None
    empty = predict(loop, [])
    assert empty is not None and empty.outcomes == [] and empty.measured == {}


def test_errors_reach_their_calls_and_the_loop_lives_on(loop: PredictionLoop) -> None:
    def start() -> bool:
        raise OSError("no space left for the notes")

    with pytest.raises(OSError, match="no space"):
        predict(loop, [document(1, 4)], start=start)
    with pytest.raises(KeyError, match="alone"):
        predict(loop, [document(1, 4)], alone=lambda: {}["alone"])
    for _ in range(2):
        with pytest.raises(Fatal):
            predict(loop, [document(1, 4), ModelInput([-2, 4], [])])
    predicted = predict(loop, [document(1, 4)])
    assert predicted is not None and predicted.outcomes == [{"first": 1}]


def test_a_task_that_returns_too_few_results_is_an_error_and_not_a_hang(
    model: Slots, loop: PredictionLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slots, "predict", lambda self, documents: iter(()))
    with pytest.raises(AssertionError, match="no result for 2 of 2"):
        predict(loop, [document(1, 4), document(2, 4)])
    monkeypatch.setattr(Slots, "predict", lambda self, documents: iter([][: bool(next(iter(documents)))]))
    with pytest.raises(AssertionError, match="no result for 2 of 2"):
        predict(loop, [document(1, 4), document(2, 4)])


def test_an_error_of_loading_is_raised_where_the_loop_is_created() -> None:
    def load() -> Any:
        raise ValueError("the weights are damaged")

    with pytest.raises(ValueError, match="damaged"):
        PredictionLoop(load)
