"""The Triton kernels equal the reference implementations. Here Triton's interpreter runs them on the CPU."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # read when the kernels are made, which nothing else does here
pytest.importorskip(
    "triton", reason="needs triton, which comes with torch's CUDA builds and is tested in its interpreter"
)

from led.ops import triton_kernels
from led.ops.gpu_backends import triton_paged_attention, triton_self_attention, triton_window
from tests.led.ops.test_gpu_backends import (
    GLOBALS,
    LENGTHS,
    batch_of,
    check,
    check_pages,
    check_self_attention,
    check_shared_metadata,
)

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, test_gpu_backends.py tests them")


@pytest.mark.parametrize("one_sided", [4, 64, 512])
@pytest.mark.parametrize("hidden", [0.0, 0.3])
@pytest.mark.parametrize("global_positions", GLOBALS.values(), ids=GLOBALS.keys())
def test_windows(global_positions: list[int], hidden: float, one_sided: int) -> None:
    check(triton_window, batch_of(LENGTHS, global_positions, hidden), one_sided, 1e-5, "cpu", torch.float32)


def test_a_batch_of_one_token() -> None:
    check(triton_window, batch_of([1], []), 512, 1e-5, "cpu", torch.float32)


def test_layers_of_different_windows_share_metadata() -> None:
    check_shared_metadata(triton_window)


@pytest.mark.parametrize("programs", [1, 1056])
def test_paged_attention_by_one_program_and_by_several(programs: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(triton_kernels, "_PROGRAMS", programs)
    check_pages(triton_paged_attention, "cpu", torch.float32, 1e-5)


def test_self_attention() -> None:
    check_self_attention(triton_self_attention, "cpu", torch.float32, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_sum_and_its_norm(dtype: torch.dtype) -> None:
    norm = torch.nn.LayerNorm(24).to(dtype)
    torch.nn.init.normal_(norm.weight)
    x, read = torch.randn(2, 5, 3, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    tolerance = 1e-6 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(
        triton_kernels.add_and_norm(x, read, norm.weight, norm.bias, norm.eps),
        norm(x + read),
        atol=tolerance,
        rtol=0,
    )
