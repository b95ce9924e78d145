"""LEDForConditionalGeneration: LED with a language-model head that shares the token embedding.

Source: arXiv:2004.05150, section 7. Shapes: B documents, N encoder columns, T decoder positions, E = d_model,
V = vocab_size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from led.config import LEDConfig
from led.generation.config import GenerationConfig
from led.generation.generate import GenerateOutput, generate
from led.model.inference_packing import padded_outputs, will_fuse, will_pack
from led.model.layers import choose
from led.model.led_model import LEDInputs, LEDModel, shared_fields
from led.model.outputs import LEDSeq2SeqLMOutput
from led.model.pretrained import LEDPreTrainedModel, shift_tokens_right


class LEDForConditionalGeneration(LEDPreTrainedModel):
    """LED for summarization and other text generation (arXiv:2004.05150, section 7)."""

    head = ("final_logits_bias",)
    final_logits_bias: Tensor

    def __init__(self, config: LEDConfig) -> None:
        super().__init__(config)
        self.led = LEDModel(config)
        self.lm_head: Any = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if not config.tie_word_embeddings:
            nn.init.normal_(self.lm_head.weight, 0.0, config.init_std)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))
        self.generation_config = GenerationConfig.from_dict({}, config)
        self.tie_weights()

    def tie_weights(self) -> None:
        super().tie_weights()
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.led.shared.weight

    def logits(self, states: Tensor) -> Tensor:
        """(..., V) the logits of states (..., E)."""
        if self.lm_head.bias is None:
            return self.lm_head(states) + self.final_logits_bias
        return self.lm_head(states)[..., : self.config.vocab_size]

    def fuse(self, int8: bool) -> None:
        """Add the bias inside the head's product if the head will be packed. On a GPU, pad its outputs
        too."""
        if will_fuse(self.lm_head, int8):
            self.lm_head = padded_outputs(self.lm_head, self.final_logits_bias[0])
        elif will_pack(self.lm_head, int8):
            self.lm_head.bias = nn.Parameter(self.final_logits_bias[0], requires_grad=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[LEDInputs],
    ) -> Any:
        """Logits of a padded batch, and the loss if `labels` (B, T) are given: `LEDSeq2SeqLMOutput`, or its
        tuple.

        The loss is the mean cross-entropy over labels other than -100. Without decoder inputs, the labels
        shifted right are the decoder input. The other arguments are those of `LEDInputs`.

        Raises:
            ValueError: as `LEDModel.forward`.
        """
        if labels is not None:
            inputs["use_cache"] = False
            if inputs.get("decoder_input_ids") is None and inputs.get("decoder_inputs_embeds") is None:
                inputs["decoder_input_ids"] = self.prepare_decoder_input_ids_from_labels(labels)
        out = self.led(input_ids, **inputs, return_dict=True)
        logits = self.logits(out.last_hidden_state)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten().to(logits.device))
        result = LEDSeq2SeqLMOutput(loss, logits, **shared_fields(out))
        return result if choose(return_dict, self.config.return_dict) else result.to_tuple()

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """(B, T) the decoder input for labels (B, T): start token first, -100 replaced by padding."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    def prepare_inputs_for_generation(self, decoder_input_ids: Tensor, **inputs: Any) -> dict[str, Any]:
        """The inputs of a step over `decoder_input_ids` (B, T), as PEFT asks for them.

        `generate` does not use them.
        """
        return {"decoder_input_ids": decoder_input_ids, **inputs}

    def _prepare_encoder_decoder_kwargs_for_generation(
        self, inputs_tensor: Tensor, model_kwargs: dict[str, Any], *_: Any
    ) -> dict[str, Any]:
        """The inputs of generation with the encoder's output, as PEFT asks for them."""
        return {**model_kwargs, "encoder_outputs": self.get_encoder()(inputs_tensor)}

    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        return_dict_in_generate: bool = False,
        generation_config: Any = None,
        **settings: Any,
    ) -> Tensor | GenerateOutput:
        """(B * num_return_sequences, length) token ids that the model writes for each document of a padded
        batch.

        `settings` override `generation_config`, by default the checkpoint's own. The other arguments, and the
        result with `return_dict_in_generate`, are those of the function `led.generate`.

        Raises:
            ValueError: a setting is unknown or breaks a rule, or the output would exceed the decoder's
                positions.
        """
        config = generation_config or self.generation_config
        out = generate(self, input_ids, attention_mask, generation_config=config, **settings)
        return out if return_dict_in_generate else out.sequences

    def get_output_embeddings(self) -> nn.Module:
        """The language-model head."""
        return self.lm_head

    def can_generate(self) -> bool:
        """True: this model has `generate`."""
        return True

    def _resize_head(self, kept: int, vocab_size: int) -> None:
        bias = self.final_logits_bias.new_zeros(1, vocab_size)
        bias[:, :kept] = self.final_logits_bias[:, :kept]
        self.final_logits_bias = bias
        old = self.lm_head.weight
        self.lm_head.out_features = vocab_size
        if not self.config.tie_word_embeddings:
            self.lm_head.weight = nn.Parameter(old.new_empty(vocab_size, old.shape[1]))
            self.lm_head.weight.normal_(0.0, self.config.init_std)
            self.lm_head.weight[:kept] = old[:kept]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, `generation_config.json` and `model.safetensors` in the layout that
        transformers reads."""
        super().save_pretrained(folder)
        self.generation_config.save_pretrained(folder)

    def _load_settings(self, folder: Path) -> None:
        self.generation_config = GenerationConfig.from_pretrained(folder)
