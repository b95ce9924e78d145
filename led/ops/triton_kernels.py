"""Triton kernels for GPUs: window attention, paged cross-attention, self-attention, and add + layer norm.

`gpu_backends.py` decides when the attention kernels run, and has plain products beside each. The kernels keep
scores in registers with an online softmax (FlashAttention, arXiv:2205.14135). If rows are few and a document
is long, its keys are split among programs (split-K), and a second kernel merges their results.

Triton comes with torch's CUDA builds. With `TRITON_INTERPRET=1` the kernels run on a CPU, which is how tests
run them.

Shapes: T tokens of all documents, H heads, D head size (16, 32 or 64). S documents, R rows of the
decoder, P pages of `page` tokens, M pages of the longest document, C positions that a row may write.
"""
# Triton reads the annotations of its kernels, which are not Python types.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache, wraps
from typing import ParamSpec

import torch
import triton
import triton.language as tl
from torch import Tensor

P = ParamSpec("P")

# Below every score and far from infinity, so that the maximum of a row without keys stays a finite number.
_LOWEST = tl.constexpr(-1.0e30)
_LOG2E = tl.constexpr(1.4426950408889634)

# Paged attention: keys of a block, warps and stages, by bytes of a number.
_PAGED_TILES: dict[int, tuple[int, int, int]] = {2: (64, 2, 3), 4: (32, 2, 3)}

# Programs that keep a GPU busy during paged attention: eight per multiprocessor of the largest GPU.
_PROGRAMS = 1056

# float32 products are computed as three TF32 products of the upper and lower halves of the digits. Measured
# against float64, their error is smaller than that of plain float32 products, and they are three times as
# fast (docs/benchmarks.md). Half precision ignores this.
_PRECISION = "tf32x3"

# Cached positions of self-attention that a program reads at once.
_POSITIONS = 64


