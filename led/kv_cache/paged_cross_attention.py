"""The paged cross-attention KV cache: documents in a pool of pages at fixed addresses (PagedAttention,
arXiv:2309.06180).

Pages are assigned to documents and freed again. A captured CUDA graph reads the page table from the device,
so it stays valid whichever documents are decoded.

Shapes: S documents, P pages of `PAGE` tokens, H heads, D head size, T tokens of a packed batch, E = d_model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from led.batch.packed_batch import PackedBatch
from led.kv_cache.cross_attention import DocumentKV, KeysValues
from led.ops.gpu_backends import PAGE, paged_attention_kernel

# The key and value projections of each decoder layer's cross-attention.
Projections = Sequence[tuple[nn.Module, nn.Module]]


def pages_for(tokens: int) -> int:
    """Pages that hold this many tokens."""
    return -(-max(1, tokens) // PAGE)


class PagedCrossAttentionCache:
    """Keys and values of documents in pages, (P, PAGE, H, D) per layer.

    `documents` and `pages` are the number of each that the next step reads.
    """

    def __init__(
        self,
        projections: Projections,
        like: Tensor,
        heads: int,
        max_documents: int,
        max_tokens: int,
        pages: int,
    ) -> None:
        shape = (pages, PAGE, heads, like.shape[-1] // heads)
        self._projections = projections
        self._pools = [(like.new_zeros(shape), like.new_zeros(shape)) for _ in projections]
        self._kernel = paged_attention_kernel(like.device, like.dtype, shape[-1])
        self._free = list(range(pages))
        self._held: list[list[int]] = []
        self._table = torch.zeros(max_documents, pages_for(max_tokens), dtype=torch.int32, device=like.device)
        self._tokens = torch.ones(max_documents, dtype=torch.int32, device=like.device)
        self.documents, self.pages = 1, 1

    def __len__(self) -> int:
        return len(self._held)

    @property
    def most_pages(self) -> int:
        """Pages of the longest document."""
        return max(map(len, self._held), default=1)

    def has_room(self, lengths: Sequence[int]) -> bool:
        """Whether there are free slots and pages for documents of these lengths."""
        return len(self) + len(lengths) <= len(self._table) and sum(map(pages_for, lengths)) <= len(
            self._free
        )

    def add(self, encoder_TE: Tensor, batch: PackedBatch) -> None:
        """Project the encoder states of a batch, and write its documents into free pages."""
        device, first = encoder_TE.device, len(self)
        visible = None if batch.is_cross_visible is None else batch.is_cross_visible.cpu()
        kept, fully_masked = [], []
        for start, end in batch.spans:
            own = torch.arange(start, end) if visible is None else start + visible[start:end].nonzero()[:, 0]
            # A document without any visible token is attended to evenly, as in the reference: all its keys
            # are zero.
            fully_masked.append(not len(own))
            kept.append(torch.arange(start, end) if fully_masked[-1] else own)
            self._held.append([self._free.pop() for _ in range(pages_for(len(kept[-1])))])
        pages = [torch.tensor(held) for held in self._held[first:]]
        pairs = zip(pages, kept, strict=True)
        slots = torch.cat(
            [(own[:, None] * PAGE + torch.arange(PAGE)).flatten()[: len(k)] for own, k in pairs]
        )
        rows = torch.nn.utils.rnn.pad_sequence(pages, batch_first=True)
        self._table[first : len(self), : rows.shape[1]] = rows.to(device, torch.int32)
        self._tokens[first : len(self)] = torch.tensor(
            [len(k) for k in kept], dtype=torch.int32, device=device
        )
        tokens = None if visible is None else torch.cat(kept).to(device)
        zeroed = [span for span, masked in zip(batch.spans, fully_masked, strict=True) if masked]
        self._write(encoder_TE, slots.to(device), tokens, zeroed)

    def _write(
        self, encoder_TE: Tensor, slots: Tensor, tokens: Tensor | None, zeroed: Sequence[tuple[int, int]]
    ) -> None:
        """Project the states and write those of `tokens`, or all, to `slots`. The keys of `zeroed` spans
        become 0."""
        for (project_keys, project_values), pools in zip(self._projections, self._pools, strict=True):
            keys, values = project_keys(encoder_TE), project_values(encoder_TE)
            for start, end in zeroed:
                keys[start:end] = 0.0
            for pool, rows in zip(pools, (keys, values), strict=True):
                pool.view(-1, rows.shape[1]).index_copy_(0, slots, rows if tokens is None else rows[tokens])

    def retain(self, documents: Sequence[int]) -> None:
        """Keep these documents, in this order, and free the pages of the others."""
        kept = set(documents)
        self._free += [page for d, pages in enumerate(self._held) if d not in kept for page in pages]
        self._held = [self._held[d] for d in documents]
        order = torch.tensor(documents, dtype=torch.long, device=self._table.device)
        for x, padding in ((self._table, 0), (self._tokens, 1)):
            x[: len(documents)] = x[order]
            x[len(documents) :] = padding  # padding slots read one token of page 0

    def document(self, index: int) -> DocumentKV:
        """A copy of one document's keys and values, gathered from its pages."""
        pages, tokens = torch.tensor(self._held[index]), int(self._tokens[index])
        gathered = (
            [pool[pages.to(pool.device)].flatten(0, 1)[:tokens].transpose(0, 1) for pool in pools]
            for pools in self._pools
        )
        return DocumentKV([KeysValues(*pair) for pair in gathered])

    def attend(self, layer: int, query_RHTD: Tensor, dropout: float) -> Tensor:
        """(R, H, 1, D) the rows over their documents. For inference only, so dropout is ignored."""
        keys, values = self._pools[layer]
        table, tokens = self._table[: self.documents, : self.pages], self._tokens[: self.documents]
        return self._kernel(query_RHTD[:, :, 0], keys, values, table, tokens)[:, :, None]
