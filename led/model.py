"""The Longformer-Encoder-Decoder: encoder, decoder, LEDModel and the head that writes text.

Source: arXiv:2004.05150, section 7, with the layer layout of BART (arXiv:1910.13461): post-layer-norm, learned absolute
positions without offset, embeddings neither scaled nor shared between the two position tables.

Modules and parameters carry the names of the published checkpoints, so a `state_dict` is a checkpoint.

Shapes: T tokens of all documents of a packed batch, E = d_model, B documents, N columns of a padded batch, R rows of the
decoder, S positions of a row. The encoder knows no padding; `forward` of the models packs at its edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from led.attention import (
    FOLD_LIMIT,
    DocumentLayout,
    causal_mask,
    cross_attention,
    decoder_self_attention,
    folded_global_attention,
    global_attention,
    layouts,
    window_attention,
)
from led.cache import DecoderCache, DocumentMemory, SelfAttentionCache
from led.config import LEDConfig
from led.outputs import LEDEncoderBaseModelOutput, LEDSeq2SeqLMOutput, LEDSeq2SeqModelOutput
from led.packing import PackedBatch, pack, unpack

_ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


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

    def forward(self, x_TE: Tensor, documents: Sequence[DocumentLayout]) -> Tensor:
        T, E = x_TE.shape
        H, D = self.heads, E // self.heads
        dropout = self.attention_dropout if self.training else 0.0
        q, k, v = (f(x_TE).view(T, H, D) for f in (self.query, self.key, self.value))
        out_THD = window_attention(q / D**0.5, k, v, documents, self.one_sided, dropout)
        replaced, rows = [], []
        for doc, read in zip(documents, self._global_reads(x_TE, documents, dropout), strict=True):
            if read is not None:
                replaced.append(doc.start + doc.globals_)
                rows.append(read)
            if doc.visible is not None:
                hidden = (~doc.visible).nonzero()[:, 0]
                replaced.append(doc.start + hidden)
                rows.append(out_THD.new_zeros(len(hidden), H, D))
        if replaced:
            out_THD = out_THD.index_copy(0, torch.cat(replaced), torch.cat(rows))
        return out_THD.reshape(T, E)

    def _global_reads(self, x_TE: Tensor, documents: Sequence[DocumentLayout], dropout: float) -> list[Tensor | None]:
        """What each document's global tokens read, (g, H, D), or None where it has none."""
        counts = [len(doc.globals_) for doc in documents]
        if not any(counts):
            return [None] * len(documents)
        H, D = self.heads, x_TE.shape[1] // self.heads
        lengths = [doc.end - doc.start for doc in documents]
        places = torch.cat([doc.start + doc.globals_ for doc in documents])
        queries = (self.query_global(x_TE[places]).view(-1, H, D) / D**0.5).split(counts)
        if torch.is_grad_enabled():  # one product over all documents: many small ones would each leave a gradient to add
            projected = (f(x_TE).view(-1, H, D).split(lengths) for f in (self.key_global, self.value_global))
            return [
                global_attention(q, k, v, doc.visible, dropout) if len(q) else None
                for doc, q, k, v in zip(documents, queries, *projected, strict=True)
            ]
        reads: list[Tensor | None] = []
        for doc, q, x_nE in zip(documents, queries, x_TE.split(lengths), strict=True):
            if not len(q):
                reads.append(None)
            elif len(q) < FOLD_LIMIT:
                reads.append(folded_global_attention(q, x_nE, self.key_global, self.value_global, doc.visible))
            else:
                k, v = (f(x_nE).view(-1, H, D) for f in (self.key_global, self.value_global))
                reads.append(global_attention(q, k, v, doc.visible))
        return reads


class LEDEncoderAttention(nn.Module):
    """The encoder's attention and its output projection."""

    def __init__(self, config: LEDConfig, window: int) -> None:
        super().__init__()
        self.longformer_self_attn = LEDEncoderSelfAttention(config, window)
        self.output = nn.Linear(config.d_model, config.d_model)

    def forward(self, x_TE: Tensor, documents: Sequence[DocumentLayout]) -> Tensor:
        return self.output(self.longformer_self_attn(x_TE, documents))


