"""Attention on GPUs: the kernels that read the encoder's windows and the decoder's memory, and which of them is taken.

The rules are those of `attention.py`. Windows are read by one of

  triton     one kernel of ours for document, window, global and hidden tokens (`triton_kernels.py`).
  flash      half precision, documents without hidden tokens: FlashAttention over packed documents with a window; the global
             tokens beyond the window are joined to it by their log-sum-exp. Needs torch 2.11.
  flex       half precision otherwise: one compiled kernel with the mask document + window + global.
  strided    plain products over overlapping views, exact float32.

the pages of the decoder's memory by `triton_pages`, by `flash_pages`, with the beams of a document as grouped queries
(FlashAttention divides the keys among processors only where a sequence has one query; torch 2.13), or by `gathered_pages`,
plain products; the rows' own past by `triton_past` or `gathered_past`.

`window_kernel`, `page_kernel` and `past_kernel` choose; `benchmarks/gpu.py` measures those of windows and of pages. On a CPU
they give what they give on a GPU, FlashAttention apart.

Shapes: T tokens of all documents, H heads, D head size, g global tokens of one document, G of all documents; S
documents, R rows of the decoder, P pages of `PAGE` tokens, M pages of the longest document, C positions a row may write.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from led.layout import Layout

# Tokens of a page of memory; FlashAttention takes multiples of 256.
PAGE = 256

# Queries of a block: FlexAttention's own, and a good size of product.
_BLOCK = 128

_HALF = (torch.float16, torch.bfloat16)

WindowKernel = Callable[[Tensor, Tensor, Tensor, Layout, int], Tensor]
PageKernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
PastKernel = Callable[[Tensor, tuple[Tensor, Tensor], Tensor, Tensor, Tensor, Tensor], Tensor]


@cache
def _varlen_parameters() -> frozenset[str]:
    """What torch's FlashAttention over packed sequences can be asked for; nothing where there is none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def has_triton(dtype: torch.dtype) -> bool:
    """Do our Triton kernels run here, and take numbers of this type?"""
    return dtype in (*_HALF, torch.float32) and _triton_runs()


@cache
def _triton_runs() -> bool:
    """Is there a GPU that our kernels are made for (NVIDIA's, from compute capability 8 on), a Triton, and what that needs?"""
    if not torch.cuda.is_available() or torch.version.hip or torch.cuda.get_device_capability() < (8, 0):
        return False
    try:
        from led.triton_kernels import add_and_norm
    except ImportError:
        return False
    ones = torch.ones(16, device="cuda")
    try:
        add_and_norm(ones, ones, ones, ones, 1e-5, clamp=False)
    except Exception as error:
        warnings.warn(f"Triton does not run here, so slower kernels take its place; it needs a C compiler, gcc for instance "
                      f"({type(error).__name__}: {error})", stacklevel=2)  # fmt: skip
        return False
    return True


def window_kernel(dtype: torch.dtype, layout: Layout, head_size: int) -> WindowKernel:
    """The kernel that reads the windows of this batch on a GPU."""
    if _triton_takes(dtype, head_size):
        return triton_window
    if dtype not in _HALF:
        return strided_window
    if layout.batch.is_visible is None and {"window_size", "return_aux"} <= _varlen_parameters():
        return flash_window
    return flex_window


def page_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> PageKernel:
    """The kernel that reads pages of memory on this device."""
    if device.type == "cuda":
        if _triton_takes(dtype, head_size):
            return triton_pages
        if dtype in _HALF and {"block_table", "enable_gqa"} <= _varlen_parameters():
            return flash_pages
    return gathered_pages


def past_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> PastKernel:
    """The kernel that reads the rows' past on this device."""
    return triton_past if device.type == "cuda" and _triton_takes(dtype, head_size) else gathered_past


def _triton_takes(dtype: torch.dtype, head_size: int) -> bool:
    return head_size in (16, 32, 64) and has_triton(dtype)


