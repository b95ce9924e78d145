"""Marks of tests that need kernels of the processor, and processors to test decisions with."""

from __future__ import annotations

import pytest
import torch

from led.ops.cpu_capabilities import CpuCapabilities, cpu
from led.ops.prepacked_linear import can_quantize, has_kernels

needs_kernels = pytest.mark.skipif(
    not has_kernels(torch.float32), reason="this torch has no prepacked products for the CPU"
)
needs_bfloat16_kernels = pytest.mark.skipif(
    not has_kernels(torch.bfloat16), reason=f"no bfloat16 products on this processor ({cpu().describe()})"
)
needs_int8 = pytest.mark.skipif(
    not can_quantize(), reason=f"no 8-bit products on this processor ({cpu().describe()})"
)


def processor(*flags: str, vendor: str = "AuthenticAMD") -> CpuCapabilities:
    """An x86 processor with these flags."""
    return CpuCapabilities("test", "x86_64", vendor, frozenset(flags))
