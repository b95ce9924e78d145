"""Triton kernels for GPUs: the encoder's windows, the decoder's memory in pages, a row's own past, the norm of a sum.

`gpu_attention.py` decides when those of attention are taken and has plain products beside each. They keep scores in
registers, with a running maximum and sum (arXiv:2205.14135); where rows are few and a document is long, its keys are divided
among programs whose reads a second kernel joins.

Triton comes with torch's CUDA builds. Under `TRITON_INTERPRET=1` the kernels run on a CPU, which is how they are tested.

Shapes: T tokens of all documents, H heads, D head size (16, 32 or 64); S documents, R rows of the decoder,
P pages of `page` tokens, M pages of the longest document, C positions a row may write.
"""
# Triton reads the annotations of its kernels, and these are not of Python's types.
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

# Below every score and far from infinity, so that what a row holds before it has read anything stays a number.
_LOWEST = tl.constexpr(-1.0e30)
_LOG2E = tl.constexpr(1.4426950408889634)

# Keys of a block of memory, warps and stages, by bytes of a number.
_MEMORY_TILES: dict[int, tuple[int, int, int]] = {2: (64, 2, 3), 4: (32, 2, 3)}

# Programs that keep a GPU busy while rows read memories: eight for each processor of the largest.
_PROGRAMS = 1056

# How float32 is multiplied: as three products of the upper and lower halves of its digits. Measured against float64 their error
# is smaller than that of plain float32 products, and they are three times as fast (docs/performance.md). Half precision knows
# one way.
_PRECISION = "tf32x3"

# Positions of a row's past read at once.
_POSITIONS = 64