def triton_window(query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, layout: Layout, one_sided: int) -> Tensor:
    """(T, H, D) what every token reads, by one Triton kernel."""
    from led.triton_kernels import window, window_tile

    tile = window_tile(query_THD.dtype, query_THD.device)
    tiles_N5, places_G = layout.once(("triton", tile), lambda: window_tiles(layout, tile[0]))
    return window(query_THD, key_THD, value_THD, tiles_N5, places_G, layout.batch.is_visible, one_sided, tile)


def window_tiles(layout: Layout, queries: int) -> tuple[Tensor, Tensor]:
    """The blocks of queries of all documents as `triton_kernels.window` takes them, and the places of global tokens."""
    tiles = []
    for (start, end), globals_ in zip(layout.batch.spans, pairwise(layout.cu_globals), strict=True):
        first = torch.arange(start, end, queries, dtype=torch.int32)
        of_document = torch.tensor([start, end, *globals_], dtype=torch.int32).expand(len(first), -1)
        tiles.append(torch.cat([first[:, None], of_document], 1))
    return torch.cat(tiles).to(layout.globals_.device), layout.globals_.int()


def _flash(query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, layout: Layout, one_sided: int) -> tuple[Tensor, Tensor]:
    """(T, H, D) what every token reads from its window, and (H, T) the log-sum-exp of its scores."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    longest = max(layout.lengths)
    packed = (layout.cu_seqlens, layout.cu_seqlens, longest, longest)
    return varlen_attn(query_THD, key_THD, value_THD, *packed, return_aux=AuxRequest(lse=True), scale=1.0,
                       window_size=(one_sided, one_sided))  # type: ignore[return-value]  # fmt: skip


def flash_window(
    query_THD: Tensor,
    key_THD: Tensor,
    value_THD: Tensor,
    layout: Layout,
    one_sided: int,
    windowed: Callable[..., tuple[Tensor, Tensor]] = _flash,
) -> Tensor:
    """(T, H, D) what every token reads, by FlashAttention; no token may be hidden.

    The window counts the global tokens in it as it counts any other, so only those beyond it are joined.
    """
    out_THD, lse_HT = windowed(query_THD, key_THD, value_THD, layout, one_sided)
    for doc in layout.documents:
        if not len(doc.globals_):
            continue
        rows = slice(doc.start, doc.end)
        q, k, v = (x[rows].transpose(0, 1) for x in (query_THD, key_THD, value_THD))
        places = torch.arange(doc.end - doc.start, device=q.device)
        near = (places[:, None] - doc.globals_).abs() <= one_sided
        scores_Hng = (q @ k[:, doc.globals_].mT).float().masked_fill(near, -torch.inf)
        lse = lse_HT[:, rows, None]
        total = torch.logaddexp(lse, scores_Hng.logsumexp(-1, keepdim=True))
        far = (scores_Hng - total).exp().to(v.dtype) @ v[:, doc.globals_]
        near_share = (lse - total).exp().to(v.dtype)
        out_THD[rows] = (out_THD[rows].transpose(0, 1) * near_share + far).transpose(0, 1)
    return out_THD


@cache
def _flex(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Any = flex_attention
    return torch.compile(kernel, dynamic=True) if compiled else kernel


def flex_window(query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, layout: Layout, one_sided: int) -> Tensor:
    """(T, H, D) what every token reads, by FlexAttention; on the CPU not compiled and T * T scores at once."""
    mask = layout.once(("flex", one_sided), lambda: _block_mask(layout, one_sided))
    q, k, v = (x.transpose(0, 1)[None] for x in (query_THD, key_THD, value_THD))
    return _flex(query_THD.is_cuda)(q, k, v, block_mask=mask, scale=1.0)[0].transpose(0, 1)


def _block_mask(layout: Layout, one_sided: int) -> Any:
    """Document + window + global as FlexAttention takes it: the blocks of keys each block of queries needs, and the rule."""
    from torch.nn.attention.flex_attention import BlockMask

    documents, local = layout.document_ids, layout.is_local_key
    global_ = layout.batch.is_global

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        near = ((q - k).abs() <= one_sided) & local[k]
        return (documents[q] == documents[k]) & (near | global_[k])

    needed = needed_blocks(layout, one_sided)
    table = torch.zeros(1, 1, len(needed), len(needed), dtype=torch.int32)
    for row, blocks in enumerate(needed):
        table[0, 0, row, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
    counts = torch.tensor([[[len(blocks) for blocks in needed]]], dtype=torch.int32)
    T = layout.batch.cu_seqlens[-1]
    device = global_.device
    return BlockMask.from_kv_blocks(
        counts.to(device), table.to(device), BLOCK_SIZE=_BLOCK, mask_mod=rule, seq_lengths=(T, T), compute_q_blocks=False
    )


def needed_blocks(layout: Layout, one_sided: int) -> list[list[int]]:
    """For every block of queries, the blocks of keys that any of its queries may read, in order."""
    T = layout.batch.cu_seqlens[-1]
    needed: list[set[int]] = [set() for _ in range(-(-T // _BLOCK))]
    for doc in layout.documents:
        globals_ = {(doc.start + place) // _BLOCK for place in doc.globals_.tolist()}
        for block in range(doc.start // _BLOCK, (doc.end - 1) // _BLOCK + 1):
            first = max(doc.start, block * _BLOCK - one_sided)
            last = min(doc.end, (block + 1) * _BLOCK + one_sided) - 1
            needed[block] |= globals_ | set(range(first // _BLOCK, last // _BLOCK + 1))
    return [sorted(blocks) for blocks in needed]


def strided_window(query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, layout: Layout, one_sided: int) -> Tensor:
    """(T, H, D) what every token reads, by plain products: every block of queries against a view of the keys around it.

    Holds T * (128 + 2 * `one_sided` + G) scores of one head at a time.
    """
    T, H, D = query_THD.shape
    blocks = -(-T // _BLOCK)
    rest, width = blocks * _BLOCK - T, _BLOCK + 2 * one_sided
    forbidden = layout.once(("strided", one_sided), lambda: _forbidden(layout, one_sided))
    lowest = torch.finfo(query_THD.dtype).min
    query = F.pad(query_THD, (0, 0, 0, 0, 0, rest)).view(blocks, _BLOCK, H, D)
    around = (0, 0, 0, 0, one_sided, one_sided + rest)
    key, value = (F.pad(x, around).unfold(0, width, _BLOCK) for x in (key_THD, value_THD))  # (blocks, H, D, width)
    k_global, v_global = (x[layout.globals_] for x in (key_THD, value_THD))
    out = torch.empty_like(query)
    for head in range(H):
        q = query[:, :, head]
        scores = torch.cat([torch.bmm(q, key[:, head]), q @ k_global[:, head].T], -1).masked_fill_(forbidden, lowest)
        p = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
        out[:, :, head] = torch.bmm(p[..., :width], value[:, head].mT) + p[..., width:] @ v_global[:, head]
    return out.view(-1, H, D)[:T]


def _forbidden(layout: Layout, one_sided: int) -> Tensor:
    """(blocks, 128, 128 + 2 * one_sided + G) bool: which keys around its block, and which globals, a query may not read."""
    documents, local = layout.document_ids, layout.is_local_key
    T, device = len(documents), documents.device
    blocks = -(-T // _BLOCK)
    q = torch.arange(blocks * _BLOCK, device=device).view(blocks, _BLOCK, 1)
    k = q[:, :1] - one_sided + torch.arange(_BLOCK + 2 * one_sided, device=device)
    inside, k = (k >= 0) & (k < T), k.clamp(0, T - 1)
    mine = documents[q.clamp(max=T - 1)]
    near = inside & local[k] & ((q - k).abs() <= one_sided) & (mine == documents[k])
    of_mine = mine == documents[layout.globals_]
    return ~torch.cat([near, of_mine], -1)


def triton_pages(query_RHD: Tensor, key_PAGES: Tensor, value_PAGES: Tensor, table_SM: Tensor, tokens_S: Tensor) -> Tensor:
    """(R, H, D) what the rows read from their documents' pages, by a Triton kernel; the arguments of `gathered_pages`."""
    from led.triton_kernels import memory

    return memory(query_RHD, key_PAGES, value_PAGES, table_SM, tokens_S)


