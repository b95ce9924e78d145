"""The decode runner for GPUs: paged cross-attention, a static self-attention KV cache, and captured CUDA
graphs.

Every tensor that a step reads keeps its address. Pages are assigned and freed, rows are refilled, and the
page tables, lengths, tokens and beam indices of a step are tensors on the device. A captured step therefore
serves any documents in the same slots, and a step costs one launch. Graphs are captured per bucket:
documents, positions written, and pages of the longest document, each rounded up.

On a CPU the same steps run without capture, which is how tests run them. `EagerRunner` is faster there.

Shapes: R rows, `rows` of them per document. T tokens of a packed batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from led.batch.packed_batch import PackedBatch
from led.generation.runner import LanguageModel, SelectTokens
from led.generation.search import Search, StepOutput
from led.kv_cache.cross_attention import DocumentKV
from led.kv_cache.paged_cross_attention import PagedCrossAttentionCache, pages_for
from led.kv_cache.static_self_attention import StaticSelfAttentionCache
from led.ops.gpu_backends import PAGE

# Positions are rounded up to a multiple of this, so 64 steps share a captured graph.
_POSITIONS = 64

Bucket = tuple[int, int, int]


class CudaGraphRunner:
    """Decoding of at most `max_documents` documents with `rows` rows each. A `DecodeRunner`.

    If `search` is given, search and logits processors are captured with the decoder. The search state of the
    documents is then kept in a fixed buffer between changes. The page pool takes what `memory_bytes` leave
    after the self-attention KV cache, and always enough for the longest document.
    """

    def __init__(
        self,
        model: LanguageModel,
        search: Search | None,
        max_documents: int,
        rows: int,
        max_length: int,
        memory_bytes: int,
    ) -> None:
        config, decoder, like = model.config, model.led.decoder, model.led.shared.weight
        token_bytes = 2 * config.decoder_layers * config.d_model * model.dtype.itemsize
        longest = pages_for(config.max_encoder_position_embeddings)
        affordable = (memory_bytes - max_documents * rows * max_length * token_bytes) // (PAGE * token_bytes)
        pages = min(max(affordable, longest), max_documents * longest)
        heads, limit = config.decoder_attention_heads, config.max_encoder_position_embeddings
        projections = [
            (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj) for layer in decoder.typed_layers
        ]
        self._model, self._rows, self._max_length = model, rows, max_length
        self._max_documents = max_documents
        self._cross = PagedCrossAttentionCache(projections, like, heads, max_documents, limit, pages)
        layers = config.decoder_layers
        self._own = StaticSelfAttentionCache(layers, like, heads, max_documents, rows, max_length)
        self._tokens = torch.zeros(max_documents * rows, 1, dtype=torch.long, device=model.device)
        self._search_state: Any = None if search is None else search.state.padding(max_documents)
        self._written: list[int] = []  # positions of each document's rows
        self._graphs: dict[Bucket, tuple[torch.cuda.CUDAGraph, Any]] = {}
        self._graph_pool: Any = None
        # One stream for all captures: graphs share memory only on one stream.
        self._stream = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None

    def has_room(self, lengths: Sequence[int]) -> bool:
        return self._cross.has_room(lengths)

    def add(self, batch: PackedBatch, encoder_TE: Tensor, prompt: Sequence[int]) -> None:
        first = len(self._cross) * self._rows
        self._cross.add(encoder_TE, batch)
        rows = slice(first, len(self._cross) * self._rows)
        self._own.clear(rows)
        self._own.set_active_rows(rows.stop)
        if len(prompt) > 1:
            led = self._model.led
            cache = led.new_cache(led.decoder.cross_attention_cache(encoder_TE, batch), self._rows)
            tokens = torch.tensor([prompt[:-1]] * (rows.stop - rows.start), device=encoder_TE.device)
            led.decoder(tokens, cache.cross_attention, cache.self_attention)
            own = cache.self_attention
            self._own.fill(rows, [own.layer(i) for i in range(len(own))])
        self._written += [len(prompt) - 1] * len(batch.lengths)

    def step(self, search: Search, select: SelectTokens) -> StepOutput:
        active = len(self._cross)
        bucket = self._next_bucket(active)
        self._written = [written + 1 for written in self._written]
        if self._search_state is None:
            self._tokens[: active * self._rows] = search.last_tokens
        elif search.state.lengths.data_ptr() != self._search_state.lengths.data_ptr():
            self._search_state.copy_(search.state)
            search.state = self._search_state.first(active)
        if self._stream is None:
            result = self._decode(search, select, bucket[0])
        else:
            if bucket not in self._graphs:
                with torch.cuda.device(
                    self._tokens.device
                ):  # streams and graphs belong to the current device
                    self._capture(bucket, lambda: self._decode(search, select, bucket[0]), self._stream)
            graph, result = self._graphs[bucket]
            graph.replay()
        if self._search_state is None:
            return select(search, result[: active * self._rows])
        rows = active * self._rows
        return StepOutput(result.beam_idx[:rows], result.next_tokens[:rows], result.is_done[:active])

    def _next_bucket(self, active: int) -> Bucket:
        """(documents, positions, pages) of the next step, rounded up. Sets what the KV caches read."""
        documents = min(_power_of_two(active), self._max_documents)
        # The last token of the longest row is never decoded.
        positions = -(-(max(self._written) + 1) // _POSITIONS) * _POSITIONS
        positions = min(positions, max(1, self._max_length - 1))
        self._cross.documents, self._cross.pages = documents, _power_of_two(self._cross.most_pages)
        self._own.rows, self._own.positions = documents * self._rows, positions
        return documents, positions, self._cross.pages

    def _decode(self, search: Search, select: SelectTokens, documents: int) -> Any:
        """One step of all slots of a bucket, padding slots included: (R, V) logits, or with search its
        StepOutput."""
        tokens_R1 = self._tokens[: self._own.rows]
        if self._search_state is not None:
            state = self._search_state.first(documents)
            state.lengths.clamp_(1, self._max_length - 1)  # padding slots stay within the token table
            search = search.with_state(state)
            tokens_R1 = search.last_tokens
        self._own.apply_beam_idx()
        states = self._model.led.decoder(tokens_R1, self._cross, self._own)
        logits = self._model.logits(states[:, -1]).float().contiguous()
        if self._search_state is None:
            return logits
        output = select(search, logits)
        self._search_state.copy_(search.state)
        return output

    def _capture(self, bucket: Bucket, step: Callable[[], Any], stream: torch.cuda.Stream) -> None:
        """Capture a step on the current device, after a warm-up that leaves all state as it was."""
        lengths, beam_idx = self._own.lengths.clone(), self._own.beam_idx.clone()
        search_state = None if self._search_state is None else deepcopy(self._search_state)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Identity, so that the warm-up reorders nothing.
            self._own.beam_idx.copy_(torch.arange(len(beam_idx), device=beam_idx.device))
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._graph_pool, stream=stream):
            result = step()
        self._graph_pool = self._graph_pool or graph.pool()
        self._own.lengths.copy_(lengths)
        self._own.beam_idx.copy_(beam_idx)
        if search_state is not None:
            self._search_state.copy_(search_state)
        self._graphs[bucket] = graph, result

    def document(self, slot: int) -> DocumentKV:
        return self._cross.document(slot)

    def keep(self, slots: Sequence[int], beam_idx: Tensor) -> None:
        if len(slots) == len(self._cross):
            self._own.beam_idx[: len(beam_idx)] = beam_idx
            return
        self._own.compact(slots, beam_idx)
        self._own.set_active_rows(len(beam_idx))
        self._cross.retain(slots)
        self._written = [self._written[slot] for slot in slots]

    def clear(self) -> None:
        self._cross.retain([])
        self._written = []


def _power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()
