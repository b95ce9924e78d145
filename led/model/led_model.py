"""LEDModel: encoder and decoder without a head.

Source: arXiv:2004.05150, section 7. Modules and parameters have the names of the published checkpoints, so a
`state_dict` is a checkpoint.

Shapes: B documents, N encoder columns, T decoder positions, E = d_model, L layers, H heads. `forward`
takes padded batches and packs at its edge. Generation and the batch system use `encoder.encode` and
packed batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from led.batch.packed_batch import PackedBatch, pack
from led.config import LEDConfig
from led.kv_cache.cross_attention import CrossAttentionCache, DocumentKV
from led.kv_cache.decoder_cache import DecoderCache
from led.kv_cache.self_attention import SelfAttentionCache
from led.model.attention_weights import DecoderAttentionWeights
from led.model.decoder import LEDDecoder
from led.model.encoder import LEDEncoder
from led.model.layers import choose
from led.model.outputs import LEDEncoderBaseModelOutput, LEDSeq2SeqModelOutput
from led.model.pretrained import LEDPreTrainedModel, shift_tokens_right


class LEDInputs(TypedDict):
    """The arguments of every model's `forward` besides labels. All are optional.

    `attention_mask` (B, N): 0 hides a token from encoder and decoder. `global_attention_mask` (B, N): 1 makes
    a token global, -1 hides it from the encoder. `decoder_input_ids` (B, T), or `decoder_inputs_embeds` (B,
    T, E). `decoder_attention_mask` (B, T). `encoder_outputs`: an encoder output, its states (B, N, E) first.
    `inputs_embeds` (B, N, E) replace `input_ids`. `past_key_values`: from a call with `use_cache`, and then
    only new positions are given. `head_mask` (L, H), `decoder_head_mask` (L, H), `cross_attn_head_mask` (L,
    H) scale each head. `output_attentions`, `output_hidden_states`, `use_cache`, `return_dict`: by default
    those of the configuration.
    """

    attention_mask: NotRequired[Tensor | None]
    decoder_input_ids: NotRequired[Tensor | None]
    decoder_attention_mask: NotRequired[Tensor | None]
    encoder_outputs: NotRequired[LEDEncoderBaseModelOutput | Sequence[Tensor] | None]
    global_attention_mask: NotRequired[Tensor | None]
    past_key_values: NotRequired[DecoderCache | None]
    inputs_embeds: NotRequired[Tensor | None]
    decoder_inputs_embeds: NotRequired[Tensor | None]
    use_cache: NotRequired[bool | None]
    output_attentions: NotRequired[bool | None]
    output_hidden_states: NotRequired[bool | None]
    head_mask: NotRequired[Tensor | None]
    decoder_head_mask: NotRequired[Tensor | None]
    cross_attn_head_mask: NotRequired[Tensor | None]


class LEDModel(LEDPreTrainedModel):
    """Encoder and decoder without a head (arXiv:2004.05150, section 7)."""

    def __init__(self, config: LEDConfig) -> None:
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.encoder = LEDEncoder(config, self.shared)
        self.decoder = LEDDecoder(config, self.shared)
        self.init_weights()

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
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        head_mask: Tensor | None = None,
        decoder_head_mask: Tensor | None = None,
        cross_attn_head_mask: Tensor | None = None,
    ) -> Any:
        """Decoder states of a padded batch: `LEDSeq2SeqModelOutput`, or its tuple with `return_dict=False`.

        The arguments are those of `LEDInputs`. `decoder_input_ids` is by default `input_ids` (B, N) shifted
        right. A single new position ignores `decoder_attention_mask`, as in the reference.

        Raises:
            ValueError: an input is missing or given twice, or is longer than the model's positions.
        """
        config = self.config
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise ValueError(
                    "without input_ids, decoder_input_ids or decoder_inputs_embeds must be given."
                )
            decoder_input_ids = shift_tokens_right(
                input_ids, config.pad_token_id, config.decoder_start_token_id
            )
        elif decoder_input_ids is not None and decoder_inputs_embeds is not None:
            raise ValueError("decoder_input_ids and decoder_inputs_embeds were both given; give one of them.")
        show_states = choose(output_hidden_states, config.output_hidden_states)
        show_attentions = choose(output_attentions, config.output_attentions)
        encoded = None if encoder_outputs is None else as_encoder_output(encoder_outputs)
        if past_key_values is not None and past_key_values.cross_attention:
            documents = past_key_values.cross_attention
        else:
            if encoded is None:
                encoded = self.encoder(
                    input_ids,
                    attention_mask,
                    global_attention_mask,
                    inputs_embeds,
                    show_attentions,
                    show_states,
                    return_dict=True,
                    head_mask=head_mask,
                )
            documents = self._cross_attention_cache(encoded.last_hidden_state, attention_mask)
        checkpointing = self.training and self.decoder.gradient_checkpointing
        if past_key_values is None and choose(use_cache, config.use_cache) and not checkpointing:
            past_key_values = self.new_cache(documents)
        weights = None
        if show_attentions or decoder_head_mask is not None or cross_attn_head_mask is not None:
            shape = config.decoder_layers, config.decoder_attention_heads
            weights = DecoderAttentionWeights(*shape, decoder_head_mask, cross_attn_head_mask)
        states: list[Tensor] | None = [] if show_states else None
        x = self.decoder(
            decoder_input_ids,
            documents,
            None if past_key_values is None else past_key_values.self_attention,
            decoder_attention_mask,
            decoder_inputs_embeds,
            states,
            weights,
        )
        out = LEDSeq2SeqModelOutput(
            last_hidden_state=x,
            past_key_values=past_key_values,
            decoder_hidden_states=None if states is None else tuple(states),
            decoder_attentions=tuple(weights.own) if weights and show_attentions else None,
            cross_attentions=tuple(weights.cross) if weights and show_attentions else None,
        )
        if encoded is not None:
            out.encoder_last_hidden_state = encoded.last_hidden_state
            out.encoder_hidden_states = encoded.hidden_states
            out.encoder_attentions = encoded.attentions
            out.encoder_global_attentions = encoded.global_attentions
        return out if choose(return_dict, config.return_dict) else out.to_tuple()

    def new_cache(self, documents: Iterable[DocumentKV] = (), rows: int = 1) -> DecoderCache:
        """A KV cache for these documents, with `rows` empty rows each."""
        cross = CrossAttentionCache(documents)
        own = SelfAttentionCache(self.config.decoder_layers)
        own.add_rows(len(cross) * rows)
        return DecoderCache(own, cross)

    def forward_packed(self, batch: PackedBatch) -> list[Tensor]:
        """The decoder's states over each document itself, shifted right: (n, E) per document of a packed
        batch.

        Raises:
            ValueError: a document is longer than the encoder's or the decoder's positions.
        """
        config = self.config
        documents = self.decoder.cross_attention_cache(self.encoder.encode(batch), batch)
        assert batch.input_ids is not None
        shifted = [
            shift_tokens_right(ids[None], config.pad_token_id, config.decoder_start_token_id)[0]
            for ids in batch.input_ids.split(batch.lengths)
        ]
        states_TE = self.decoder.forward_packed(torch.cat(shifted), batch.lengths, documents)
        return list(states_TE.split(batch.lengths))

    def forward_packed_with_prompt(self, batch: PackedBatch) -> tuple[list[Tensor], Tensor]:
        """The encoder's states of each document of a packed batch, and the decoder's state after
        `decoder_prompt`.

        The first are (n, E) per document, the second (B, E) at the prompt's last token.

        Raises:
            ValueError: a document is longer than the encoder's positions.
        """
        encoder_TE = self.encoder.encode(batch)
        documents = self.decoder.cross_attention_cache(encoder_TE, batch)
        states_BTE = self.decoder(self.prompts(len(batch.lengths)), documents)
        return list(encoder_TE.split(batch.lengths)), states_BTE[:, -1]

    def prompts(self, documents: int) -> Tensor:
        """(B, T) the configuration's `decoder_prompt`, repeated for each document."""
        return torch.tensor([self.config.decoder_prompt] * documents, device=self.device)

    def _cross_attention_cache(
        self, states_BNE: Tensor, attention_mask: Tensor | None
    ) -> CrossAttentionCache:
        shape = (states_BNE.shape[0], states_BNE.shape[1])
        batch = pack(None, attention_mask, None, shape, states_BNE.device)
        return self.decoder.cross_attention_cache(states_BNE.flatten(0, 1), batch)