def flash_pages(query_RHD: Tensor, key_PAGES: Tensor, value_PAGES: Tensor, table_SM: Tensor, tokens_S: Tensor) -> Tensor:
    """(R, H, D) what the rows read from their documents' pages, by FlashAttention; the arguments of `gathered_pages`."""
    from torch.nn.attention.varlen import varlen_attn

    S, H = len(table_SM), query_RHD.shape[1]
    query = query_RHD.unflatten(0, (S, -1)).transpose(1, 2)  # a document's rows, head by head: one query of more heads
    each = query.shape[2]
    ends = torch.arange(S + 1, dtype=torch.int32, device=query.device)
    longest = table_SM.shape[1] * PAGE
    read = varlen_attn(query.flatten(1, 2), key_PAGES, value_PAGES, ends, None, 1, longest, scale=1.0, enable_gqa=True,
                       seqused_k=tokens_S, block_table=table_SM)  # fmt: skip
    assert isinstance(read, Tensor)
    return read.unflatten(1, (H, each)).transpose(1, 2).flatten(0, 1)


def gathered_pages(query_RHD: Tensor, key_PAGES: Tensor, value_PAGES: Tensor, table_SM: Tensor, tokens_S: Tensor) -> Tensor:
    """(R, H, D) what the rows read from their documents' pages, by plain products over a copy of the pages.

    `key_PAGES`, `value_PAGES` (P, PAGE, H, D); `table_SM` (S, M) int32 the pages of each document; `tokens_S` (S,) int32 how
    many tokens it has. The rows of a document follow one another and are as many for each.
    """
    S, M = table_SM.shape
    q = query_RHD.unflatten(0, (S, -1)).transpose(1, 2)
    k, v = (pages[table_SM.long()].flatten(1, 2).transpose(1, 2) for pages in (key_PAGES, value_PAGES))
    beyond = torch.arange(M * PAGE, device=q.device) >= tokens_S[:, None]
    scores = (q @ k.mT).masked_fill(beyond[:, None, None, :], torch.finfo(q.dtype).min)
    read = scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v
    return read.transpose(1, 2).flatten(0, 1)


