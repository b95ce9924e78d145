"""The state of a decoder between steps: the self-attention and the cross-attention KV cache.

The protocols are what a decoder layer needs. `DecoderCache` is the state that the public API returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from led.kv_cache.cross_attention import CrossAttentionCache
from led.kv_cache.self_attention import SelfAttentionCache


class SelfAttentionKV(Protocol):
    """What a decoder layer needs of the positions before the new ones: see `SelfAttentionCache.attend`."""

    def attend(
        self,
        layer: int,
        query_RHTD: Tensor,
        key_RHTD: Tensor,
        value_RHTD: Tensor,
        mask: Tensor | None,
        dropout: float,
    ) -> Tensor: ...


class SelfAttentionState(SelfAttentionKV, Protocol):
    """A self-attention KV cache between steps: see `SelfAttentionCache`."""

    @property
    def lengths(self) -> Tensor: ...

    @property
    def max_length(self) -> int: ...

    def advance(self, positions: int) -> None: ...

    def mask(self, dtype: torch.dtype, device: torch.device) -> Tensor | None: ...


class CrossAttentionKV(Protocol):
    """What a decoder layer needs of the documents: see `CrossAttentionCache.attend`."""

    def attend(self, layer: int, query_RHTD: Tensor, dropout: float) -> Tensor: ...


@dataclass
class DecoderCache:
    """The KV cache of a decoder: the rows' self-attention, and the documents' cross-attention.

    The rows of document d are the d-th group of consecutive rows. All groups have the same size.
    """

    self_attention: SelfAttentionCache
    cross_attention: CrossAttentionCache = field(default_factory=CrossAttentionCache)

    def get_seq_length(self) -> int:
        """Positions of the longest row."""
        return self.self_attention.max_length

    def to_legacy_cache(self) -> tuple[tuple[Tensor, ...], ...]:
        """Per layer (self keys, self values, cross keys, cross values): (R, H, S, D) twice and (B, H, n, D)
        twice.

        Raises:
            ValueError: nothing was decoded yet, or documents differ in length.
        """
        layers = []
        for i in range(len(self.self_attention)):
            own, pairs = (
                self.self_attention.layer(i),
                [tuple(document.layers[i]) for document in self.cross_attention],
            )
            if own is None or len({keys.shape for keys, _ in pairs}) != 1:
                raise ValueError(
                    "the cache as tuples needs a decoded position and documents of equal length."
                )
            layers.append((*own, *(torch.stack(each) for each in zip(*pairs, strict=True))))
        return tuple(layers)

    def join(self, other: DecoderCache) -> None:
        """Add the documents of `other`, with their rows, at the end."""
        self.cross_attention.extend(other.cross_attention)
        self.self_attention.join(other.self_attention)

    def retain(self, documents: Sequence[int], beam_idx: Tensor) -> None:
        """Keep these documents and free the others. `beam_idx` (R,) are their rows, in the documents'
        order."""
        self.cross_attention = CrossAttentionCache(self.cross_attention[d] for d in documents)
        self.self_attention.reorder(beam_idx)
