"""Decoding on a GPU: the documents' memories in pages, the rows' past in place, a step replayed as a CUDA graph.

Nothing here changes its address: pages are given to documents and taken back, rows are filled again, and what a step reads
of that (page tables, lengths, tokens, parents) stands in tensors on the device. So one recorded step serves every document
that ever stands in those rows, and a step costs one launch. Steps are recorded by bucket: documents, positions written, and
pages of the longest document, each rounded up.

On a CPU the same steps run unrecorded, which is how they are tested; `EagerStepper` is faster there.

Shapes: R rows, `rows` of them for each of S documents; H heads, D head size, C positions a row may write; T tokens of a
packed batch; P pages of `PAGE` tokens; L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from led.cache import DocumentMemory
from led.gpu_attention import PAGE, page_kernel
from led.keys_values import KeysValues
from led.packing import PackedBatch

if TYPE_CHECKING:
    from led.model import LEDForConditionalGeneration

# Positions of a row are rounded up to this: the steps of 64 positions share a recording.
_POSITIONS = 64


class PagedMemories:
    """Memories of documents in a pool of pages, (P, PAGE, H, D) keys and values per layer.

    `documents`, `pages`: how many of each the next step looks at.
    """

    def __init__(self, model: LEDForConditionalGeneration, documents: int, pages: int) -> None:
        config, like = model.config, model.led.shared.weight
        heads = config.decoder_attention_heads
        shape = (pages, PAGE, heads, config.d_model // heads)
        self._decoder = model.led.decoder
        self._pools = [(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(config.decoder_layers)]
        self._kernel = page_kernel(like.device, like.dtype)
        self._free = list(range(pages))
        self._held: list[list[int]] = []
        self._table = torch.zeros(documents, pages, dtype=torch.int32, device=like.device)
        self._tokens = torch.ones(documents, dtype=torch.int32, device=like.device)
        self.documents, self.pages = 1, 1

    def __len__(self) -> int:
        return len(self._held)

    @property
    def longest(self) -> int:
        """Pages of the longest document."""
        return max(map(len, self._held), default=1)

    def has_room(self, lengths: Sequence[int]) -> bool:
        """Are there rows of the table and pages for documents of these lengths?"""
        return len(self) + len(lengths) <= len(self._table) and sum(map(pages_of, lengths)) <= len(self._free)

    def add(self, encoder_TE: Tensor, batch: PackedBatch) -> None:
        """Write the memories of a batch's documents into free pages."""
        places, kept, blind = [], [], []
        for start, end in batch.spans:
            shown = None if batch.is_remembered is None else batch.is_remembered[start:end].nonzero()[:, 0]
            # A document whose every token is hidden is read evenly (as by the reference): with keys that are all alike.
            blind.append(shown is not None and not len(shown))
            mine = torch.arange(end - start, device=encoder_TE.device) if shown is None or blind[-1] else shown
            pages = [self._free.pop() for _ in range(pages_of(len(mine)))]
            row = len(self._held)
            self._held.append(pages)
            self._table[row, : len(pages)] = torch.tensor(pages, dtype=torch.int32)
            self._tokens[row] = len(mine)
            slots = (torch.tensor(pages)[:, None] * PAGE + torch.arange(PAGE)).flatten()[: len(mine)]
            places.append(slots.to(encoder_TE.device))
            kept.append(start + mine)
        tokens, slots = torch.cat(kept), torch.cat(places)
        even = torch.tensor([b for b, mine in zip(blind, kept, strict=True) for _ in range(len(mine))], device=slots.device)
        for layer, (keys, values) in zip(self._decoder.decoder_layers, self._pools, strict=True):
            attention = layer.encoder_attn
            for pool, project in ((keys, attention.k_proj), (values, attention.v_proj)):
                rows = project(encoder_TE)[tokens].view(len(tokens), *pool.shape[2:])
                if pool is keys and any(blind):
                    rows = rows.masked_fill(even[:, None, None], 0.0)
                pool.view(-1, *pool.shape[2:])[slots] = rows

    def retain(self, documents: Sequence[int]) -> None:
        """Keep these documents, in this order; the pages of the others are free."""
        kept = set(documents)
        self._free += [page for d, pages in enumerate(self._held) if d not in kept for page in pages]
        self._held = [self._held[d] for d in documents]
        order = torch.tensor(documents, dtype=torch.long, device=self._table.device)
        for x in (self._table, self._tokens):
            x[: len(documents)] = x[order]

    def memory_of(self, document: int) -> DocumentMemory:
        """The memory of a document, gathered from its pages."""
        pages, tokens = torch.tensor(self._held[document]), int(self._tokens[document])
        gathered = (
            [pool[pages.to(pool.device)].flatten(0, 1)[:tokens].transpose(0, 1) for pool in pair] for pair in self._pools
        )
        return DocumentMemory([KeysValues(*pair) for pair in gathered])

    def prepare(self, documents: int, pages: int) -> None:
        """Let the next step look at so many rows and columns of the table; those of no document name a page of no matter."""
        self._table[len(self) : documents] = 0
        self._tokens[len(self) : documents] = 1
        self.documents, self.pages = documents, pages

    def read(self, layer: int, query_RHTD: Tensor, dropout: float) -> Tensor:
        """(R, H, 1, D) what the rows read; in inference only."""
        keys, values = self._pools[layer]
        table = self._table[: self.documents, : self.pages].contiguous()
        return self._kernel(query_RHTD[:, :, 0], keys, values, table, self._tokens[: self.documents])[:, :, None]