def triton_past(query_RHD: Tensor, new_RHD: tuple[Tensor, Tensor], key_RHCD: Tensor, value_RHCD: Tensor, writers_RC: Tensor,
                lengths_R: Tensor) -> Tensor:  # fmt: skip
    """(R, H, D) what the rows read from their past, by a Triton kernel; the arguments of `gathered_past`."""
    from led.triton_kernels import past

    return past(query_RHD, new_RHD, key_RHCD, value_RHCD, writers_RC, lengths_R)


def gathered_past(query_RHD: Tensor, new_RHD: tuple[Tensor, Tensor], key_RHCD: Tensor, value_RHCD: Tensor, writers_RC: Tensor,
                  lengths_R: Tensor) -> Tensor:  # fmt: skip
    """(R, H, D) what the rows read from their past and their new position, by plain products over a copy of it.

    The new keys and values are written to `key_RHCD` and `value_RHCD` at `lengths_R`, the positions before them. Position c
    of row r is what row `writers_RC[r, c]` wrote there, and the new one is its own.
    """
    rows, positions = (torch.arange(n, device=query_RHD.device) for n in writers_RC.shape)
    for held, new in zip((key_RHCD, value_RHCD), new_RHD, strict=True):
        held[rows, :, lengths_R] = new
    writers = torch.where(positions == lengths_R[:, None], rows[:, None], writers_RC)
    k_RCHD, v_RCHD = (x[writers, :, positions] for x in (key_RHCD, value_RHCD))
    scores_RHC = torch.einsum("rhd,rchd->rhc", query_RHD, k_RCHD)
    scores_RHC = scores_RHC.masked_fill(positions > lengths_R[:, None, None], torch.finfo(scores_RHC.dtype).min)
    p = scores_RHC.softmax(-1, dtype=torch.float32).to(query_RHD.dtype)
    return torch.einsum("rhc,rchd->rhd", p, v_RCHD)
