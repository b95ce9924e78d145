"""What the models return: dataclasses whose fields carry the reference's names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from led.cache import DecoderCache


class ModelOutput:
    """A result that reads by name (`out.logits`, `out["logits"]`) and as a tuple of what is not None."""

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order."""
        values = (getattr(self, f.name) for f in fields(self))  # type: ignore[arg-type]
        return tuple(v for v in values if v is not None)

    def __getitem__(self, key: str | int | slice) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())


@dataclass
class LEDEncoderBaseModelOutput(ModelOutput):
    """`last_hidden_state` (B, N, d_model)."""

    last_hidden_state: Tensor


@dataclass
class LEDSeq2SeqModelOutput(ModelOutput):
    """`last_hidden_state` (B, T, d_model) of the decoder; `encoder_last_hidden_state` (B, N, d_model)."""

    last_hidden_state: Tensor
    past_key_values: DecoderCache | None = None
    encoder_last_hidden_state: Tensor | None = None


@dataclass
class LEDSeq2SeqLMOutput(ModelOutput):
    """`loss` scalar where labels were given; `logits` (B, T, vocab_size)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DecoderCache | None = None
    encoder_last_hidden_state: Tensor | None = None
