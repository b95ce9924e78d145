"""Text classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from led.heads.sequence_classification import LEDForSequenceClassification
from led.pipelines.base import MAX_NUM_BATCHED_TOKENS, Pipeline, Text, as_inputs
from led.pipelines.chunk_reader import pool_logits, read_chunks
from led.pipelines.chunking import UNLIMITED, ChunkRules, chunk_inputs, default_pooling
from led.tokenizer.tokenizer import LEDTokenizer


class TextClassificationPipeline(Pipeline):
    """Text classification: `[{"label": …, "score": …}]`.

    A document that is too long for the model is split into chunks that overlap by an eighth. The logits of
    its chunks are pooled before they become probabilities. The pooling is the mean, or the maximum if a
    document may have several labels.
    """

    def __init__(self, model: LEDForSequenceClassification, tokenizer: LEDTokenizer, **settings: Any) -> None:
        super().__init__(tokenizer, **settings)
        self.model: LEDForSequenceClassification = model

    def __call__(self, texts: str | Sequence[Text], **how: Any) -> Any:
        """The best label of each input, in order. With `top_k`, a list of that many labels for each input.

        An input is a text, or a list of texts: documents that are joined by a separator.

        `top_k=None` returns all labels. `function_to_apply` turns logits into scores: "softmax" (the default
        for a single label), "sigmoid" (the default for several labels), or "none" (the default for values).

        Raises:
            ValueError: an input is not a text, or an argument is unknown or breaks a rule.
        """
        unknown = how.keys() - {"top_k", "function_to_apply", "truncation", "padding"}
        if unknown:
            raise ValueError(
                f"{sorted(unknown)[0]} is not an argument of this pipeline; use top_k or function_to_apply."
            )
        several = as_inputs(texts)
        if not several:
            return []
        logits = self.logits(several)
        scores = self._apply(logits, how.get("function_to_apply"))
        top_k = how.get("top_k", 1)
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; it must be at least 1, or None for all labels.")
        labels = self.model.config.labels
        ranked = [
            [{"label": labels[int(i)], "score": float(row[i])} for i in row.argsort(descending=True)[:top_k]]
            for row in scores
        ]
        if "top_k" not in how:
            return [labels[0] for labels in ranked]
        return ranked[0] if isinstance(texts, str) else ranked

    def logits(self, texts: Sequence[Text]) -> Tensor:
        """(B, C) the logits of B inputs, pooled over their chunks."""
        config = self.model.config
        limit = config.max_input_tokens
        rules = ChunkRules(limit, limit // 8)
        chunks = [
            chunk_inputs(
                item.input_ids,
                item.leading,
                item.global_positions,
                item.chunks,
            )
            for item in self.encode(texts, UNLIMITED, [""] * len(texts), chunk_rules=rules)
        ]
        flat = [chunk for parts in chunks for chunk in parts]
        rows = torch.stack(read_chunks(self.model, flat, MAX_NUM_BATCHED_TOKENS))
        pooling = default_pooling(config.problem_type)
        return torch.stack(
            [pool_logits(part, pooling) for part in rows.split([len(parts) for parts in chunks])]
        )

    def _apply(self, logits: Tensor, function: str | None) -> Tensor:
        config = self.model.config
        if function is None and config.problem_type == "regression":
            function = "none"
        if function is None:
            one = config.num_labels > 1 and config.problem_type != "multi_label_classification"
            function = "softmax" if one else "sigmoid"
        functions = {"softmax": lambda x: x.softmax(-1), "sigmoid": torch.sigmoid, "none": lambda x: x}
        if function not in functions:
            raise ValueError(f"function_to_apply is {function!r}; use one of {', '.join(functions)}.")
        return functions[function](logits)