def _on_its_device(launch: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The same on the GPU of the first tensor: Triton launches on the current one."""

    @wraps(launch)
    def launched(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        first = args[0]
        assert isinstance(first, Tensor)
        with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
            return launch(*args, **kwargs)

    return launched


@triton.jit
def _joined(highest, total, read, scores, values, PRECISION: tl.constexpr):
    """The running (maximum, sum, read) of rows, after scores (rows, keys), as powers of two, of values (keys, D)."""
    now = tl.maximum(highest, tl.max(scores, 1))
    weights = tl.exp2(scores - now[:, None])
    fading = tl.exp2(highest - now)
    read = tl.dot(weights.to(values.dtype), values, read * fading[:, None], input_precision=PRECISION)
    return now, total * fading + tl.sum(weights, 1), read


@triton.jit
def _through(highest, total, read, query, rows, keys, values, stride, begin, stop, end, visible,
             ONE_SIDED: tl.constexpr, EDGE: tl.constexpr, HIDDEN: tl.constexpr, KEYS: tl.constexpr,
             PRECISION: tl.constexpr):  # fmt: skip
    """The three after the keys from `begin` to `stop`; where it is no edge, all of them are in every row's window."""
    places = tl.arange(0, KEYS)
    for first in range(begin, stop, KEYS):
        at = first + places
        if EDGE:
            at_hand = at < end
            key = tl.load(keys + at.to(tl.int64)[None, :] * stride, mask=at_hand[None, :], other=0.0)
            value = tl.load(values + at.to(tl.int64)[:, None] * stride, mask=at_hand[:, None], other=0.0)
        else:
            key = tl.load(keys + at.to(tl.int64)[None, :] * stride)
            value = tl.load(values + at.to(tl.int64)[:, None] * stride)
        scores = tl.dot(query, key, input_precision=PRECISION) * _LOG2E
        if EDGE:
            distance = rows[:, None] - at[None, :]
            near = (distance <= ONE_SIDED) & (distance >= -ONE_SIDED) & at_hand[None, :]
            scores = tl.where(near, scores, float("-inf"))
        if HIDDEN:
            shown = tl.load(visible + at, mask=at < end, other=0)
            scores = tl.where(shown[None, :] != 0, scores, float("-inf"))
        highest, total, read = _joined(highest, total, read, scores, value, PRECISION)
    return highest, total, read


@triton.jit
def _window(query, key, value, out, tiles, places, visible, query_stride, stride, ONE_SIDED: tl.constexpr,
            HIDDEN: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, GLOBALS: tl.constexpr, H: tl.constexpr,
            D: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """One block of queries of one head: the global tokens beyond each query's window, then the window."""
    tile = tiles + tl.program_id(0) * 5
    first, start, end = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    head = tl.program_id(1) * D
    rows = first + tl.arange(0, QUERIES)
    columns = tl.arange(0, D)
    mine = rows.to(tl.int64)[:, None]
    q = tl.load(query + mine * query_stride + head + columns[None, :], mask=rows[:, None] < end, other=0.0)
    keys, values = key + head + columns[:, None], value + head + columns[None, :]
    highest = tl.full([QUERIES], _LOWEST, tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    read = tl.zeros([QUERIES, D], tl.float32)

    last_global = tl.load(tile + 4)
    for begin in range(tl.load(tile + 3), last_global, GLOBALS):
        numbers = begin + tl.arange(0, GLOBALS)
        known = numbers < last_global
        at = tl.load(places + numbers, mask=known, other=0)
        far_key = tl.load(keys + at.to(tl.int64)[None, :] * stride, mask=known[None, :], other=0.0)
        far_value = tl.load(values + at.to(tl.int64)[:, None] * stride, mask=known[:, None], other=0.0)
        scores = tl.dot(q, far_key, input_precision=PRECISION) * _LOG2E
        distance = rows[:, None] - at[None, :]
        far = ((distance > ONE_SIDED) | (distance < -ONE_SIDED)) & known[None, :]
        highest, total, read = _joined(highest, total, read, tl.where(far, scores, float("-inf")), far_value, PRECISION)

    begin = tl.maximum(start, first - ONE_SIDED)
    stop = tl.minimum(end, first + QUERIES + ONE_SIDED)
    # From here on every row's window has begun, and up to there none has ended.
    inner = begin + tl.cdiv(tl.maximum(first + QUERIES - 1 - ONE_SIDED - begin, 0), KEYS) * KEYS
    outer = begin + tl.maximum(tl.minimum(stop, first + ONE_SIDED + 1) - begin, 0) // KEYS * KEYS
    inner = tl.minimum(inner, stop)
    outer = tl.maximum(outer, inner)
    highest, total, read = _through(highest, total, read, q, rows, keys, values, stride, begin, inner, end, visible,
                                    ONE_SIDED, True, HIDDEN, KEYS, PRECISION)  # fmt: skip
    highest, total, read = _through(highest, total, read, q, rows, keys, values, stride, inner, outer, end, visible,
                                    ONE_SIDED, False, HIDDEN, KEYS, PRECISION)  # fmt: skip
    highest, total, read = _through(highest, total, read, q, rows, keys, values, stride, outer, stop, end, visible,
                                    ONE_SIDED, True, HIDDEN, KEYS, PRECISION)  # fmt: skip
    read = read / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + mine * (H * D) + head + columns[None, :], read.to(out.dtype.element_ty), mask=rows[:, None] < end)


@lru_cache
def window_tile(dtype: torch.dtype, device: torch.device) -> tuple[int, int, int, int]:
    """Queries and keys of a block of windows, warps and stages: the fastest that were measured on an H200.

    In float32 that takes 128 KiB of a processor's shared memory, which smaller GPUs have not.
    """
    if dtype.itemsize == 2:
        return 64, 64, 4, 3
    of_gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    shared = getattr(of_gpu, "shared_memory_per_multiprocessor", 0)
    return (128, 64, 8, 2) if shared >= 160 << 10 else (64, 32, 4, 2)


@_on_its_device
def window(query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, tiles_N5: Tensor, places_G: Tensor, visible_T: Tensor | None,
           one_sided: int, tile: tuple[int, int, int, int]) -> Tensor:  # fmt: skip
    """(T, H, D) what every token reads from its window and from its document's global tokens.

    `tiles_N5` int32 are the blocks of `tile`'s queries: first query, start and end of its document in tokens, first
    and end of its document in `places_G`, int32, the places of global tokens. Keys and values lie alike.
    """
    H, D = query_THD.shape[1:]
    queries, keys, warps, stages = tile
    assert key_THD.stride() == value_THD.stride() and all(x.stride()[1:] == (D, 1) for x in (query_THD, key_THD))
    out = torch.empty_like(query_THD, memory_format=torch.contiguous_format)
    visible = tiles_N5 if visible_T is None else visible_T.to(torch.int8)
    _window[(len(tiles_N5), H)](query_THD, key_THD, value_THD, out, tiles_N5, places_G, visible, query_THD.stride(0),
                                key_THD.stride(0), ONE_SIDED=one_sided, HIDDEN=visible_T is not None, QUERIES=queries,
                                KEYS=keys, GLOBALS=16, H=H, D=D, PRECISION=_PRECISION, num_warps=warps,
                                num_stages=stages)  # fmt: skip
    return out


@triton.jit
def _memory(query, key, value, read, sums, table, tokens, columns, splits, rows_in_all, PAGE: tl.constexpr,
            KEYS: tl.constexpr, EACH: tl.constexpr, ROWS: tl.constexpr, H: tl.constexpr, D: tl.constexpr,
            PRECISION: tl.constexpr):  # fmt: skip
    """What the `EACH` rows of one document read with one head from its share of the document's pages."""
    document, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(tokens + document)
    share = tl.cdiv(tl.cdiv(length, PAGE), splits) * PAGE
    begin = split * share
    end = tl.minimum(begin + share, length)
    number = tl.arange(0, ROWS)
    dims, places = tl.arange(0, D), tl.arange(0, KEYS)
    mine = (document * EACH + number) * H + head
    q = tl.load(query + mine[:, None] * D + dims[None, :], mask=number[:, None] < EACH, other=0.0)
    highest = tl.full([ROWS], _LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, D], tl.float32)
    for first in range(begin, end, KEYS):
        page = tl.load(table + document * columns + first // PAGE).to(tl.int64)
        at = first + places
        here = ((page * PAGE + at % PAGE) * H + head) * D
        k = tl.load(key + here[None, :] + dims[:, None], mask=at[None, :] < end, other=0.0)
        v = tl.load(value + here[:, None] + dims[None, :], mask=at[:, None] < end, other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * _LOG2E
        scores = tl.where(at[None, :] < end, scores, float("-inf"))
        highest, total, out = _joined(highest, total, out, scores, v, PRECISION)
    out = out / tl.where(total > 0, total, 1.0)[:, None]
    where = split * rows_in_all * H + mine
    tl.store(read + where[:, None] * D + dims[None, :], out.to(read.dtype.element_ty), mask=number[:, None] < EACH)
    if splits > 1:
        tl.store(
            sums + where,
            tl.where(total > 0, highest + tl.log2(tl.where(total > 0, total, 1.0)), float("-inf")),
            mask=number < EACH,
        )


@triton.jit
def _shares_joined(read, sums, out, splits, SPLITS: tl.constexpr, D: tl.constexpr):
    """What one row reads with one head, of what it has read from each share."""
    mine, rows = tl.program_id(0), tl.num_programs(0)
    number, dims = tl.arange(0, SPLITS), tl.arange(0, D)
    where = number * rows + mine
    at_hand = number < splits
    sum_ = tl.load(sums + where, mask=at_hand, other=float("-inf"))
    weights = tl.exp2(sum_ - tl.max(sum_, 0))
    reads = tl.load(read + where[:, None] * D + dims[None, :], mask=at_hand[:, None], other=0.0)
    joined = tl.sum(reads * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(out + mine * D + dims, joined.to(out.dtype.element_ty))


@_on_its_device
def memory(query_RHD: Tensor, key_PAGES: Tensor, value_PAGES: Tensor, table_SM: Tensor, tokens_S: Tensor) -> Tensor:
    """(R, H, D) what the rows read from their documents' pages.

    Keys and values (P, page, H, D); `table_SM` int32 the pages of each document; `tokens_S` int32 its tokens, at least one.
    """
    (S, M), (R, H, D), page = table_SM.shape, query_RHD.shape, key_PAGES.shape[1]
    keys, warps, stages = _MEMORY_TILES[key_PAGES.dtype.itemsize]
    splits = max(1, min(M, _PROGRAMS // (S * H)))
    out = torch.empty_like(query_RHD, memory_format=torch.contiguous_format)
    read, sums = out, out
    if splits > 1:
        read = out.new_empty((splits, R, H, D), dtype=torch.float32)
        sums = out.new_empty((splits, R, H), dtype=torch.float32)
    _memory[(S, H, splits)](query_RHD.contiguous(), key_PAGES, value_PAGES, read, sums, table_SM, tokens_S,
                            table_SM.stride(0), splits, R,
                            PAGE=page, KEYS=keys, EACH=R // S, ROWS=max(16, triton.next_power_of_2(R // S)), H=H, D=D,
                            PRECISION=_PRECISION, num_warps=warps, num_stages=stages)  # fmt: skip
    if splits > 1:
        _shares_joined[(R * H,)](read, sums, out, splits, SPLITS=triton.next_power_of_2(splits), D=D, num_warps=2)
    return out


@triton.jit
def _past(query, new_key, new_value, key, value, out, writers, lengths, stride, columns, C, H: tl.constexpr, D: tl.constexpr,
          POSITIONS: tl.constexpr):  # fmt: skip
    """Write one row's new position and read, with one head, that and those before it."""
    row, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + row)
    dims, places = tl.arange(0, D), tl.arange(0, POSITIONS)
    given = row.to(tl.int64) * stride + head * D + dims
    q, k_own, v_own = tl.load(query + given).to(tl.float32), tl.load(new_key + given), tl.load(new_value + given)
    own = ((row.to(tl.int64) * H + head) * C + length) * D + dims
    tl.store(key + own, k_own)
    tl.store(value + own, v_own)
    highest = tl.sum(q * k_own.to(tl.float32), 0) * _LOG2E
    total = highest * 0.0 + 1.0
    read = v_own.to(tl.float32)
    for first in range(0, length, POSITIONS):
        at = first + places
        held = at < length
        writer = tl.load(writers + row * columns + at, mask=held, other=0).to(tl.int64)
        here = ((writer * H + head) * C + at) * D
        k = tl.load(key + here[:, None] + dims[None, :], mask=held[:, None], other=0.0).to(tl.float32)
        v = tl.load(value + here[:, None] + dims[None, :], mask=held[:, None], other=0.0).to(tl.float32)
        scores = tl.where(held, tl.sum(k * q[None, :], 1) * _LOG2E, float("-inf"))
        now = tl.maximum(highest, tl.max(scores, 0))
        weights = tl.exp2(scores - now)
        fading = tl.exp2(highest - now)
        total = total * fading + tl.sum(weights, 0)
        read = read * fading + tl.sum(v * weights[:, None], 0)
        highest = now
    tl.store(out + (row * H + head) * D + dims, (read / total).to(out.dtype.element_ty))


@_on_its_device
def past(query_RHD: Tensor, new_RHD: tuple[Tensor, Tensor], key_RHCD: Tensor, value_RHCD: Tensor, writers_RC: Tensor,
         lengths_R: Tensor) -> Tensor:  # fmt: skip
    """(R, H, D) what rows read of their past and of their new key and value, which are written to their place.

    Position c of row r is what row `writers_RC[r, c]` wrote there; `lengths_R` are the positions before the new one. Keys and
    values may have more rows than there are queries; query, new key and new value lie alike.
    """
    (R, H, D), C = query_RHD.shape, key_RHCD.shape[2]
    new_key, new_value = new_RHD
    assert len({x.stride() for x in (query_RHD, *new_RHD)}) == 1 and query_RHD.stride()[1:] == (D, 1)
    out = torch.empty_like(query_RHD, memory_format=torch.contiguous_format)
    _past[(R, H)](query_RHD, new_key, new_value, key_RHCD, value_RHCD, out, writers_RC, lengths_R, query_RHD.stride(0),
                  writers_RC.stride(0), C, H=H, D=D, POSITIONS=_POSITIONS, num_warps=4)  # fmt: skip
    return out


@triton.jit
def _add_and_norm(x, read, weight, bias, out, eps, E: tl.constexpr, WIDTH: tl.constexpr, LIMIT: tl.constexpr):
    """The layer norm of one row of a sum; statistics in float32, of the sum as its type holds it."""
    column = tl.arange(0, WIDTH)
    inside = column < E
    at = tl.program_id(0).to(tl.int64) * E + column
    both = tl.load(x + at, mask=inside, other=0.0) + tl.load(read + at, mask=inside, other=0.0)
    both = both.to(tl.float32)
    centred = tl.where(inside, both - tl.sum(both, 0) / E, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / E + eps)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    normed = centred * scale * w + b
    if LIMIT > 0:
        normed = tl.where(normed > LIMIT, LIMIT, tl.where(normed < -LIMIT, -LIMIT, normed))
    tl.store(out + at, normed.to(out.dtype.element_ty), mask=inside)


@_on_its_device
def add_and_norm(x: Tensor, read: Tensor, weight_E: Tensor, bias_E: Tensor, eps: float, clamp: bool) -> Tensor:
    """(..., E) the layer norm of `x` + `read`; with `clamp` kept finite in float16."""
    E = x.shape[-1]
    rows = x.numel() // E
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    limit = torch.finfo(x.dtype).max - 1000 if clamp and x.dtype == torch.float16 else 0.0
    _add_and_norm[(rows,)](x.contiguous(), read.contiguous(), weight_E, bias_E, out, eps, E=E,
                           WIDTH=triton.next_power_of_2(E), LIMIT=limit, num_warps=2)  # fmt: skip
    return out
