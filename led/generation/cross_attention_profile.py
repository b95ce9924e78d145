"""The cross-attention of a text to its document, and the profile over equal parts of it.

One decoder pass over the finished text, with the KV cache that decoding held.

Shapes: T tokens of the text, n tokens of the document, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from led.kv_cache.cross_attention import DocumentKV
from led.model.decoder import LEDDecoder


class _SummedCrossAttention:
    """Cross-attention over one document, head by head. `total` (n,) adds up the attention to each of its
    tokens."""

    def __init__(self, document: DocumentKV) -> None:
        self._document = document
        keys, _ = document.layers[0]
        self.total = keys.new_zeros(keys.shape[1], dtype=torch.float32)

    def attend(self, layer: int, query_RHTD: Tensor, dropout: float) -> Tensor:
        """(1, H, T, D) as `CrossAttentionCache.attend`, without dropout."""
        [query_HTD], mask = query_RHTD, self._document.mask
        outputs = []
        for q_TD, k_nD, v_nD in zip(query_HTD, *self._document.layers[layer], strict=True):
            scores = q_TD @ k_nD.mT.to(q_TD.dtype)
            if mask is not None:
                scores = torch.zeros_like(scores) if mask.dtype == torch.bool else scores + mask
            p = scores.float().softmax(-1)
            self.total += p.sum(0)
            outputs.append((p.to(v_nD.dtype) @ v_nD).to(q_TD.dtype))
        return torch.stack(outputs)[None]


def summed_cross_attention(decoder: LEDDecoder, document: DocumentKV, sequence: Sequence[int]) -> Tensor:
    """(n,) the cross-attention of a text to each token of its document: the sum over tokens, layers and
    heads.

    `sequence` is the text with its start token and its last token. The last token was never a decoder input.
    """
    cross = _SummedCrossAttention(document)
    decoder(torch.tensor([sequence[:-1]], device=cross.total.device), cross)
    return cross.total.cpu()


def profile_of(attention_n: Tensor, bins: int) -> list[float]:
    """The share of the attention in each of `bins` equal parts of a document of n tokens."""
    n = len(attention_n)
    positions = torch.arange(n) * bins // n
    shares = attention_n.new_zeros(bins).index_add_(0, positions, attention_n)
    return (shares / shares.sum()).tolist()
