"""Linear layers with prepacked weights, for inference on CPUs: oneDNN's weight layout, with GELU fused.

A prepacked layer gives the same result as the original up to rounding. Compared with torch's own product
(MKL) it is up to twice as fast for the few rows of a decoding step. Over thousands of rows it is a tenth
faster on processors that are not Intel's (benchmarks/results.md).

In 8 bits, weights are rounded per output and inputs dynamically, by the largest value among the rows that are
multiplied together. A result then depends slightly on the other rows. Products are several times as fast, and
weights take a quarter of the memory (arithmetic: arXiv:1712.05877).

A prepacked layer has no parameters, so it can be neither trained nor saved. `model/inference_packing.py`
decides which layers are replaced.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from torch import Tensor, nn

_GELU = "gelu"


@lru_cache
def has_kernels(dtype: torch.dtype) -> bool:
    """Whether torch's private oneDNN operations exist for this dtype, and compute the right result on this
    processor.

    For bfloat16 they need AVX-512.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        x, weight, bias = (torch.linspace(-2, 1, n, dtype=torch.float32, device="cpu") for n in (6, 12, 4))
        x, weight = x.view(2, 3), weight.view(4, 3)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype))
        result = torch.ops.mkldnn._linear_pointwise(
            x.to(dtype), packed, bias.to(dtype), _GELU, [], "none"
        ).float()
        expected = nn.functional.gelu(nn.functional.linear(x, weight, bias))
        return bool(torch.allclose(result, expected, atol=1e-5 if dtype == torch.float32 else 0.05))
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False


def can_quantize() -> bool:
    """Whether this torch has 8-bit products for CPUs."""
    engines = {"onednn", "x86", "fbgemm"} & set(torch.backends.quantized.supported_engines)
    return bool(engines) and hasattr(torch, "quantize_per_channel")


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


class QuantizedLinear(nn.Module):
    """`linear(x)` of rows (..., in) with weights and inputs in 8 bits. float32 in, float32 out."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp(min=1e-12) / 127
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
