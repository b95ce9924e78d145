"""The static self-attention KV cache: written tokens at fixed addresses, for captured CUDA graphs.

KV is never moved on a beam reorder (cache indirection, as in TensorRT-LLM): `cache_indirection[r, c]` names
the row that holds position c of row r. Only the compaction after a document has finished moves rows.

Shapes: R rows, H heads, C positions that a row may write, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from led.ops.gpu_backends import self_attention_kernel


class StaticSelfAttentionCache:
    """Keys and values per layer, (R, H, C, D). The rows of a document are `rows_per_document` consecutive
    rows.

    `beam_idx` (R,) are the rows that the rows continue in the next step. `rows` and `positions` are the
    number of each that the next step reads.
    """

    def __init__(
        self,
        layers: int,
        like: Tensor,
        heads: int,
        max_documents: int,
        rows_per_document: int,
        max_length: int,
    ) -> None:
        rows, device = max_documents * rows_per_document, like.device
        shape = (rows, heads, max_length, like.shape[-1] // heads)
        self._layers = [(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(layers)]
        self._kernel = self_attention_kernel(device, like.dtype, shape[-1])
        self._rows_per_document = rows_per_document
        self._lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self._own = torch.arange(rows, device=device)
        self._columns = torch.arange(max_length, device=device)
        self._cache_indirection = self._own[:, None].repeat(1, max_length)
        self.beam_idx = self._own.clone()
        self._active = torch.zeros((), dtype=torch.long, device=device)
        self.rows, self.positions = rows, max_length

    @property
    def lengths(self) -> Tensor:
        """(rows,) positions that each row holds."""
        return self._lengths[: self.rows]

    @property
    def max_length(self) -> int:
        """Upper bound of the positions before the new one."""
        return self.positions - 1

    def apply_beam_idx(self) -> None:
        """Let every row continue row `beam_idx[r]`. Its next positions are its own. Padding slots are
        reset to length 0."""
        self.lengths.masked_fill_(self._own[: self.rows] >= self._active, 0)
        table = self._cache_indirection[: self.rows, : self.positions]
        held = self._columns[: self.positions] < self.lengths[:, None]
        table.copy_(torch.where(held, table[self.beam_idx[: self.rows]], self._own[: self.rows, None]))

    def attend(
        self,
        layer: int,
        query_RHTD: Tensor,
        key_RHTD: Tensor,
        value_RHTD: Tensor,
        mask: Tensor | None,
        dropout: float,
    ) -> Tensor:
        """(R, H, 1, D) the rows' new positions, which are written, over themselves and those before them.

        For inference only, so mask and dropout are ignored.
        """
        query, key, value = (x[:, :, 0] for x in (query_RHTD, key_RHTD, value_RHTD))
        table = self._cache_indirection[: self.rows, : self.positions]
        return self._kernel(query, (key, value), *self._layers[layer], table, self.lengths)[:, :, None]

    def advance(self, positions: int) -> None:
        """Count `positions` more for every row."""
        self.lengths.add_(positions)

    def mask(self, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """None: the kernel reads each row up to its length."""

    def clear(self, rows: slice) -> None:
        """Empty these rows."""
        self._lengths[rows] = 0
        self.beam_idx[rows] = self._own[rows]
        self._cache_indirection[rows] = self._own[rows, None]
        for keys, values in self._layers:
            keys[rows], values[rows] = 0.0, 0.0

    def fill(self, rows: slice, layers: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        """Copy keys and values (rows, H, S, D) per layer into these rows."""
        for buffers, written in zip(self._layers, layers, strict=True):
            assert written is not None
            for buffer, x in zip(buffers, written, strict=True):
                buffer[rows, :, : x.shape[2]] = x
            self._lengths[rows] = written[0].shape[2]

    def compact(self, documents: Sequence[int], beam_idx: Tensor) -> None:
        """Keep the rows of these documents, in this order, each continuing row `beam_idx`, and move them
        together."""
        self._lengths[: len(beam_idx)] = self._lengths[beam_idx]
        self._cache_indirection[: len(beam_idx)] = self._cache_indirection[beam_idx]
        self.beam_idx.copy_(self._own)
        moved = [slot for slot, document in enumerate(documents) if slot != document]
        if moved:
            rows, sources = (self._rows_of(x) for x in (moved, [documents[slot] for slot in moved]))
            self._cache_indirection[rows] += (rows - sources)[:, None]
            for buffers in self._layers:
                for x in buffers:
                    x[rows, :, : self.positions] = x[sources, :, : self.positions]

    def _rows_of(self, documents: Sequence[int]) -> Tensor:
        first = torch.tensor(documents, device=self._own.device) * self._rows_per_document
        return (first[:, None] + self._own[: self._rows_per_document]).flatten()

    def set_active_rows(self, rows: int) -> None:
        """Make the rows from this number on padding slots."""
        self._active.fill_(rows)
