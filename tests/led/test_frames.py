"""From `model.generate` to the attention product there are at most nine calls in this library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode, resolve_name

import led
from led.generation.cuda_graph_runner import CudaGraphRunner
from led.testing import tiny_model

ROOT = Path(led.__file__).parent
MOST_FRAMES = 9
PRODUCTS = ("matmul", "bmm", "einsum", "scaled_dot_product_attention")
EAGER = {
    "window_attention.py:window_attention_cpu",
    "global_attention.py:absorbed_global_attention",
    "decoder_attention.py:self_attention",
    "decoder_attention.py:cross_attention",
}
CAPTURED = {
    "window_attention.py:window_attention_cpu",
    "global_attention.py:absorbed_global_attention",
    "gpu_backends.py:gathered_self_attention",
    "gpu_backends.py:gathered_paged_attention",
}


class AttentionStacks(TorchFunctionMode):
    """Collects the stacks of this library's frames, from `generate` on, at each product of led/ops.

    `stacks` maps the innermost frame, "file:function", to its longest stack.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stacks: dict[str, list[str]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = (resolve_name(func) or "").rsplit(".", 1)[-1]
        if name.strip("_") in PRODUCTS:
            stack = own_frames(sys._getframe())
            if stack and (ROOT / "ops") in stack[-1][0].parents:
                names = [f"{path.name}:{function}" for path, function in stack]
                longest = max(self.stacks.get(names[-1], []), names, key=len)
                self.stacks[names[-1]] = longest
        return func(*args, **(kwargs or {}))


def own_frames(frame: Any) -> list[tuple[Path, str]]:
    """(file, function) of the frames in led/, outermost first."""
    frames = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if ROOT in path.parents:
            frames.append((path, frame.f_code.co_name))
        frame = frame.f_back
    return frames[::-1]


def stacks_of(**settings: Any) -> dict[str, list[str]]:
    model = tiny_model(seed=1)
    ids = torch.randint(5, 99, (3, 40), generator=torch.Generator().manual_seed(0))
    with AttentionStacks() as recorder:
        model.generate(ids, global_attention_mask=torch.eye(3, 40).long(), max_new_tokens=6, **settings)
    return recorder.stacks


def check(stacks: dict[str, list[str]], products: set[str]) -> None:
    assert stacks.keys() == products
    for stack in stacks.values():
        assert stack[0] == "conditional_generation.py:generate"
        assert len(stack) <= MOST_FRAMES, " > ".join(stack)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_eager_runner(num_beams: int) -> None:
    check(stacks_of(num_beams=num_beams), EAGER)


@pytest.mark.parametrize("captures_search", [False, True])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_cuda_graph_runner(
    num_beams: int, captures_search: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU it runs the same steps without capture."""

    def make(scheduler: Any) -> CudaGraphRunner:
        search = scheduler._search if captures_search else None
        return CudaGraphRunner(scheduler.model, search, 3, scheduler._rows, 7, 2**24)

    create = led.Scheduler.__init__

    def create_with_graphs(self: Any, *args: Any) -> None:
        create(self, *args)
        self._runner = make(self)

    monkeypatch.setattr(led.Scheduler, "__init__", create_with_graphs)
    check(stacks_of(num_beams=num_beams), CAPTURED)