def _on_own_device(launch: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Launch on the GPU of the first tensor. Triton itself launches on the current one."""

    @wraps(launch)
    def launched(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        first = args[0]
        assert isinstance(first, Tensor)
        with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
            return launch(*args, **kwargs)

    return launched


@triton.jit
def _online_softmax(max_, sum_, out, scores, values, PRECISION: tl.constexpr):
    """Update the running (maximum, sum, output) of rows with scores (rows, keys), in powers of two, of
    values."""
    new_max = tl.maximum(max_, tl.max(scores, 1))
    p = tl.exp2(scores - new_max[:, None])
    decay = tl.exp2(max_ - new_max)
    out = tl.dot(p.to(values.dtype), values, out * decay[:, None], input_precision=PRECISION)
    return new_max, sum_ * decay + tl.sum(p, 1), out


@triton.jit
def _attend_range(
    max_,
    sum_,
    out,
    query,
    rows,
    keys,
    values,
    stride,
    begin,
    stop,
    end,
    visible,
    ONE_SIDED: tl.constexpr,
    EDGE: tl.constexpr,
    HIDDEN: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Update with the keys from `begin` to `stop`. Without EDGE, all of them are in every row's window."""
    offsets = tl.arange(0, KEYS)
    for first in range(begin, stop, KEYS):
        at = first + offsets
        if EDGE:
            inside = at < end
            key = tl.load(keys + at.to(tl.int64)[None, :] * stride, mask=inside[None, :], other=0.0)
            value = tl.load(values + at.to(tl.int64)[:, None] * stride, mask=inside[:, None], other=0.0)
        else:
            key = tl.load(keys + at.to(tl.int64)[None, :] * stride)
            value = tl.load(values + at.to(tl.int64)[:, None] * stride)
        scores = tl.dot(query, key, input_precision=PRECISION) * _LOG2E
        if EDGE:
            distance = rows[:, None] - at[None, :]
            near = (distance <= ONE_SIDED) & (distance >= -ONE_SIDED) & inside[None, :]
            scores = tl.where(near, scores, float("-inf"))
        if HIDDEN:
            shown = tl.load(visible + at, mask=at < end, other=0)
            scores = tl.where(shown[None, :] != 0, scores, float("-inf"))
        max_, sum_, out = _online_softmax(max_, sum_, out, scores, value, PRECISION)
    return max_, sum_, out


@triton.jit
def _window_attention(
    query,
    key,
    value,
    out,
    tiles,
    positions,
    visible,
    query_stride,
    stride,
    ONE_SIDED: tl.constexpr,
    HIDDEN: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    GLOBALS: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One block of queries of one head: first the global tokens outside each query's window, then the
    window."""
    tile = tiles + tl.program_id(0) * 5
    first, start, end = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    head = tl.program_id(1) * D
    rows = first + tl.arange(0, QUERIES)
    columns = tl.arange(0, D)
    row_offsets = rows.to(tl.int64)[:, None]
    q = tl.load(
        query + row_offsets * query_stride + head + columns[None, :], mask=rows[:, None] < end, other=0.0
    )
    keys, values = key + head + columns[:, None], value + head + columns[None, :]
    max_ = tl.full([QUERIES], _LOWEST, tl.float32)
    sum_ = tl.zeros([QUERIES], tl.float32)
    acc = tl.zeros([QUERIES, D], tl.float32)

    last_global = tl.load(tile + 4)
    for begin in range(tl.load(tile + 3), last_global, GLOBALS):
        numbers = begin + tl.arange(0, GLOBALS)
        known = numbers < last_global
        at = tl.load(positions + numbers, mask=known, other=0)
        far_key = tl.load(keys + at.to(tl.int64)[None, :] * stride, mask=known[None, :], other=0.0)
        far_value = tl.load(values + at.to(tl.int64)[:, None] * stride, mask=known[:, None], other=0.0)
        scores = tl.dot(q, far_key, input_precision=PRECISION) * _LOG2E
        distance = rows[:, None] - at[None, :]
        far = ((distance > ONE_SIDED) | (distance < -ONE_SIDED)) & known[None, :]
        scores = tl.where(far, scores, float("-inf"))
        max_, sum_, acc = _online_softmax(max_, sum_, acc, scores, far_value, PRECISION)

    begin = tl.maximum(start, first - ONE_SIDED)
    stop = tl.minimum(end, first + QUERIES + ONE_SIDED)
    # From `inner` on every row's window has started, and up to `outer` no window has ended.
    inner = begin + tl.cdiv(tl.maximum(first + QUERIES - 1 - ONE_SIDED - begin, 0), KEYS) * KEYS
    outer = begin + tl.maximum(tl.minimum(stop, first + ONE_SIDED + 1) - begin, 0) // KEYS * KEYS
    inner = tl.minimum(inner, stop)
    outer = tl.maximum(outer, inner)
    max_, sum_, acc = _attend_range(
        max_,
        sum_,
        acc,
        q,
        rows,
        keys,
        values,
        stride,
        begin,
        inner,
        end,
        visible,
        ONE_SIDED,
        True,
        HIDDEN,
        KEYS,
        PRECISION,
    )
    max_, sum_, acc = _attend_range(
        max_,
        sum_,
        acc,
        q,
        rows,
        keys,
        values,
        stride,
        inner,
        outer,
        end,
        visible,
        ONE_SIDED,
        False,
        HIDDEN,
        KEYS,
        PRECISION,
    )
    max_, sum_, acc = _attend_range(
        max_,
        sum_,
        acc,
        q,
        rows,
        keys,
        values,
        stride,
        outer,
        stop,
        end,
        visible,
        ONE_SIDED,
        True,
        HIDDEN,
        KEYS,
        PRECISION,
    )
    acc = acc / tl.where(sum_ > 0, sum_, 1.0)[:, None]
    tl.store(
        out + row_offsets * (H * D) + head + columns[None, :],
        acc.to(out.dtype.element_ty),
        mask=rows[:, None] < end,
    )


@lru_cache
def window_tile(dtype: torch.dtype, device: torch.device) -> tuple[int, int, int, int]:
    """Queries and keys of a block of window attention, warps and stages: the fastest measured on an H200.

    In float32 they take 128 KiB of shared memory, which smaller GPUs do not have.
    """
    if dtype.itemsize == 2:
        return 64, 64, 4, 3
    properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    shared = getattr(properties, "shared_memory_per_multiprocessor", 0)
    return (128, 64, 8, 2) if shared >= 160 << 10 else (64, 32, 4, 2)


@_on_own_device
def window_attention(
    query_THD: Tensor,
    key_THD: Tensor,
    value_THD: Tensor,
    tiles_N5: Tensor,
    positions_G: Tensor,
    visible_T: Tensor | None,
    one_sided: int,
    tile: tuple[int, int, int, int],
) -> Tensor:
    """(T, H, D) every token over its window and its document's global tokens.

    `tiles_N5` int32 are the blocks of `tile`'s queries: first query, start and end of its document in tokens,
    start and end of its document in `positions_G`. `positions_G` int32 are the positions of the global
    tokens. Keys and values have the same strides.
    """
    H, D = query_THD.shape[1:]
    queries, keys, warps, stages = tile
    assert key_THD.stride() == value_THD.stride() and all(
        x.stride()[1:] == (D, 1) for x in (query_THD, key_THD)
    )
    out = torch.empty_like(query_THD, memory_format=torch.contiguous_format)
    visible = tiles_N5 if visible_T is None else visible_T.to(torch.int8)
    _window_attention[(len(tiles_N5), H)](
        query_THD,
        key_THD,
        value_THD,
        out,
        tiles_N5,
        positions_G,
        visible,
        query_THD.stride(0),
        key_THD.stride(0),
        ONE_SIDED=one_sided,
        HIDDEN=visible_T is not None,
        QUERIES=queries,
        KEYS=keys,
        GLOBALS=16,
        H=H,
        D=D,
        PRECISION=_PRECISION,
        num_warps=warps,
        num_stages=stages,
    )
    return out


@triton.jit
def _paged_attention(
    query,
    key,
    value,
    out,
    log_sums,
    table,
    tokens,
    columns,
    splits,
    total_rows,
    PAGE: tl.constexpr,
    KEYS: tl.constexpr,
    EACH: tl.constexpr,
    ROWS: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The `EACH` rows of one document, with one head, over one split of the document's pages."""
    document, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(tokens + document)
    share = tl.cdiv(tl.cdiv(length, PAGE), splits) * PAGE
    begin = split * share
    end = tl.minimum(begin + share, length)
    number = tl.arange(0, ROWS)
    dims, offsets = tl.arange(0, D), tl.arange(0, KEYS)
    rows = (document * EACH + number) * H + head
    q = tl.load(query + rows[:, None] * D + dims[None, :], mask=number[:, None] < EACH, other=0.0)
    max_ = tl.full([ROWS], _LOWEST, tl.float32)
    sum_ = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, D], tl.float32)
    for first in range(begin, end, KEYS):
        page = tl.load(table + document * columns + first // PAGE).to(tl.int64)
        at = first + offsets
        address = ((page * PAGE + at % PAGE) * H + head) * D
        k = tl.load(key + address[None, :] + dims[:, None], mask=at[None, :] < end, other=0.0)
        v = tl.load(value + address[:, None] + dims[None, :], mask=at[:, None] < end, other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * _LOG2E
        scores = tl.where(at[None, :] < end, scores, float("-inf"))
        max_, sum_, acc = _online_softmax(max_, sum_, acc, scores, v, PRECISION)
    acc = acc / tl.where(sum_ > 0, sum_, 1.0)[:, None]
    where = split * total_rows * H + rows
    tl.store(
        out + where[:, None] * D + dims[None, :], acc.to(out.dtype.element_ty), mask=number[:, None] < EACH
    )
    if splits > 1:
        log_sum = tl.where(sum_ > 0, max_ + tl.log2(tl.where(sum_ > 0, sum_, 1.0)), float("-inf"))
        tl.store(log_sums + where, log_sum, mask=number < EACH)


@triton.jit
def _merge_splits(split_out, log_sums, out, splits, SPLITS: tl.constexpr, D: tl.constexpr):
    """The output of one row and head, from its outputs over each split."""
    row, rows = tl.program_id(0), tl.num_programs(0)
    number, dims = tl.arange(0, SPLITS), tl.arange(0, D)
    where = number * rows + row
    known = number < splits
    log_sum = tl.load(log_sums + where, mask=known, other=float("-inf"))
    weights = tl.exp2(log_sum - tl.max(log_sum, 0))
    parts = tl.load(split_out + where[:, None] * D + dims[None, :], mask=known[:, None], other=0.0)
    merged = tl.sum(parts * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(out + row * D + dims, merged.to(out.dtype.element_ty))


@_on_own_device
def paged_attention(
    query_RHD: Tensor, key_pages: Tensor, value_pages: Tensor, table_SM: Tensor, tokens_S: Tensor
) -> Tensor:
    """(R, H, D) the rows over the pages of their documents.

    Keys and values (P, page, H, D). `table_SM` int32 is the page table. `tokens_S` int32 are the tokens of
    each document, at least one.
    """
    (S, M), (R, H, D), page = table_SM.shape, query_RHD.shape, key_pages.shape[1]
    keys, warps, stages = _PAGED_TILES[key_pages.dtype.itemsize]
    splits = max(1, min(M, _PROGRAMS // (S * H)))
    out = torch.empty_like(query_RHD, memory_format=torch.contiguous_format)
    split_out, log_sums = out, out
    if splits > 1:
        split_out = out.new_empty((splits, R, H, D), dtype=torch.float32)
        log_sums = out.new_empty((splits, R, H), dtype=torch.float32)
    _paged_attention[(S, H, splits)](
        query_RHD.contiguous(),
        key_pages,
        value_pages,
        split_out,
        log_sums,
        table_SM,
        tokens_S,
        table_SM.stride(0),
        splits,
        R,
        PAGE=page,
        KEYS=keys,
        EACH=R // S,
        ROWS=max(16, triton.next_power_of_2(R // S)),
        H=H,
        D=D,
        PRECISION=_PRECISION,
        num_warps=warps,
        num_stages=stages,
    )
    if splits > 1:
        _merge_splits[(R * H,)](
            split_out, log_sums, out, splits, SPLITS=triton.next_power_of_2(splits), D=D, num_warps=2
        )
    return out


@triton.jit
def _self_attention(
    query,
    new_key,
    new_value,
    key,
    value,
    out,
    cache_indirection,
    lengths,
    stride,
    columns,
    C,
    H: tl.constexpr,
    D: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """Write the new position of one row, and attend with one head to it and to the positions before it."""
    row, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + row)
    dims, offsets = tl.arange(0, D), tl.arange(0, POSITIONS)
    source = row.to(tl.int64) * stride + head * D + dims
    q = tl.load(query + source).to(tl.float32)
    k_new, v_new = tl.load(new_key + source), tl.load(new_value + source)
    target = ((row.to(tl.int64) * H + head) * C + length) * D + dims
    tl.store(key + target, k_new)
    tl.store(value + target, v_new)
    max_ = tl.sum(q * k_new.to(tl.float32), 0) * _LOG2E
    sum_ = max_ * 0.0 + 1.0
    acc = v_new.to(tl.float32)
    for first in range(0, length, POSITIONS):
        at = first + offsets
        held = at < length
        holder = tl.load(cache_indirection + row * columns + at, mask=held, other=0).to(tl.int64)
        address = ((holder * H + head) * C + at) * D
        k = tl.load(key + address[:, None] + dims[None, :], mask=held[:, None], other=0.0).to(tl.float32)
        v = tl.load(value + address[:, None] + dims[None, :], mask=held[:, None], other=0.0).to(tl.float32)
        scores = tl.where(held, tl.sum(k * q[None, :], 1) * _LOG2E, float("-inf"))
        new_max = tl.maximum(max_, tl.max(scores, 0))
        p = tl.exp2(scores - new_max)
        decay = tl.exp2(max_ - new_max)
        sum_ = sum_ * decay + tl.sum(p, 0)
        acc = acc * decay + tl.sum(v * p[:, None], 0)
        max_ = new_max
    tl.store(out + (row * H + head) * D + dims, (acc / sum_).to(out.dtype.element_ty))


@_on_own_device
def self_attention(
    query_RHD: Tensor,
    new_RHD: tuple[Tensor, Tensor],
    key_RHCD: Tensor,
    value_RHCD: Tensor,
    cache_indirection_RC: Tensor,
    lengths_R: Tensor,
) -> Tensor:
    """(R, H, D) the rows over their cached positions and the new key and value, which are written into the
    cache.

    `cache_indirection_RC[r, c]` names the row that holds position c of row r. `lengths_R` are the positions
    before the new one. The cache may have more rows than there are queries. Query, new key and new value have
    the same strides.
    """
    (R, H, D), C = query_RHD.shape, key_RHCD.shape[2]
    new_key, new_value = new_RHD
    assert len({x.stride() for x in (query_RHD, *new_RHD)}) == 1 and query_RHD.stride()[1:] == (D, 1)
    out = torch.empty_like(query_RHD, memory_format=torch.contiguous_format)
    _self_attention[(R, H)](
        query_RHD,
        new_key,
        new_value,
        key_RHCD,
        value_RHCD,
        out,
        cache_indirection_RC,
        lengths_R,
        query_RHD.stride(0),
        cache_indirection_RC.stride(0),
        C,
        H=H,
        D=D,
        POSITIONS=_POSITIONS,
        num_warps=4,
    )
    return out


@triton.jit
def _add_and_norm(x, y, weight, bias, out, eps, E: tl.constexpr, WIDTH: tl.constexpr):
    """The layer norm of one row of a sum. Statistics are in float32, of the sum rounded to its own type."""
    column = tl.arange(0, WIDTH)
    inside = column < E
    at = tl.program_id(0).to(tl.int64) * E + column
    both = tl.load(x + at, mask=inside, other=0.0) + tl.load(y + at, mask=inside, other=0.0)
    both = both.to(tl.float32)
    centered = tl.where(inside, both - tl.sum(both, 0) / E, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centered * centered, 0) / E + eps)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (centered * scale * w + b).to(out.dtype.element_ty), mask=inside)


@_on_own_device
def add_and_norm(x: Tensor, y: Tensor, weight_E: Tensor, bias_E: Tensor, eps: float) -> Tensor:
    """(..., E) the layer norm of `x` + `y`."""
    E = x.shape[-1]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _add_and_norm[(x.numel() // E,)](
        x.contiguous(),
        y.contiguous(),
        weight_E,
        bias_E,
        out,
        eps,
        E=E,
        WIDTH=triton.next_power_of_2(E),
        num_warps=2,
    )
    return out