class _Layer(nn.Module):
    """What encoder and decoder layers share: the feed-forward block and dropout."""

    def __init__(self, config: LEDConfig, ffn_dim: int) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation_function]
        self.dropout, self.activation_dropout = config.dropout, config.activation_dropout
        self.fc1, self.fc2 = nn.Linear(config.d_model, ffn_dim), nn.Linear(ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def feed_forward(self, x: Tensor) -> Tensor:
        inner = F.dropout(self.activation(self.fc1(x)), self.activation_dropout, self.training)
        return self.final_layer_norm(x + self.drop(self.fc2(inner)))


class LEDEncoderLayer(_Layer):
    """One encoder layer, (T, E) to (T, E)."""

    def __init__(self, config: LEDConfig, window: int) -> None:
        super().__init__(config, config.encoder_ffn_dim)
        self.self_attn = LEDEncoderAttention(config, window)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, x_TE: Tensor, documents: Sequence[DocumentLayout]) -> Tensor:
        x_TE = self.self_attn_layer_norm(x_TE + self.drop(self.self_attn(x_TE, documents)))
        x_TE = self.feed_forward(x_TE)
        if x_TE.dtype == torch.float16:
            limit = torch.finfo(torch.float16).max - 1000
            x_TE = x_TE.clamp(-limit, limit)
        return x_TE


