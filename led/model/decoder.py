"""The decoder: self-attention over the tokens a row has written, cross-attention over the row's document.

Source: arXiv:2004.05150, section 7, with the decoder of BART (arXiv:1910.13461). Modules and parameters
have the names of the published checkpoints.

A layer does not know how keys and values are stored. It projects, and calls `attend` of the two KV caches.

Shapes: R rows, several of which may belong to one document. T new positions of a row, S with those before
them. n tokens of one document. E = d_model, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from led.batch.packed_batch import PackedBatch
from led.config import LEDConfig
from led.kv_cache.cross_attention import (
    CrossAttentionCache,
    DocumentKV,
    PackedCrossAttention,
    decode_layout,
    transposed_layout,
)
from led.kv_cache.decoder_cache import CrossAttentionKV, SelfAttentionKV, SelfAttentionState
from led.kv_cache.self_attention import PackedSelfAttention, SelfAttentionCache
from led.model.attention_weights import DecoderAttentionWeights
from led.model.inference_packing import fused_qkv, will_fuse, will_pack
from led.model.layers import LEDLayer, LEDStack
from led.ops.decoder_attention import causal_mask, eager_if_fully_masked, self_attention


class LEDDecoderAttention(nn.Module):
    """The projections of multi-head attention in the decoder. The KV cache does the attention itself."""

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

    def project_queries(self, x_RTE: Tensor) -> Tensor:
        """(R, H, T, D), scaled."""
        return self.by_head(self.q_proj(x_RTE) * self.scale)

    def project_keys_values(self, x_RTE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (R, H, T, D) each."""
        return self.by_head(self.k_proj(x_RTE)), self.by_head(self.v_proj(x_RTE))

    def project(self, x_RTE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, scaled, keys and values of the same rows, (R, H, T, D) each. One product if they are
        fused."""
        if self.qkv is None:
            return self.project_queries(x_RTE), *self.project_keys_values(x_RTE)
        q, k, v = (self.by_head(x) for x in self.qkv(x_RTE).chunk(3, -1))
        return q, k, v

    def fuse_projections(self) -> None:
        """Fuse the projections of the same rows. The weights absorb the scale of the queries."""
        self.qkv = fused_qkv(self.q_proj, self.k_proj, self.v_proj, self.scale)
        del self.q_proj, self.k_proj, self.v_proj

    def output(self, x_RHTD: Tensor) -> Tensor:
        """(R, H, T, D) to (R, T, E), through the output projection."""
        return self.out_proj(x_RHTD.transpose(1, 2).flatten(2))

    @property
    def dropout(self) -> float:
        """The dropout of attention probabilities in the current mode."""
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
        if will_pack(self.self_attn.q_proj, int8) or will_fuse(self.self_attn.q_proj, int8):
            self.self_attn.fuse_projections()

    def forward(
        self,
        x_RTE: Tensor,
        own: SelfAttentionKV | None,
        cross: CrossAttentionKV,
        mask: Tensor | None,
        layer: int,
    ) -> Tensor:
        """(R, T, E) to (R, T, E). `own` is None for a call without a cache."""
        attention, cross_attention = self.self_attn, self.encoder_attn
        q, k, v = attention.project(x_RTE)
        if own is None:
            attended = self_attention(q, k, v, mask, attention.dropout)
        else:
            attended = own.attend(layer, q, k, v, mask, attention.dropout)
        x_RTE = self.add_and_norm(x_RTE, attention.output(attended), self.self_attn_layer_norm)
        attended = cross.attend(layer, cross_attention.project_queries(x_RTE), cross_attention.dropout)
        x_RTE = self.add_and_norm(x_RTE, cross_attention.output(attended), self.encoder_attn_layer_norm)
        return self.feed_forward(x_RTE)


class LEDDecoder(LEDStack):
    """The decoder: rows of target tokens over the cross-attention KV cache of their documents."""

    def __init__(self, config: LEDConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__(
            config, embed_tokens, config.max_decoder_position_embeddings, config.decoder_layerdrop
        )
        self.layers = nn.ModuleList(LEDDecoderLayer(config) for _ in range(config.decoder_layers))
        self.projects_in_float32 = False  # keys and values of documents
        self.cross_attention_dtype: torch.dtype | None = (
            None  # of decoding steps, if not the dtype of the weights
        )

    @property
    def typed_layers(self) -> list[LEDDecoderLayer]:
        """The layers, with their type."""
        return [layer for layer in self.layers if isinstance(layer, LEDDecoderLayer)]

    def encode_in_float32(self) -> None:
        self.projects_in_float32 = True
        for layer in self.typed_layers:
            layer.encoder_attn.k_proj.float()
            layer.encoder_attn.v_proj.float()

    def cross_attention_in_bfloat16(self) -> None:
        self.cross_attention_dtype = torch.bfloat16

    def cross_attention_cache(
        self, encoder_TE: Tensor, batch: PackedBatch, steps: bool = False
    ) -> CrossAttentionCache:
        """The cross-attention KV cache of a packed batch, in the layout for decoding `steps` or for any
        queries."""
        documents, dtype = CrossAttentionCache(), self.layernorm_embedding.weight.dtype
        if self.projects_in_float32:
            encoder_TE = encoder_TE.float()
        for start, end in batch.spans:
            mask = None
            if batch.is_cross_visible is not None:
                hidden = ~batch.is_cross_visible[start:end]
                mask = torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
            documents.append(DocumentKV([], eager_if_fully_masked(mask)))
        layout = decode_layout if steps else transposed_layout
        kv_dtype = self.cross_attention_dtype or dtype if steps else dtype
        for layer in self.typed_layers:
            keys_values = layer.encoder_attn.project_keys_values(encoder_TE[None])
            pairs = (x[0].split(batch.lengths, dim=1) for x in keys_values)
            for document, k, v in zip(documents, *pairs, strict=True):
                document.layers.append(layout(k.to(kv_dtype), v.to(kv_dtype)))
        return documents

    def forward(
        self,
        input_ids: Tensor | None,
        cross: CrossAttentionKV,
        cache: SelfAttentionState | None = None,
        decoder_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        hidden_states: list[Tensor] | None = None,
        weights: DecoderAttentionWeights | None = None,
    ) -> Tensor:
        """(R, T, E) the states of T new positions of R rows. The rows of a document are consecutive.

        With a cache the new positions follow those that each row holds. Rows may then differ in length if T
        is 1. `decoder_attention_mask` (R, S) is used if T > 1 and ignored for a single position, as in the
        reference. `hidden_states` collects the input of every layer and the output of the last one, (R, T, E)
        each. With `weights`, attention is computed eagerly and recorded.

        Raises:
            ValueError: a position is beyond the position table.
        """
        source = input_ids if inputs_embeds is None else inputs_embeds
        assert source is not None
        T = source.shape[1]
        length = T + (cache.max_length if cache is not None else 0)
        self._check_positions(length)
        positions = torch.arange(T, device=source.device)[None, :]
        if cache is not None:
            positions = cache.lengths[:, None].to(source.device) + positions
        x = self.embed(input_ids, inputs_embeds, positions)
        mask = cache.mask(x.dtype, x.device) if cache is not None else None
        if T > 1:
            if mask is not None:
                raise ValueError(
                    "several positions at once need rows of equal length; decode one position at a time."
                )
            mask = _prefix_mask(length, T, decoder_attention_mask, x)
        own: SelfAttentionKV | None = cache
        if weights is not None:
            assert cache is None or isinstance(cache, SelfAttentionCache)
            assert isinstance(cross, CrossAttentionCache)
            own, cross = weights.self_attention(cache), weights.cross_attention(cross)
        for i, layer in enumerate(self.layers):
            if hidden_states is not None:
                hidden_states.append(x)
            if self.skips_layer():
                continue
            if self.checkpoints_layers and weights is None:
                x = checkpoint(layer, x, own, cross, mask, i, use_reentrant=False)
            else:
                x = layer(x, own, cross, mask, i)
        if hidden_states is not None:
            hidden_states.append(x)
        if cache is not None:
            cache.advance(T)
        return x

    def forward_packed(
        self, input_ids: Tensor, lengths: Sequence[int], documents: CrossAttentionCache
    ) -> Tensor:
        """(T, E) the states of one row per document, the rows of `input_ids` (T,) laid end to end with these
        `lengths`.

        Memory grows with the tokens, not with their square.

        Raises:
            ValueError: a row is longer than the position table.
        """
        self._check_positions(max(lengths))
        positions = torch.cat([torch.arange(n, device=input_ids.device) for n in lengths])
        x_1TE = self.embed(input_ids, None, positions)[None]
        own, cross = PackedSelfAttention(lengths), PackedCrossAttention(documents, lengths)
        for i, layer in enumerate(self.layers):
            if not self.skips_layer():
                x_1TE = layer(x_1TE, own, cross, None, i)
        return x_1TE[0]

    def _check_positions(self, length: int) -> None:
        limit = self.config.max_decoder_position_embeddings
        if length > limit:
            raise ValueError(
                f"the decoder input has {length} positions; this model has {limit} "
                "(max_decoder_position_embeddings)."
            )


def _prefix_mask(keys: int, queries: int, decoder_attention_mask: Tensor | None, x: Tensor) -> Tensor | None:
    """The causal mask of `queries` new positions among `keys`, with the hidden positions of the caller."""
    if decoder_attention_mask is not None:
        return eager_if_fully_masked(causal_mask(queries, decoder_attention_mask, x.dtype, x.device))
    prefix = torch.ones(1, keys, device=x.device) if keys > queries else None
    return causal_mask(queries, prefix, x.dtype, x.device)
