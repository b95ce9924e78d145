"""Attention metadata of a packed batch: computed once, used by every encoder layer.

Shapes: T tokens of all documents, n tokens of one, g global tokens of one document, G of all, B documents.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from led.batch.packed_batch import PackedBatch

T = TypeVar("T")


@dataclass(frozen=True)
class DocumentMetadata:
    """One document of a packed batch.

    Its tokens are `start` to `end`, exclusive. `global_positions` (g,) are the positions of its global tokens
    within it. `visible` (n,) bool, or None for all. `local_key` (n,) bool, or None for all: keys that a
    window may contain.
    """

    start: int
    end: int
    global_positions: Tensor
    visible: Tensor | None
    local_key: Tensor | None


@dataclass(frozen=True)
class AttentionMetadata:
    """The documents of a packed batch, and what kernels over all of them need.

    One object may serve layers with different window sizes. Kernels keep what depends on the window in
    `cached`.
    """

    batch: PackedBatch
    _cache: dict[Hashable, object] = field(default_factory=dict, repr=False)

    @cached_property
    def documents(self) -> list[DocumentMetadata]:
        """The documents one by one."""
        batch, documents = self.batch, []
        split = self.global_positions.split(self.global_counts)
        for (start, end), global_positions in zip(batch.spans, split, strict=True):
            is_global = batch.is_global[start:end]
            visible = None if batch.is_visible is None else batch.is_visible[start:end]
            local_key = visible
            if len(global_positions):
                local_key = ~is_global if visible is None else visible & ~is_global
            documents.append(DocumentMetadata(start, end, global_positions - start, visible, local_key))
        return documents

    @property
    def lengths(self) -> list[int]:
        """Tokens of each document."""
        return self.batch.lengths

    @cached_property
    def document_ids(self) -> Tensor:
        """(T,) the number of each token's document."""
        device = self.batch.is_global.device
        numbers, lengths = (
            torch.arange(len(self.lengths), device=device),
            torch.tensor(self.lengths, device=device),
        )
        return numbers.repeat_interleave(lengths, output_size=self.batch.cu_seqlens[-1])

    @cached_property
    def is_local_key(self) -> Tensor:
        """(T,) bool: keys that a window may contain."""
        local = ~self.batch.is_global
        return local if self.batch.is_visible is None else local & self.batch.is_visible

    @cached_property
    def global_positions(self) -> Tensor:
        """(G,) positions in the batch of the global tokens of all documents."""
        return self.batch.is_global.nonzero()[:, 0]

    @cached_property
    def cu_globals(self) -> list[int]:
        """(B + 1): document d has global tokens `cu_globals[d]` to `cu_globals[d + 1]`, exclusive."""
        positions = self.global_positions.tolist()
        return [bisect_left(positions, start) for start in self.batch.cu_seqlens]

    @property
    def global_counts(self) -> list[int]:
        """Global tokens of each document."""
        return [end - start for start, end in pairwise(self.cu_globals)]

    def cached(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of `compute`, computed by the first layer that uses `key`. The key must name the
        window."""
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]  # type: ignore[return-value]
