"""Packed batches: documents laid end to end, without padding.

Padding exists only at the edge of the public `forward`, where `pack` and `unpack` convert.

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

    `input_ids` (T,) int64, or None if embeddings are given instead.
    `cu_seqlens` (B + 1): document d has tokens `cu_seqlens[d]` to `cu_seqlens[d + 1]`, exclusive.
    `is_global` (T,) bool: tokens with global attention.
    `is_visible` (T,) bool, or None for all: tokens that the encoder may attend to. A hidden token keeps its
    position.
    `is_cross_visible` (T,) bool, or None for all: tokens that cross-attention may attend to.
    `inputs_embeds` (T, E) or None: embeddings that replace `input_ids`.
    `encoder_states` (T, E) or None: the encoder's output, if it is known already.
    """

    input_ids: Tensor | None
    cu_seqlens: tuple[int, ...]
    is_global: Tensor
    is_visible: Tensor | None = None
    is_cross_visible: Tensor | None = None
    inputs_embeds: Tensor | None = None
    encoder_states: Tensor | None = None

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(start, end) of each document in the packed order, end exclusive."""
        return list(pairwise(self.cu_seqlens))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each document."""
        return [end - start for start, end in self.spans]

    @property
    def position_ids(self) -> Tensor:
        """(T,) the position of each token in its own document, from 0."""
        device, T = self.is_global.device, self.cu_seqlens[-1]
        starts, lengths = (torch.tensor(x, device=device) for x in (self.cu_seqlens[:-1], self.lengths))
        return torch.arange(T, device=device) - starts.repeat_interleave(lengths, output_size=T)

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on `device`. The copy to a GPU is asynchronous."""
        to_gpu = torch.device(device).type == "cuda" and not self.is_global.is_cuda

        def move(x: Tensor) -> Tensor:
            return (x.pin_memory() if to_gpu else x).to(device, non_blocking=to_gpu)

        optional = (self.is_visible, self.is_cross_visible, self.inputs_embeds, self.encoder_states)
        moved = (None if x is None else move(x) for x in optional)
        ids = None if self.input_ids is None else move(self.input_ids)
        return PackedBatch(ids, self.cu_seqlens, move(self.is_global), *moved)

    def documents(self) -> list[PackedBatch]:
        """Each document as a batch of its own."""

        def rows(x: Tensor | None, start: int, end: int) -> Tensor | None:
            return None if x is None else x[start:end]

        return [
            PackedBatch(
                rows(self.input_ids, start, end),
                (0, end - start),
                self.is_global[start:end],
                rows(self.is_visible, start, end),
                rows(self.is_cross_visible, start, end),
                rows(self.inputs_embeds, start, end),
                rows(self.encoder_states, start, end),
            )
            for start, end in self.spans
        ]


def concatenate(batches: Sequence[PackedBatch]) -> PackedBatch:
    """Several batches as one. All have token ids, or all have embeddings or states."""

    def cat(parts: Sequence[Tensor | None]) -> Tensor | None:
        present = [x for x in parts if x is not None]
        return torch.cat(present) if present else None

    def join(masks: Sequence[Tensor | None]) -> Tensor | None:
        if all(mask is None for mask in masks):
            return None
        pairs = zip(batches, masks, strict=True)
        return torch.cat(
            [torch.ones_like(batch.is_global) if mask is None else mask for batch, mask in pairs]
        )

    return PackedBatch(
        cat([batch.input_ids for batch in batches]),
        cumulative([n for batch in batches for n in batch.lengths]),
        torch.cat([batch.is_global for batch in batches]),
        join([batch.is_visible for batch in batches]),
        join([batch.is_cross_visible for batch in batches]),
        cat([batch.inputs_embeds for batch in batches]),
        cat([batch.encoder_states for batch in batches]),
    )


def cumulative(lengths: Sequence[int]) -> tuple[int, ...]:
    """`cu_seqlens` of documents of these lengths."""
    ends = [0]
    for n in lengths:
        ends.append(ends[-1] + n)
    return tuple(ends)


def pack_documents(
    documents: Sequence[Sequence[int]],
    global_positions: Sequence[Sequence[int]],
    device: torch.device | str = "cpu",
) -> PackedBatch:
    """Pack documents given as lists of token ids. `global_positions` are positions within each document."""
    cu_seqlens = cumulative([len(document) for document in documents])
    input_ids = torch.tensor([token for document in documents for token in document], dtype=torch.long)
    is_global = torch.zeros(len(input_ids), dtype=torch.bool)
    starts = zip(cu_seqlens, global_positions, strict=False)
    is_global[[start + position for start, positions in starts for position in positions]] = True
    return PackedBatch(input_ids, cu_seqlens, is_global).to(device)


def pack(
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    global_attention_mask: Tensor | None,
    shape: tuple[int, int],
    device: torch.device,
    *,
    trim: bool = False,
    inputs_embeds: Tensor | None = None,
    encoder_states: Tensor | None = None,
) -> PackedBatch:
    """Pack a padded batch of `shape` (B, N). The two masks mean what they mean in the reference.

    The reference merges the masks as `attention_mask * (global_attention_mask + 1)`. A value of 0 or less
    hides a token from the encoder, 1 shows it, and 2 or more makes it global. Cross-attention uses
    `attention_mask` alone.

    `inputs_embeds` or `encoder_states` (B, N, E) may replace `input_ids`.

    `trim` drops the columns after a document's last visible token. Without it every column is kept, so the
    hidden tokens get the values that the reference computes.

    Raises:
        ValueError: the batch has no documents or no columns.
    """
    if 0 in shape:
        raise ValueError(
            f"the batch has {shape[0]} documents of {shape[1]} tokens; it must have at least one of each."
        )
    mask = (
        torch.ones(shape, dtype=torch.long, device=device)
        if attention_mask is None
        else attention_mask.long()
    )
    merged = mask if global_attention_mask is None else mask * (global_attention_mask.long() + 1)
    lengths = [shape[1]] * shape[0]
    if trim:
        columns = torch.arange(1, shape[1] + 1, device=device)
        lengths = [n or shape[1] for n in ((mask != 0) * columns).amax(1).tolist()]
    keep = torch.arange(shape[1], device=device) < torch.tensor(lengths, device=device)[:, None]
    is_visible, is_cross_visible = (merged > 0)[keep], (mask != 0)[keep]
    return PackedBatch(
        None if input_ids is None else input_ids[keep],
        cumulative(lengths),
        (merged > 1)[keep],
        None if bool(is_visible.all()) else is_visible,
        None if bool(is_cross_visible.all()) else is_cross_visible,
        None if inputs_embeds is None else inputs_embeds[keep],
        None if encoder_states is None else encoder_states[keep],
    )


def unpack(x_TD: Tensor, cu_seqlens: Sequence[int]) -> Tensor:
    """(T, D) to (B, N, D), zero after each document's end. N is the length of the longest document."""
    documents = [x_TD[start:end] for start, end in pairwise(cu_seqlens)]
    return torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
