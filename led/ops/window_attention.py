"""Attention of LED: window and global attention in the encoder, self- and cross-attention in the decoder.

Source: arXiv:2004.05150, section 3.1. Windows are two-sided here as in the published `config.json`: with `attention_window`
w, a token attends to w // 2 tokens on each side and to itself.

Rules of the encoder, per document (`dense_encoder_attention` is these rules and nothing else):
  - a local query attends to the visible local tokens in its window and to every global token, in one softmax;
  - a global query attends to every visible token, with projections of its own;
  - an invisible token attends to nothing: its output is zero.

Shapes: T tokens of all documents, n tokens of one, H heads, D head size, E = H * D, g global tokens of one document,
R rows of the decoder, S positions of a row.

Cost per token and layer: 4 * E * (w + 1) operations for the window, 4 * H * g * E for the folded global rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from led import gpu_attention
from led.layout import Layout

# Queries per block. Small blocks waste less work at the window's edges, large ones make better matrix products.
BLOCK = 128

# From this many global tokens on, projecting every token costs less than folding the projection into the queries.
FOLD_LIMIT = 64


# Scores computed at once, in numbers: those of as many heads as fit the processor's second cache together.
_SCORES = 1 << 20

# Bytes of a line of the processor's cache.
_LINE = 64

# Up to this many queries of one document, plain products over keys that lie in columns beat torch's fused attention (CPU).
FEW_QUERIES = 32


@lru_cache(maxsize=16)
def _band(one_sided: int, device: torch.device) -> Tensor:
    """(BLOCK, BLOCK + 2 * one_sided) bool: may query r of a block see the key at column c, which stands
    c - one_sided places after the block's first query?"""
    r = torch.arange(BLOCK, device=device)[:, None]
    c = torch.arange(BLOCK + 2 * one_sided, device=device)[None, :]
    return (c >= r) & (c <= r + 2 * one_sided)


def window_attention(
    query_THD: Tensor,
    key_THD: Tensor,
    value_THD: Tensor,
    layout: Layout,
    one_sided: int,
    dropout: float = 0.0,
) -> Tensor:
    """(T, H, D) what every token reads from its window and from the global tokens, by the kernel of the device.

    The rows of global and of invisible tokens are computed too and mean nothing. `query_THD` is already scaled.
    """
    if not dropout and not torch.is_grad_enabled():
        if not query_THD.is_cuda:
            return _window_attention_in_place(query_THD, key_THD, value_THD, layout, one_sided)
        kernel = gpu_attention.window_kernel(query_THD.dtype, layout, query_THD.shape[2])
        return kernel(query_THD, key_THD, value_THD, layout, one_sided)
    blocks = []
    band = _band(one_sided, query_THD.device)
    lowest = torch.finfo(query_THD.dtype).min
    split = zip(layout.documents, *(x.split(layout.lengths) for x in (query_THD, key_THD, value_THD)), strict=True)
    for doc, *qkv in split:
        n = doc.end - doc.start
        q, k, v = (x.transpose(0, 1) for x in qkv)
        k_global, v_global = (x[:, doc.globals_] for x in (k, v))
        for lo, hi, key_lo, key_hi in _blocks(n, one_sided):
            q_block = q[:, lo:hi]
            allowed = band[: hi - lo, key_lo - lo + one_sided : key_hi - lo + one_sided]
            if doc.local_key is not None:
                allowed = allowed & doc.local_key[key_lo:key_hi]
            scores = (q_block @ k[:, key_lo:key_hi].transpose(1, 2)).masked_fill_(~allowed, lowest)
            if len(doc.globals_):
                scores = torch.cat([scores, q_block @ k_global.transpose(1, 2)], dim=-1)
            p = _softmax(scores, dropout)
            keys = key_hi - key_lo
            block = p[..., :keys] @ v[:, key_lo:key_hi]
            if len(doc.globals_):
                block = block + p[..., keys:] @ v_global
            blocks.append(block.transpose(0, 1))
    return torch.cat(blocks)


def _blocks(n: int, one_sided: int) -> Iterator[tuple[int, int, int, int]]:
    """The (first query, end, first key, end) of every block of a document of n tokens, ends exclusive."""
    for lo in range(0, n, BLOCK):
        hi = min(lo + BLOCK, n)
        yield lo, hi, max(0, lo - one_sided), min(n, hi + one_sided)


