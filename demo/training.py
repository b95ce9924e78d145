"""The training loop of the demo's models: by the clock, in stages, with progress every 50 steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Reports have from `words[0]` to `words[1]` words, and batches about `tokens` input tokens. The stage ends
    when the share `until` of the time has passed.
    """

    words: tuple[int, int]
    tokens: int
    until: float


def learning_rate(share: float, peak: float) -> float:
    """The learning rate after this share of the training, from 0 to 1.

    After a short warm-up, it follows a cosine from `peak` to a twentieth of it.
    """
    warm_up = min(1.0, share / 0.02)
    return peak * warm_up * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


def steps(minutes: float) -> Iterator[tuple[int, float]]:
    """Yield (step, share of the time that has passed) until the time is over."""
    start, step = time.monotonic(), 0
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1:
        yield step, share
        step += 1


def fit(
    model: torch.nn.Module,
    next_loss: Callable[[int, Stage], tuple[Tensor, float]],
    save: Callable[[], None],
    *,
    stages: Sequence[Stage],
    minutes: float,
    peak: float,
    save_every: int = 500,
) -> None:
    """Train for `minutes`. `next_loss` gives the loss and the accuracy of a new batch of a step's stage."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    losses: list[float] = []
    accuracies: list[float] = []
    start_time = time.monotonic()
    for step, share in steps(minutes):
        stage = next(s for s in stages if share < s.until)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(share, peak)
        loss, accuracy = next_loss(step, stage)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        accuracies.append(accuracy)
        if step % 50 == 49:
            print(
                f"step {step + 1} {share:.1%} {time.monotonic() - start_time:.0f} s stage {stage.words} "
                f"loss {sum(losses) / len(losses):.4f} accuracy {sum(accuracies) / len(accuracies):.4f}",
                flush=True,
            )
            losses, accuracies = [], []
        if step % save_every == save_every - 1:
            save()
    save()
