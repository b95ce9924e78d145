"""LEDModel and its three heads: text, labels, answers.

Source: arXiv:2004.05150, section 7; the heads for labels and answers are the reference's (transformers 4), after BART's: both
read the decoder, which is given the document itself shifted right.

Modules and parameters carry the names of the published checkpoints, so a `state_dict` is a checkpoint.

Shapes: B documents, N encoder columns, T decoder positions, E = d_model, V = vocab_size, C = num_labels, L layers, H heads.
`forward` reads padded batches and packs at its edge; generation and the batch system use `encoder.encode` and packed batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from led.cache import DecoderCache, DocumentMemories, DocumentMemory, SelfAttentionCache
from led.config import LEDConfig
from led.decoder import LEDDecoder
from led.encoder import LEDEncoder
from led.generation import GenerateOutput, generate
from led.generation_config import GenerationConfig
from led.layers import choose
from led.outputs import (
    LEDEncoderBaseModelOutput,
    LEDSeq2SeqLMOutput,
    LEDSeq2SeqModelOutput,
    LEDSeq2SeqQuestionAnsweringModelOutput,
    LEDSeq2SeqSequenceClassifierOutput,
)
from led.packed_linear import rounded_up, will_pack, will_stack
from led.packing import PackedBatch, pack
from led.plain import DecoderAttentions
from led.pretrained import LEDPreTrainedModel, shift_tokens_right


class LEDInputs(TypedDict):
    """What `forward` of every model takes besides labels; all of it may be left out.

    `attention_mask` (B, N): 0 hides a token from encoder and decoder. `global_attention_mask` (B, N): 1 makes a token
    global, -1 hides it from the encoder. `decoder_input_ids` (B, T), or `decoder_inputs_embeds` (B, T, E);
    `decoder_attention_mask` (B, T). `encoder_outputs`: what the encoder gave, its states (B, N, E) first.
    `inputs_embeds` (B, N, E) in place of `input_ids`. `past_key_values`: from a call with `use_cache`; then only new
    positions are given. `head_mask` (L, H), `decoder_head_mask` (L, H), `cross_attn_head_mask` (L, H) scale each head.
    `output_attentions`, `output_hidden_states`, `use_cache`, `return_dict`: by default as the configuration says.
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

    def tie_weights(self) -> None:
        self.encoder.embed_tokens = self.decoder.embed_tokens = self.shared

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
        """Decoder states over a padded batch: `LEDSeq2SeqModelOutput`, or its tuple with `return_dict=False`.

        The arguments are those of `LEDInputs`; `decoder_input_ids` is by default `input_ids` (B, N) shifted right. A single
        new position ignores `decoder_attention_mask`, as in the reference.

        Raises:
            ValueError: an input is missing or given twice, or is longer than the model's positions.
        """
        config = self.config
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if input_ids is None:
                raise ValueError("without input_ids, decoder_input_ids or decoder_inputs_embeds must be given.")
            decoder_input_ids = shift_tokens_right(input_ids, config.pad_token_id, config.decoder_start_token_id)
        elif decoder_input_ids is not None and decoder_inputs_embeds is not None:
            raise ValueError("decoder_input_ids and decoder_inputs_embeds were both given; give one of them.")
        show_states = choose(output_hidden_states, config.output_hidden_states)
        show_attentions = choose(output_attentions, config.output_attentions)
        encoded = None if encoder_outputs is None else as_encoder_output(encoder_outputs)
        if past_key_values is not None and past_key_values.memories:
            memories = past_key_values.memories
        else:
            if encoded is None:
                encoded = self.encoder(input_ids, attention_mask, global_attention_mask, inputs_embeds,
                                       show_attentions, show_states, True, head_mask)  # fmt: skip
            memories = self._remember(encoded.last_hidden_state, attention_mask)
        checkpointing = self.training and self.decoder.gradient_checkpointing
        if past_key_values is None and choose(use_cache, config.use_cache) and not checkpointing:
            past_key_values = self.new_cache(memories)
        kept = None
        if show_attentions or decoder_head_mask is not None or cross_attn_head_mask is not None:
            shape = config.decoder_layers, config.decoder_attention_heads
            kept = DecoderAttentions(*shape, decoder_head_mask, cross_attn_head_mask)
        states: list[Tensor] | None = [] if show_states else None
        x = self.decoder(decoder_input_ids, memories, past_key_values, decoder_attention_mask, decoder_inputs_embeds,
                         states, kept)  # fmt: skip
        out = LEDSeq2SeqModelOutput(
            x,
            past_key_values,
            None if states is None else tuple(states),
            tuple(kept.own) if kept and show_attentions else None,
            tuple(kept.cross) if kept and show_attentions else None,
            *(() if encoded is None else (encoded.last_hidden_state, encoded.hidden_states, encoded.attentions,
                                          encoded.global_attentions)),
        )  # fmt: skip
        return out if choose(return_dict, config.return_dict) else out.to_tuple()

    def new_cache(self, memories: Iterable[DocumentMemory] = (), rows: int = 1) -> DecoderCache:
        """A cache for these documents, with `rows` empty rows each."""
        held = DocumentMemories(memories)
        past = SelfAttentionCache(self.config.decoder_layers)
        past.extend(len(held) * rows)
        return DecoderCache(past, held)

    def read(self, batch: PackedBatch) -> list[Tensor]:
        """The decoder's states over each document itself, shifted right, (n, E) per document of a packed batch.

        Raises:
            ValueError: a document is longer than the encoder's or the decoder's positions.
        """
        config = self.config
        memories = self.decoder.remember(self.encoder.encode(batch), batch)
        assert batch.input_ids is not None
        shifted = [
            shift_tokens_right(ids[None], config.pad_token_id, config.decoder_start_token_id)[0]
            for ids in batch.input_ids.split(batch.lengths)
        ]
        return list(self.decoder.over_documents(torch.cat(shifted), batch.lengths, memories).split(batch.lengths))

    def read_with_prompt(self, batch: PackedBatch) -> tuple[list[Tensor], Tensor]:
        """The encoder's states over each document of a packed batch, (n, E) each, and the decoder's at the last token of the
        configuration's `decoder_prompt`, (B, E).

        Raises:
            ValueError: a document is longer than the encoder's positions.
        """
        encoder_TE = self.encoder.encode(batch)
        states_BTE = self.decoder(self.prompts(len(batch.lengths)), self.decoder.remember(encoder_TE, batch))
        return list(encoder_TE.split(batch.lengths)), states_BTE[:, -1]

    def prompts(self, documents: int) -> Tensor:
        """(B, T) the configuration's `decoder_prompt` for so many documents."""
        return torch.tensor([self.config.decoder_prompt] * documents, device=self.device)

    def get_encoder(self) -> LEDEncoder:
        """The encoder, which reads padded batches by itself."""
        return self.encoder

    def _remember(self, states_BNE: Tensor, attention_mask: Tensor | None) -> DocumentMemories:
        batch = pack(None, attention_mask, None, (states_BNE.shape[0], states_BNE.shape[1]), states_BNE.device)
        return self.decoder.remember(states_BNE.flatten(0, 1), batch)


