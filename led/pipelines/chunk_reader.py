"""Classify documents and answer questions chunk by chunk, and pool the scores of a document's chunks.

Shapes: K chunks of a document, n tokens of one chunk, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from led.batch.packed_batch import pack_documents
from led.heads.question_answering import LEDForQuestionAnswering
from led.heads.sequence_classification import LEDForSequenceClassification
from led.pipelines.chunking import ChunkInput, by_budget


def pool_logits(logits_KC: Tensor, pooling: str) -> Tensor:
    """(C,) the logits of a document: the "max" or the "mean" over its chunks."""
    return logits_KC.amax(0) if pooling == "max" else logits_KC.mean(0)


@torch.inference_mode()
def read_chunks(
    model: LEDForSequenceClassification | LEDForQuestionAnswering,
    chunks: Sequence[ChunkInput],
    max_num_batched_tokens: int,
) -> list[Any]:
    """The model's logits for each chunk, in order: (C,) class logits, or start and end logits (n,).

    They are float32 on the CPU. Chunks are packed together, longest first, up to `max_num_batched_tokens`
    tokens.
    """
    outputs: dict[int, Any] = {}
    for group in by_budget([len(chunk.input_ids) for chunk in chunks], max_num_batched_tokens):
        batch = pack_documents(
            [chunks[i].input_ids for i in group], [chunks[i].global_positions for i in group], model.device
        )
        outputs |= zip(group, _on_cpu(model.forward_packed(batch)), strict=True)
    return [outputs[i] for i in range(len(chunks))]


def _on_cpu(outputs: Tensor | Sequence[tuple[Tensor, Tensor]]) -> Iterator[Any]:
    if isinstance(outputs, Tensor):
        return iter(outputs.float().cpu())
    return ((start.float().cpu(), end.float().cpu()) for start, end in outputs)
