"""What the decoding loop drives: documents come in, every row takes a step, rows change places, documents leave.

`EagerStepper` works everywhere; it keeps each document's memory by itself and makes a step operation by operation. On GPUs
`paged.GraphStepper` stands in for it.

Shapes: T tokens of a packed batch, E = d_model, R rows, those of a document following one another; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from led.beam_search import Choice, Search
from led.cache import DecoderCache, DocumentMemory
from led.memory import decoding_bytes
from led.packing import PackedBatch

if TYPE_CHECKING:
    from led.model import LEDForConditionalGeneration


# What goes on with a search from its rows' logits: the rules, then the search itself.
Choose = Callable[[Search, Tensor], Choice]


class Stepper(Protocol):
    """The decoder's side of the loop; documents are numbered in the order in which they are held."""

    def has_room(self, lengths: Sequence[int]) -> bool:
        """May documents of these lengths, in tokens, come in beside those that are held?"""

    def admit(self, batch: PackedBatch, encoder_TE: Tensor, prompt: Sequence[int]) -> None:
        """Hold the documents of a batch with their rows, which have written `prompt` but for its last token."""

    def advance(self, search: Search, choose: Choose) -> Choice:
        """Take a step of every row, and let `choose` go on with its search from (R, V) float32 logits of the next token."""

    def memory_of(self, document: int) -> DocumentMemory:
        """What is remembered of a document, of its tokens that may be attended to."""

    def keep(self, documents: Sequence[int], parents: Tensor) -> None:
        """Keep these documents; `parents` are the rows, in their order, that their rows go on from."""

    def drop(self) -> None:
        """Hold no document."""


class EagerStepper:
    """Steps over a cache whose rows grow as they write; holds at most `memory_bytes`, if more than one document."""

    def __init__(self, model: LEDForConditionalGeneration, rows: int, max_length: int, memory_bytes: int) -> None:
        self._model, self._rows, self._max_length, self._memory_bytes = model, rows, max_length, memory_bytes
        self._cache: DecoderCache = model.led.new_cache()
        self._held: list[int] = []  # bytes that each document may come to hold

    def has_room(self, lengths: Sequence[int]) -> bool:
        return sum(self._held) + sum(map(self._bytes, lengths)) <= self._memory_bytes

    def admit(self, batch: PackedBatch, encoder_TE: Tensor, prompt: Sequence[int]) -> None:
        led = self._model.led
        joined = led.new_cache(led.decoder.remember(encoder_TE, batch, steps=True), self._rows)
        if len(prompt) > 1:
            before = torch.tensor([prompt[:-1]] * (len(batch.lengths) * self._rows), device=encoder_TE.device)
            led.decoder(before, joined.memories, joined)
        self._cache.join(joined)
        self._held += map(self._bytes, batch.lengths)

    def advance(self, search: Search, choose: Choose) -> Choice:
        states = self._model.led.decoder(search.last, self._cache.memories, self._cache)
        return choose(search, self._model.logits(states[:, -1]).float())

    def memory_of(self, document: int) -> DocumentMemory:
        return self._cache.memories[document]

    def keep(self, documents: Sequence[int], parents: Tensor) -> None:
        if len(documents) == len(self._held):
            self._cache.past.select(parents)
            return
        self._held = [self._held[d] for d in documents]
        self._cache.retain(documents, parents)

    def drop(self) -> None:
        self._held, self._cache = [], self._model.led.new_cache()

    def _bytes(self, tokens: int) -> int:
        model = self._model
        remembered = model.led.decoder.steps_dtype or model.dtype
        return decoding_bytes(model.config, tokens, self._rows, self._max_length, model.dtype.itemsize, remembered.itemsize)
