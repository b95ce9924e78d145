"""A packed batch as the encoder's attention sees it, computed once for all layers.

Shapes: T tokens of all documents, n tokens of one, g global tokens of one document, B documents.
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

from led.packing import PackedBatch

Made = TypeVar("Made")


@dataclass(frozen=True)
class DocumentLayout:
    """One document of a packed batch.

    `start`, `end` its tokens, end exclusive; `globals_` (g,) places of its global tokens within it; `visible` (n,) bool or
    None for all; `local_key` (n,) bool or None for all: what a window may contain.
    """

    start: int
    end: int
    globals_: Tensor
    visible: Tensor | None
    local_key: Tensor | None


@dataclass(frozen=True)
class Layout:
    """The documents of a packed batch, and what kernels that take them all at once ask for."""

    batch: PackedBatch
    _made: dict[Hashable, object] = field(default_factory=dict, repr=False)

    @cached_property
    def documents(self) -> list[DocumentLayout]:
        """The documents one by one."""
        batch, documents = self.batch, []
        for (start, end), globals_ in zip(batch.spans, self.globals_.split(self.global_counts), strict=True):
            is_global = batch.is_global[start:end]
            visible = None if batch.is_visible is None else batch.is_visible[start:end]
            local_key = visible
            if len(globals_):
                local_key = ~is_global if visible is None else visible & ~is_global
            documents.append(DocumentLayout(start, end, globals_ - start, visible, local_key))
        return documents

    @property
    def lengths(self) -> list[int]:
        """Tokens of each document."""
        return self.batch.lengths

    @cached_property
    def document_ids(self) -> Tensor:
        """(T,) the number of each token's document."""
        device = self.batch.is_global.device
        numbers = torch.arange(len(self.lengths), device=device)
        return numbers.repeat_interleave(torch.tensor(self.lengths, device=device), output_size=self.batch.cu_seqlens[-1])

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """(B + 1,) int32, on the batch's device."""
        return torch.tensor(self.batch.cu_seqlens, dtype=torch.int32, device=self.batch.is_global.device)

    @cached_property
    def is_local_key(self) -> Tensor:
        """(T,) bool: what a window may contain."""
        local = ~self.batch.is_global
        return local if self.batch.is_visible is None else local & self.batch.is_visible

    @cached_property
    def globals_(self) -> Tensor:
        """(G,) places in the batch of the global tokens of all documents."""
        return self.batch.is_global.nonzero()[:, 0]

    @cached_property
    def cu_globals(self) -> list[int]:
        """(B + 1) document d's global tokens are those from `cu_globals[d]` to `cu_globals[d + 1]`, exclusive."""
        places = self.globals_.tolist()
        return [bisect_left(places, start) for start in self.batch.cu_seqlens]

    @property
    def global_counts(self) -> list[int]:
        """Global tokens of each document."""
        return [end - first for first, end in pairwise(self.cu_globals)]

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` gives, made by the first layer that asks for `key`."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[return-value]
