"""Packed batches: documents laid end to end, with no padding between them.

Padding exists only at the edge of the public `forward`; `pack` and `unpack` are that edge.

Shapes: B documents, N columns of a padded batch, T tokens of all documents together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedBatch:
    """Documents laid end to end.

    `input_ids` (T,) int64, or None where embeddings are given instead.
    `cu_seqlens` (B + 1) document d is tokens `cu_seqlens[d]` to `cu_seqlens[d + 1]`, exclusive.
    `is_global` (T,) bool: tokens that attend to, and are attended by, their whole document.
    `is_visible` (T,) bool or None for all: tokens the encoder may attend to. An invisible token keeps its position.
    `is_remembered` (T,) bool or None for all: tokens the decoder's cross-attention may attend to.
    """

    input_ids: Tensor | None
    cu_seqlens: tuple[int, ...]
    is_global: Tensor
    is_visible: Tensor | None = None
    is_remembered: Tensor | None = None

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The (start, end) of each document in the packed order, end exclusive."""
        return list(pairwise(self.cu_seqlens))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each document."""
        return [end - start for start, end in self.spans]

    @property
    def position_ids(self) -> Tensor:
        """(T,) each token's place in its own document, from 0."""
        device, T = self.is_global.device, self.cu_seqlens[-1]
        starts, lengths = (torch.tensor(x, device=device) for x in (self.cu_seqlens[:-1], self.lengths))
        return torch.arange(T, device=device) - starts.repeat_interleave(lengths, output_size=T)

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on `device`; to a GPU the copy goes on while the caller does."""
        to_gpu = torch.device(device).type == "cuda" and not self.is_global.is_cuda

        def move(x: Tensor) -> Tensor:
            return (x.pin_memory() if to_gpu else x).to(device, non_blocking=to_gpu)

        hidden = (None if x is None else move(x) for x in (self.is_visible, self.is_remembered))
        ids = None if self.input_ids is None else move(self.input_ids)

        return PackedBatch(ids, self.cu_seqlens, move(self.is_global), *hidden)

    def documents(self) -> list[PackedBatch]:
        """Each document as a batch of its own."""

        def cut(x: Tensor | None, start: int, end: int) -> Tensor | None:
            return None if x is None else x[start:end]

        return [
            PackedBatch(
                cut(self.input_ids, a, b),
                (0, b - a),
                self.is_global[a:b],
                cut(self.is_visible, a, b),
                cut(self.is_remembered, a, b),
            )
            for a, b in self.spans
        ]


def concatenate(batches: Sequence[PackedBatch]) -> PackedBatch:
    """Several batches with token ids as one."""

    def join(masks: Sequence[Tensor | None]) -> Tensor | None:
        if all(m is None for m in masks):
            return None
        return torch.cat([torch.ones_like(b.is_global) if m is None else m for b, m in zip(batches, masks, strict=True)])

    return PackedBatch(
        torch.cat([b.input_ids for b in batches if b.input_ids is not None]),
        cumulative([n for b in batches for n in b.lengths]),
        torch.cat([b.is_global for b in batches]),
        join([b.is_visible for b in batches]),
        join([b.is_remembered for b in batches]),
    )


def cumulative(lengths: Sequence[int]) -> tuple[int, ...]:
    """`cu_seqlens` of documents of these lengths."""
    ends = [0]
    for n in lengths:
        ends.append(ends[-1] + n)
    return tuple(ends)


def pack_documents(
    documents: Sequence[Sequence[int]], global_positions: Sequence[Sequence[int]], device: torch.device | str = "cpu"
) -> PackedBatch:
    """Lay documents given as lists of token ids end to end; `global_positions` are places within each document."""
    cu_seqlens = cumulative([len(d) for d in documents])
    input_ids = torch.tensor([token for d in documents for token in d], dtype=torch.long)
    is_global = torch.zeros(len(input_ids), dtype=torch.bool)
    for start, positions in zip(cu_seqlens, global_positions, strict=False):
        for position in positions:
            is_global[start + position] = True
    return PackedBatch(input_ids, cu_seqlens, is_global).to(device)


def pack(
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    global_attention_mask: Tensor | None,
    shape: tuple[int, int],
    device: torch.device,
    *,
    trim: bool = False,
) -> PackedBatch:
    """Pack a padded batch of `shape` (B, N), reading the two masks as the reference does.

    The reference merges the masks as `attention_mask * (global_attention_mask + 1)`: 0 or less hides a token from the
    encoder, 1 shows it, 2 or more makes it global. Cross-attention reads `attention_mask` alone.

    `trim` drops what follows a document's last unhidden token; without it every column is kept, so that the hidden
    ones come out as the reference computes them.

    Raises:
        ValueError: the batch has no documents or no columns.
    """
    if 0 in shape:
        raise ValueError(f"the batch has {shape[0]} documents of {shape[1]} tokens; it must have at least one of each.")
    mask = torch.ones(shape, dtype=torch.long, device=device) if attention_mask is None else attention_mask.long()
    merged = mask if global_attention_mask is None else mask * (global_attention_mask.long() + 1)
    lengths = [shape[1]] * shape[0]
    if trim:
        columns = torch.arange(1, shape[1] + 1, device=device)
        lengths = [n or shape[1] for n in ((mask != 0) * columns).amax(1).tolist()]
    keep = torch.arange(shape[1], device=device) < torch.tensor(lengths, device=device)[:, None]
    is_visible, is_remembered = (merged > 0)[keep], (mask != 0)[keep]
    return PackedBatch(
        None if input_ids is None else input_ids[keep],
        cumulative(lengths),
        (merged > 1)[keep],
        None if bool(is_visible.all()) else is_visible,
        None if bool(is_remembered.all()) else is_remembered,
    )


def unpack(x_TD: Tensor, cu_seqlens: Sequence[int]) -> Tensor:
    """(T, D) to (B, N, D), zero beyond each document's end; N is the longest document."""
    documents = [x_TD[start:end] for start, end in pairwise(cu_seqlens)]
    return torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
