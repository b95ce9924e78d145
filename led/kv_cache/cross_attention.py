"""Keys and values of one document in one decoder layer: how they lie in memory, and how queries read them.

Decoding steps over a long document are few queries over many keys, and spend their time reading memory. On the CPU such keys
and values are laid out head by head as oneDNN lays out weights, which it reads twice as fast as torch's product of plain
tensors reads (benchmarks/results.md). Of short documents the many small calls would cost more than that saves.

Shapes: H heads, n tokens of the document, D head size, R queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from led.attention import cross_attention
from led.packed_linear import has_kernels

# Bytes of one head's keys from which on they are packed: 1,536 tokens of 64 numbers in float32.
PACK_FROM = 384 << 10

_ROWS = 4  # queries that the packed layout is made for; others are right too


class LayerMemory(Protocol):
    """What one decoder layer remembers of a document; unpacks to keys and values, (H, n, D) each."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""

    def __iter__(self) -> Iterator[Tensor]: ...

    def read(self, query_HRD: Tensor, mask_n: Tensor | None, dropout: float) -> Tensor:
        """(H, R, D) what the queries read; `mask_n` (n,) is added to the scores. Keys may be of a narrower type."""


class KeysValues(NamedTuple):
    """Keys and values as plain tensors, (H, n, D) each."""

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def read(self, query_HRD: Tensor, mask_n: Tensor | None, dropout: float) -> Tensor:
        mask = None if mask_n is None else mask_n.to(self.keys.dtype)
        return cross_attention(query_HRD.to(self.keys.dtype), *self, mask, dropout).to(query_HRD.dtype)


class PackedKeysValues:
    """Keys and values as packed weights, a pair for each head; for inference."""

    def __init__(self, keys_HnD: Tensor, values_HnD: Tensor) -> None:
        self.dtype, self.nbytes = keys_HnD.dtype, keys_HnD.nbytes + values_HnD.nbytes
        self._heads = [(_packed(keys), _packed(values.T)) for keys, values in zip(keys_HnD, values_HnD, strict=True)]

    def __iter__(self) -> Iterator[Tensor]:
        yield torch.stack([keys.to_dense() for keys, _ in self._heads])
        yield torch.stack([values.to_dense().T for _, values in self._heads])

    def read(self, query_HRD: Tensor, mask_n: Tensor | None, dropout: float) -> Tensor:
        reads = []
        for query, (keys, values) in zip(query_HRD.to(self.dtype), self._heads, strict=True):
            scores = _product(query, keys)
            if mask_n is not None:
                scores += mask_n
            reads.append(_product(scores.softmax(-1), values))
        return torch.stack(reads).to(query_HRD.dtype)


def for_steps(keys_HnD: Tensor, values_HnD: Tensor) -> LayerMemory:
    """These keys and values, laid out for few queries at a time."""
    worth_it = keys_HnD.device.type == "cpu" and keys_HnD[0].nbytes >= PACK_FROM and not torch.is_grad_enabled()
    if worth_it and has_kernels(keys_HnD.dtype):
        return PackedKeysValues(keys_HnD, values_HnD)
    return by_columns(keys_HnD, values_HnD)


def by_columns(keys_HnD: Tensor, values_HnD: Tensor) -> KeysValues:
    """A column per key, since every product of few queries reads them so."""
    return KeysValues(keys_HnD.mT.contiguous().mT, values_HnD.contiguous())


def _packed(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)


def _product(x: Tensor, packed: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "none")
