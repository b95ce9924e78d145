"""The encoder: window attention with global tokens over packed documents.

Source: arXiv:2004.05150, sections 3.1 and 7. Modules and parameters have the names of the published
checkpoints.

Shapes: T tokens of all documents of a packed batch, E = d_model, H heads, D head size, B documents, N
columns of a padded batch, L layers. The layers work on packed batches. `forward` packs and unpacks at its
edge.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from led.batch.attention_metadata import AttentionMetadata
from led.batch.packed_batch import PackedBatch, pack, unpack
from led.config import LEDConfig
from led.model.attention_weights import EncoderAttentionWeights
from led.model.inference_packing import fused_qkv, will_fuse
from led.model.layers import LEDLayer, LEDStack, choose
from led.model.outputs import LEDEncoderBaseModelOutput
from led.ops.global_attention import attend_globals
from led.ops.window_attention import window_kernel


class LEDEncoderSelfAttention(nn.Module):
    """Window attention with global tokens over a packed batch (section 3.1). Global tokens have own
    projections."""

    def __init__(self, config: LEDConfig, window: int) -> None:
        super().__init__()
        E = config.d_model
        self.heads = config.encoder_attention_heads
        self.scale = (E // self.heads) ** -0.5
        self.one_sided = window // 2
        self.attention_dropout = config.attention_dropout
        self.query, self.key, self.value = (nn.Linear(E, E) for _ in range(3))
        self.query_global, self.key_global, self.value_global = (nn.Linear(E, E) for _ in range(3))
        self.qkv: nn.Module | None = None

    def forward(
        self,
        x_TE: Tensor,
        metadata: AttentionMetadata,
        weights: EncoderAttentionWeights | None = None,
        layer: int = 0,
    ) -> Tensor:
        dropout = self.attention_dropout if self.training else 0.0
        q, k, v = self.project(x_TE)
        if weights is not None:
            global_qkv = self.query_global(x_TE) * self.scale, self.key_global(x_TE), self.value_global(x_TE)
            q_global, k_global, v_global = (x.unflatten(1, (self.heads, -1)) for x in global_qkv)
            global_projections = q_global, k_global, v_global
            out_THD = weights.attend(layer, (q, k, v), global_projections, metadata, self.one_sided, dropout)
            return out_THD.reshape(x_TE.shape)
        out_THD = window_kernel(q, dropout)(q, k, v, metadata, self.one_sided)
        in_place = not torch.is_grad_enabled()
        positions = metadata.global_positions
        if len(positions):
            query_GHD = (self.query_global(x_TE[positions]) * self.scale).unflatten(1, (self.heads, -1))
            globals_GHD = attend_globals(
                query_GHD, x_TE, metadata, self.key_global, self.value_global, dropout
            )
            put = out_THD.index_copy_ if in_place else out_THD.index_copy
            out_THD = put(0, positions, globals_GHD.to(out_THD.dtype))
        if (visible := metadata.batch.is_visible) is not None:
            hide = out_THD.masked_fill_ if in_place else out_THD.masked_fill
            out_THD = hide(~visible[:, None, None], 0.0)
        return out_THD.reshape(x_TE.shape)

    def project(self, x_TE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, scaled, keys and values, (T, H, D) each."""
        if self.qkv is not None:
            q, k, v = self.qkv(x_TE).chunk(3, -1)
        else:
            q = self.query(x_TE)
            q = q * self.scale if torch.is_grad_enabled() else q.mul_(self.scale)
            k, v = self.key(x_TE), self.value(x_TE)
        shape = (self.heads, -1)
        return q.unflatten(1, shape), k.unflatten(1, shape), v.unflatten(1, shape)

    def fuse(self, int8: bool) -> None:
        """On a GPU, fuse the projections of all tokens. The weights absorb the scale of the queries."""
        if will_fuse(self.query, int8):
            self.qkv = fused_qkv(self.query, self.key, self.value, self.scale)
            del self.query, self.key, self.value


class LEDEncoderAttention(nn.Module):
    """The encoder's attention and its output projection. The layer calls both, and this module names them."""

    def __init__(self, config: LEDConfig, window: int) -> None:
        super().__init__()
        self.longformer_self_attn = LEDEncoderSelfAttention(config, window)
        self.output = nn.Linear(config.d_model, config.d_model)