class LEDForConditionalGeneration(LEDPreTrainedModel):
    """LED that writes: a language-model head that shares the token embedding (arXiv:2004.05150, section 7)."""

    head = ("final_logits_bias",)
    final_logits_bias: Tensor

    def __init__(self, config: LEDConfig) -> None:
        super().__init__(config)
        self.led = LEDModel(config)
        self.lm_head: Any = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))
        self.generation_config = GenerationConfig.from_dict({}, config)
        self.tie_weights()

    def tie_weights(self) -> None:
        self.led.tie_weights()
        self.lm_head.weight = self.led.shared.weight

    def logits(self, states: Tensor) -> Tensor:
        """(..., E) to (..., V)."""
        if self.lm_head.bias is None:
            return self.lm_head(states) + self.final_logits_bias
        return self.lm_head(states)[..., : self.config.vocab_size]

    def fuse(self, int8: bool) -> None:
        """Add the bias within the head's product, where it will be packed; on a GPU with outputs up to a round number."""
        if will_stack(self.lm_head, int8):
            self.lm_head = rounded_up(self.lm_head, self.final_logits_bias[0])
        elif will_pack(self.lm_head, int8):
            self.lm_head.bias = nn.Parameter(self.final_logits_bias[0], requires_grad=False)

    def forward(self, input_ids: Tensor | None = None, *, labels: Tensor | None = None, return_dict: bool | None = None,
                **inputs: Unpack[LEDInputs]) -> Any:  # fmt: skip
        """Logits over a padded batch, and the loss where `labels` (B, T) are given: `LEDSeq2SeqLMOutput`, or its tuple.

        The loss is the mean cross-entropy over labels other than -100; without decoder inputs the labels, shifted right,
        are the decoder's input. The other arguments are those of `LEDInputs`.

        Raises:
            ValueError: as `LEDModel.forward`.
        """
        config = self.config
        if labels is not None:
            inputs["use_cache"] = False
            if inputs.get("decoder_input_ids") is None and inputs.get("decoder_inputs_embeds") is None:
                inputs["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(labels)
        out = self.led(input_ids, **inputs, return_dict=True)
        logits = self.logits(out.last_hidden_state)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten().to(logits.device))
        result = LEDSeq2SeqLMOutput(loss, logits, *after_states(out))
        return result if choose(return_dict, config.return_dict) else result.to_tuple()

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """(B, T) the decoder's input for labels (B, T): the start token first, -100 read as padding."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, return_dict_in_generate: bool = False,
                 generation_config: GenerationConfig | None = None, **settings: Any) -> Tensor | GenerateOutput:  # fmt: skip
        """(B * num_return_sequences, length) what the model writes after each document of a padded batch, as token ids.

        Settings stand over `generation_config`, by default the checkpoint's own. The other arguments, and what comes with
        `return_dict_in_generate`, are those of the function `led.generate`.

        Raises:
            ValueError: a setting is unknown or breaks a rule, or the output would outgrow the decoder's positions.
        """
        config = generation_config or self.generation_config
        out = generate(self, input_ids, attention_mask, generation_config=config, **settings)
        return out if return_dict_in_generate else out.sequences

    @torch.no_grad()
    def resize_token_embeddings(self, vocab_size: int) -> None:
        """Grow or shrink the vocabulary; rows that are added are drawn as at the start of training.

        Raises:
            ValueError: a token of the configuration would fall outside, or the model was packed for inference.
        """
        if self.is_packed:
            raise ValueError(
                "this model was packed for inference and keeps its vocabulary; load the checkpoint again to resize it."
            )
        kept = min(vocab_size, self.config.vocab_size)
        self.config = replace(self.config, vocab_size=vocab_size)
        old, led = self.led.shared.weight, self.led
        led.shared = nn.Embedding(vocab_size, self.config.d_model, self.config.pad_token_id, device=old.device,
                                  dtype=old.dtype)  # fmt: skip
        led.shared.weight.normal_(0.0, self.config.init_std)
        led.shared.weight[:kept] = old[:kept]
        bias = self.final_logits_bias.new_zeros(1, vocab_size)
        bias[:, :kept] = self.final_logits_bias[:, :kept]
        self.final_logits_bias = bias
        self.lm_head.out_features = vocab_size
        for module in (led, led.encoder, led.decoder):
            module.config = self.config
        self.tie_weights()

    def get_encoder(self) -> LEDEncoder:
        """The encoder, which reads padded batches by itself."""
        return self.led.encoder

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, `generation_config.json` and `model.safetensors`, in the layout transformers reads."""
        super().save_pretrained(folder)
        self.generation_config.save_pretrained(folder)

    def _read_settings(self, folder: Path) -> None:
        self.generation_config = GenerationConfig.from_pretrained(folder)


