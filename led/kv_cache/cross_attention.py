"""The cross-attention KV cache: keys and values of each document, per decoder layer.

A document is stored once and shared by all its beams. It is never copied per beam and never reordered.

Decoding steps over a long document are few queries over many keys, and are limited by memory bandwidth. On
the CPU such keys and values are stored head by head in oneDNN's layout for weights, which it reads twice as
fast as torch's product reads plain tensors (benchmarks/results.md). For short documents the many small calls
would cost more than that saves, so their keys are stored transposed.

Shapes: R rows of the decoder, T new positions of a row, H heads, n tokens of a document, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from led.ops.decoder_attention import cross_attention, eager_attention
from led.ops.prepacked_linear import has_kernels

# Bytes of one head's keys from which on they are prepacked: 1,536 tokens of 64 numbers in float32.
PREPACK_FROM = 384 << 10

_ROWS = 4  # queries that the prepacked layout is optimized for; other numbers work too


class LayerKV(Protocol):
    """Keys and values of one document in one decoder layer. Iterating gives keys and values, (H, n, D)
    each."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""

    def __iter__(self) -> Iterator[Tensor]: ...

    def attend(self, query_HRD: Tensor, mask_n: Tensor | None, dropout: float) -> Tensor:
        """(H, R, D) the queries over the keys. `mask_n` (n,) is added to the scores. Keys may be of a
        narrower dtype."""


class KeysValues(NamedTuple):
    """Keys and values as plain tensors, (H, n, D) each."""

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def attend(self, query_HRD: Tensor, mask_n: Tensor | None, dropout: float) -> Tensor:
        mask = None if mask_n is None else mask_n.to(self.keys.dtype)
        return cross_attention(query_HRD.to(self.keys.dtype), *self, mask, dropout).to(query_HRD.dtype)


class PrepackedKeysValues:
    """Keys and values as prepacked weights, a pair per head. For inference."""

    def __init__(self, keys_HnD: Tensor, values_HnD: Tensor) -> None:
        self.dtype, self.nbytes = keys_HnD.dtype, keys_HnD.nbytes + values_HnD.nbytes
        pairs = zip(keys_HnD, values_HnD, strict=True)
        self._heads = [(_prepack(keys), _prepack(values.T)) for keys, values in pairs]

    def __iter__(self) -> Iterator[Tensor]:
        yield torch.stack([keys.to_dense() for keys, _ in self._heads])
        yield torch.stack([values.to_dense().T for _, values in self._heads])

    def attend(self, query_HRD: Tensor, mask_n: Tensor | None, dropout: float) -> Tensor:
        linear, outputs = torch.ops.mkldnn._linear_pointwise, []
        for query, (keys, values) in zip(query_HRD.to(self.dtype), self._heads, strict=True):
            scores = linear(query, keys, None, "none", [], "none")
            if mask_n is not None:
                scores += mask_n
            outputs.append(linear(scores.softmax(-1), values, None, "none", [], "none"))
        return torch.stack(outputs).to(query_HRD.dtype)


def decode_layout(keys_HnD: Tensor, values_HnD: Tensor) -> LayerKV:
    """Keys and values in the layout that is fastest for few queries at a time."""
    long = (
        keys_HnD.device.type == "cpu" and keys_HnD[0].nbytes >= PREPACK_FROM and not torch.is_grad_enabled()
    )
    if long and has_kernels(keys_HnD.dtype):
        return PrepackedKeysValues(keys_HnD, values_HnD)
    return transposed_layout(keys_HnD, values_HnD)


def transposed_layout(keys_HnD: Tensor, values_HnD: Tensor) -> KeysValues:
    """Keys stored transposed, since every product of few queries reads them that way."""
    return KeysValues(keys_HnD.mT.contiguous().mT, values_HnD.contiguous())


def _prepack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)


@dataclass
class DocumentKV:
    """Cross-attention keys and values of one document, per decoder layer.

    `mask` (n,) is added to the scores, or is None if every token is visible. If no token is visible, it is
    all true.
    """

    layers: list[LayerKV]
    mask: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(layer.nbytes for layer in self.layers)


class CrossAttentionCache(list[DocumentKV]):
    """The keys and values of several documents. The rows of a document are consecutive, the same number for
    each."""

    def attend(self, layer: int, query_RHTD: Tensor, dropout: float) -> Tensor:
        """(R, H, T, D) the rows over their documents. All positions and beams of a document are one
        product."""
        rows = len(query_RHTD) // len(self)
        outputs = []
        for q, document in zip(query_RHTD.split(rows), self, strict=True):
            if document.mask is not None and document.mask.dtype == torch.bool:
                k, v = document.layers[layer]
                outputs.append(eager_attention(q, k.to(q.dtype), v.to(q.dtype), document.mask, dropout)[0])
                continue
            out_HRD = document.layers[layer].attend(q.transpose(0, 1).flatten(1, 2), document.mask, dropout)
            outputs.append(out_HRD.unflatten(1, q.shape[0::2]).transpose(0, 1))
        return torch.cat(outputs)


class PackedCrossAttention:
    """Cross-attention of one packed row that holds a document after another, each over its own keys."""

    def __init__(self, documents: CrossAttentionCache, lengths: Sequence[int]) -> None:
        self._documents = [CrossAttentionCache([document]) for document in documents]
        self._lengths = list(lengths)

    def attend(self, layer: int, query_1HTD: Tensor, dropout: float) -> Tensor:
        """(1, H, T, D) each document's tokens over the same document."""
        pairs = zip(self._documents, query_1HTD.split(self._lengths, 2), strict=True)
        return torch.cat([document.attend(layer, query, dropout) for document, query in pairs], 2)
