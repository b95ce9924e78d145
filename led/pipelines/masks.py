"""`global_attention_mask`: the mask of a padded batch by the rules of `global_attention.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from led.pipelines.global_attention import GlobalAttention
from led.pipelines.joining import separator_ids
from led.tokenizer.tokenizer import LEDTokenizer


def global_attention_mask(
    tokenizer: LEDTokenizer,
    input_ids: Tensor,
    rules: str | Sequence[str] = "first",
    *,
    attention_mask: Tensor | None = None,
    document_separator: str | None = None,
    leading: int = 1,
) -> Tensor:
    """(B, N) 1 for each token of `input_ids` (B, N) that has global attention by these rules, 0 for others.

    Tokens that `attention_mask` (B, N) hides stay 0. `leading` is the number of tokens before the document,
    for the rule "question".

    Raises:
        ValueError: a rule is unknown, or does not fit the tokenizer.
    """
    parsed = GlobalAttention.parse((rules,) if isinstance(rules, str) else tuple(rules))
    if parsed.column is not None:
        raise ValueError("column:NAME is for tables; set the tokens of spans in the mask yourself.")
    tokens = parsed.resolve(tokenizer, separator_ids(tokenizer, document_separator))
    mask = torch.zeros_like(input_ids)
    for row, ids in zip(mask, input_ids.tolist(), strict=True):
        row[tokens.positions(ids, leading)] = 1
    return mask if attention_mask is None else mask * (attention_mask != 0)
