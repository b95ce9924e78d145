"""`generate`: text generation for every document of a padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from led.batch.packed_batch import pack
from led.config import LEDConfig
from led.generation.config import GenerationConfig
from led.generation.limits import SchedulerLimits
from led.generation.logits_processors import AllowedTokens, ScoreFunction
from led.generation.runner import LanguageModel
from led.generation.scheduler import Scheduler
from led.model.led_model import as_encoder_output
from led.model.outputs import LEDEncoderBaseModelOutput, ModelOutput


@dataclass
class GenerateOutput(ModelOutput):
    """`sequences` (B * num_return_sequences, L), padded on the right, `sequences_scores` (B *
    num_return_sequences,)."""

    sequences: Tensor
    sequences_scores: Tensor


def generate(
    model: LanguageModel,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    global_attention_mask: Tensor | None = None,
    decoder_input_ids: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    limits: SchedulerLimits | None = None,
    logits_processor: Sequence[ScoreFunction] | None = None,
    prefix_allowed_tokens_fn: AllowedTokens | None = None,
    inputs: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    encoder_outputs: LEDEncoderBaseModelOutput | Sequence[Any] | None = None,
    **settings: Any,
) -> GenerateOutput:
    """Generate a sequence for every document of a padded batch.

    `input_ids` (B, N) and the masks (B, N) are those of `LEDModel.forward`. `inputs` is another name of
    `input_ids`. Embeddings (B, N, E) or the encoder's output may replace them. Without `attention_mask`,
    padding tokens are hidden, unless the padding token also ends a text, as in the reference.
    `decoder_input_ids` (1 or B, P) is a prompt, the same for all documents. A start token is added if it has
    none. `settings` override fields of `generation_config`. The two functions are those of `Scheduler`.

    Raises:
        ValueError: a setting breaks a rule, or the output would exceed the decoder's positions.
    """
    config = as_generation_config(generation_config, model.config).updated(**settings)
    if inputs is not None and input_ids is not None:
        raise ValueError("inputs and input_ids were both given; they are the same, so give one of them.")
    ids = _as_ids(input_ids if inputs is None else inputs)
    states = None if encoder_outputs is None else as_encoder_output(encoder_outputs).last_hidden_state
    source = next((x for x in (ids, inputs_embeds, states) if x is not None), None)
    if source is None:
        raise ValueError("nothing to generate from: give input_ids, inputs_embeds or encoder_outputs.")
    needs_ids = config.encoder_no_repeat_ngram_size or config.encoder_repetition_penalty != 1
    if ids is None and needs_ids:
        raise ValueError(
            "encoder_no_repeat_ngram_size and encoder_repetition_penalty compare with the document's tokens; "
            "give input_ids, too."
        )
    masked = attention_mask is None and config.pad_token_id not in config.eos_token_ids
    if masked and ids is not None:
        attention_mask = (ids != config.pad_token_id).long()
    shape, device = (source.shape[0], source.shape[1]), source.device
    batch = pack(
        ids,
        attention_mask,
        global_attention_mask,
        shape,
        device,
        trim=True,
        inputs_embeds=inputs_embeds,
        encoder_states=states,
    )
    prompt = None
    if decoder_input_ids is not None:
        if bool((decoder_input_ids != decoder_input_ids[:1]).any()):
            raise ValueError(
                "decoder_input_ids differ between documents; decode documents with one prompt at a time."
            )
        prompt = decoder_input_ids[0].tolist()
        if prompt[0] != config.decoder_start_token_id:
            prompt = [config.decoder_start_token_id, *prompt]
    scheduler = Scheduler(model, config, limits, prompt, logits_processor or (), prefix_allowed_tokens_fn)
    hypotheses = dict(scheduler.run(batch.documents()))
    ordered = [hypotheses[i] for i in range(shape[0])]
    rows = [torch.tensor(row, dtype=torch.long) for each in ordered for row in each.sequences]
    sequences = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=config.pad_token_id)
    scores = torch.tensor([score for each in ordered for score in each.scores])
    return GenerateOutput(sequences.to(device), scores.to(device))


def as_generation_config(config: Any, model: LEDConfig) -> GenerationConfig:
    """A generation config, also from an object of the reference. Without one, the defaults.

    Raises:
        ValueError: it has a setting that is not supported, or is something else.
    """
    if config is None or isinstance(config, GenerationConfig):
        return config or GenerationConfig()
    if not hasattr(config, "to_dict"):
        raise ValueError(
            f"generation_config is a {type(config).__name__}; give a GenerationConfig, or settings by name."
        )
    return GenerationConfig.from_dict(config.to_dict(), model)


def _as_ids(ids: Any) -> Tensor | None:
    if ids is None:
        return None
    ids = torch.as_tensor(ids)
    if ids.dim() != 2:
        raise ValueError(
            f"input_ids has the shape {tuple(ids.shape)}; it must be (documents, tokens): for one document, "
            "pass input_ids[None]."
        )
    return ids.long()
