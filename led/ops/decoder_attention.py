"""Attention of the decoder: self-attention over written tokens, cross-attention over a document.

`eager_attention` is the reference implementation. It returns the attention probabilities too.

Shapes: R rows of the decoder, T new positions of a row, S all positions of a row, n tokens of one document,
H heads, D head size. Queries are already scaled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this many queries of one document, plain products over transposed keys beat torch's fused attention on
# CPUs.
FEW_QUERIES = 32


def eager_attention(
    query_RHTD: Tensor,
    key_RHSD: Tensor,
    value_RHSD: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
    head_scale_H: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(R, H, T, D) attention output and (R, H, T, S) probabilities. `mask` hides keys where it is true or
    below 0.

    A query whose keys are all hidden attends evenly to all of them, and its scores keep their gradient.
    """
    scores = query_RHTD @ key_RHSD.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is not None:
        hidden = mask if mask.dtype == torch.bool else mask < 0
        bias = torch.zeros_like(hidden, dtype=scores.dtype).masked_fill(hidden, torch.finfo(scores.dtype).min)
        scores = scores + bias
    p = scores.softmax(-1).to(value_RHSD.dtype)
    if head_scale_H is not None:
        p = p * head_scale_H.to(p)[:, None, None]
    return F.dropout(p, dropout) @ value_RHSD, p


def self_attention(
    query_RHTD: Tensor, key_RHSD: Tensor, value_RHSD: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """(R, H, T, D) the rows' queries over their own positions.

    `mask` (R or 1, 1, T, S) is added to the scores. A boolean mask means that some query has all keys hidden.
    """
    if mask is not None and mask.dtype == torch.bool:
        return eager_attention(query_RHTD, key_RHSD, value_RHSD, mask, dropout)[0]
    return F.scaled_dot_product_attention(
        query_RHTD, key_RHSD, value_RHSD, attn_mask=mask, dropout_p=dropout, scale=1.0
    )


def causal_self_attention(
    query_RHTD: Tensor, key_RHTD: Tensor, value_RHTD: Tensor, dropout: float = 0.0
) -> Tensor:
    """(R, H, T, D) each row's queries over its positions up to their own. No T x T scores are held."""
    return F.scaled_dot_product_attention(
        query_RHTD, key_RHTD, value_RHTD, is_causal=True, dropout_p=dropout, scale=1.0
    )


def causal_mask(
    queries: int, decoder_attention_mask: Tensor | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(R or 1, 1, T, S) the mask of the last T = `queries` of S positions, to add to the scores.

    `decoder_attention_mask` (R, S) hides positions where it is 0. A query whose keys are all hidden attends
    evenly to all of them, as in the reference.
    """
    keys = queries if decoder_attention_mask is None else decoder_attention_mask.shape[1]
    q = torch.arange(keys - queries, keys, device=device)[:, None]
    allowed = (torch.arange(keys, device=device)[None, :] <= q)[None, None]
    if decoder_attention_mask is not None:
        allowed = allowed & decoder_attention_mask.bool()[:, None, None, :]
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(
        ~allowed, torch.finfo(dtype).min
    )


def eager_if_fully_masked(mask: Tensor | None) -> Tensor | None:
    """The mask as booleans if some query has all keys hidden, so that `eager_attention` handles it. Else
    unchanged.

    Torch's fused attention gets the gradient of such a query wrong, since the logarithm of its sum is lost in
    the mask. In half precision its output is wrong too, since the mask is not large enough.
    """
    if mask is None:
        return None
    hidden = mask < 0
    return hidden if bool(hidden.all(-1).any()) else mask


def cross_attention(
    query_HRD: Tensor, key_HnD: Tensor, value_HnD: Tensor, mask_n: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """(H, R, D) all queries that belong to one document, over its keys. `mask_n` (n,) is added to the
    scores."""
    if query_HRD.shape[1] <= FEW_QUERIES and query_HRD.device.type == "cpu" and not torch.is_grad_enabled():
        scores = query_HRD @ key_HnD.mT
        scores = scores if mask_n is None else scores + mask_n
        p = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
        return (F.dropout(p, dropout) if dropout else p) @ value_HnD
    mask = None if mask_n is None else mask_n.expand(query_HRD.shape[1], -1)
    # Contiguous: for other layouts, torch falls back to the implementation that holds all scores.
    q, k, v = (x.contiguous().unsqueeze(0) for x in (query_HRD, key_HnD, value_HnD))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=1.0).squeeze(0)
