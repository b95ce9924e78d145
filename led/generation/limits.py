"""The limits of what a scheduler processes at once. Needs no torch, so a run can be planned without it."""

from __future__ import annotations

from dataclasses import dataclass, fields

# The slots of a GPU whose memory allows no more.
_LEAST_SLOTS = 8


@dataclass(frozen=True)
class SchedulerLimits:
    """The limits of what is processed at once.

    `max_num_seqs` is the number of slots, which are documents decoded together. `max_num_batched_tokens` are
    encoded in one packed batch, `max_ahead_tokens` of them before there is a slot for their documents.
    `memory_bytes` bounds the KV caches and the encoder states of documents without a slot. A longer document
    is encoded alone, and one that needs more memory is decoded alone.

    For None, the device decides: slots and tokens by its kind and memory, and half of its free memory when
    the scheduler is created. The other half is for encoding and for other processes. At most an eighth of the
    memory holds encoder states.

    Raises:
        ValueError: a limit is below 1, or `max_ahead_tokens` below 0.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    memory_bytes: int | None = None
    max_ahead_tokens: int | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value, least = getattr(self, f.name), 0 if f.name == "max_ahead_tokens" else 1
            if value is not None and value < least:
                raise ValueError(f"{f.name} is {value}; it must be at least {least}.")

    def num_seqs(self, device_type: str) -> int:
        """The slots on a device of this type, such as "cuda", if its memory allows as many."""
        return self.max_num_seqs or (256 if device_type == "cuda" else 16)

    def slots(self, device_type: str, memory: int, slot_bytes: int) -> int:
        """The slots on a device with this memory.

        On a GPU, each of them takes `slot_bytes` all the time, and all together at most a quarter of the
        memory, unless their number is given.
        """
        most = self.num_seqs(device_type)
        if self.max_num_seqs or device_type != "cuda":
            return most
        affordable = memory // (4 * max(1, slot_bytes))
        return min(most, max(_LEAST_SLOTS, 1 << max(0, affordable.bit_length() - 1)))

    def num_batched_tokens(self, device_type: str) -> int:
        """The tokens of one packed batch on a device of this type."""
        return self.max_num_batched_tokens or (131072 if device_type == "cuda" else 16384)
