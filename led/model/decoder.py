"""The decoder: self-attention over what a row has written, cross-attention over its document's memory.

Source: arXiv:2004.05150, section 7, with the decoder of BART (arXiv:1910.13461). Modules and parameters carry the names of
the published checkpoints.

Shapes: R rows, several of which may belong to one document; T new positions of a row, S with those before them; n tokens of
one document; E = d_model, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from led.attention import causal_mask, causal_self_attention
from led.cache import DecoderCache, DecoderState, DocumentMemories, DocumentMemory, Memories
from led.config import LEDConfig
from led.keys_values import by_columns, for_steps
from led.layers import LEDLayer, LEDStack
from led.packed_linear import stacked, will_pack, will_stack
from led.packing import PackedBatch
from led.plain import DecoderAttentions, self_attention


class LEDDecoderAttention(nn.Module):
    """Multi-head attention of the decoder; the caller brings keys and values, this module projects."""

    def __init__(self, config: LEDConfig) -> None:
        super().__init__()
        E = config.d_model
        self.heads = config.decoder_attention_heads
        self.scale = (E // self.heads) ** -0.5
        self.attention_dropout = config.attention_dropout
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(E, E) for _ in range(4))
        self.qkv: nn.Module | None = None

    def by_head(self, x_RTE: Tensor) -> Tensor:
        """(R, T, E) to (R, H, T, D)."""
        return x_RTE.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def queries(self, x_RTE: Tensor) -> Tensor:
        """(R, H, T, D), scaled."""
        return self.by_head(self.q_proj(x_RTE) * self.scale)

    def keys_values(self, x_RTE: Tensor) -> tuple[Tensor, Tensor]:
        """Two of (R, H, T, D)."""
        return self.by_head(self.k_proj(x_RTE)), self.by_head(self.v_proj(x_RTE))

    def queries_keys_values(self, x_RTE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three of (R, H, T, D) of the same rows, queries scaled; one product once they are fused."""
        if self.qkv is None:
            return self.queries(x_RTE), *self.keys_values(x_RTE)
        q, k, v = (self.by_head(x) for x in self.qkv(x_RTE).chunk(3, -1))
        return q, k, v

    def fuse_projections(self) -> None:
        """Make one layer of the projections of the same rows, the scale of queries in its weights."""
        self.qkv = stacked(self.q_proj, self.k_proj, self.v_proj, self.scale)
        del self.q_proj, self.k_proj, self.v_proj

    def merge(self, x_RHTD: Tensor) -> Tensor:
        """(R, H, T, D) to (R, T, E), through the output projection."""
        return self.out_proj(x_RHTD.transpose(1, 2).flatten(2))

    @property
    def dropout_now(self) -> float:
        """The dropout of attention probabilities in the module's present mode."""
        return self.attention_dropout if self.training else 0.0


