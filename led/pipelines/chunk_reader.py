"""Documents longer than a classifier or question answerer reads: window by window, and from windows to one
outcome.

Shapes: W windows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from led.batch.packed_batch import pack_documents
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.pipelines.chunking import Chunk, by_budget


def pool_logits(logits_WC: Tensor, pooling: str) -> Tensor:
    """(C,) the scores of a document from those of its windows, pooled before they become probabilities."""
    return logits_WC.amax(0) if pooling == "max" else logits_WC.mean(0)


@torch.inference_mode()
def read_chunks(
    model: LEDForSequenceClassification | LEDForQuestionAnswering,
    chunks: Sequence[Chunk],
    max_num_batched_tokens: int,
    *,
    global_attention: bool = True,
) -> list[Any]:
    """What the model gives for each window, float32 on the CPU, in order: (C,) class scores, or start and end
    scores (n,).

    Windows are packed together, longest first, up to `encoder_tokens` tokens. What stands before the document
    in a window (`<s>`, a question) is global unless `global_attention` is False.
    """
    outputs: dict[int, Any] = {}
    for group in by_budget([len(w.input_ids) for w in chunks], max_num_batched_tokens):
        places = [range(chunks[i].offset if global_attention else 0) for i in group]
        batch = pack_documents([chunks[i].input_ids for i in group], places, model.device)
        outputs |= zip(group, _on_cpu(model.read(batch)), strict=True)
    return [outputs[i] for i in range(len(chunks))]


def _on_cpu(outputs: Tensor | Sequence[tuple[Tensor, Tensor]]) -> Iterator[Any]:
    if isinstance(outputs, Tensor):
        return iter(outputs.float().cpu())
    return ((start.float().cpu(), end.float().cpu()) for start, end in outputs)
