"""The encoder: window attention with global tokens over packed documents.

Source: arXiv:2004.05150, sections 3.1 and 7. Modules and parameters carry the names of the published checkpoints.

Shapes: T tokens of all documents of a packed batch, E = d_model, H heads, D head size, B documents, N columns of a padded
batch, L layers. The layers know no padding; `forward` packs at its edge.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from led.attention import (
    FOLD_LIMIT,
    folded_global_attention,
    global_attention,
    window_attention,
)
from led.config import LEDConfig
from led.folded_globals import AT_ONCE_FROM, folded_globals
from led.layers import LEDLayer, LEDStack, choose
from led.layout import Layout
from led.outputs import LEDEncoderBaseModelOutput
from led.packed_linear import stacked, will_stack
from led.packing import PackedBatch, pack, unpack
from led.plain import EncoderAttentions


class LEDEncoderSelfAttention(nn.Module):
    """Window attention with global tokens over a packed batch (section 3.1); the global rows have projections of their own."""

    def __init__(self, config: LEDConfig, window: int) -> None:
        super().__init__()
        E = config.d_model
        self.heads = config.encoder_attention_heads
        self.one_sided = window // 2
        self.attention_dropout = config.attention_dropout
        self.query, self.key, self.value = (nn.Linear(E, E) for _ in range(3))
        self.query_global, self.key_global, self.value_global = (nn.Linear(E, E) for _ in range(3))
        self.qkv: nn.Module | None = None

    def forward(self, x_TE: Tensor, layout: Layout) -> Tensor:
        T, E = x_TE.shape
        dropout = self.attention_dropout if self.training else 0.0
        q, k, v = (x.unflatten(1, (self.heads, -1)) for x in self.queries_keys_values(x_TE))
        out_THD = window_attention(q, k, v, layout, self.one_sided, dropout)
        if len(layout.globals_):
            put = out_THD.index_copy if torch.is_grad_enabled() else out_THD.index_copy_
            out_THD = put(0, layout.globals_, self._global_reads(x_TE, layout, dropout).to(out_THD.dtype))
        if (visible := layout.batch.is_visible) is not None:
            hide = out_THD.masked_fill if torch.is_grad_enabled() else out_THD.masked_fill_
            out_THD = hide(~visible[:, None, None], 0.0)
        return out_THD.reshape(T, E)

    def fuse(self, int8: bool) -> None:
        """On a GPU make one layer of the projections of the same tokens, the scale of queries in its weights."""
        if will_stack(self.query, int8):
            self.qkv = stacked(self.query, self.key, self.value, (self.query.in_features // self.heads) ** -0.5)
            del self.query, self.key, self.value

    def queries_keys_values(self, x_TE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(T, E) each, queries scaled.

        Where torch multiplies on the CPU, without gradients, keys are stored by columns, since its products read them so, and
        have no bias: it is the same for every key and leaves the softmax unchanged.
        """
        if self.qkv is not None:
            q, k, v = self.qkv(x_TE).chunk(3, -1)
            return q, k, v
        scale = (x_TE.shape[1] // self.heads) ** -0.5
        query, key = self.query, self.key
        if torch.is_grad_enabled():
            return query(x_TE) * scale, key(x_TE), self.value(x_TE)
        if x_TE.is_cuda or not (isinstance(query, nn.Linear) and isinstance(key, nn.Linear)):
            return query(x_TE).mul_(scale), key(x_TE), self.value(x_TE)
        q_TE = torch.addmm(query.bias * scale, x_TE, query.weight.T, alpha=scale)
        return q_TE, torch.mm(key.weight, x_TE.T).T, self.value(x_TE)

    def _global_reads(self, x_TE: Tensor, layout: Layout, dropout: float) -> Tensor:
        """(G, H, D) what the global tokens of all documents read."""
        lengths, counts = layout.lengths, layout.global_counts
        H, D = self.heads, x_TE.shape[1] // self.heads
        queries_GHD = self.query_global(x_TE[layout.globals_]).view(-1, H, D) / D**0.5
        # Folding knows no dropout, and many small products would each leave a gradient to add.
        fold = not (torch.is_grad_enabled() or dropout)
        if fold and x_TE.is_cuda and len(counts) >= AT_ONCE_FROM and max(counts) < FOLD_LIMIT:
            return folded_globals(queries_GHD, x_TE, layout, self.key_global, self.value_global)
        documents = zip(layout.documents, queries_GHD.split(counts), x_TE.split(lengths), strict=True)
        if not fold:
            projected = (f(x_TE).view(-1, H, D).split(lengths) for f in (self.key_global, self.value_global))
            pairs = zip(documents, *projected, strict=True)
            return torch.cat([global_attention(q, k, v, doc.visible, dropout) for (doc, q, _), k, v in pairs if len(q)])
        reads = []
        for doc, q, x_nE in documents:
            if len(q) >= FOLD_LIMIT:
                k, v = (f(x_nE).view(-1, H, D) for f in (self.key_global, self.value_global))
                reads.append(global_attention(q, k, v, doc.visible))
            elif len(q):
                reads.append(folded_global_attention(q, x_nE, self.key_global, self.value_global, doc.visible))
        return torch.cat(reads)


class LEDEncoderAttention(nn.Module):
    """The encoder's attention and its output projection."""

    def __init__(self, config: LEDConfig, window: int) -> None:
        super().__init__()
        self.longformer_self_attn = LEDEncoderSelfAttention(config, window)
        self.output = nn.Linear(config.d_model, config.d_model)

    def forward(self, x_TE: Tensor, layout: Layout) -> Tensor:
        return self.output(self.longformer_self_attn(x_TE, layout))


class LEDEncoderLayer(LEDLayer):
    """One encoder layer, (T, E) to (T, E)."""

    def __init__(self, config: LEDConfig, window: int) -> None:
        super().__init__(config, config.encoder_ffn_dim)
        self.self_attn = LEDEncoderAttention(config, window)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.clamps = True

    def forward(self, x_TE: Tensor, layout: Layout) -> Tensor:
        return self.after_attention(x_TE, self.self_attn(x_TE, layout))

    def after_attention(self, x_TE: Tensor, read_TE: Tensor) -> Tensor:
        """(T, E) the layer's output for its input and what its attention has read."""
        return self.feed_forward(self.add_and_norm(x_TE, read_TE, self.self_attn_layer_norm))


class LEDEncoder(LEDStack):
    """The encoder: `forward` over a padded batch, `encode` over a packed one."""

    def __init__(self, config: LEDConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__(config, embed_tokens, config.max_encoder_position_embeddings, config.encoder_layerdrop)
        self.layers = nn.ModuleList(LEDEncoderLayer(config, w) for w in config.attention_windows)

    @property
    def encoder_layers(self) -> list[LEDEncoderLayer]:
        """The layers, as what they are."""
        return [layer for layer in self.layers if isinstance(layer, LEDEncoderLayer)]

    def read_in_float32(self) -> None:
        self.embed_tokens = copy.deepcopy(self.embed_tokens)  # the decoder's stays as it is
        self.float()

    def encode(
        self,
        batch: PackedBatch,
        inputs_embeds: Tensor | None = None,
        hidden_states: list[Tensor] | None = None,
        attentions: EncoderAttentions | None = None,
    ) -> Tensor:
        """(T, E) the states of every token of a packed batch; `inputs_embeds` (T, E) stands in for `batch.input_ids`.

        `hidden_states` collects what every layer reads and what the last one gives, (T, E) each; with `attentions` the
        layers are computed plainly.

        Raises:
            ValueError: a document is longer than the position table.
        """
        limit = self.config.max_encoder_position_embeddings
        if batch.lengths and max(batch.lengths) > limit:
            raise ValueError(
                f"a document has {max(batch.lengths)} tokens; this model's encoder reads at most {limit} "
                "(max_encoder_position_embeddings): truncate it or split it into windows."
            )
        x = self.embed(batch.input_ids, inputs_embeds, batch.position_ids)
        layout = Layout(batch)
        for i, layer in enumerate(self.encoder_layers):
            if hidden_states is not None:
                hidden_states.append(x)
            if self.skips_layer():
                continue
            x = self.through(layer, x, layout) if attentions is None else attentions.layer(layer, x, layout, i)
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

        `input_ids` (B, N) or `inputs_embeds` (B, N, E); `attention_mask` (B, N) hides tokens where it is 0;
        `global_attention_mask` (B, N) makes tokens global where it is 1 and hides them where it is -1; `head_mask` (L, H)
        scales each head's attention. With attentions or a head mask the plain path runs, at H * N * N scores per layer
        and document. Source: arXiv:2004.05150, section 3.1.

        Raises:
            ValueError: both or neither of the inputs, or a document longer than the position table.
        """
        source = input_ids if inputs_embeds is None else inputs_embeds
        if source is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("the encoder reads input_ids or inputs_embeds; give one of them.")
        batch = pack(input_ids, attention_mask, global_attention_mask, (source.shape[0], source.shape[1]), source.device)
        config, kept = self.config, None
        show_attentions = choose(output_attentions, config.output_attentions)
        if show_attentions or head_mask is not None:
            kept = EncoderAttentions(batch, config.attention_windows, config.encoder_attention_heads, head_mask)
        states: list[Tensor] | None = [] if choose(output_hidden_states, config.output_hidden_states) else None
        x_TE = self.encode(batch, None if inputs_embeds is None else inputs_embeds.flatten(0, 1), states, kept)
        out = LEDEncoderBaseModelOutput(
            unpack(x_TE, batch.cu_seqlens),
            None if states is None else tuple(unpack(x, batch.cu_seqlens) for x in states),
            tuple(kept.local) if kept and show_attentions else None,
            tuple(kept.global_) if kept and show_attentions and kept.slots else None,
        )
        return out if choose(return_dict, config.return_dict) else out.to_tuple()
