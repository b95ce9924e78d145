"""Every GPU kernel equals the reference implementation. Kernels by plain products also run on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from led.batch.attention_metadata import AttentionMetadata
from led.batch.packed_batch import PackedBatch, cumulative
from led.model.layers import LEDLayer
from led.ops.global_attention import absorbed_global_attention, absorbed_global_attention_batched
from led.ops.gpu_backends import (
    PAGE,
    PagedAttentionKernel,
    SelfAttentionKernel,
    WindowKernel,
    gathered_paged_attention,
    gathered_self_attention,
    gpu_window_kernel,
    paged_attention_kernel,
    self_attention_kernel,
    strided_window,
    triton_paged_attention,
    triton_self_attention,
    triton_window,
)
from led.ops.window_attention import dense_encoder_attention, window_attention, window_attention_cpu
from led.testing import tiny_config

ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
HEADS, SIZE = 2, 16
LENGTHS = [1, 127, 128, 129, 300, 2]
GLOBALS = {"none": [], "first": [0], "several": [0, 1, 64, 290], "many": list(range(0, 290, 4))}


def batch_of(lengths: list[int], global_positions: list[int], hidden: float = 0.0) -> PackedBatch:
    generator = torch.Generator().manual_seed(5)
    is_global = torch.zeros(sum(lengths), dtype=torch.bool)
    for start, n in zip(cumulative(lengths), lengths, strict=False):
        is_global[[start + place for place in global_positions if place < n]] = True
    is_visible = None
    if hidden:
        is_visible = (torch.rand(len(is_global), generator=generator) >= hidden) | is_global
    return PackedBatch(
        torch.zeros(len(is_global), dtype=torch.long), cumulative(lengths), is_global, is_visible
    )


def drawn(batch: PackedBatch) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(batch.cu_seqlens[-1], HEADS, SIZE, generator=generator) for _ in range(3)]


def check(
    kernel: WindowKernel,
    batch: PackedBatch,
    one_sided: int,
    tolerance: float,
    device: str,
    dtype: torch.dtype,
) -> None:
    """The rows of local, visible tokens equal the reference. Other rows have no meaning."""
    qkv = drawn(batch)
    given = [x.to(device, dtype) for x in qkv]
    out = kernel(*given, AttentionMetadata(batch.to(device)), one_sided).float().cpu()
    assert out.shape == qkv[0].shape
    for start, end in batch.spans:
        is_global = batch.is_global[start:end]
        visible = (
            torch.ones(end - start, dtype=torch.bool)
            if batch.is_visible is None
            else batch.is_visible[start:end]
        )
        local = (qkv[0][start:end], qkv[1][start:end], qkv[2][start:end])
        truth = dense_encoder_attention(local, local, is_global, visible, one_sided)
        rows = ~is_global & visible
        torch.testing.assert_close(out[start:end][rows], truth[rows], atol=tolerance, rtol=0)


@pytest.mark.parametrize("one_sided", [4, 64, 512])
@pytest.mark.parametrize("global_positions", GLOBALS.values(), ids=GLOBALS.keys())
@pytest.mark.parametrize("kernel", [strided_window])
def test_a_kernel_equals_the_dense_mask(
    kernel: WindowKernel, global_positions: list[int], one_sided: int
) -> None:
    check(kernel, batch_of(LENGTHS, global_positions), one_sided, 1e-5, "cpu", torch.float32)


@pytest.mark.parametrize("kernel", [strided_window])
def test_no_row_attends_to_hidden_tokens(kernel: WindowKernel) -> None:
    check(kernel, batch_of(LENGTHS, [0, 64], hidden=0.3), 64, 1e-5, "cpu", torch.float32)


@pytest.mark.parametrize("kernel", [strided_window])
def test_one_document_of_one_token(kernel: WindowKernel) -> None:
    check(kernel, batch_of([1], []), 512, 1e-5, "cpu", torch.float32)


WINDOWS = (64, 4, 200, 64)


def check_shared_metadata(kernel: WindowKernel) -> None:
    """One metadata object through several windows gives what an own object for each window gives."""
    batch = batch_of(LENGTHS, GLOBALS["several"], hidden=0.2)
    q, k, v = drawn(batch)
    shared = AttentionMetadata(batch)
    results = [kernel(q, k, v, shared, one_sided) for one_sided in WINDOWS]
    for one_sided, result in zip(WINDOWS, results, strict=True):
        torch.testing.assert_close(
            result, kernel(q, k, v, AttentionMetadata(batch), one_sided), atol=0, rtol=0, equal_nan=True
        )
    assert not torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


@pytest.mark.parametrize("kernel", [window_attention, window_attention_cpu, strided_window])
@torch.no_grad()
def test_layers_of_different_windows_share_metadata(kernel: WindowKernel) -> None:
    check_shared_metadata(kernel)


def test_device_dtype_and_head_size_select_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("led.ops.gpu_backends._triton_runs", lambda: False)
    assert gpu_window_kernel(torch.float32, 64) is strided_window
    assert gpu_window_kernel(torch.float16, 64) is strided_window
    monkeypatch.setattr("led.ops.gpu_backends._triton_runs", lambda: True)
    assert gpu_window_kernel(torch.float16, 64) is triton_window
    assert gpu_window_kernel(torch.float32, 64) is triton_window
    assert gpu_window_kernel(torch.float16, 48) is strided_window
    assert gpu_window_kernel(torch.float64, 64) is strided_window
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert (
        paged_attention_kernel(gpu, torch.float32, 64) is triton_paged_attention
        and paged_attention_kernel(cpu, torch.float16, 64) is gathered_paged_attention
    )
    assert (
        self_attention_kernel(gpu, torch.float16, 64) is triton_self_attention
        and self_attention_kernel(cpu, torch.float16, 64) is gathered_self_attention
    )
    assert (
        paged_attention_kernel(gpu, torch.float32, 8) is gathered_paged_attention
        and self_attention_kernel(gpu, torch.float32, 8) is gathered_self_attention
    )


def pages(
    lengths: list[int], device: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Keys, values, table, lengths of documents scattered over pages, and each document's keys and values in
    order."""
    generator = torch.Generator().manual_seed(3)
    each = [-(-n // PAGE) for n in lengths]
    order = torch.randperm(sum(each) + 2, generator=generator).tolist()
    keys, values = (torch.randn(len(order), PAGE, HEADS, SIZE, generator=generator) for _ in range(2))
    table = torch.zeros(len(lengths), max(each), dtype=torch.int32)
    documents = []
    for row, (n, count) in enumerate(zip(lengths, each, strict=True)):
        mine, order = order[:count], order[count:]
        table[row, :count] = torch.tensor(mine, dtype=torch.int32)
        documents.append(torch.stack([x[mine].flatten(0, 1)[:n] for x in (keys, values)]))
    tokens = torch.tensor(lengths, dtype=torch.int32)
    return keys.to(device, dtype), values.to(device, dtype), table.to(device), tokens.to(device), documents


def check_pages(kernel: PagedAttentionKernel, device: str, dtype: torch.dtype, tolerance: float) -> None:
    keys, values, table, tokens, documents = pages([1, PAGE, PAGE + 1, 3 * PAGE - 5], device, dtype)
    query = torch.randn(16, HEADS, SIZE, generator=torch.Generator().manual_seed(1))
    out = kernel(query.to(device, dtype), keys, values, table, tokens).float().cpu()
    for mine, q, (k, v) in zip(out.split(4), query.split(4), documents, strict=True):
        p = torch.einsum("rhd,nhd->hrn", q, k).softmax(-1)
        torch.testing.assert_close(mine, torch.einsum("hrn,nhd->rhd", p, v), atol=tolerance, rtol=0)


def test_rows_attend_to_the_pages_of_their_document() -> None:
    check_pages(gathered_paged_attention, "cpu", torch.float32, 1e-5)


@pytest.mark.parametrize("global_positions", [[0], [200], GLOBALS["several"]])
@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_all_documents_global_rows_at_once_are_those_of_each(
    global_positions: list[int], hidden: float, monkeypatch: Any
) -> None:
    monkeypatch.setattr("led.ops.global_attention._PIECE", 64)
    check_absorbed_globals(batch_of(LENGTHS, global_positions, hidden), "cpu")


def check_absorbed_globals(batch: PackedBatch, device: str) -> None:
    generator = torch.Generator().manual_seed(7)
    E = HEADS * SIZE
    key, value = (torch.nn.Linear(E, E).to(device) for _ in range(2))
    metadata = AttentionMetadata(batch.to(device))
    x = torch.randn(batch.cu_seqlens[-1], E, generator=generator).to(device)
    query = torch.randn(len(metadata.global_positions), HEADS, SIZE, generator=generator).to(device)
    each = zip(
        metadata.documents, query.split(metadata.global_counts), x.split(metadata.lengths), strict=True
    )
    with torch.inference_mode():
        expected = [
            absorbed_global_attention(q, x_nE, key, value, doc.visible) for doc, q, x_nE in each if len(q)
        ]
        torch.testing.assert_close(
            absorbed_global_attention_batched(query, x, metadata, key, value),
            torch.cat(expected),
            atol=1e-5,
            rtol=0,
        )


def check_self_attention(
    kernel: SelfAttentionKernel, device: str, dtype: torch.dtype, tolerance: float
) -> None:
    """Rows of different lengths attend to positions that other rows wrote, and to their own new position."""
    generator = torch.Generator().manual_seed(7)
    C, lengths = 70, [0, 1, 63, 64, 69, 5]
    rows = len(lengths)
    keys, values = (torch.randn(rows + 2, HEADS, C, SIZE, generator=generator) for _ in range(2))
    indirection = torch.where(
        torch.rand(rows, C, generator=generator) < 0.5, rows, torch.arange(rows)[:, None]
    )
    query, *new = torch.randn(rows, 3, HEADS, SIZE, generator=generator).unbind(1)
    held = [x.to(device, dtype, copy=True) for x in (keys, values)]
    mine = torch.cat([query, *new], 1).to(device, dtype).flatten(1).chunk(3, 1)
    q, k, v = (x.unflatten(1, (HEADS, SIZE)) for x in mine)
    read = kernel(q, (k, v), held[0], held[1], indirection.to(device), torch.tensor(lengths, device=device))
    for row, n in enumerate(lengths):
        past = [
            torch.cat([x[indirection[row, :n], :, range(n)], own[row][None]])
            for x, own in zip((keys, values), new, strict=True)
        ]
        p = torch.einsum("hd,nhd->hn", query[row], past[0]).softmax(-1)
        torch.testing.assert_close(
            read[row].float().cpu(), torch.einsum("hn,nhd->hd", p, past[1]), atol=tolerance, rtol=0
        )
        for x, own in zip(held, new, strict=True):
            torch.testing.assert_close(x[row, :, n].float().cpu(), own[row], atol=tolerance, rtol=0)


def test_rows_attend_to_positions_where_they_were_written() -> None:
    check_self_attention(gathered_self_attention, "cpu", torch.float32, 1e-5)


@ON_GPU
@pytest.mark.parametrize("kernel", [triton_window, strided_window])
@pytest.mark.parametrize("global_positions", GLOBALS.values(), ids=GLOBALS.keys())
def test_a_kernel_equals_the_dense_mask_on_a_gpu(kernel: WindowKernel, global_positions: list[int]) -> None:
    check(kernel, batch_of(LENGTHS, global_positions), 64, 2e-2, "cuda", torch.float16)


@ON_GPU
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_no_row_attends_to_hidden_tokens_on_a_gpu(dtype: torch.dtype) -> None:
    check(
        triton_window,
        batch_of(LENGTHS, [0, 64], hidden=0.3),
        64,
        2e-2 if dtype == torch.float16 else 1e-5,
        "cuda",
        dtype,
    )


@ON_GPU
@pytest.mark.parametrize("kernel", [triton_window, strided_window])
def test_float32_is_exact_on_a_gpu(kernel: WindowKernel) -> None:
    check(kernel, batch_of(LENGTHS, [0, 64]), 64, 1e-5, "cuda", torch.float32)


@ON_GPU
@pytest.mark.parametrize("kernel", [triton_paged_attention, gathered_paged_attention])
def test_float32_pages_are_exact_on_a_gpu(kernel: PagedAttentionKernel) -> None:
    check_pages(kernel, "cuda", torch.float32, 1e-5)


@ON_GPU
@pytest.mark.parametrize("kernel", [triton_self_attention, gathered_self_attention])
def test_float32_self_attention_is_exact_on_a_gpu(kernel: SelfAttentionKernel) -> None:
    check_self_attention(kernel, "cuda", torch.float32, 1e-5)


@ON_GPU
def test_all_documents_global_rows_at_once_on_a_gpu() -> None:
    check_absorbed_globals(batch_of(LENGTHS, [0, 200], 0.3), "cuda")


@ON_GPU
@pytest.mark.parametrize("kernel", [triton_paged_attention, gathered_paged_attention])
def test_rows_attend_to_the_pages_of_their_document_on_a_gpu(kernel: PagedAttentionKernel) -> None:
    check_pages(kernel, "cuda", torch.float16, 2e-2)


@ON_GPU
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_layer_adds_and_norms_on_a_gpu_as_on_a_cpu(dtype: torch.dtype) -> None:
    layer = LEDLayer(tiny_config(), 48).eval().to(dtype)
    torch.nn.init.normal_(layer.final_layer_norm.weight)
    x, read = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        expected = layer.add_and_norm(x, read.clone(), layer.final_layer_norm)
        found = layer.to("cuda").add_and_norm(x.cuda(), read.cuda(), layer.final_layer_norm)
    tolerance = {torch.float16: 4e-3, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(found.cpu(), expected, atol=tolerance, rtol=0)
