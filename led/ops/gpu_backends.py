"""Attention on GPUs: which implementation runs, and plain products that replace the Triton kernels.

Each kind of attention has a Triton kernel (`triton_kernels.py`) and an implementation by plain products. The
plain one runs where there is no Triton, and tests compare the two. Both also run on a CPU.

  window attention         triton_window            strided_window
  paged cross-attention    triton_paged_attention   gathered_paged_attention
  static self-attention    triton_self_attention    gathered_self_attention

Paged attention follows PagedAttention (arXiv:2309.06180). `gpu_window_kernel`, `paged_attention_kernel` and
`self_attention_kernel` select an implementation. `benchmarks/gpu.py` measures the first two.

Shapes: T tokens of all documents, H heads, D head size, G global tokens of all documents. S documents, R
rows of the decoder, P pages of `PAGE` tokens, M pages of the longest document, C positions that a row may
write.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from led.batch.attention_metadata import AttentionMetadata

# Tokens of a page of the cross-attention KV cache.
PAGE = 256

# Queries of a block: a good size for matrix products.
_BLOCK = 128

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

WindowKernel = Callable[[Tensor, Tensor, Tensor, AttentionMetadata, int], Tensor]
PagedAttentionKernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
SelfAttentionKernel = Callable[[Tensor, tuple[Tensor, Tensor], Tensor, Tensor, Tensor, Tensor], Tensor]


def has_triton(dtype: torch.dtype) -> bool:
    """Whether the Triton kernels run here and support this dtype."""
    return dtype in _DTYPES and _triton_runs()


@cache
def _triton_runs() -> bool:
    """Whether there is an NVIDIA GPU of compute capability 8 or later, Triton, and the C compiler that it
    needs."""
    if not torch.cuda.is_available() or torch.version.hip or torch.cuda.get_device_capability() < (8, 0):
        return False
    try:
        from led.ops.triton_kernels import add_and_norm
    except ImportError:
        return False
    ones = torch.ones(16, device="cuda")
    try:
        add_and_norm(ones, ones, ones, ones, 1e-5)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"Triton does not run here ({reason}), so slower kernels are used. Triton needs a C compiler: "
            "install gcc.",
            stacklevel=2,
        )
        return False
    return True


def _triton_supports(dtype: torch.dtype, head_size: int) -> bool:
    return head_size in (16, 32, 64) and has_triton(dtype)


def gpu_window_kernel(dtype: torch.dtype, head_size: int) -> WindowKernel:
    """The implementation of window attention on a GPU."""
    return triton_window if _triton_supports(dtype, head_size) else strided_window


def paged_attention_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> PagedAttentionKernel:
    """The implementation of paged cross-attention on `device`."""
    triton = device.type == "cuda" and _triton_supports(dtype, head_size)
    return triton_paged_attention if triton else gathered_paged_attention


def self_attention_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> SelfAttentionKernel:
    """The implementation of self-attention over a static KV cache on `device`."""
    triton = device.type == "cuda" and _triton_supports(dtype, head_size)
    return triton_self_attention if triton else gathered_self_attention


def triton_window(
    query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, metadata: AttentionMetadata, one_sided: int
) -> Tensor:
    """(T, H, D) window attention by one Triton kernel."""
    from led.ops.triton_kernels import window_attention, window_tile

    tile = window_tile(query_THD.dtype, query_THD.device)
    tiles_N5, positions_G = metadata.cached(("triton", tile), lambda: window_tiles(metadata, tile[0]))
    visible = metadata.batch.is_visible
    return window_attention(query_THD, key_THD, value_THD, tiles_N5, positions_G, visible, one_sided, tile)


def window_tiles(metadata: AttentionMetadata, queries: int) -> tuple[Tensor, Tensor]:
    """The query blocks of all documents as `triton_kernels.window_attention` takes them, and the global
    positions."""
    tiles = []
    for (start, end), globals_of in zip(metadata.batch.spans, pairwise(metadata.cu_globals), strict=True):
        first = torch.arange(start, end, queries, dtype=torch.int32)
        of_document = torch.tensor([start, end, *globals_of], dtype=torch.int32).expand(len(first), -1)
        tiles.append(torch.cat([first[:, None], of_document], 1))
    return torch.cat(tiles).to(metadata.global_positions.device), metadata.global_positions.int()


def strided_window(
    query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, metadata: AttentionMetadata, one_sided: int
) -> Tensor:
    """(T, H, D) window attention by plain products: each block of queries over a strided view of the keys
    around it.

    Holds T * (128 + 2 * `one_sided` + G) scores of one head at a time.
    """
    T, H, D = query_THD.shape
    blocks = -(-T // _BLOCK)
    rest, width = blocks * _BLOCK - T, _BLOCK + 2 * one_sided
    forbidden = metadata.cached(("strided", one_sided), lambda: _forbidden(metadata, one_sided))
    lowest = torch.finfo(query_THD.dtype).min
    query = F.pad(query_THD, (0, 0, 0, 0, 0, rest)).view(blocks, _BLOCK, H, D)
    padding = (0, 0, 0, 0, one_sided, one_sided + rest)
    key, value = (
        F.pad(x, padding).unfold(0, width, _BLOCK) for x in (key_THD, value_THD)
    )  # (blocks, H, D, width)
    k_global, v_global = (x[metadata.global_positions] for x in (key_THD, value_THD))
    out = torch.empty_like(query)
    for head in range(H):
        q = query[:, :, head]
        scores = torch.cat([torch.bmm(q, key[:, head]), q @ k_global[:, head].T], -1)
        p = scores.masked_fill_(forbidden, lowest).softmax(-1, dtype=torch.float32).to(q.dtype)
        out[:, :, head] = torch.bmm(p[..., :width], value[:, head].mT) + p[..., width:] @ v_global[:, head]
    return out.view(-1, H, D)[:T]


def _forbidden(metadata: AttentionMetadata, one_sided: int) -> Tensor:
    """(blocks, 128, 128 + 2 * one_sided + G) bool: keys around its block, and globals, that a query must not
    read."""
    documents, local = metadata.document_ids, metadata.is_local_key
    T, device = len(documents), documents.device
    blocks = -(-T // _BLOCK)
    q = torch.arange(blocks * _BLOCK, device=device).view(blocks, _BLOCK, 1)
    k = q[:, :1] - one_sided + torch.arange(_BLOCK + 2 * one_sided, device=device)
    inside, k = (k >= 0) & (k < T), k.clamp(0, T - 1)
    own = documents[q.clamp(max=T - 1)]
    near = inside & local[k] & ((q - k).abs() <= one_sided) & (own == documents[k])
    own_globals = own == documents[metadata.global_positions]
    return ~torch.cat([near, own_globals], -1)


def triton_paged_attention(
    query_RHD: Tensor, key_pages: Tensor, value_pages: Tensor, table_SM: Tensor, tokens_S: Tensor
) -> Tensor:
    """(R, H, D) paged cross-attention by a Triton kernel. The arguments are those of
    `gathered_paged_attention`."""
    from led.ops.triton_kernels import paged_attention

    return paged_attention(query_RHD, key_pages, value_pages, table_SM, tokens_S)


def gathered_paged_attention(
    query_RHD: Tensor, key_pages: Tensor, value_pages: Tensor, table_SM: Tensor, tokens_S: Tensor
) -> Tensor:
    """(R, H, D) paged cross-attention by plain products over a copy of the pages.

    `key_pages`, `value_pages` (P, PAGE, H, D). `table_SM` (S, M) int32 is the page table. `tokens_S` (S,)
    int32 is the number of tokens of each document. The rows of a document are consecutive, the same number
    for each.
    """
    S, M = table_SM.shape
    q = query_RHD.unflatten(0, (S, -1)).transpose(1, 2)
    k, v = (pages[table_SM.long()].flatten(1, 2).transpose(1, 2) for pages in (key_pages, value_pages))
    beyond = torch.arange(M * PAGE, device=q.device) >= tokens_S[:, None]
    scores = (q @ k.mT).masked_fill(beyond[:, None, None, :], torch.finfo(q.dtype).min)
    out = scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v
    return out.transpose(1, 2).flatten(0, 1)


def triton_self_attention(
    query_RHD: Tensor,
    new_RHD: tuple[Tensor, Tensor],
    key_RHCD: Tensor,
    value_RHCD: Tensor,
    cache_indirection_RC: Tensor,
    lengths_R: Tensor,
) -> Tensor:
    """(R, H, D) self-attention by a Triton kernel. The arguments are those of `gathered_self_attention`."""
    from led.ops.triton_kernels import self_attention

    return self_attention(query_RHD, new_RHD, key_RHCD, value_RHCD, cache_indirection_RC, lengths_R)


def gathered_self_attention(
    query_RHD: Tensor,
    new_RHD: tuple[Tensor, Tensor],
    key_RHCD: Tensor,
    value_RHCD: Tensor,
    cache_indirection_RC: Tensor,
    lengths_R: Tensor,
) -> Tensor:
    """(R, H, D) the rows over their cached positions and the new one, by plain products over a copy of the
    cache.

    Writes the new keys and values into `key_RHCD` and `value_RHCD` at `lengths_R`, the positions held so far.
    `cache_indirection_RC[r, c]` names the row that holds position c of row r. The new position is in the row
    itself.
    """
    rows, positions = (torch.arange(n, device=query_RHD.device) for n in cache_indirection_RC.shape)
    for held, new in zip((key_RHCD, value_RHCD), new_RHD, strict=True):
        held[rows, :, lengths_R] = new
    source = torch.where(positions == lengths_R[:, None], rows[:, None], cache_indirection_RC)
    k_RCHD, v_RCHD = (x[source, :, positions] for x in (key_RHCD, value_RHCD))
    scores_RHC = torch.einsum("rhd,rchd->rhc", query_RHD, k_RCHD)
    scores_RHC = scores_RHC.masked_fill(
        positions > lengths_R[:, None, None], torch.finfo(scores_RHC.dtype).min
    )
    p = scores_RHC.softmax(-1, dtype=torch.float32).to(query_RHD.dtype)
    return torch.einsum("rhc,rchd->rhd", p, v_RCHD)
