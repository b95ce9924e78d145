"""LEDForQuestionAnswering: extractive answers, as scores of each position as start and end.

Source: the reference. The paper (arXiv:2004.05150) has no question-answering head for LED. Shapes: B
documents, n tokens of one, T decoder positions, E = d_model.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from led.batch.packed_batch import PackedBatch
from led.config import LEDConfig
from led.model.layers import choose
from led.model.led_model import LEDInputs, LEDModel, shared_fields, with_prompt
from led.model.outputs import LEDSeq2SeqQuestionAnsweringModelOutput
from led.model.pretrained import LEDPreTrainedModel


class LEDForQuestionAnswering(LEDPreTrainedModel):
    """LED for extractive question answering: each decoder position is scored as the start and the end of the
    answer.

    The decoder reads question and document, so both must fit the decoder's positions. With a `decoder_prompt`
    in the configuration, the decoder reads that instead. Its last state times the encoder's state of each
    token is then scored: the decoder points into the document (pointer networks, arXiv:1506.03134).
    """

    head = ("qa_outputs.",)

    def __init__(self, config: LEDConfig) -> None:
        super().__init__(config)
        self.led = LEDModel(config)
        self.qa_outputs = nn.Linear(config.d_model, 2)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[LEDInputs],
    ) -> Any:
        """Start and end logits (B, T) of a padded batch: `LEDSeq2SeqQuestionAnsweringModelOutput`, or its
        tuple.

        With `start_positions` and `end_positions` (B,), in tokens, the loss is the mean of both
        cross-entropies. Positions beyond the decoder's T are ignored.

        Raises:
            ValueError: as `LEDModel.forward`.
        """
        if start_positions is not None and end_positions is not None:
            inputs["use_cache"] = False
        if self.config.decoder_prompt:
            inputs = with_prompt(self.led, input_ids, inputs)
        out = self.led(input_ids, **inputs, return_dict=True)
        states_BTE = out.last_hidden_state
        if self.config.decoder_prompt:
            # The packed encoder of a bfloat16 model may return float32.
            states_BTE = out.encoder_last_hidden_state.to(states_BTE.dtype) * states_BTE[:, -1:]
        start_logits, end_logits = (x.contiguous() for x in self.qa_outputs(states_BTE).unbind(-1))
        loss = None
        if start_positions is not None and end_positions is not None:
            ignored = start_logits.shape[1]
            pairs = ((start_logits, start_positions), (end_logits, end_positions))
            losses = [
                F.cross_entropy(
                    logits, positions.view(-1).to(logits.device).clamp(0, ignored), ignore_index=ignored
                )
                for logits, positions in pairs
            ]
            loss = (losses[0] + losses[1]) / 2
        result = LEDSeq2SeqQuestionAnsweringModelOutput(loss, start_logits, end_logits, **shared_fields(out))
        return result if choose(return_dict, self.config.return_dict) else result.to_tuple()

    def forward_packed(self, batch: PackedBatch) -> list[tuple[Tensor, Tensor]]:
        """Start and end logits (n,) of every token, for each document of a packed batch.

        Raises:
            ValueError: a document exceeds the encoder's or, without a `decoder_prompt`, the decoder's
                positions.
        """
        if self.config.decoder_prompt:
            documents, pointers = self.led.forward_packed_with_prompt(batch)
            pairs = zip(documents, pointers, strict=True)
            states = [states_nE.to(pointer_E.dtype) * pointer_E for states_nE, pointer_E in pairs]
        else:
            states = self.led.forward_packed(batch)
        logits = [self.qa_outputs(states_nE) for states_nE in states]
        return [(logits_n2[:, 0], logits_n2[:, 1]) for logits_n2 in logits]