def with_prompt(led: LEDModel, input_ids: Tensor | None, inputs: LEDInputs) -> LEDInputs:
    """The inputs of a call with the configuration's `decoder_prompt` as decoder input.

    Raises:
        ValueError: the call has decoder inputs of its own, or no `input_ids`.
    """
    given = inputs.get("decoder_input_ids") is not None or inputs.get("decoder_inputs_embeds") is not None
    if input_ids is None or given:
        raise ValueError(
            "this checkpoint's decoder input is its decoder_prompt: give input_ids and no decoder inputs."
        )
    return {**inputs, "decoder_input_ids": led.prompts(len(input_ids))}


def as_encoder_output(output: LEDEncoderBaseModelOutput | Sequence[Any]) -> LEDEncoderBaseModelOutput:
    """An encoder output, also from a sequence in the order of its fields, with None for absent ones."""
    return output if isinstance(output, LEDEncoderBaseModelOutput) else LEDEncoderBaseModelOutput(*output[:4])


def shared_fields(out: LEDSeq2SeqModelOutput) -> dict[str, Any]:
    """The fields after `last_hidden_state`, which the outputs of all heads share."""
    names = list(LEDSeq2SeqModelOutput.__dataclass_fields__)[1:]
    return {name: getattr(out, name) for name in names}
