"""The decode runner: the model's side of generation, which the scheduler drives.

`EagerRunner` works on every device. It stores each document's KV cache separately and launches a step
operation by operation. On GPUs, `cuda_graph_runner.CudaGraphRunner` replaces it.

Shapes: T tokens of a packed batch, E = d_model, R rows, V vocabulary. The rows of a document are consecutive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from led.batch.packed_batch import PackedBatch
from led.config import LEDConfig
from led.generation.memory_budget import kv_cache_bytes
from led.generation.search import Search, StepOutput
from led.kv_cache.cross_attention import DocumentKV
from led.kv_cache.decoder_cache import DecoderCache
from led.model.led_model import LEDModel

# Applies the logits processors and one search step to (R, V) float32 logits of the next token.
SelectTokens = Callable[[Search, Tensor], StepOutput]


class LanguageModel(Protocol):
    """What generation needs of a model: the encoder and decoder, and logits (..., V) of decoder states (...,
    E)."""

    @property
    def led(self) -> LEDModel: ...

    @property
    def config(self) -> LEDConfig: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def logits(self, states: Tensor) -> Tensor: ...


class DecodeRunner(Protocol):
    """The documents being decoded, in slots numbered from 0."""

    def has_room(self, lengths: Sequence[int]) -> bool:
        """Whether documents of these lengths, in tokens, fit beside those in the slots."""

    def add(self, batch: PackedBatch, encoder_TE: Tensor, prompt: Sequence[int]) -> None:
        """Put the documents of a batch into slots. Their rows have written `prompt` except its last token."""

    def step(self, search: Search, select: SelectTokens) -> StepOutput:
        """Decode one token of every row, and let `select` choose the next tokens from the logits."""

    def document(self, slot: int) -> DocumentKV:
        """The cross-attention KV cache of one document, with only its visible tokens."""

    def keep(self, slots: Sequence[int], beam_idx: Tensor) -> None:
        """Keep the documents in these slots. `beam_idx` (R,) are the rows that their rows continue."""

    def clear(self) -> None:
        """Empty all slots."""


class EagerRunner:
    """Decoding over a KV cache that grows. Several documents together hold at most `memory_bytes`."""

    def __init__(self, model: LanguageModel, rows: int, max_length: int, memory_bytes: int) -> None:
        self._model, self._rows, self._max_length, self._memory_bytes = model, rows, max_length, memory_bytes
        self._cache: DecoderCache = model.led.new_cache()
        self._bytes: list[int] = []  # most bytes that each document's KV cache may take

    def has_room(self, lengths: Sequence[int]) -> bool:
        return sum(self._bytes) + sum(map(self._bytes_of, lengths)) <= self._memory_bytes

    def add(self, batch: PackedBatch, encoder_TE: Tensor, prompt: Sequence[int]) -> None:
        led = self._model.led
        new = led.new_cache(led.decoder.cross_attention_cache(encoder_TE, batch, steps=True), self._rows)
        if len(prompt) > 1:
            tokens = torch.tensor([prompt[:-1]] * (len(batch.lengths) * self._rows), device=encoder_TE.device)
            led.decoder(tokens, new.cross_attention, new.self_attention)
        self._cache.join(new)
        self._bytes += map(self._bytes_of, batch.lengths)

    def step(self, search: Search, select: SelectTokens) -> StepOutput:
        cache = self._cache
        states = self._model.led.decoder(search.last_tokens, cache.cross_attention, cache.self_attention)
        return select(search, self._model.logits(states[:, -1]).float())

    def document(self, slot: int) -> DocumentKV:
        return self._cache.cross_attention[slot]

    def keep(self, slots: Sequence[int], beam_idx: Tensor) -> None:
        if len(slots) == len(self._bytes):
            self._cache.self_attention.reorder(beam_idx)
            return
        self._bytes = [self._bytes[slot] for slot in slots]
        self._cache.retain(slots, beam_idx)

    def clear(self) -> None:
        self._bytes, self._cache = [], self._model.led.new_cache()

    def _bytes_of(self, tokens: int) -> int:
        model = self._model
        cross_dtype = model.led.decoder.cross_attention_dtype or model.dtype
        itemsizes = model.dtype.itemsize, cross_dtype.itemsize
        return kv_cache_bytes(model.config, tokens, self._rows, self._max_length, *itemsizes)