class LEDEncoder(nn.Module):
    """The encoder over a packed batch: `forward(batch)` gives (T, E)."""

    def __init__(self, config: LEDConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = embed_tokens
        self.embed_positions = nn.Embedding(config.max_encoder_position_embeddings, config.d_model)
        self.layers = nn.ModuleList(LEDEncoderLayer(config, w) for w in config.attention_windows)
        self.layernorm_embedding = nn.LayerNorm(config.d_model)

    def forward(self, batch: PackedBatch, inputs_embeds: Tensor | None = None) -> Tensor:
        """(T, E) the states of every token; `inputs_embeds` (T, E) stands in for `batch.input_ids`.

        Raises:
            ValueError: a document is longer than the position table.
        """
        limit = self.config.max_encoder_position_embeddings
        if batch.lengths and max(batch.lengths) > limit:
            raise ValueError(
                f"a document has {max(batch.lengths)} tokens; this model's encoder reads at most {limit} "
                "(max_encoder_position_embeddings): truncate it or split it into windows."
            )
        x = self.embed_tokens(batch.input_ids) if inputs_embeds is None else inputs_embeds
        x = self.layernorm_embedding(x + self.embed_positions(batch.position_ids))
        x = F.dropout(x, self.config.dropout, self.training)
        documents = layouts(batch)
        for layer in self.layers:
            if self.training and self.config.encoder_layerdrop > 0 and torch.rand(()) < self.config.encoder_layerdrop:
                continue
            x = layer(x, documents)
        return x


class LEDDecoderAttention(nn.Module):
    """Multi-head attention of the decoder; the caller brings keys and values, this module projects."""

    def __init__(self, config: LEDConfig) -> None:
        super().__init__()
        E = config.d_model
        self.heads = config.decoder_attention_heads
        self.scale = (E // self.heads) ** -0.5
        self.attention_dropout = config.attention_dropout
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(E, E) for _ in range(4))

    def by_head(self, x_RTE: Tensor) -> Tensor:
        """(R, T, E) to (R, H, T, D)."""
        return x_RTE.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def queries(self, x_RTE: Tensor) -> Tensor:
        """(R, H, T, D), scaled."""
        return self.by_head(self.q_proj(x_RTE) * self.scale)

    def keys_values(self, x_RTE: Tensor) -> tuple[Tensor, Tensor]:
        """Two of (R, H, T, D)."""
        return self.by_head(self.k_proj(x_RTE)), self.by_head(self.v_proj(x_RTE))

    def merge(self, x_RHTD: Tensor) -> Tensor:
        """(R, H, T, D) to (R, T, E), through the output projection."""
        return self.out_proj(x_RHTD.transpose(1, 2).flatten(2))

    @property
    def dropout_now(self) -> float:
        """The dropout of attention probabilities in the module's present mode."""
        return self.attention_dropout if self.training else 0.0


class LEDDecoderLayer(_Layer):
    """One decoder layer over R rows of T new positions."""

    def __init__(self, config: LEDConfig) -> None:
        super().__init__(config, config.decoder_ffn_dim)
        self.self_attn = LEDDecoderAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = LEDDecoderAttention(config)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, x_RTE: Tensor, cache: DecoderCache | None, memories: Sequence[tuple[Tensor, Tensor, Tensor | None]],
                mask: Tensor | None, layer: int) -> Tensor:  # fmt: skip
        attention = self.self_attn
        k, v = attention.keys_values(x_RTE)
        if cache is not None:
            k, v = cache.past.append(layer, k, v)
        read = decoder_self_attention(attention.queries(x_RTE), k, v, mask, attention.dropout_now)
        x_RTE = self.self_attn_layer_norm(x_RTE + self.drop(attention.merge(read)))
        x_RTE = self.encoder_attn_layer_norm(x_RTE + self.drop(self._read_memories(x_RTE, memories)))
        return self.feed_forward(x_RTE)

    def _read_memories(self, x_RTE: Tensor, memories: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> Tensor:
        """Cross-attention: the rows of each document, all positions and beams together, are one query of its memory."""
        attention = self.encoder_attn
        R, T, _ = x_RTE.shape
        per_document = R // len(memories)
        q_RHTD = attention.queries(x_RTE)
        reads = []
        for q, (k, v, mask) in zip(q_RHTD.split(per_document), memories, strict=True):
            q_HRD = q.transpose(0, 1).flatten(1, 2)
            read_HRD = cross_attention(q_HRD, k, v, mask, attention.dropout_now)
            reads.append(read_HRD.unflatten(1, (per_document, T)).transpose(0, 1))
        return attention.merge(torch.cat(reads))


class LEDDecoder(nn.Module):
    """The decoder: rows of target tokens over the memories of their documents."""

    def __init__(self, config: LEDConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = embed_tokens
        self.embed_positions = nn.Embedding(config.max_decoder_position_embeddings, config.d_model)
        self.layers = nn.ModuleList(LEDDecoderLayer(config) for _ in range(config.decoder_layers))
        self.layernorm_embedding = nn.LayerNorm(config.d_model)

    @property
    def decoder_layers(self) -> list[LEDDecoderLayer]:
        """The layers, as what they are."""
        return [layer for layer in self.layers if isinstance(layer, LEDDecoderLayer)]

    def remember(self, encoder_TE: Tensor, batch: PackedBatch) -> list[DocumentMemory]:
        """The cross-attention memory of each document of a packed batch."""
        layers = [
            [x[0].split(batch.lengths, dim=1) for x in layer.encoder_attn.keys_values(encoder_TE[None])]
            for layer in self.decoder_layers
        ]
        memories = []
        for d, (start, end) in enumerate(batch.spans):
            mask = None
            if batch.is_remembered is not None:
                hidden = ~batch.is_remembered[start:end]
                mask = torch.zeros_like(hidden, dtype=encoder_TE.dtype)
                mask = mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
            pairs = [(k[d].contiguous(), v[d].contiguous()) for k, v in layers]
            memories.append(DocumentMemory(pairs, mask))
        return memories

    def forward(
        self,
        input_ids: Tensor | None,
        memories: Sequence[DocumentMemory],
        cache: DecoderCache | None = None,
        decoder_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """(R, T, E) the states of T new positions of R rows; the rows of a document follow one another.

        With a cache the new positions stand after what each row holds, and rows may differ in length when T is 1.
        `decoder_attention_mask` (R, S) is read when T > 1 and ignored for a single position, as in the reference.

        Raises:
            ValueError: a position lies beyond the position table.
        """
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        T = x.shape[1]
        longest = T + (cache.past.longest if cache is not None else 0)
        limit = self.config.max_decoder_position_embeddings
        if longest > limit:
            raise ValueError(
                f"the decoder was given {longest} positions; this model has {limit} (max_decoder_position_embeddings)."
            )
        positions = torch.arange(T, device=x.device)[None, :]
        if cache is not None:
            positions = cache.past.lengths[:, None].to(x.device) + positions
        x = self.layernorm_embedding(x + self.embed_positions(positions))
        x = F.dropout(x, self.config.dropout, self.training)
        mask = cache.past.mask(x.dtype, x.device) if cache is not None else None
        if T > 1:
            if mask is not None:
                raise ValueError("several positions at once need rows of equal length; decode one position at a time.")
            mask = _prefix_mask(longest, T, decoder_attention_mask, x)
        for i, layer in enumerate(self.layers):
            if self.training and self.config.decoder_layerdrop > 0 and torch.rand(()) < self.config.decoder_layerdrop:
                continue
            x = layer(x, cache, [(*m.layers[i], m.mask) for m in memories], mask, i)
        if cache is not None:
            cache.past.advance(T)
        return x


def _prefix_mask(keys: int, queries: int, decoder_attention_mask: Tensor | None, x: Tensor) -> Tensor:
    if decoder_attention_mask is None and keys > queries:
        decoder_attention_mask = torch.ones(1, keys, device=x.device)
    return causal_mask(queries, decoder_attention_mask, x.dtype, x.device)


class LEDPreTrainedModel(nn.Module):
    """What every LED model shares: a configuration, the published initialisation, device and dtype."""

    def __init__(self, config: LEDConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return next(self.parameters()).dtype

    def tie_weights(self) -> None:
        """Make one parameter of those that share the token embedding, after they were assigned one by one."""
        raise NotImplementedError

    @torch.no_grad()
    def init_weights(self) -> None:
        """Normal weights of standard deviation `init_std`, zero biases and a zero embedding of the padding token."""
        if self.device.type == "meta":
            return
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(0.0, self.config.init_std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()


@dataclass(frozen=True)
class Encoded:
    """Encoder states of a packed batch, (T, E)."""

    states_TE: Tensor
    batch: PackedBatch


class LEDModel(LEDPreTrainedModel):
    """Encoder and decoder without a head."""

    def __init__(self, config: LEDConfig) -> None:
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.encoder = LEDEncoder(config, self.shared)
        self.decoder = LEDDecoder(config, self.shared)
        self.init_weights()

    def tie_weights(self) -> None:
        self.encoder.embed_tokens = self.decoder.embed_tokens = self.shared

    def encode(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_outputs: LEDEncoderBaseModelOutput | Sequence[Tensor] | None = None,
    ) -> Encoded:
        """The packed states of a padded batch; `encoder_outputs` (B, N, E) are packed as they are."""
        if input_ids is not None and inputs_embeds is not None:
            raise ValueError("input_ids and inputs_embeds were both given; give one of them.")
        given = inputs_embeds if encoder_outputs is None else encoder_outputs[0]
        source = input_ids if given is None else given
        if source is None:
            raise ValueError("one of input_ids, inputs_embeds or encoder_outputs must be given.")
        shape = (source.shape[0], source.shape[1])
        batch = pack(input_ids, attention_mask, global_attention_mask, shape, source.device)
        if encoder_outputs is not None:
            return Encoded(source.flatten(0, 1), batch)
        return Encoded(self.encoder(batch, None if given is None else given.flatten(0, 1)), batch)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: LEDEncoderBaseModelOutput | Sequence[Tensor] | None = None,
        global_attention_mask: Tensor | None = None,
        past_key_values: DecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> LEDSeq2SeqModelOutput:
        """Decoder states over a padded batch.

        `input_ids`, `attention_mask`, `global_attention_mask` (B, N); `decoder_input_ids` (B, T), by default `input_ids`
        shifted right; `past_key_values` from a call with `use_cache=True`, with which only new positions are given.

        Raises:
            ValueError: an input is missing or longer than the model's positions.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise ValueError("without input_ids, decoder_input_ids or decoder_inputs_embeds must be given.")
            decoder_input_ids = shift_tokens_right(input_ids, self.config.pad_token_id, self.config.decoder_start_token_id)
        encoder_BNE = None
        if past_key_values is None or not past_key_values.memories:
            encoded = self.encode(input_ids, attention_mask, global_attention_mask, inputs_embeds, encoder_outputs)
            encoder_BNE = unpack(encoded.states_TE, encoded.batch.cu_seqlens)
            memories = self.decoder.remember(encoded.states_TE, encoded.batch)
        else:
            memories = past_key_values.memories
        if past_key_values is None and use_cache:
            past_key_values = self.new_cache(memories, rows=1)
        states = self.decoder(decoder_input_ids, memories, past_key_values, decoder_attention_mask, decoder_inputs_embeds)
        return LEDSeq2SeqModelOutput(states, past_key_values, encoder_BNE)

    def new_cache(self, memories: Sequence[DocumentMemory] = (), rows: int = 1) -> DecoderCache:
        """A cache for these documents, with `rows` empty rows each."""
        past = SelfAttentionCache(self.config.decoder_layers)
        past.extend(len(memories) * rows)
        return DecoderCache(past, list(memories))


class LEDForConditionalGeneration(LEDPreTrainedModel):
    """LED with the language-model head that shares the token embedding."""

    final_logits_bias: Tensor

    def __init__(self, config: LEDConfig) -> None:
        super().__init__(config)
        self.led = LEDModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))
        self.tie_weights()

    def tie_weights(self) -> None:
        self.led.tie_weights()
        self.lm_head.weight = self.led.shared.weight

    def logits(self, states: Tensor) -> Tensor:
        """(..., E) to (..., vocab_size)."""
        return self.lm_head(states) + self.final_logits_bias

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: LEDEncoderBaseModelOutput | Sequence[Tensor] | None = None,
        global_attention_mask: Tensor | None = None,
        past_key_values: DecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> LEDSeq2SeqLMOutput:
        """Logits over a padded batch, and the loss where `labels` (B, T) are given.

        The loss is the mean cross-entropy over labels other than -100; without decoder inputs the labels, shifted right,
        are the decoder's input. Other arguments and errors as in `LEDModel.forward`.
        """
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)
        out = self.led(input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs,
                       global_attention_mask, past_key_values, inputs_embeds, decoder_inputs_embeds, use_cache)  # fmt: skip
        logits = self.logits(out.last_hidden_state)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten().to(logits.device))
        return LEDSeq2SeqLMOutput(loss, logits, out.past_key_values, out.encoder_last_hidden_state)


def shift_tokens_right(input_ids: Tensor, pad_token_id: int, decoder_start_token_id: int) -> Tensor:
    """(B, T) the decoder's input for targets (B, T): the start token first, the last target dropped, -100 read as padding."""
    start = input_ids.new_full((input_ids.shape[0], 1), decoder_start_token_id)
    shifted = torch.cat([start, input_ids[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, pad_token_id)
