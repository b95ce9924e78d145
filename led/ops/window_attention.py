"""Window attention of the encoder: every token over its window and the global tokens, in one softmax.

Source: arXiv:2004.05150, section 3.1. Windows are two-sided as in the published `config.json`: with
`attention_window` w, a token attends to w // 2 tokens on each side and to itself.

Rules per document, as in the reference implementation `dense_encoder_attention`:
  - a local query attends to the visible local tokens in its window and to every global token, in one softmax
  - a global query attends to every visible token, with projections of its own (`global_attention.py`)
  - a hidden token attends to nothing, so its output is zero

`window_kernel` selects the implementation: `window_attention` with gradients or dropout,
`window_attention_cpu` for inference on CPUs, `gpu_backends.py` for inference on GPUs.

Shapes: T tokens of all documents, n tokens of one, H heads, D head size, E = H * D, g global tokens of
one document.

Cost per token and layer: 4 * E * (w + 1) operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from led.batch.attention_metadata import AttentionMetadata
from led.ops import gpu_backends

# Queries per block. Small blocks waste less work at the edges of the window, large ones make better products.
BLOCK = 128

# Scores computed at once: those of as many heads as fit together into the processor's second-level cache.
_SCORES = 1 << 20

# Bytes of a cache line.
_LINE = 64

WindowKernel = Callable[[Tensor, Tensor, Tensor, AttentionMetadata, int], Tensor]


def window_kernel(query_THD: Tensor, dropout: float) -> WindowKernel:
    """The implementation of window attention for this call: (query, key, value, metadata, one_sided) -> (T,
    H, D).

    The rows of global and hidden tokens are computed too and have no meaning. Queries are already scaled.
    """
    if dropout or torch.is_grad_enabled():
        return partial(window_attention, dropout=dropout)
    if query_THD.is_cuda:
        return gpu_backends.gpu_window_kernel(query_THD.dtype, query_THD.shape[2])
    return window_attention_cpu


def window_attention(
    query_THD: Tensor,
    key_THD: Tensor,
    value_THD: Tensor,
    metadata: AttentionMetadata,
    one_sided: int,
    dropout: float = 0.0,
) -> Tensor:
    """(T, H, D) window attention with gradients, block by block."""
    blocks = []
    band = _band(one_sided, query_THD.device)
    lowest = torch.finfo(query_THD.dtype).min
    split = zip(
        metadata.documents, *(x.split(metadata.lengths) for x in (query_THD, key_THD, value_THD)), strict=True
    )
    for doc, *qkv in split:
        q, k, v = (x.transpose(0, 1) for x in qkv)
        k_global, v_global = (x[:, doc.global_positions] for x in (k, v))
        for lo, hi, key_lo, key_hi in _blocks(doc.end - doc.start, one_sided):
            q_block = q[:, lo:hi]
            allowed = band[: hi - lo, key_lo - lo + one_sided : key_hi - lo + one_sided]
            if doc.local_key is not None:
                allowed = allowed & doc.local_key[key_lo:key_hi]
            scores = (q_block @ k[:, key_lo:key_hi].transpose(1, 2)).masked_fill_(~allowed, lowest)
            if len(doc.global_positions):
                scores = torch.cat([scores, q_block @ k_global.transpose(1, 2)], dim=-1)
            p = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
            p = F.dropout(p, dropout) if dropout else p
            keys = key_hi - key_lo
            block = p[..., :keys] @ v[:, key_lo:key_hi]
            if len(doc.global_positions):
                block = block + p[..., keys:] @ v_global
            blocks.append(block.transpose(0, 1))
    return torch.cat(blocks)


def window_attention_cpu(
    query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, metadata: AttentionMetadata, one_sided: int
) -> Tensor:
    """(T, H, D) window attention on the CPU without gradients. All blocks share one buffer of scores."""
    H = query_THD.shape[1]
    out_THD = torch.empty_like(query_THD, memory_format=torch.contiguous_format)
    bias = _band_bias(one_sided, query_THD.dtype, query_THD.device)
    lowest = torch.finfo(query_THD.dtype).min
    line = _LINE // query_THD.element_size()
    widths = (
        min(doc.end - doc.start, BLOCK + 2 * one_sided) + len(doc.global_positions)
        for doc in metadata.documents
    )
    widest = _round_up(max(widths), line)
    heads = -(-H // -(-H * BLOCK * widest // _SCORES))  # groups of nearly equal size
    scores_buffer = query_THD.new_empty(heads * BLOCK * widest)
    for doc in metadata.documents:
        n, g = doc.end - doc.start, len(doc.global_positions)
        hidden = None if doc.visible is None else query_THD.new_zeros(n).masked_fill_(~doc.visible, lowest)
        # The window treats global tokens inside it like any other. The far columns hold the other global
        # tokens.
        positions = torch.arange(n, device=query_THD.device)
        near_global = (positions[:, None] - doc.global_positions).abs() <= one_sided
        document = [x[doc.start : doc.end].transpose(0, 1) for x in (query_THD, key_THD, value_THD, out_THD)]
        for q, k, v, out in zip(*(x.split(heads) for x in document), strict=True):
            k_global, v_global = (x[:, doc.global_positions] for x in (k, v))
            for lo, hi, key_lo, key_hi in _blocks(n, one_sided):
                rows, keys = hi - lo, key_hi - key_lo
                width = _round_up(keys + g, line)  # every row starts at a cache line
                scores = scores_buffer[: len(q) * rows * width].view(len(q), rows, width)
                near = torch.bmm(q[:, lo:hi], k[:, key_lo:key_hi].transpose(1, 2), out=scores[..., :keys])
                # Only keys before the last row's window and after the first row's window are outside any
                # window.
                block_bias = bias[:rows, key_lo - lo + one_sided : key_hi - lo + one_sided]
                before, after = max(0, hi - 1 - one_sided - key_lo), lo + one_sided + 1 - key_lo
                near[..., :before] += block_bias[:, :before]
                near[..., after:] += block_bias[:, after:]
                if hidden is not None:
                    near += hidden[key_lo:key_hi]
                if g:
                    far = torch.bmm(q[:, lo:hi], k_global.transpose(1, 2), out=scores[..., keys : keys + g])
                    far.masked_fill_(near_global[lo:hi], lowest)
                scores[..., keys + g :] = -torch.inf
                torch.softmax(scores, -1, out=scores)
                block = torch.bmm(scores[..., :keys], v[:, key_lo:key_hi], out=out[:, lo:hi])
                if g:
                    block.baddbmm_(scores[..., keys : keys + g], v_global)
    return out_THD


def _blocks(n: int, one_sided: int) -> Iterator[tuple[int, int, int, int]]:
    """(first query, end, first key, end) of every block of a document of n tokens, ends exclusive."""
    for lo in range(0, n, BLOCK):
        hi = min(lo + BLOCK, n)
        yield lo, hi, max(0, lo - one_sided), min(n, hi + one_sided)


@lru_cache(maxsize=16)
def _band(one_sided: int, device: torch.device) -> Tensor:
    """(BLOCK, BLOCK + 2 * one_sided) bool: whether query r of a block may attend to the key in column c.

    Column c is the key at c - one_sided positions after the block's first query.
    """
    r = torch.arange(BLOCK, device=device)[:, None]
    c = torch.arange(BLOCK + 2 * one_sided, device=device)[None, :]
    return (c >= r) & (c <= r + 2 * one_sided)


@lru_cache(maxsize=16)
def _band_bias(one_sided: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`_band` as a bias to add to the scores: 0 or minus infinity."""
    band = _band(one_sided, device)
    return torch.zeros(band.shape, dtype=dtype, device=device).masked_fill_(~band, -torch.inf)


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def dense_encoder_attention(
    local: tuple[Tensor, Tensor, Tensor],
    global_: tuple[Tensor, Tensor, Tensor],
    is_global: Tensor,
    visible: Tensor,
    one_sided: int,
) -> Tensor:
    """(n, H, D) the encoder's attention over one document, as one mask over all pairs: the reference
    implementation.

    `local` and `global_` are (query, key, value), each (n, H, D), queries scaled. `is_global`, `visible` (n,)
    bool.
    """
    n = len(visible)
    position = torch.arange(n)
    near = (position[:, None] - position[None, :]).abs() <= one_sided
    local_mask = visible[None, :] & (near | is_global[None, :])
    global_mask = visible[None, :].expand(n, n)
    p_local, p_global = (
        torch.einsum("ihd,jhd->hij", q, k).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0.0)
        for (q, k, _), mask in ((local, local_mask), (global_, global_mask))
    )
    out_local = torch.einsum("hij,jhd->ihd", p_local, local[2])
    out_global = torch.einsum("hij,jhd->ihd", p_global, global_[2])
    out = torch.where(is_global[:, None, None], out_global, out_local)
    return out * visible[:, None, None]