class LEDDecoderLayer(LEDLayer):
    """One decoder layer over R rows of T new positions."""

    def __init__(self, config: LEDConfig) -> None:
        super().__init__(config, config.decoder_ffn_dim)
        self.self_attn = LEDDecoderAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = LEDDecoderAttention(config)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)

    def fuse(self, int8: bool) -> None:
        super().fuse(int8)
        if will_pack(self.self_attn.q_proj, int8) or will_stack(self.self_attn.q_proj, int8):
            self.self_attn.fuse_projections()

    def forward(self, x_RTE: Tensor, cache: DecoderState | None, memories: Memories, mask: Tensor | None, layer: int) -> Tensor:
        dropout = self.self_attn.dropout_now

        def own(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if cache is not None:
                return cache.past.read(layer, q, k, v, mask, dropout)
            return self_attention(q, k, v, mask, dropout)

        return self._through(x_RTE, own, lambda q: memories.read(layer, q, self.encoder_attn.dropout_now))

    def over_documents(self, x_TE: Tensor, lengths: Sequence[int], memories: DocumentMemories, layer: int) -> Tensor:
        """(T, E) one row for each document, of these lengths, laid end to end."""

        def own(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            dropout = self.self_attn.dropout_now
            rows = zip(*(x.split(list(lengths), 2) for x in (q, k, v)), strict=True)
            return torch.cat([causal_self_attention(q, k, v, dropout) for q, k, v in rows], 2)

        def across(q: Tensor) -> Tensor:
            dropout = self.encoder_attn.dropout_now
            rows = zip(memories, q.split(list(lengths), 2), strict=True)
            return torch.cat([DocumentMemories([memory]).read(layer, row, dropout) for memory, row in rows], 2)

        return self._through(x_TE[None], own, across)[0]

    def _through(
        self, x_RTE: Tensor, own: Callable[[Tensor, Tensor, Tensor], Tensor], across: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The layer, given how queries read their row's keys and values, and how they read the document, (R, H, T, D)."""
        attention, cross = self.self_attn, self.encoder_attn
        read = own(*attention.queries_keys_values(x_RTE))
        x_RTE = self.add_and_norm(x_RTE, attention.merge(read), self.self_attn_layer_norm)
        x_RTE = self.add_and_norm(x_RTE, cross.merge(across(cross.queries(x_RTE))), self.encoder_attn_layer_norm)
        return self.feed_forward(x_RTE)


class LEDDecoder(LEDStack):
    """The decoder: rows of target tokens over the memories of their documents."""

    def __init__(self, config: LEDConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__(config, embed_tokens, config.max_decoder_position_embeddings, config.decoder_layerdrop)
        self.layers = nn.ModuleList(LEDDecoderLayer(config) for _ in range(config.decoder_layers))
        self.reads_float32 = False
        self.steps_dtype: torch.dtype | None = None  # of memories that decoding steps read, where it is not the weights'

    @property
    def decoder_layers(self) -> list[LEDDecoderLayer]:
        """The layers, as what they are."""
        return [layer for layer in self.layers if isinstance(layer, LEDDecoderLayer)]

    def read_in_float32(self) -> None:
        self.reads_float32 = True
        for layer in self.decoder_layers:
            layer.encoder_attn.k_proj.float()
            layer.encoder_attn.v_proj.float()

    def remember_in_bfloat16(self) -> None:
        self.steps_dtype = torch.bfloat16

    def remember(self, encoder_TE: Tensor, batch: PackedBatch, steps: bool = False) -> DocumentMemories:
        """The cross-attention memory of each document of a packed batch; for decoding `steps`, or for any queries."""
        memories, dtype = DocumentMemories(), self.layernorm_embedding.weight.dtype
        if self.reads_float32:
            encoder_TE = encoder_TE.float()
        for start, end in batch.spans:
            mask = None
            if batch.is_remembered is not None:
                hidden = ~batch.is_remembered[start:end]
                mask = torch.zeros_like(hidden, dtype=dtype)
                mask = mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
            memories.append(DocumentMemory([], _plain_if_blind(mask)))
        lay_out, kind = (for_steps, self.steps_dtype or dtype) if steps else (by_columns, dtype)
        for layer in self.decoder_layers:
            keys_values = (x[0].split(batch.lengths, dim=1) for x in layer.encoder_attn.keys_values(encoder_TE[None]))
            for memory, k, v in zip(memories, *keys_values, strict=True):
                memory.layers.append(lay_out(k.to(kind), v.to(kind)))
        return memories

    def forward(
        self,
        input_ids: Tensor | None,
        memories: Memories,
        cache: DecoderState | None = None,
        decoder_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        hidden_states: list[Tensor] | None = None,
        attentions: DecoderAttentions | None = None,
    ) -> Tensor:
        """(R, T, E) the states of T new positions of R rows; the rows of a document follow one another.

        With a cache the new positions stand after what each row holds, and rows may differ in length when T is 1.
        `decoder_attention_mask` (R, S) is read when T > 1 and ignored for a single position, as in the reference.
        `hidden_states` collects what every layer reads and what the last one gives, (R, T, E) each; with `attentions` the
        layers are computed plainly.

        Raises:
            ValueError: a position lies beyond the position table.
        """
        source = input_ids if inputs_embeds is None else inputs_embeds
        assert source is not None
        T = source.shape[1]
        longest = T + (cache.past.longest if cache is not None else 0)
        self._check_positions(longest)
        positions = torch.arange(T, device=source.device)[None, :]
        if cache is not None:
            positions = cache.past.lengths[:, None].to(source.device) + positions
        x = self.embed(input_ids, inputs_embeds, positions)
        mask = cache.past.mask(x.dtype, x.device) if cache is not None else None
        if T > 1:
            if mask is not None:
                raise ValueError("several positions at once need rows of equal length; decode one position at a time.")
            mask = _prefix_mask(longest, T, decoder_attention_mask, x)
            if decoder_attention_mask is not None:
                mask = _plain_if_blind(mask)
        for i, layer in enumerate(self.decoder_layers):
            if hidden_states is not None:
                hidden_states.append(x)
            if self.skips_layer():
                continue
            if attentions is None:
                x = self.through(layer, x, cache, memories, mask, i)
            else:
                assert isinstance(memories, DocumentMemories) and (cache is None or isinstance(cache, DecoderCache))
                x = attentions.layer(layer, x, cache, memories, mask, i)
        if hidden_states is not None:
            hidden_states.append(x)
        if cache is not None:
            cache.past.advance(T)
        return x

    def over_documents(self, input_ids: Tensor, lengths: Sequence[int], memories: DocumentMemories) -> Tensor:
        """(T, E) the states of one row for each document, rows of `input_ids` (T,) laid end to end, with these `lengths`.

        Memory grows with the tokens, not with their square.

        Raises:
            ValueError: a row is longer than the position table.
        """
        self._check_positions(max(lengths))
        positions = torch.cat([torch.arange(n, device=input_ids.device) for n in lengths])
        x_TE = self.embed(input_ids, None, positions)
        for i, layer in enumerate(self.decoder_layers):
            if not self.skips_layer():
                x_TE = layer.over_documents(x_TE, lengths, memories, i)
        return x_TE

    def _check_positions(self, longest: int) -> None:
        limit = self.config.max_decoder_position_embeddings
        if longest > limit:
            raise ValueError(
                f"the decoder was given {longest} positions; this model has {limit} (max_decoder_position_embeddings)."
            )


def _prefix_mask(keys: int, queries: int, decoder_attention_mask: Tensor | None, x: Tensor) -> Tensor:
    if decoder_attention_mask is None and keys > queries:
        decoder_attention_mask = torch.ones(1, keys, device=x.device)
    return causal_mask(queries, decoder_attention_mask, x.dtype, x.device)


def _plain_if_blind(mask: Tensor | None) -> Tensor | None:
    """An additive mask, or, where it hides everything from some query, the same as truth values: `attend` then reads it.

    Such a query reads everything evenly. Torch's fused attention gets its gradient wrong, since the logarithm of its sum is
    lost in the mask, and in half precision what it reads, since the mask is not large enough.
    """
    if mask is None:
        return None
    hidden = mask < 0
    return hidden if bool(hidden.all(-1).any()) else mask