class LEDClassificationHead(nn.Module):
    """Dropout, dense, tanh, dropout, projection: (B, E) to (B, C)."""

    def __init__(self, config: LEDConfig) -> None:
        super().__init__()
        self.dropout = config.classifier_dropout
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.num_labels)

    def forward(self, x_BE: Tensor) -> Tensor:
        x_BE = self.dense(F.dropout(x_BE, self.dropout, self.training)).tanh()
        return self.out_proj(F.dropout(x_BE, self.dropout, self.training))


class LEDForSequenceClassification(LEDPreTrainedModel):
    """LED that labels: the decoder's state at a document's last `</s>` through a classification head.

    Source: the reference, transformers 4. The decoder reads the document too, so it must fit the decoder's positions. With a
    `decoder_prompt` in the configuration it reads that, and its last state is labelled.
    """

    head = ("classification_head.",)

    def __init__(self, config: LEDConfig) -> None:
        super().__init__(config)
        self.led = LEDModel(config)
        self.classification_head = LEDClassificationHead(config)
        self.init_weights()

    def tie_weights(self) -> None:
        self.led.tie_weights()

    def forward(self, input_ids: Tensor | None = None, *, labels: Tensor | None = None, return_dict: bool | None = None,
                **inputs: Unpack[LEDInputs]) -> Any:  # fmt: skip
        """Class scores (B, C) of a padded batch, and the loss: `LEDSeq2SeqSequenceClassifierOutput`, or its tuple.

        `labels` are classes (B,), yes and no per class (B, C) as floats, or values (B,) or (B, C) to regress, by the
        configuration's `problem_type`; where it has none, one label means regression, whole numbers mean classes, floats
        mean several labels at once. The loss is mean cross-entropy, binary cross-entropy, or squared error.

        Raises:
            ValueError: no `input_ids`, documents that differ in their number of `</s>` or have none, decoder inputs of
                another length, labels of another shape; and as `LEDModel.forward`.
        """
        if input_ids is None:
            raise ValueError("classification reads input_ids to find the last </s>; inputs_embeds alone are not enough.")
        if labels is not None:
            inputs["use_cache"] = False
        if self.config.decoder_prompt:
            out = self.led(input_ids, **with_prompt(self.led, input_ids, inputs), return_dict=True)
            return self._result(out, out.last_hidden_state[:, -1], labels, return_dict)
        ends = input_ids == self.config.eos_token_id
        counts = sorted(set(ends.sum(1).tolist()))
        if len(counts) != 1 or counts[0] == 0:
            raise ValueError(
                f"documents of this batch have {' or '.join(map(str, counts))} end tokens (id {self.config.eos_token_id}); all "
                "must have the same number, at least one: do not mix single texts and pairs, and keep </s> when cutting."
            )
        out = self.led(input_ids, **inputs, return_dict=True)
        states_BTE = out.last_hidden_state
        if states_BTE.shape[1] != input_ids.shape[1]:
            raise ValueError(
                f"the decoder was given {states_BTE.shape[1]} positions for {input_ids.shape[1]} tokens; classification reads "
                "the decoder at the last </s> of input_ids, so both must have the same length."
            )
        columns = torch.arange(input_ids.shape[1], device=ends.device)
        last = (ends * columns).amax(1)
        return self._result(out, states_BTE[torch.arange(len(last), device=last.device), last], labels, return_dict)

    def _result(self, out: LEDSeq2SeqModelOutput, states_BE: Tensor, labels: Tensor | None, return_dict: bool | None) -> Any:
        logits = self.classification_head(states_BE)
        loss = None if labels is None else classification_loss(logits, labels.to(logits.device), self.config)
        result = LEDSeq2SeqSequenceClassifierOutput(loss, logits, *after_states(out))
        return result if choose(return_dict, self.config.return_dict) else result.to_tuple()

    def get_encoder(self) -> LEDEncoder:
        """The encoder, which reads padded batches by itself."""
        return self.led.encoder

    def read(self, batch: PackedBatch) -> Tensor:
        """Class scores (B, C) of packed documents, each of which ends with `</s>`.

        Raises:
            ValueError: a document is longer than the encoder's or, without a `decoder_prompt`, the decoder's positions.
        """
        if self.config.decoder_prompt:
            return self.classification_head(self.led.read_with_prompt(batch)[1])
        return self.classification_head(torch.stack([states[-1] for states in self.led.read(batch)]))


