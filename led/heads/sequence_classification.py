"""LEDForSequenceClassification: labels for whole documents.

Source: the reference, transformers 4, after BART: the decoder reads the document itself, shifted right.
The paper (arXiv:2004.05150) has no classification head for LED. Shapes: B documents, N encoder columns, T
decoder positions, E = d_model, C = num_labels.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from led.batch.packed_batch import PackedBatch
from led.config import LEDConfig, check_labels
from led.model.layers import choose
from led.model.led_model import LEDInputs, LEDModel, shared_fields, with_prompt
from led.model.outputs import LEDSeq2SeqModelOutput, LEDSeq2SeqSequenceClassifierOutput
from led.model.pretrained import LEDPreTrainedModel


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
    """LED for classification: the decoder's state at the last `</s>`, through a classification head.

    The decoder reads the document too, so a document must fit the decoder's positions. With a
    `decoder_prompt` in the configuration, the decoder reads that instead, and its last state is classified.
    """

    head = ("classification_head.",)

    def __init__(self, config: LEDConfig) -> None:
        super().__init__(config)
        check_labels(config)
        self.led = LEDModel(config)
        self.classification_head = LEDClassificationHead(config)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **inputs: Unpack[LEDInputs],
    ) -> Any:
        """Class logits (B, C) of a padded batch, and the loss: `LEDSeq2SeqSequenceClassifierOutput`, or its
        tuple.

        `labels` are classes (B,), a yes or no per class (B, C) as floats, or values (B,) or (B, C) of a
        regression, by the configuration's `problem_type`. Without one, a single label means regression,
        integers mean classes, and floats mean several labels at once. The loss is mean cross-entropy, binary
        cross-entropy, or squared error.

        Raises:
            ValueError: no `input_ids`, documents whose number of `</s>` differs or is 0, decoder inputs
                of another length, labels of another shape. Also as `LEDModel.forward`.
        """
        if input_ids is None:
            raise ValueError(
                "classification needs input_ids to find the last </s>; inputs_embeds alone are not enough."
            )
        if labels is not None:
            inputs["use_cache"] = False
        if self.config.decoder_prompt:
            out = self.led(input_ids, **with_prompt(self.led, input_ids, inputs), return_dict=True)
            return self._result(out, out.last_hidden_state[:, -1], labels, return_dict)
        ends = input_ids == self.config.end_token_id
        counts = sorted(set(ends.sum(1).tolist()))
        if len(counts) != 1 or counts[0] == 0:
            raise ValueError(
                f"documents of this batch have {' or '.join(map(str, counts))} end tokens (id "
                f"{self.config.end_token_id}); all must have the same number, at least one: do not mix "
                "single texts and pairs, and keep </s> when truncating."
            )
        out = self.led(input_ids, **inputs, return_dict=True)
        states_BTE = out.last_hidden_state
        if states_BTE.shape[1] != input_ids.shape[1]:
            raise ValueError(
                f"the decoder input has {states_BTE.shape[1]} positions for {input_ids.shape[1]} tokens; "
                "classification uses the decoder's state at the last </s> of input_ids, so both must have "
                "the same length."
            )
        columns = torch.arange(input_ids.shape[1], device=ends.device)
        last = (ends * columns).amax(1)
        return self._result(
            out, states_BTE[torch.arange(len(last), device=last.device), last], labels, return_dict
        )

    def _result(
        self, out: LEDSeq2SeqModelOutput, states_BE: Tensor, labels: Tensor | None, return_dict: bool | None
    ) -> Any:
        logits = self.classification_head(states_BE)
        loss = None if labels is None else classification_loss(logits, labels.to(logits.device), self.config)
        result = LEDSeq2SeqSequenceClassifierOutput(loss, logits, **shared_fields(out))
        return result if choose(return_dict, self.config.return_dict) else result.to_tuple()

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """Class logits (B, C) of packed documents, each of which ends with `</s>`.

        Raises:
            ValueError: a document exceeds the encoder's or, without a `decoder_prompt`, the decoder's
                positions.
        """
        if self.config.decoder_prompt:
            return self.classification_head(self.led.forward_packed_with_prompt(batch)[1])
        return self.classification_head(
            torch.stack([states[-1] for states in self.led.forward_packed(batch)])
        )


def classification_loss(logits_BC: Tensor, labels: Tensor, config: LEDConfig) -> Tensor:
    """() the mean loss of class logits (B, C), by the configuration's problem type.

    Raises:
        ValueError: the labels have another shape than the problem type needs.
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
            f"labels have shape {tuple(labels.shape)}; {problem} of {config.num_labels} labels needs "
            f"{expected[0]}."
        )
    if problem == "single_label_classification":
        return F.cross_entropy(logits_BC, labels.view(-1))
    loss = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
    return loss(logits_BC, labels.view(logits_BC.shape).to(logits_BC.dtype))
