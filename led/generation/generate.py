"""`generate`: text generation for every document of a padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from led.batch.packed_batch import pack
from led.generation.config import GenerationConfig
from led.generation.logits_processors import AllowedTokens, ScoreFunction
from led.generation.runner import LanguageModel
from led.generation.scheduler import Scheduler, SchedulerLimits
from led.model.outputs import ModelOutput


@dataclass
class GenerateOutput(ModelOutput):
    """`sequences` (B * num_return_sequences, L), padded on the right, `sequences_scores` (B *
    num_return_sequences,)."""

    sequences: Tensor
    sequences_scores: Tensor


def generate(
    model: LanguageModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    global_attention_mask: Tensor | None = None,
    decoder_input_ids: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    limits: SchedulerLimits | None = None,
    logits_processor: Sequence[ScoreFunction] | None = None,
    prefix_allowed_tokens_fn: AllowedTokens | None = None,
    **settings: Any,
) -> GenerateOutput:
    """Generate a sequence for every document of a padded batch.

    `input_ids` (B, N) and the masks (B, N) are those of `LEDModel.forward`. Without `attention_mask`, padding
    tokens are hidden, unless the padding token also ends a text, as in the reference. `decoder_input_ids` (1
    or B, P) is a prompt, the same for all documents. A start token is added if it has none. `settings`
    override fields of `generation_config`. The two functions are those of `Scheduler`.

    Raises:
        ValueError: a setting breaks a rule, or the output would exceed the decoder's positions.
    """
    config = (generation_config or GenerationConfig()).updated(**settings)
    if attention_mask is None and config.pad_token_id not in config.eos_token_ids:
        attention_mask = (input_ids != config.pad_token_id).long()
    shape = (input_ids.shape[0], input_ids.shape[1])
    batch = pack(input_ids, attention_mask, global_attention_mask, shape, input_ids.device, trim=True)
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
    return GenerateOutput(sequences.to(input_ids.device), scores.to(input_ids.device))