class LEDEncoderLayer(LEDLayer):
    """One encoder layer, (T, E) to (T, E)."""

    def __init__(self, config: LEDConfig, window: int) -> None:
        super().__init__(config, config.encoder_ffn_dim)
        self.self_attn = LEDEncoderAttention(config, window)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        x_TE: Tensor,
        metadata: AttentionMetadata,
        weights: EncoderAttentionWeights | None = None,
        layer: int = 0,
    ) -> Tensor:
        heads_TE = self.self_attn.longformer_self_attn(x_TE, metadata, weights, layer)
        attended_TE = self.self_attn.output(heads_TE)
        return self.feed_forward(self.add_and_norm(x_TE, attended_TE, self.self_attn_layer_norm))


class LEDEncoder(LEDStack):
    """The encoder: `forward` over a padded batch, `encode` over a packed one."""

    def __init__(self, config: LEDConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__(
            config, embed_tokens, config.max_encoder_position_embeddings, config.encoder_layerdrop
        )
        self.layers = nn.ModuleList(LEDEncoderLayer(config, window) for window in config.attention_windows)

    def encode_in_float32(self) -> None:
        self.embed_tokens = copy.deepcopy(self.embed_tokens)  # the decoder's keeps its dtype
        self.float()

    def encode(
        self,
        batch: PackedBatch,
        inputs_embeds: Tensor | None = None,
        hidden_states: list[Tensor] | None = None,
        weights: EncoderAttentionWeights | None = None,
    ) -> Tensor:
        """(T, E) the states of every token of a packed batch. `inputs_embeds` (T, E) replace
        `batch.input_ids`.

        `hidden_states` collects the input of every layer and the output of the last one, (T, E) each. With
        `weights`, attention is computed eagerly and recorded.

        Raises:
            ValueError: a document is longer than the position table.
        """
        limit = self.config.max_encoder_position_embeddings
        if batch.lengths and max(batch.lengths) > limit:
            raise ValueError(
                f"a document has {max(batch.lengths)} tokens; this model's encoder reads at most {limit} "
                "(max_encoder_position_embeddings): truncate it or split it into chunks."
            )
        x = self.embed(batch.input_ids, inputs_embeds, batch.position_ids)
        metadata = AttentionMetadata(batch)
        for i, layer in enumerate(self.layers):
            if hidden_states is not None:
                hidden_states.append(x)
            if self.skips_layer():
                continue
            if self.checkpoints_layers and weights is None:
                x = checkpoint(layer, x, metadata, use_reentrant=False)
            else:
                x = layer(x, metadata, weights, i)
        if hidden_states is not None:
            hidden_states.append(x)
        return x

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        head_mask: Tensor | None = None,
    ) -> LEDEncoderBaseModelOutput | tuple[Any, ...]:
        """The states of a padded batch, in the reference's layout.

        `input_ids` (B, N) or `inputs_embeds` (B, N, E). `attention_mask` (B, N) hides tokens where it is 0.
        `global_attention_mask` (B, N) makes tokens global where it is 1 and hides them where it is -1.
        `head_mask` (L, H) scales each head's attention. With attentions or a head mask, attention is computed
        eagerly, with H * N * N scores per layer and document. Source: arXiv:2004.05150, section 3.1.

        Raises:
            ValueError: both or neither of the inputs, or a document longer than the position table.
        """
        source = input_ids if inputs_embeds is None else inputs_embeds
        if source is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("the encoder takes either input_ids or inputs_embeds; give one of them.")
        shape = (source.shape[0], source.shape[1])
        batch = pack(input_ids, attention_mask, global_attention_mask, shape, source.device)
        config, weights = self.config, None
        show_attentions = choose(output_attentions, config.output_attentions)
        if show_attentions or head_mask is not None:
            heads = config.encoder_attention_heads
            weights = EncoderAttentionWeights(batch, config.attention_windows, heads, head_mask)
        states: list[Tensor] | None = (
            [] if choose(output_hidden_states, config.output_hidden_states) else None
        )
        x_TE = self.encode(
            batch, None if inputs_embeds is None else inputs_embeds.flatten(0, 1), states, weights
        )
        out = LEDEncoderBaseModelOutput(
            unpack(x_TE, batch.cu_seqlens),
            None if states is None else tuple(unpack(x, batch.cu_seqlens) for x in states),
            tuple(weights.local) if weights and show_attentions else None,
            tuple(weights.global_) if weights and show_attentions and weights.max_globals else None,
        )
        return out if choose(return_dict, config.return_dict) else out.to_tuple()
