"""Linear layers packed for inference on the CPU: weights laid out once for oneDNN, GELU within the product.

A packed layer gives what the plain one gives but for rounding. Against torch's own product (MKL) it is up to twice as fast
for the few rows of a decoding step, and over thousands of rows a tenth faster on processors that are not Intel's
(benchmarks/results.md).

In 8 bits, weights are rounded per output and inputs as they come, by the largest number of the rows that are multiplied
together: an answer then depends a little on what it is computed with. The products are several times as fast and the weights
a quarter as large (arXiv:1712.05877 has the arithmetic).

Not here: training and saving; a packed layer has no parameters.
"""

from __future__ import annotations

import ctypes
import time
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

_GELU = "gelu"

# A number of outputs that products in half precision on GPUs are made for.
_ROUND = 64

# Linux's names for advice about memory (linux/mman.h), and the size of its huge pages on x86-64 and most others.
_MADV_HUGEPAGE, _MADV_COLLAPSE, _HUGE_PAGE = 14, 25, 2 << 20


@lru_cache
def has_kernels(dtype: torch.dtype) -> bool:
    """Has this torch the private operations for numbers of this type, and do they do on this processor what they should?

    Of bfloat16 processors without AVX-512 have none.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        x, weight, bias = (torch.linspace(-2, 1, n, dtype=torch.float32, device="cpu") for n in (6, 12, 4))
        x, weight = x.view(2, 3), weight.view(4, 3)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype))
        mine = torch.ops.mkldnn._linear_pointwise(x.to(dtype), packed, bias.to(dtype), _GELU, [], "none").float()
        expected = nn.functional.gelu(nn.functional.linear(x, weight, bias))
        return bool(torch.allclose(mine, expected, atol=1e-5 if dtype == torch.float32 else 0.05))
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False


class PackedLinear(nn.Module):
    """`activation(linear(x))` of rows (..., in) with packed weights; `activation` is None or "gelu"."""

    def __init__(self, linear: nn.Linear, activation: str | None = None) -> None:
        super().__init__()
        self.out_features = linear.out_features
        self.activation = activation or "none"
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.nbytes = linear.weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.activation, [], "none")

    def move_to_huge_pages(self) -> None:
        """Ask the kernel to gather the weights in pages of 2 MiB, where it can; takes 2 ms a MiB.

        For layers of few rows, which read all their weights at every step and look up fewer pages then. The gain was within the
        noise where it was measured (27.3 against 29.3 ms a step).
        """
        if hasattr(torch.ops.mkldnn, "data_ptr"):
            begin = torch.ops.mkldnn.data_ptr(self.packed)
            first, end = -(-begin // _HUGE_PAGE) * _HUGE_PAGE, (begin + self.nbytes) // _HUGE_PAGE * _HUGE_PAGE
            for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE) if end > first else ():
                _madvise(first, end - first, advice)


def _madvise(address: int, length: int, advice: int) -> None:
    """The system call of that name; an advice that is not taken does no harm."""
    call = getattr(ctypes.CDLL(None), "madvise", None)
    if call is not None:
        call(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_int(advice))


class QuantizedLinear(nn.Module):
    """`linear(x)` of rows (..., in) with weights and inputs of 8 bits; float32 in, float32 out."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.bias = None if linear.bias is None else linear.bias.detach().float()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch means to drop these tensors one day; see may_quantize
            rounded = torch.quantize_per_channel(weight, scales, torch.zeros_like(scales, dtype=torch.long), 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(rounded, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic(x, self.packed, False)


@lru_cache(maxsize=1)
def bfloat16_is_slower() -> bool:
    """Does this processor multiply matrices of bfloat16 more slowly than of float32? Measured, once; takes some 50 ms.

    Processors with units for it (AMX) are several times as fast in bfloat16; without, half as fast, or have no kernels for it.
    """
    if not has_kernels(torch.bfloat16):
        return True
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        linear, x = PackedLinear(nn.Linear(768, 3072).to(dtype)), torch.ones(256, 768, dtype=dtype)
        linear(x)
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            linear(x)
            times.append(time.perf_counter() - begun)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] > seconds[torch.float32]


@lru_cache(maxsize=1)
def plain_is_as_fast() -> bool:
    """Is torch's own float32 product (MKL) as fast as the packed one over thousands of rows? It is where Intel made both.

    By the maker's name and not by measuring: machines of one kind must round alike, whatever else runs on them.
    """
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True


def may_pack(linear: nn.Linear) -> bool:
    """Is it a layer that the kernels take: on the CPU, in float32 or bfloat16?"""
    return linear.weight.device.type == "cpu" and has_kernels(linear.weight.dtype)


def may_quantize(linear: nn.Linear) -> bool:
    """Is it a layer that the 8-bit kernels take: on the CPU, in float32?"""
    engines = {"onednn", "x86", "fbgemm"} & set(torch.backends.quantized.supported_engines)
    return (
        bool(engines)
        and hasattr(torch, "quantize_per_channel")
        and linear.weight.device.type == "cpu"
        and linear.weight.dtype == torch.float32
    )


def will_pack(linear: nn.Module, int8: bool) -> bool:
    """Is it a layer that `pack_linears` replaces?"""
    return isinstance(linear, nn.Linear) and (may_quantize(linear) if int8 else may_pack(linear))


def will_stack(linear: nn.Module, int8: bool) -> bool:
    """Is it a layer that is made one with those that multiply the same rows, though it is not packed: on a GPU?"""
    return isinstance(linear, nn.Linear) and linear.weight.is_cuda and not int8


@torch.no_grad()
def stacked(query: nn.Linear, key: nn.Linear, value: nn.Linear, scale: float) -> nn.Linear:
    """One layer that gives `query` times `scale`, `key` and `value`, side by side."""
    one = nn.Linear(query.in_features, 3 * query.out_features).to(query.weight)
    for name in ("weight", "bias"):
        q, k, v = (getattr(part, name) for part in (query, key, value))
        getattr(one, name).copy_(torch.cat([q * scale, k, v]))
    return one


@torch.no_grad()
def rounded_up(linear: nn.Linear, bias: Tensor) -> nn.Linear:
    """A layer that gives what `linear` gives plus `bias`, then zeros: GPUs' fast products take round numbers of outputs."""
    one = nn.Linear(linear.in_features, -(-linear.out_features // _ROUND) * _ROUND).to(linear.weight)
    for mine, given in ((one.weight, linear.weight), (one.bias, bias)):
        mine.zero_()
        mine[: linear.out_features] = given
    return one


@runtime_checkable
class Fuses(Protocol):
    """A module some of whose products can be made one when they are packed."""

    def fuse(self, int8: bool) -> None:
        """Make one of them, in place; nothing where its layers will not be packed."""


def pack_linears(model: nn.Module, keep: Callable[[str], bool], int8: bool = False) -> None:
    """Fuse what can be, and replace the linear layers of `model` by packed ones, but those whose name `keep` holds back."""
    for module in list(model.modules()):
        if isinstance(module, Fuses):
            module.fuse(int8)
    for name, module in list(model.named_modules()):
        for child, linear in list(module.named_children()):
            if isinstance(linear, nn.Linear) and will_pack(linear, int8) and not keep(f"{name}.{child}"):
                setattr(module, child, (QuantizedLinear if int8 else PackedLinear)(linear))
