"""Where a text looked: the decoder's attention to the document, in bins along it.

One pass over the finished text with the memory that decoding held, so it costs the decoder's reading of the text once.

Shapes: T tokens of the text, n tokens of the document, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from led.cache import DocumentMemory
from led.decoder import LEDDecoder


class WatchedMemory:
    """The memory of one document, read head by head; `total` (n,) adds up the attention to each of its tokens."""

    def __init__(self, memory: DocumentMemory) -> None:
        self._memory = memory
        keys, _ = memory.layers[0]
        self.total = keys.new_zeros(keys.shape[1], dtype=torch.float32)

    def read(self, layer: int, query_RHTD: Tensor, dropout: float) -> Tensor:
        """(1, H, T, D) what the row reads; dropout is ignored."""
        [query_HTD], mask = query_RHTD, self._memory.mask
        reads = []
        for q_TD, k_nD, v_nD in zip(query_HTD, *self._memory.layers[layer], strict=True):
            scores = q_TD @ k_nD.mT.to(q_TD.dtype)
            if mask is not None:
                scores = torch.zeros_like(scores) if mask.dtype == torch.bool else scores + mask
            weights = scores.float().softmax(-1)
            self.total += weights.sum(0)
            reads.append((weights.to(v_nD.dtype) @ v_nD).to(q_TD.dtype))
        return torch.stack(reads)[None]


def where_it_looked(decoder: LEDDecoder, memory: DocumentMemory, sequence: Sequence[int], bins: int) -> list[float]:
    """The share of attention in each of `bins` equal parts of the document, mean over the text's tokens, layers and heads.

    `sequence` is the text with its start token and its last one, which looked nowhere.
    """
    watched = WatchedMemory(memory)
    device = watched.total.device
    decoder(torch.tensor([sequence[:-1]], device=device), watched)
    n = len(watched.total)
    places = torch.arange(n, device=device) * bins // n
    shares = watched.total.new_zeros(bins).index_add_(0, places, watched.total)
    return (shares / shares.sum()).tolist()