class LEDForQuestionAnswering(LEDPreTrainedModel):
    """LED that answers: scores of each decoder position as the start and the end of the answer.

    Source: the reference. The decoder reads question and document, so both must fit the decoder's positions. With a
    `decoder_prompt` in the configuration it reads that, and its last state, times the encoder's state of each token, is
    scored instead: the decoder points into the document (arXiv:1506.03134).
    """

    head = ("qa_outputs.",)

    def __init__(self, config: LEDConfig) -> None:
        super().__init__(config)
        self.led = LEDModel(config)
        self.qa_outputs = nn.Linear(config.d_model, 2)
        self.init_weights()

    def tie_weights(self) -> None:
        self.led.tie_weights()

    def forward(self, input_ids: Tensor | None = None, *, start_positions: Tensor | None = None,
                end_positions: Tensor | None = None, return_dict: bool | None = None,
                **inputs: Unpack[LEDInputs]) -> Any:  # fmt: skip
        """Start and end scores (B, T) of a padded batch: `LEDSeq2SeqQuestionAnsweringModelOutput`, or its tuple.

        With `start_positions` and `end_positions` (B,), in tokens, the loss is the mean of both cross-entropies; positions
        beyond the decoder's T count as absent.

        Raises:
            ValueError: as `LEDModel.forward`.
        """
        asked = start_positions is not None and end_positions is not None
        if asked:
            inputs["use_cache"] = False
        if self.config.decoder_prompt:
            inputs = with_prompt(self.led, input_ids, inputs)
        out = self.led(input_ids, **inputs, return_dict=True)
        states_BTE = out.last_hidden_state
        if self.config.decoder_prompt:
            # The packed encoder of a model in bfloat16 may give float32.
            states_BTE = out.encoder_last_hidden_state.to(states_BTE.dtype) * states_BTE[:, -1:]
        start_logits, end_logits = (x.contiguous() for x in self.qa_outputs(states_BTE).unbind(-1))
        loss = None
        if start_positions is not None and end_positions is not None:
            absent = start_logits.shape[1]
            losses = [
                F.cross_entropy(logits, places.view(-1).to(logits.device).clamp(0, absent), ignore_index=absent)
                for logits, places in ((start_logits, start_positions), (end_logits, end_positions))
            ]
            loss = (losses[0] + losses[1]) / 2
        result = LEDSeq2SeqQuestionAnsweringModelOutput(loss, start_logits, end_logits, *after_states(out))
        return result if choose(return_dict, self.config.return_dict) else result.to_tuple()

    def get_encoder(self) -> LEDEncoder:
        """The encoder, which reads padded batches by itself."""
        return self.led.encoder

    def read(self, batch: PackedBatch) -> list[tuple[Tensor, Tensor]]:
        """Start and end scores (n,) of every token of each document of a packed batch.

        Raises:
            ValueError: a document is longer than the encoder's or, without a `decoder_prompt`, the decoder's positions.
        """
        if self.config.decoder_prompt:
            documents, pointers = self.led.read_with_prompt(batch)
            states = [
                states_nE.to(pointer_E.dtype) * pointer_E for states_nE, pointer_E in zip(documents, pointers, strict=True)
            ]
        else:
            states = self.led.read(batch)
        scores = [self.qa_outputs(states_nE) for states_nE in states]
        return [(score[:, 0], score[:, 1]) for score in scores]


