"""What decoding remembers: each row's own past, and each document's encoder memory.

The memory of a document is stored once and read by all its beams; it is never copied per beam and never reordered. The
past of a row is reordered by index when beams change places, and rows may have different lengths.

Shapes: R rows, H heads, S positions, D head size, n tokens of one document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from led.keys_values import LayerMemory
from led.plain import attend, self_attention


class Past(Protocol):
    """What each row has decoded: see `SelfAttentionCache`."""

    @property
    def lengths(self) -> Tensor: ...

    @property
    def longest(self) -> int: ...

    def read(
        self, layer: int, query_RHTD: Tensor, key_RHTD: Tensor, value_RHTD: Tensor, mask: Tensor | None, dropout: float
    ) -> Tensor: ...

    def advance(self, positions: int) -> None: ...

    def mask(self, dtype: torch.dtype, device: torch.device) -> Tensor | None: ...


class Memories(Protocol):
    """What the encoder made of the documents being decoded."""

    def read(self, layer: int, query_RHTD: Tensor, dropout: float) -> Tensor:
        """(R, H, T, D) what the rows read; those of a document follow one another and are as many for each."""


class DecoderState(Protocol):
    """The state of a decoder between steps."""

    @property
    def past(self) -> Past: ...

    @property
    def memories(self) -> Memories: ...


@dataclass
class DocumentMemory:
    """Cross-attention keys and values of one document, per decoder layer.

    `mask` (n,) is added to the scores, or None where every token may be attended to; where none may, it is true throughout.
    """

    layers: list[LayerMemory]
    mask: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(layer.nbytes for layer in self.layers)


class DocumentMemories(list[DocumentMemory]):
    """The memories of documents, one after the other, each read by itself."""

    def read(self, layer: int, query_RHTD: Tensor, dropout: float) -> Tensor:
        """(R, H, T, D) what the rows read: those of a document, all positions and beams together, are one query."""
        per_document = len(query_RHTD) // len(self)
        reads = []
        for q, memory in zip(query_RHTD.split(per_document), self, strict=True):
            if memory.mask is not None and memory.mask.dtype == torch.bool:
                k, v = memory.layers[layer]
                reads.append(attend(q, k.to(q.dtype), v.to(q.dtype), memory.mask, dropout)[0])
                continue
            read_HRD = memory.layers[layer].read(q.transpose(0, 1).flatten(1, 2), memory.mask, dropout)
            reads.append(read_HRD.unflatten(1, q.shape[0::2]).transpose(0, 1))
        return torch.cat(reads)


class SelfAttentionCache:
    """Keys and values of the positions each row has decoded, per layer (R, H, capacity, D).

    `lengths` (R,) counts the positions a row holds. Positions are written by `append`, which every layer calls once a
    step, and counted by `advance`, which the decoder calls after its last layer.
    """

    GROWTH = 64

    def __init__(self, layers: int) -> None:
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers
        self.lengths = torch.zeros(0, dtype=torch.long)
        # (R, capacity) which row wrote a position; rows of one document that name the same writer hold the same there.
        self._writers = torch.zeros(0, 0, dtype=torch.long)
        self._longest = 0
        self._even = True

    @property
    def longest(self) -> int:
        """Positions of the longest row."""
        return self._longest

    @property
    def even(self) -> bool:
        """Have all rows the same length?"""
        return self._even

    def extend(self, rows: int) -> None:
        """Add empty rows at the end."""
        empty = SelfAttentionCache(len(self._keys))
        empty.lengths, empty._writers = torch.zeros(rows, dtype=torch.long), torch.zeros(rows, 0, dtype=torch.long)
        self.join(empty)

    def join(self, other: SelfAttentionCache) -> None:
        """Add the rows of `other` at the end."""
        for mine, theirs in ((self._keys, other._keys), (self._values, other._values)):
            for i in range(len(mine)):
                mine[i] = _stack(mine[i], len(self.lengths), theirs[i], len(other.lengths))
        both = self._writers, other._writers
        self._writers = torch.cat([_widened(x, max(table.shape[1] for table in both)) for x in both])
        self._set_lengths(torch.cat([self.lengths, other.lengths]))

    def select(self, rows: Tensor) -> None:
        """Keep the rows at these indices, in this order; an index may repeat."""
        rows = rows.cpu()
        if len(rows) == len(self.lengths):
            return self._rearrange(rows)
        self._set_lengths(self.lengths[rows])
        self._writers = self._writers[rows]
        for buffers in (self._keys, self._values):
            for i, x in enumerate(buffers):
                if x is not None:
                    buffers[i] = x.index_select(0, rows.to(x.device))

    def _rearrange(self, rows: Tensor) -> None:
        """`select` of as many rows as there are: only those that change are moved, and only from where they differ."""
        moved = (rows != torch.arange(len(rows))).nonzero()[:, 0]
        sources, held = rows[moved], self.longest
        differ = (self._writers[moved, :held] != self._writers[sources, :held]).any(0).nonzero()
        if not len(differ):
            return
        start = int(differ[0])
        self._set_lengths(self.lengths[rows])
        self._writers = self._writers[rows]
        for buffers in (self._keys, self._values):
            for x in buffers:
                if x is not None:
                    x[moved.to(x.device), :, start:held] = x[sources.to(x.device), :, start:held]

    def layer(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values of a layer up to the longest row, (R, H, S, D) each; None before the first position."""
        keys, values = self._keys[layer], self._values[layer]
        return None if keys is None or values is None else (keys[:, :, : self.longest], values[:, :, : self.longest])

    def __len__(self) -> int:
        return len(self._keys)

    def append(self, layer: int, key_RHTD: Tensor, value_RHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Write T new positions of every row; return keys and values up to the longest row, (R, H, S, D)."""
        end = self.longest + key_RHTD.shape[2]
        return self._write(self._keys, layer, key_RHTD, end), self._write(self._values, layer, value_RHTD, end)

    def read(
        self, layer: int, query_RHTD: Tensor, key_RHTD: Tensor, value_RHTD: Tensor, mask: Tensor | None, dropout: float
    ) -> Tensor:
        """(R, H, T, D) what T new positions of every row read, which are written, from themselves and those before them."""
        return self_attention(query_RHTD, *self.append(layer, key_RHTD, value_RHTD), mask, dropout)

    def advance(self, positions: int) -> None:
        """Count `positions` more for every row."""
        places = self.lengths[:, None] + torch.arange(positions)
        if self._writers.shape[1] < self.longest + positions:
            self._writers = _widened(self._writers, self.longest + positions + self.GROWTH)
        self._writers.scatter_(1, places, torch.arange(len(places))[:, None].expand_as(places))
        self.lengths += positions
        self._longest += positions

    def mask(self, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """(R, 1, 1, S) hides what lies beyond each row's length during a step of one token; None where rows are even."""
        if self.even:
            return None
        beyond = torch.arange(self.longest + 1)[None, :] > self.lengths[:, None]
        mask = torch.zeros(beyond.shape, dtype=dtype).masked_fill_(beyond, torch.finfo(dtype).min)
        return mask[:, None, None, :].to(device)

    def _set_lengths(self, lengths: Tensor) -> None:
        self.lengths = lengths
        self._longest = int(lengths.max()) if len(lengths) else 0
        self._even = bool((lengths == self._longest).all())

    def _write(self, buffers: list[Tensor | None], layer: int, x_RHTD: Tensor, end: int) -> Tensor:
        rows, heads, new, size = x_RHTD.shape
        if len(self.lengths) != rows:
            raise ValueError(f"the cache has {len(self.lengths)} rows and was given {rows}.")
        buffer = buffers[layer]
        if buffer is None or buffer.shape[2] < end:
            grown = x_RHTD.new_zeros(rows, heads, end + self.GROWTH, size)
            if buffer is not None:
                grown[:, :, : buffer.shape[2]] = buffer
            buffer = buffers[layer] = grown
        if self.even:
            buffer[:, :, end - new : end] = x_RHTD
        else:
            places = self.lengths[:, None] + torch.arange(new)[None, :]
            buffer[torch.arange(rows)[:, None], :, places] = x_RHTD.transpose(1, 2)
        return buffer[:, :, :end]


def _widened(table: Tensor, columns: int) -> Tensor:
    """A table (R, C) with so many columns, zeros in the new ones."""
    return torch.nn.functional.pad(table, (0, columns - table.shape[1]))


def _stack(upper: Tensor | None, upper_rows: int, lower: Tensor | None, lower_rows: int) -> Tensor | None:
    """Two buffers (R, H, capacity, D) as one with the larger capacity; an absent one counts as empty rows."""
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


@dataclass
class DecoderCache:
    """The state of a decoder between steps: the rows' past and the documents' memories, one after the other.

    The rows of document d are the d-th group of `len(lengths) / len(memories)` consecutive rows.
    """

    past: SelfAttentionCache
    memories: DocumentMemories = field(default_factory=DocumentMemories)

    def get_seq_length(self) -> int:
        """Positions of the longest row."""
        return self.past.longest

    def to_legacy_cache(self) -> tuple[tuple[Tensor, ...], ...]:
        """Per layer (own keys, own values, cross keys, cross values): (R, H, S, D) twice and (B, H, n, D) twice.

        Raises:
            ValueError: nothing was decoded yet, or documents differ in length.
        """
        layers = []
        for i in range(len(self.past)):
            own, pairs = self.past.layer(i), [tuple(memory.layers[i]) for memory in self.memories]
            if own is None or len({keys.shape for keys, _ in pairs}) != 1:
                raise ValueError("the cache as tuples needs a decoded position and documents of equal length.")
            layers.append((*own, *(torch.stack(each) for each in zip(*pairs, strict=True))))
        return tuple(layers)

    def join(self, other: DecoderCache) -> None:
        """Add the documents of `other`, with their rows, at the end."""
        self.memories.extend(other.memories)
        self.past.join(other.past)

    def retain(self, documents: Sequence[int], rows: Tensor) -> None:
        """Keep these documents with `rows` (R,), indices of rows in their documents' order; free the other memories."""
        self.memories = DocumentMemories(self.memories[d] for d in documents)
        self.past.select(rows)
