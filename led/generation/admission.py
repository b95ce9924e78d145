"""Admission: which documents a scheduler encodes together. Pure functions, without torch.

Encoding a packed batch takes a fixed time, in which kernels are launched and weights are read, and a time per
token. Summaries end one by one, so a scheduler that encodes a document whenever a slot is free pays the fixed
time for each document. It therefore encodes a few documents ahead of their slots, where the fixed time
matters. Their encoder states are kept until slots are free.

Units: seconds, tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from led.generation.limits import SchedulerLimits


@dataclass(frozen=True)
class EncodingCosts:
    """The time of encoding a packed batch: `fixed_s` and `token_s` for each token."""

    fixed_s: float
    token_s: float

    def seconds(self, tokens: int) -> float:
        """The time of a packed batch."""
        return self.fixed_s + self.token_s * tokens

    def group_tokens(self, loss: float) -> int:
        """The least tokens of a packed batch of which the fixed time is at most this share."""
        return round(self.fixed_s * (1 - loss) / (loss * self.token_s))


# Measured with led-base in float16 on an H200 and in float32 on one core of a Xeon (benchmarks/results.md).
ENCODING_COSTS = {"cuda": EncodingCosts(7e-3, 0.2e-6), "cpu": EncodingCosts(16e-3, 0.75e-3)}

# The share of encoding that may go to fixed times, and the share of the memory for encoder states.
_LOSS, _MEMORY_SHARE = 0.05, 8


@dataclass(frozen=True)
class AdmissionRules:
    """At most `max_tokens` are encoded in one packed batch, and at most `ahead_tokens` of them are of
    documents that wait for a slot. A longer document is encoded alone, when there is a slot for it."""

    max_tokens: int
    ahead_tokens: int

    @classmethod
    def for_device(
        cls, limits: SchedulerLimits, device_type: str, token_bytes: int, memory: int
    ) -> AdmissionRules:
        """The rules for a type of device, such as "cuda", with this memory and encoder states of
        `token_bytes` for each token."""
        costs = ENCODING_COSTS.get(device_type, ENCODING_COSTS["cpu"])
        ahead = limits.max_ahead_tokens
        if ahead is None:
            ahead = costs.group_tokens(_LOSS)
        max_tokens = limits.num_batched_tokens(device_type)
        return cls(max_tokens, min(ahead, max_tokens, memory // _MEMORY_SHARE // token_bytes))


@dataclass
class Pack:
    """The packed batch that is being put together, for `slots` free slots: its documents, its tokens, and the
    tokens of documents for which there is no slot yet."""

    rules: AdmissionRules
    slots: int
    documents: int = 0
    tokens: int = 0
    ahead_tokens: int = 0

    @property
    def has_slot(self) -> bool:
        """Whether there is a slot for the next document."""
        return self.documents < self.slots

    def accepts(self, length: int) -> bool:
        """Whether a document of this length joins."""
        if self.documents and self.tokens + length > self.rules.max_tokens:
            return False
        return self.has_slot or self.ahead_tokens + length <= self.rules.ahead_tokens

    def add(self, length: int) -> None:
        """Add a document of this length."""
        self.ahead_tokens += 0 if self.has_slot else length
        self.documents += 1
        self.tokens += length
