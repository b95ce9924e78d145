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
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from led.beam_search import Choice, Search
from led.cache import DocumentMemory
from led.gpu_attention import PAGE, page_kernel, past_kernel
from led.keys_values import KeysValues
from led.packing import PackedBatch
from led.stepper import Choose

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
        self._kernel = page_kernel(like.device, like.dtype, shape[-1])
        self._free = list(range(pages))
        self._held: list[list[int]] = []
        longest = pages_of(config.max_encoder_position_embeddings)
        self._table = torch.zeros(documents, longest, dtype=torch.int32, device=like.device)
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
        device, first = encoder_TE.device, len(self)
        remembered = None if batch.is_remembered is None else batch.is_remembered.cpu()
        kept, blind = [], []
        for start, end in batch.spans:
            mine = torch.arange(start, end) if remembered is None else start + remembered[start:end].nonzero()[:, 0]
            # A document whose every token is hidden is read evenly (as by the reference): with keys that are all alike.
            blind.append(not len(mine))
            kept.append(torch.arange(start, end) if blind[-1] else mine)
            self._held.append([self._free.pop() for _ in range(pages_of(len(kept[-1])))])
        pages = [torch.tensor(held) for held in self._held[first:]]
        slots = [(mine[:, None] * PAGE + torch.arange(PAGE)).flatten()[: len(k)] for mine, k in zip(pages, kept, strict=True)]
        rows = torch.nn.utils.rnn.pad_sequence(pages, batch_first=True)
        self._table[first : len(self), : rows.shape[1]] = rows.to(device, torch.int32)
        self._tokens[first : len(self)] = torch.tensor([len(k) for k in kept], dtype=torch.int32, device=device)
        self._write(encoder_TE, torch.cat(slots).to(device), None if remembered is None else torch.cat(kept).to(device),
                    [place for place, b in zip(batch.spans, blind, strict=True) if b])  # fmt: skip

    def _write(self, encoder_TE: Tensor, slots: Tensor, kept: Tensor | None, blind: Sequence[tuple[int, int]]) -> None:
        """Project the states and write those `kept`, or all, to their `slots`; those of `blind` documents get no key."""
        for layer, pools in zip(self._decoder.decoder_layers, self._pools, strict=True):
            attention = layer.encoder_attn
            keys, values = attention.k_proj(encoder_TE), attention.v_proj(encoder_TE)
            for start, end in blind:
                keys[start:end] = 0.0
            for pool, rows in zip(pools, (keys, values), strict=True):
                pool.view(-1, rows.shape[1]).index_copy_(0, slots, rows if kept is None else rows[kept])

    def retain(self, documents: Sequence[int]) -> None:
        """Keep these documents, in this order; the pages of the others are free."""
        kept = set(documents)
        self._free += [page for d, pages in enumerate(self._held) if d not in kept for page in pages]
        self._held = [self._held[d] for d in documents]
        order = torch.tensor(documents, dtype=torch.long, device=self._table.device)
        for x, nothing in ((self._table, 0), (self._tokens, 1)):
            x[: len(documents)] = x[order]
            x[len(documents) :] = nothing  # a page of no matter

    def memory_of(self, document: int) -> DocumentMemory:
        """The memory of a document, gathered from its pages."""
        pages, tokens = torch.tensor(self._held[document]), int(self._tokens[document])
        gathered = (
            [pool[pages.to(pool.device)].flatten(0, 1)[:tokens].transpose(0, 1) for pool in pair] for pair in self._pools
        )
        return DocumentMemory([KeysValues(*pair) for pair in gathered])

    def read(self, layer: int, query_RHTD: Tensor, dropout: float) -> Tensor:
        """(R, H, 1, D) what the rows read; in inference only."""
        keys, values = self._pools[layer]
        table = self._table[: self.documents, : self.pages]
        return self._kernel(query_RHTD[:, :, 0], keys, values, table, self._tokens[: self.documents])[:, :, None]