def _window_attention_in_place(query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, layout: Layout, one_sided: int) -> Tensor:
    """`window_attention` on the CPU without gradients; blocks share one buffer of scores, so nothing large is made twice."""
    H = query_THD.shape[1]
    out_THD = torch.empty_like(query_THD, memory_format=torch.contiguous_format)
    bias = _band_bias(one_sided, query_THD.dtype, query_THD.device)
    lowest = torch.finfo(query_THD.dtype).min
    line = _LINE // query_THD.element_size()
    widest = max(min(doc.end - doc.start, BLOCK + 2 * one_sided) + len(doc.globals_) for doc in layout.documents)
    widest = _rounded_up(widest, line)
    heads = -(-H // -(-H * BLOCK * widest // _SCORES))  # groups of nearly equal size
    scores_buffer = query_THD.new_empty(heads * BLOCK * widest)
    for doc in layout.documents:
        n, g = doc.end - doc.start, len(doc.globals_)
        hidden = None if doc.visible is None else query_THD.new_zeros(n).masked_fill_(~doc.visible, lowest)
        # A window counts the global tokens in it as it counts any other; each query reads the rest of them beside it.
        near_global = (torch.arange(n, device=query_THD.device)[:, None] - doc.globals_).abs() <= one_sided
        document = [x[doc.start : doc.end].transpose(0, 1) for x in (query_THD, key_THD, value_THD, out_THD)]
        for q, k, v, out in zip(*(x.split(heads) for x in document), strict=True):
            k_global, v_global = (x[:, doc.globals_] for x in (k, v))
            for lo, hi, key_lo, key_hi in _blocks(n, one_sided):
                rows, keys = hi - lo, key_hi - key_lo
                width = _rounded_up(keys + g, line)  # every row begins at a line of the cache
                scores = scores_buffer[: len(q) * rows * width].view(len(q), rows, width)
                near = torch.bmm(q[:, lo:hi], k[:, key_lo:key_hi].transpose(1, 2), out=scores[..., :keys])
                # Only the keys before the last row's window and behind the first row's are out of anyone's reach.
                block_bias = bias[:rows, key_lo - lo + one_sided : key_hi - lo + one_sided]
                before, behind = max(0, hi - 1 - one_sided - key_lo), lo + one_sided + 1 - key_lo
                near[..., :before] += block_bias[:, :before]
                near[..., behind:] += block_bias[:, behind:]
                if hidden is not None:
                    near += hidden[key_lo:key_hi]
                if g:
                    far = torch.bmm(q[:, lo:hi], k_global.transpose(1, 2), out=scores[..., keys : keys + g])
                    far.masked_fill_(near_global[lo:hi], lowest)
                scores[..., keys + g :] = -torch.inf
                torch.softmax(scores, -1, out=scores)
                read = torch.bmm(scores[..., :keys], v[:, key_lo:key_hi], out=out[:, lo:hi])
                if g:
                    read.baddbmm_(scores[..., keys : keys + g], v_global)
    return out_THD


def _rounded_up(count: int, whole: int) -> int:
    """The smallest multiple of `whole` that is at least `count`."""
    return -(-count // whole) * whole


@lru_cache(maxsize=16)
def _band_bias(one_sided: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`_band` as what is added to scores: 0 or minus infinity."""
    band = _band(one_sided, device)
    return torch.zeros(band.shape, dtype=dtype, device=device).masked_fill_(~band, -torch.inf)


def global_attention(
    query_gHD: Tensor, key_nHD: Tensor, value_nHD: Tensor, visible: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """(g, H, D) what one document's global tokens read from all its visible tokens."""
    scores = query_gHD.transpose(0, 1) @ key_nHD.permute(1, 2, 0)
    p = _softmax(_hide(scores, visible), dropout)
    return (p @ value_nHD.transpose(0, 1)).transpose(0, 1)


def folded_global_attention(
    query_gHD: Tensor, hidden_nE: Tensor, key: torch.nn.Linear, value: torch.nn.Linear, visible: Tensor | None
) -> Tensor:
    """`global_attention` with the projections folded into the queries, q . (W x) = (W^T q) . x.

    No token pays for a global key or value. The key's bias is the same for every key and leaves the softmax unchanged.
    """
    H, D = query_gHD.shape[1:]
    folded_HgE = query_gHD.transpose(0, 1) @ key.weight.view(H, D, -1)
    p = _softmax(_hide(folded_HgE @ hidden_nE.T, visible), 0.0)
    out_HgD = (p @ hidden_nE) @ value.weight.view(H, D, -1).transpose(1, 2) + value.bias.view(H, 1, D)
    return out_HgD.transpose(0, 1)


def _hide(scores: Tensor, visible: Tensor | None) -> Tensor:
    return scores if visible is None else scores.masked_fill(~visible, torch.finfo(scores.dtype).min)


def _softmax(scores: Tensor, dropout: float) -> Tensor:
    p = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    return F.dropout(p, dropout) if dropout else p


def dense_encoder_attention(
    local: tuple[Tensor, Tensor, Tensor],
    global_: tuple[Tensor, Tensor, Tensor],
    is_global: Tensor,
    visible: Tensor,
    one_sided: int,
) -> Tensor:
    """(n, H, D) the encoder's attention over one document, written as one mask: the slow truth.

    `local` and `global_` are (query, key, value), each (n, H, D), queries scaled; `is_global`, `visible` (n,) bool.
    """
    n = len(visible)
    place = torch.arange(n)
    near = (place[:, None] - place[None, :]).abs() <= one_sided
    reads = visible[None, :] & (near | is_global[None, :])
    p_local, p_global = (
        torch.einsum("ihd,jhd->hij", q, k).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0.0)
        for (q, k, _), mask in ((local, reads), (global_, visible[None, :].expand(n, n)))
    )
    out_local = torch.einsum("hij,jhd->ihd", p_local, local[2])
    out_global = torch.einsum("hij,jhd->ihd", p_global, global_[2])
    out = torch.where(is_global[:, None, None], out_global, out_local)
    return out * visible[:, None, None]


def decoder_self_attention(
    query_RHTD: Tensor, key_RHSD: Tensor, value_RHSD: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """(R, H, T, D) each row's T queries over its S positions; `mask` is added to the scores, (R or 1, 1, T, S)."""
    return F.scaled_dot_product_attention(query_RHTD, key_RHSD, value_RHSD, attn_mask=mask, dropout_p=dropout, scale=1.0)


def causal_self_attention(query_RHTD: Tensor, key_RHTD: Tensor, value_RHTD: Tensor, dropout: float = 0.0) -> Tensor:
    """(R, H, T, D) each row's T queries over its own positions up to theirs; no T x T scores are held."""
    return F.scaled_dot_product_attention(query_RHTD, key_RHTD, value_RHTD, is_causal=True, dropout_p=dropout, scale=1.0)


def causal_mask(queries: int, decoder_attention_mask: Tensor | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(R or 1, 1, T, S) the mask of the last T = `queries` of S positions, added to scores.

    `decoder_attention_mask` (R, S) hides positions where it is 0. A query that may see nothing reads everything evenly, as
    in the reference.
    """
    keys = queries if decoder_attention_mask is None else decoder_attention_mask.shape[1]
    q = torch.arange(keys - queries, keys, device=device)[:, None]
    allowed = (torch.arange(keys, device=device)[None, :] <= q)[None, None]
    if decoder_attention_mask is not None:
        allowed = allowed & decoder_attention_mask.bool()[:, None, None, :]
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(~allowed, torch.finfo(dtype).min)


def cross_attention(
    query_HRD: Tensor, key_HnD: Tensor, value_HnD: Tensor, mask_n: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """(H, R, D) all the queries that belong to one document, over its one memory; `mask_n` (n,) is added to the scores."""
    if query_HRD.shape[1] <= FEW_QUERIES and query_HRD.device.type == "cpu" and not torch.is_grad_enabled():
        scores = query_HRD @ key_HnD.mT
        return _softmax(scores if mask_n is None else scores + mask_n, dropout) @ value_HnD
    mask = None if mask_n is None else mask_n.expand(query_HRD.shape[1], -1)
    # Laid out row by row: torch's fused attention leaves other layouts to the one that holds all scores.
    q, k, v = (x.contiguous().unsqueeze(0) for x in (query_HRD, key_HnD, value_HnD))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=1.0).squeeze(0)
