"""The limits of what a scheduler processes at once. Needs no torch, so a run can be planned without it."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class SchedulerLimits:
    """The limits of what is processed at once.

    `max_num_seqs` is the number of slots, which are documents decoded together. `max_num_batched_tokens` are
    encoded in one packed batch. `memory_bytes` bounds the KV caches. A longer document is encoded alone, and
    one that needs more memory is decoded alone. For None, the device decides: slots and tokens by its kind,
    and half of its free memory when the scheduler is created. The other half is for encoding and for other
    processes.

    Raises:
        ValueError: a limit is below 1.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and value < 1:
                raise ValueError(f"{f.name} is {value}; it must be at least 1.")

    def num_seqs(self, device_type: str) -> int:
        """The slots on a device of this type, such as "cuda"."""
        return self.max_num_seqs or (64 if device_type == "cuda" else 16)

    def num_batched_tokens(self, device_type: str) -> int:
        """The tokens of one packed batch on a device of this type."""
        return self.max_num_batched_tokens or (131072 if device_type == "cuda" else 16384)