def pages_of(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-max(1, tokens) // PAGE)


class StaticPast:
    """What the rows have written, (R, H, C, D) keys and values per layer, at fixed addresses.

    A row writes each position in a place of its own, and nothing is moved when it goes on from another row: `_writers` (R, C)
    are the rows that wrote the positions of its past, all of its document. `parents` (R,) are the rows that the rows go on
    from. `rows` and `positions`: how many of each the next step looks at.
    """

    def __init__(self, model: LEDForConditionalGeneration, documents: int, each: int, max_length: int) -> None:
        config, like = model.config, model.led.shared.weight
        heads, rows = config.decoder_attention_heads, documents * each
        shape = (rows, heads, max_length, config.d_model // heads)
        self._layers = [(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(config.decoder_layers)]
        self._kernel = past_kernel(like.device, like.dtype, shape[-1])
        self._each = each
        self._lengths = torch.zeros(rows, dtype=torch.long, device=like.device)
        self._itself = torch.arange(rows, device=like.device)
        self._columns = torch.arange(max_length, device=like.device)
        self._writers = self._itself[:, None].repeat(1, max_length)
        self.parents = self._itself.clone()
        self._active = torch.zeros((), dtype=torch.long, device=like.device)
        self.rows, self.positions = rows, max_length

    @property
    def lengths(self) -> Tensor:
        """(rows,) positions that each row holds."""
        return self._lengths[: self.rows]

    @property
    def longest(self) -> int:
        """Positions before the one being written, at most."""
        return self.positions - 1

    def follow_parents(self) -> None:
        """Let every row go on from its parent, and write what is to come itself; rows of no document begin anew."""
        self.lengths.masked_fill_(self._itself[: self.rows] >= self._active, 0)
        writers = self._writers[: self.rows, : self.positions]
        held = self._columns[: self.positions] < self.lengths[:, None]
        writers.copy_(torch.where(held, writers[self.parents[: self.rows]], self._itself[: self.rows, None]))

    def read(
        self, layer: int, query_RHTD: Tensor, key_RHTD: Tensor, value_RHTD: Tensor, mask: Tensor | None, dropout: float
    ) -> Tensor:
        """(R, H, 1, D) what the rows read of their past and the position they write; in inference only, without a mask."""
        query, *new = (x[:, :, 0] for x in (query_RHTD, key_RHTD, value_RHTD))
        writers = self._writers[: self.rows, : self.positions]
        return self._kernel(query, (new[0], new[1]), *self._layers[layer], writers, self.lengths)[:, :, None]

    def advance(self, positions: int) -> None:
        """Count `positions` more for every row."""
        self.lengths.add_(positions)

    def mask(self, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """None: rows are read as far as they go."""

    def clear(self, rows: slice) -> None:
        """Forget what these rows have written."""
        self._lengths[rows] = 0
        self.parents[rows] = self._itself[rows]
        self._writers[rows] = self._itself[rows, None]
        for keys, values in self._layers:
            keys[rows], values[rows] = 0.0, 0.0

    def fill(self, rows: slice, layers: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        """Let these rows hold what other rows, (rows, H, S, D) per layer, have written."""
        for mine, theirs in zip(self._layers, layers, strict=True):
            assert theirs is not None
            for buffer, written in zip(mine, theirs, strict=True):
                buffer[rows, :, : written.shape[2]] = written
            self._lengths[rows] = theirs[0].shape[2]

    def keep(self, documents: Sequence[int], parents: Tensor) -> None:
        """Keep the rows of these documents, in this order, each going on from its parent, and move them together."""
        self._lengths[: len(parents)] = self._lengths[parents]
        self._writers[: len(parents)] = self._writers[parents]
        self.parents.copy_(self._itself)
        moved = [place for place, document in enumerate(documents) if place != document]
        if moved:
            rows, sources = (self._rows_of(x) for x in (moved, [documents[place] for place in moved]))
            self._writers[rows] += (rows - sources)[:, None]
            for buffers in self._layers:
                for x in buffers:
                    x[rows, :, : self.positions] = x[sources, :, : self.positions]

    def _rows_of(self, documents: Sequence[int]) -> Tensor:
        first = torch.tensor(documents, device=self._itself.device) * self._each
        return (first[:, None] + self._itself[: self._each]).flatten()

    def set_active(self, rows: int) -> None:
        """Let rows from this number on be those of no document: they write where nobody reads."""
        self._active.fill_(rows)


class _State:
    """The two as the decoder takes them."""

    def __init__(self, past: StaticPast, memories: PagedMemories) -> None:
        self.past, self.memories = past, memories


class GraphStepper:
    """The steps of at most `documents` documents of `rows` rows; a `Stepper`.

    Where `search` is given its steps are recorded too, with the rules before them (see `may_be_recorded`): the documents it
    holds then stand in memory of ours between its changes. The pool takes what `memory_bytes` leave beside the rows' past, but
    always enough for the longest document.
    """

    def __init__(
        self,
        model: LEDForConditionalGeneration,
        search: Search | None,
        documents: int,
        rows: int,
        max_length: int,
        memory_bytes: int,
    ) -> None:
        config = model.config
        each = 2 * config.decoder_layers * config.d_model * model.dtype.itemsize
        longest = pages_of(config.max_encoder_position_embeddings)
        affordable = (memory_bytes - documents * rows * max_length * each) // (PAGE * each)
        self._model, self._rows, self._max_length = model, rows, max_length
        self._memories = PagedMemories(model, documents, min(max(affordable, longest), documents * longest))
        self._past = StaticPast(model, documents, rows, max_length)
        self._state = _State(self._past, self._memories)
        self._documents = documents
        self._tokens = torch.zeros(documents * rows, 1, dtype=torch.long, device=model.device)
        self._searched: Any = None if search is None else search.state.with_room_for(documents)
        self._written: list[int] = []  # positions of each document's rows
        self._recorded: dict[tuple[int, int, int], tuple[Callable[[], None], Any]] = {}
        self._graph_memory: Any = None
        # One for all recordings: they share memory only on one stream.
        self._stream = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None

    def has_room(self, lengths: Sequence[int]) -> bool:
        return self._memories.has_room(lengths)

    def admit(self, batch: PackedBatch, encoder_TE: Tensor, prompt: Sequence[int]) -> None:
        first = len(self._memories) * self._rows
        self._memories.add(encoder_TE, batch)
        mine = slice(first, len(self._memories) * self._rows)
        self._past.clear(mine)
        self._past.set_active(mine.stop)
        if len(prompt) > 1:
            led = self._model.led
            cache = led.new_cache(led.decoder.remember(encoder_TE, batch), self._rows)
            before = torch.tensor([prompt[:-1]] * (mine.stop - mine.start), device=encoder_TE.device)
            led.decoder(before, cache.memories, cache)
            self._past.fill(mine, [cache.past.layer(i) for i in range(len(cache.past))])
        self._written += [len(prompt) - 1] * len(batch.lengths)

    def advance(self, search: Search, choose: Choose) -> Choice:
        active = len(self._memories)
        documents = min(_power_of_two(active), self._documents)
        # The last token of the longest row is never fed.
        positions = min(-(-(max(self._written) + 1) // _POSITIONS) * _POSITIONS, max(1, self._max_length - 1))
        self._memories.documents, self._memories.pages = documents, _power_of_two(self._memories.longest)
        self._past.rows, self._past.positions = documents * self._rows, positions
        self._written = [written + 1 for written in self._written]
        bucket = documents, positions, self._memories.pages
        if self._searched is None:
            self._tokens[: active * self._rows] = search.last
            logits = self._replayed(bucket, lambda: self._logits(self._tokens[: self._past.rows]))
            return choose(search, logits[: active * self._rows])
        if search.state.lengths.data_ptr() != self._searched.lengths.data_ptr():
            self._searched.copy_(search.state)
            search.state = self._searched.first(active)
        choice = self._replayed(bucket, lambda: self._choice(search, choose, documents))
        return Choice(choice.parents[: active * self._rows], choice.tokens[: active * self._rows], choice.done[:active])

    def memory_of(self, document: int) -> DocumentMemory:
        return self._memories.memory_of(document)

    def keep(self, documents: Sequence[int], parents: Tensor) -> None:
        if len(documents) == len(self._memories):
            self._past.parents[: len(parents)] = parents
            return
        self._past.keep(documents, parents)
        self._past.set_active(len(parents))
        self._memories.retain(documents)
        self._written = [self._written[d] for d in documents]

    def drop(self) -> None:
        self._memories.retain([])
        self._written = []

    def _logits(self, tokens_R1: Tensor) -> Tensor:
        """(R, V) float32 logits of the token after the last one of every row."""
        self._past.follow_parents()
        states = self._model.led.decoder(tokens_R1, self._memories, self._state)
        return self._model.logits(states[:, -1]).float().contiguous()

    def _choice(self, search: Search, choose: Choose, documents: int) -> Choice:
        """A step of the first `documents` places of `_searched`, those of no document too."""
        state = self._searched.first(documents)
        state.lengths.clamp_(1, self._max_length - 1)  # of those of no document, which nothing begins or ends
        search = search.over(state)
        choice = choose(search, self._logits(search.last))
        self._searched.copy_(search.state)
        return choice

    def _replayed(self, bucket: tuple[int, int, int], step: Callable[[], Any]) -> Any:
        """What the step of a bucket gives; on a GPU it is recorded when it is first met."""
        if self._stream is None:
            return step()
        if bucket not in self._recorded:
            with torch.cuda.device(self._tokens.device):  # streams and graphs are of the current one
                self._record(bucket, step, self._stream)
        replay, result = self._recorded[bucket]
        replay()
        return result

    def _record(self, bucket: tuple[int, int, int], step: Callable[[], Any], stream: torch.cuda.Stream) -> None:
        """Record a step, on the current device, after a rehearsal that leaves everything as it was."""
        lengths, parents = self._past.lengths.clone(), self._past.parents.clone()
        searched = None if self._searched is None else deepcopy(self._searched)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._past.parents.copy_(torch.arange(len(parents), device=parents.device))  # a rehearsal moves no row
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._graph_memory, stream=stream):
            result = step()
        self._graph_memory = self._graph_memory or graph.pool()
        self._past.lengths.copy_(lengths)
        self._past.parents.copy_(parents)
        if searched is not None:
            self._searched.copy_(searched)
        self._recorded[bucket] = graph.replay, result


def _power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()
