"""Linear layers with prepacked weights, for inference on CPUs: oneDNN's weight layout, with GELU fused.

A prepacked layer gives the same result as the original up to rounding. Compared with torch's own product
(MKL) it is up to twice as fast for the few rows of a decoding step. Over thousands of rows it is a tenth
faster on processors that are not Intel's (benchmarks/results.md).

In 8 bits, weights are rounded per output and inputs dynamically, by the largest value among the rows that are
multiplied together. A result then depends slightly on the other rows. Products are several times as fast, and
weights take a quarter of the memory (arithmetic: arXiv:1712.05877). Where the kernels add two neighboring
products in 16 bits, the step of a weight is chosen so that no such sum overflows.

A prepacked layer has no parameters, so it can be neither trained nor saved. `model/inference_packing.py`
decides which layers are replaced.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from torch import Tensor, nn

from led.ops.cpu_capabilities import cpu

_GELU = "gelu"

# Inputs and outputs of the layer that checks a kernel, and the rows that it multiplies. The numbers are those
# of a feed-forward layer, and no multiples of a vector.
_CHECK_INPUTS, _CHECK_OUTPUTS, _CHECK_ROWS = 3072, 67, 37


@lru_cache
def has_kernels(dtype: torch.dtype) -> bool:
    """Whether torch's private oneDNN operations exist for this dtype, and compute the right result on this
    processor."""
    supported = dtype == torch.float32 or (dtype == torch.bfloat16 and cpu().has_bfloat16_kernels)
    if not supported:
        return False
    linear, x = _check_layer()
    linear, x = linear.to(dtype), x.to(dtype)
    try:
        result = PrepackedLinear(linear, _GELU)(x).float()
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    expected = nn.functional.gelu(nn.functional.linear(x.float(), linear.weight.float(), linear.bias.float()))
    return _is_close(result, expected, 1e-5 if dtype == torch.float32 else 0.01)


@lru_cache
def can_quantize() -> bool:
    """Whether this torch has 8-bit products for CPUs, and they compute the right result on this processor:
    that of the rounded weights and inputs."""
    engines = {"onednn", "x86", "fbgemm"} & set(torch.backends.quantized.supported_engines)
    if not engines or not hasattr(torch, "quantize_per_channel"):
        return False
    linear, x = _check_layer()
    try:
        layer = QuantizedLinear(linear)
        result = layer(x)
        weight, bias = torch.ops.quantized.linear_unpack(layer.packed)
        rounded = torch.quantize_per_tensor_dynamic(x, torch.quint8, False).dequantize()
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    return _is_close(result, nn.functional.linear(rounded, weight.dequantize(), bias), 1e-3)


@torch.no_grad()
def _check_layer() -> tuple[nn.Linear, Tensor]:
    """A layer and its input. Some rows are the largest value throughout, where sums in few bits overflow."""
    linear = nn.Linear(_CHECK_INPUTS, _CHECK_OUTPUTS, device="cpu", dtype=torch.float32)
    for offset, values in ((0.1, linear.weight), (0.2, linear.bias)):
        values.copy_(torch.arange(values.numel()).mul(0.37).add(offset).sin().view_as(values))
    x = torch.arange(_CHECK_ROWS * _CHECK_INPUTS).mul(0.61).cos().view(_CHECK_ROWS, _CHECK_INPUTS)
    for whole in (linear.weight, x):
        whole[:2] = 1.0
        whole[1, 1::2] = -1.0
    return linear, x


def _is_close(result: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether no element differs by more than `tolerance` times the largest one."""
    return bool((result - expected).abs().max() <= tolerance * expected.abs().max())


class PrepackedLinear(nn.Module):
    """`activation(linear(x))` of rows (..., in) with prepacked weights. `activation` is None or "gelu"."""

    def __init__(self, linear: nn.Linear, activation: str | None = None) -> None:
        super().__init__()
        self.out_features = linear.out_features
        self.activation = activation or "none"
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.activation, [], "none")


def int8_steps(weight: Tensor, pairs_saturate: bool) -> Tensor:
    """(out,) the step between neighboring 8-bit values of each row of `weight` (out, in).

    The largest weight of a row is 127 steps. With `pairs_saturate`, so is the largest sum of two neighboring
    weights, 2i and 2i + 1: after rounding it is at most 128 steps, and 128 times the largest input, 255, fits
    into 16 bits.
    """
    largest = weight.abs().amax(1)
    if pairs_saturate:
        pairs = nn.functional.pad(weight, (0, weight.shape[1] % 2)).unflatten(1, (-1, 2))
        largest = torch.maximum(largest, pairs.sum(2).abs().amax(1))
    return largest.clamp(min=1e-12) / 127


class QuantizedLinear(nn.Module):
    """`linear(x)` of rows (..., in) with weights and inputs in 8 bits. float32 in, float32 out."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = int8_steps(weight, cpu().int8_pairs_saturate)
        zero_points = torch.zeros_like(scales, dtype=torch.long)
        self.bias = None if linear.bias is None else linear.bias.detach().float()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # torch plans to remove quantized tensors; see `can_quantize`
            quantized = torch.quantize_per_channel(weight, scales, zero_points, 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(quantized, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic(x, self.packed, False)