def pages_of(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-max(1, tokens) // PAGE)


class StaticPast:
    """What the rows have written, (R, H, C, D) keys and values per layer, at fixed addresses.

    `parents` (R,) are the rows that the rows go on from; each layer's rows move as it is reached. `rows` and `positions`:
    how many of each the next step looks at.
    """

    def __init__(self, model: LEDForConditionalGeneration, rows: int, max_length: int) -> None:
        config, like = model.config, model.led.shared.weight
        heads = config.decoder_attention_heads
        shape = (rows, heads, max_length, config.d_model // heads)
        self._layers = [(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(config.decoder_layers)]
        self._lengths = torch.zeros(rows, dtype=torch.long, device=like.device)
        self._itself = torch.arange(rows, device=like.device)
        self.parents = self._itself.clone()
        self.rows, self.positions = rows, max_length

    @property
    def lengths(self) -> Tensor:
        """(rows,) positions that each row holds."""
        return self._lengths[: self.rows]

    @property
    def longest(self) -> int:
        """Positions before the one being written, at most."""
        return self.positions - 1

    def append(self, layer: int, key_RHTD: Tensor, value_RHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Move the rows to their places, write one position of each; (R, H, positions, D) keys and values."""
        parents = self.parents[: self.rows]
        both = []
        for buffer, new in zip(self._layers[layer], (key_RHTD, value_RHTD), strict=True):
            mine = buffer[: self.rows, :, : self.positions]
            mine.copy_(buffer[:, :, : self.positions].index_select(0, parents))
            mine[self._itself[: self.rows], :, self.lengths] = new[:, :, 0]
            both.append(mine)
        return both[0], both[1]

    def advance(self, positions: int) -> None:
        """Count `positions` more for every row."""
        self.lengths.add_(positions)

    def mask(self, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """(R, 1, 1, positions) hides what lies beyond each row's length."""
        beyond = torch.arange(self.positions, device=device)[None, :] > self.lengths[:, None]
        return torch.zeros(beyond.shape, dtype=dtype, device=device).masked_fill_(beyond, torch.finfo(dtype).min)[:, None, None]

    def clear(self, rows: slice) -> None:
        """Forget what these rows have written."""
        self._lengths[rows] = 0
        self.parents[rows] = self._itself[rows]
        for keys, values in self._layers:
            keys[rows], values[rows] = 0.0, 0.0

    def fill(self, rows: slice, layers: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        """Let these rows hold what other rows, (rows, H, S, D) per layer, have written."""
        for mine, theirs in zip(self._layers, layers, strict=True):
            assert theirs is not None
            for buffer, written in zip(mine, theirs, strict=True):
                buffer[rows, :, : written.shape[2]] = written
            self._lengths[rows] = theirs[0].shape[2]

    def move(self, parents: Tensor) -> None:
        """Move all rows now."""
        for buffers in self._layers:
            for x in buffers:
                x[: len(parents)] = x[parents]
        self._lengths[: len(parents)] = self._lengths[parents]
        self.parents.copy_(self._itself)

    def prepare(self, active: int, rows: int, positions: int) -> None:
        """Let the next step look at so many rows and positions; the rows beyond the active write where nobody reads."""
        self._lengths[active:rows] = 0
        self.parents[active:rows] = self._itself[active:rows]
        self.rows, self.positions = rows, positions


class _State:
    """The two as the decoder takes them."""

    def __init__(self, past: StaticPast, memories: PagedMemories) -> None:
        self.past, self.memories = past, memories


class GraphStepper:
    """The steps of at most `documents` documents of `rows` rows; a `Stepper`.

    The pool takes what `memory_bytes` leave beside the rows' past, but always enough for the longest document.
    """

    def __init__(
        self, model: LEDForConditionalGeneration, documents: int, rows: int, max_length: int, memory_bytes: int
    ) -> None:
        config = model.config
        each = 2 * config.decoder_layers * config.d_model * model.dtype.itemsize
        longest = pages_of(config.max_encoder_position_embeddings)
        affordable = (memory_bytes - documents * rows * max_length * each) // (PAGE * each)
        self._model, self._rows, self._max_length = model, rows, max_length
        self._memories = PagedMemories(model, documents, min(max(affordable, longest), documents * longest))
        self._past = StaticPast(model, documents * rows, max_length)
        self._state = _State(self._past, self._memories)
        self._tokens = torch.zeros(documents * rows, 1, dtype=torch.long, device=model.device)
        self._written: list[int] = []  # positions of each document's rows
        self._recorded: dict[tuple[int, int, int], tuple[Callable[[], None], Tensor]] = {}
        self._graph_memory: Any = None

    def has_room(self, lengths: Sequence[int]) -> bool:
        return self._memories.has_room(lengths)

    def admit(self, batch: PackedBatch, encoder_TE: Tensor, prompt: Sequence[int]) -> None:
        first = len(self._memories) * self._rows
        self._memories.add(encoder_TE, batch)
        mine = slice(first, len(self._memories) * self._rows)
        self._past.clear(mine)
        if len(prompt) > 1:
            led = self._model.led
            cache = led.new_cache(led.decoder.remember(encoder_TE, batch), self._rows)
            before = torch.tensor([prompt[:-1]] * (mine.stop - mine.start), device=encoder_TE.device)
            led.decoder(before, cache.memories, cache)
            self._past.fill(mine, [cache.past.layer(i) for i in range(len(cache.past))])
        self._written += [len(prompt) - 1] * len(batch.lengths)

    def step(self, tokens_R1: Tensor) -> Tensor:
        active = len(self._memories)
        documents = min(_power_of_two(active), len(self._tokens) // self._rows)
        # The last token of the longest row is never fed.
        positions = min(-(-(max(self._written) + 1) // _POSITIONS) * _POSITIONS, max(1, self._max_length - 1))
        pages = _power_of_two(self._memories.longest)
        self._memories.prepare(documents, pages)
        self._past.prepare(active * self._rows, documents * self._rows, positions)
        self._tokens[: len(tokens_R1)] = tokens_R1
        self._written = [written + 1 for written in self._written]
        scores = self._forward() if not self._tokens.is_cuda else self._replay((documents, positions, pages))
        return scores[: len(tokens_R1)]

    def memory_of(self, document: int) -> DocumentMemory:
        return self._memories.memory_of(document)

    def keep(self, documents: Sequence[int], parents: Tensor) -> None:
        if len(documents) == len(self._memories):
            self._past.parents[: len(parents)] = parents
            return
        self._past.move(parents)
        self._memories.retain(documents)
        self._written = [self._written[d] for d in documents]

    def drop(self) -> None:
        self._memories.retain([])
        self._written = []

    def _forward(self) -> Tensor:
        tokens = self._tokens[: self._past.rows]
        states = self._model.led.decoder(tokens, self._memories, self._state)
        return self._model.logits(states[:, -1]).float()

    def _replay(self, bucket: tuple[int, int, int]) -> Tensor:
        """The step of a bucket, recorded when it is first met."""
        if bucket not in self._recorded:
            with torch.cuda.device(self._tokens.device):  # streams and graphs are of the current one
                self._record(bucket)
        replay, scores = self._recorded[bucket]
        replay()
        return scores

    def _record(self, bucket: tuple[int, int, int]) -> None:
        """Record the step of a bucket, on the current device."""
        lengths, parents = self._past.lengths.clone(), self._past.parents.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._past.parents.copy_(torch.arange(len(parents), device=parents.device))  # a rehearsal moves no row
            self._forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._graph_memory, stream=stream):
            scores = self._forward()
        self._graph_memory = self._graph_memory or graph.pool()
        self._past.lengths.copy_(lengths)
        self._past.parents.copy_(parents)
        self._recorded[bucket] = graph.replay, scores


def _power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()