def after_states(out: LEDSeq2SeqModelOutput) -> tuple[Any, ...]:
    """The fields behind `last_hidden_state`, which every head hands on."""
    return (out.past_key_values, out.decoder_hidden_states, out.decoder_attentions, out.cross_attentions,
            out.encoder_last_hidden_state, out.encoder_hidden_states, out.encoder_attentions,
            out.encoder_global_attentions)  # fmt: skip


def with_prompt(led: LEDModel, input_ids: Tensor | None, inputs: LEDInputs) -> LEDInputs:
    """The inputs of a call with the configuration's `decoder_prompt` as the decoder's.

    Raises:
        ValueError: the call brings decoder inputs of its own, or no `input_ids`.
    """
    if input_ids is None or inputs.get("decoder_input_ids") is not None or inputs.get("decoder_inputs_embeds") is not None:
        raise ValueError("this checkpoint's decoder reads its decoder_prompt: give input_ids and no decoder inputs.")
    return {**inputs, "decoder_input_ids": led.prompts(len(input_ids))}


def as_encoder_output(given: LEDEncoderBaseModelOutput | Sequence[Any]) -> LEDEncoderBaseModelOutput:
    """What the encoder gave, from its output or from a sequence in the order of the output's fields, None for absent ones."""
    return given if isinstance(given, LEDEncoderBaseModelOutput) else LEDEncoderBaseModelOutput(*given[:4])


def classification_loss(logits_BC: Tensor, labels: Tensor, config: LEDConfig) -> Tensor:
    """() the mean loss of class scores by the configuration's problem type.

    Raises:
        ValueError: the labels have another shape than the problem asks for.
    """
    problem = config.problem_type
    if problem is None:
        whole = not labels.is_floating_point()
        problem = "single_label_classification" if whole else "multi_label_classification"
        problem = "regression" if config.num_labels == 1 else problem
    expected = [(len(logits_BC),)] if problem == "single_label_classification" else [tuple(logits_BC.shape)]
    if config.num_labels == 1:
        expected = [(len(logits_BC),), (len(logits_BC), 1)]
    if tuple(labels.shape) not in [*expected, (*expected[0], 1)]:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; {problem} of {config.num_labels} labels needs {expected[0]}."
        )
    if problem == "single_label_classification":
        return F.cross_entropy(logits_BC, labels.view(-1))
    loss = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
    return loss(logits_BC, labels.view(logits_BC.shape).to(logits_BC.dtype))
