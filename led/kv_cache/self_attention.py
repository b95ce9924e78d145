"""The self-attention KV cache: keys and values of the tokens that each row has written.

When beams change places, `reorder` moves only the rows that change, and only from the first position where
they differ. `static_self_attention.py` moves rows only when a document finishes.

Shapes: R rows, H heads, S positions, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from led.ops.decoder_attention import causal_self_attention, self_attention


class SelfAttentionCache:
    """Keys and values per layer, (R, H, capacity, D). Rows may have different lengths.

    `lengths` (R,) counts the positions of each row. Every layer writes new positions with `attend` or
    `append`, and the decoder counts them with `advance` after its last layer.
    """

    GROWTH = 64

    def __init__(self, layers: int) -> None:
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self.lengths = torch.zeros(0, dtype=torch.long)
        # (R, capacity) the row that wrote each position. Rows of one document with the same writer hold the
        # same there.
        self._cache_indirection = torch.zeros(0, 0, dtype=torch.long)
        self._max_length = 0
        self._uniform = True

    @property
    def max_length(self) -> int:
        """Positions of the longest row."""
        return self._max_length

    @property
    def is_uniform(self) -> bool:
        """Whether all rows have the same length."""
        return self._uniform

    def __len__(self) -> int:
        return len(self._keys)

    def add_rows(self, rows: int) -> None:
        """Add empty rows at the end."""
        empty = SelfAttentionCache(len(self._keys))
        empty.lengths = torch.zeros(rows, dtype=torch.long)
        empty._cache_indirection = torch.zeros(rows, 0, dtype=torch.long)
        self.join(empty)

    def join(self, other: SelfAttentionCache) -> None:
        """Add the rows of `other` at the end."""
        for buffers, others in ((self._keys, other._keys), (self._values, other._values)):
            for i in range(len(buffers)):
                buffers[i] = _stack(buffers[i], len(self.lengths), others[i], len(other.lengths))
        tables = self._cache_indirection, other._cache_indirection
        columns = max(table.shape[1] for table in tables)
        self._cache_indirection = torch.cat([_pad_columns(table, columns) for table in tables])
        self._set_lengths(torch.cat([self.lengths, other.lengths]))

    def reorder(self, beam_idx: Tensor) -> None:
        """Make row r a copy of row `beam_idx[r]`. The number of rows may change, and an index may repeat."""
        beam_idx = beam_idx.cpu()
        if len(beam_idx) == len(self.lengths):
            return self._reorder_in_place(beam_idx)
        self._set_lengths(self.lengths[beam_idx])
        self._cache_indirection = self._cache_indirection[beam_idx]
        for buffers in (self._keys, self._values):
            for i, x in enumerate(buffers):
                if x is not None:
                    buffers[i] = x.index_select(0, beam_idx.to(x.device))

    def _reorder_in_place(self, beam_idx: Tensor) -> None:
        """`reorder` of as many rows as there are: copies only the rows that change, from where they
        differ."""
        moved = (beam_idx != torch.arange(len(beam_idx))).nonzero()[:, 0]
        sources, held = beam_idx[moved], self.max_length
        table = self._cache_indirection
        differ = (table[moved, :held] != table[sources, :held]).any(0).nonzero()
        if not len(differ):
            return
        start = int(differ[0])
        self._set_lengths(self.lengths[beam_idx])
        self._cache_indirection = table[beam_idx]
        for buffers in (self._keys, self._values):
            for x in buffers:
                if x is not None:
                    x[moved.to(x.device), :, start:held] = x[sources.to(x.device), :, start:held]

    def layer(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of a layer up to the longest row, (R, H, S, D) each. None before the first
        position."""
        keys, values = self._keys[layer], self._values[layer]
        if keys is None or values is None:
            return None
        return keys[:, :, : self.max_length], values[:, :, : self.max_length]

    def append(self, layer: int, key_RHTD: Tensor, value_RHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Write T new positions of every row. Returns keys and values up to the longest row, (R, H, S, D)."""
        end = self.max_length + key_RHTD.shape[2]
        return self._write(self._keys, layer, key_RHTD, end), self._write(
            self._values, layer, value_RHTD, end
        )

    def attend(
        self,
        layer: int,
        query_RHTD: Tensor,
        key_RHTD: Tensor,
        value_RHTD: Tensor,
        mask: Tensor | None,
        dropout: float,
    ) -> Tensor:
        """(R, H, T, D) T new positions of every row, which are written, over themselves and those before
        them."""
        key_RHSD, value_RHSD = self.append(layer, key_RHTD, value_RHTD)
        return self_attention(query_RHTD, key_RHSD, value_RHSD, mask, dropout)

    def advance(self, positions: int) -> None:
        """Count `positions` more for every row."""
        columns = self.lengths[:, None] + torch.arange(positions)
        if self._cache_indirection.shape[1] < self.max_length + positions:
            width = self.max_length + positions + self.GROWTH
            self._cache_indirection = _pad_columns(self._cache_indirection, width)
        own = torch.arange(len(columns))[:, None].expand_as(columns)
        self._cache_indirection.scatter_(1, columns, own)
        self.lengths += positions
        self._max_length += positions

    def mask(self, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """(R, 1, 1, S) hides positions after each row's length in a step of one token. None if rows are
        uniform."""
        if self.is_uniform:
            return None
        beyond = torch.arange(self.max_length + 1)[None, :] > self.lengths[:, None]
        mask = torch.zeros(beyond.shape, dtype=dtype).masked_fill_(beyond, torch.finfo(dtype).min)
        return mask[:, None, None, :].to(device)

    def _set_lengths(self, lengths: Tensor) -> None:
        self.lengths = lengths
        self._max_length = int(lengths.max()) if len(lengths) else 0
        self._uniform = bool((lengths == self._max_length).all())

    def _write(self, buffers: list[Tensor | None], layer: int, x_RHTD: Tensor, end: int) -> Tensor:
        rows, heads, new, size = x_RHTD.shape
        if len(self.lengths) != rows:
            raise ValueError(f"the KV cache has {len(self.lengths)} rows; it was given {rows}.")
        buffer = buffers[layer]
        if buffer is None or buffer.shape[2] < end:
            grown = x_RHTD.new_zeros(rows, heads, end + self.GROWTH, size)
            if buffer is not None:
                grown[:, :, : buffer.shape[2]] = buffer
            buffer = buffers[layer] = grown
        if self.is_uniform:
            buffer[:, :, end - new : end] = x_RHTD
        else:
            columns = self.lengths[:, None] + torch.arange(new)[None, :]
            buffer[torch.arange(rows)[:, None], :, columns] = x_RHTD.transpose(1, 2)
        return buffer[:, :, :end]


class PackedSelfAttention:
    """Causal self-attention without a cache, over one packed row that holds a document after another."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = list(lengths)

    def attend(
        self,
        layer: int,
        query_1HTD: Tensor,
        key_1HTD: Tensor,
        value_1HTD: Tensor,
        mask: Tensor | None,
        dropout: float,
    ) -> Tensor:
        """(1, H, T, D) each document's tokens over those before them."""
        documents = zip(*(x.split(self._lengths, 2) for x in (query_1HTD, key_1HTD, value_1HTD)), strict=True)
        return torch.cat([causal_self_attention(q, k, v, dropout) for q, k, v in documents], 2)


def _pad_columns(table: Tensor, columns: int) -> Tensor:
    """A table (R, C) with zeros appended up to `columns` columns."""
    return torch.nn.functional.pad(table, (0, columns - table.shape[1]))


def _stack(upper: Tensor | None, upper_rows: int, lower: Tensor | None, lower_rows: int) -> Tensor | None:
    """Two buffers (R, H, capacity, D) as one with the larger capacity. None stands for empty rows."""
    model = upper if upper is not None else lower
    if model is None:
        return None
    parts = [(upper, upper_rows), (lower, lower_rows)]
    capacity = max(x.shape[2] for x, _ in parts if x is not None)
    stacked = model.new_zeros(upper_rows + lower_rows, model.shape[1], capacity, model.shape[3])
    for (x, rows), start in zip(parts, (0, upper_rows), strict=True):
        if x is not None:
            stacked[start : start + rows, :, : x.shape[2]] = x
    return stacked
