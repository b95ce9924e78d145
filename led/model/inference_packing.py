"""Prepare a model for inference, in place: prepack and quantize linear layers on CPUs, fuse projections on
GPUs.

What is replaced depends on the device, the dtype and the processor (`led/ops/cpu_capabilities.py`), never on
a measurement at run time.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from led.ops.cpu_capabilities import cpu
from led.ops.prepacked_linear import PrepackedLinear, QuantizedLinear, can_quantize, has_kernels

# The weights of these layers are absorbed into queries, so they stay as they are.
_ABSORBED = ("key_global", "value_global")

# These layers multiply all tokens of a batch at once. On Intel processors torch's own product (MKL) is as
# fast there.
_OVER_ALL_TOKENS = ("self_attn.query", "self_attn.key", "self_attn.value", "self_attn.output")

# GPUs multiply half-precision matrices fastest if the number of outputs is a multiple of this.
_ROUND = 64


@runtime_checkable
class Fuses(Protocol):
    """A module some of whose layers can be fused before they are packed."""

    def fuse(self, int8: bool) -> None:
        """Fuse layers in place. Does nothing if the layers will not be packed."""


@runtime_checkable
class EncodesInFloat32(Protocol):
    """A stack that can read documents in another dtype than that of its weights."""

    def encode_in_float32(self) -> None:
        """Compute what reads the document in float32. The rest keeps its dtype."""

    def cross_attention_in_bfloat16(self) -> None:
        """Keep the cross-attention KV cache of decoding steps in bfloat16. The rest keeps its dtype."""


def inference_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that inference computes in: `dtype`, or float32 instead of bfloat16 on a CPU without bfloat16
    products, which emulates them tens of times slower."""
    if dtype == torch.bfloat16 and device.type == "cpu" and not has_kernels(torch.bfloat16):
        return torch.float32
    return dtype


def pack_model(model: nn.Module, dtype: torch.dtype, device: torch.device, int8: bool) -> bool:
    """Pack the layers of `model`, whose dtype is an `inference_dtype`. Returns whether any layer was packed
    or fused.

    On a processor without fast bfloat16, a bfloat16 model reads documents in float32 and decodes in bfloat16.
    With `int8`, the cross-attention KV cache is in bfloat16 if that is fast.

    Raises:
        ValueError: `int8` is not supported for this dtype and device.
    """
    in_float32 = dtype == torch.float32
    stacks = [module for module in model.modules() if isinstance(module, EncodesInFloat32)]
    if device.type == "cpu" and has_kernels(torch.float32) and (int8 or dtype == torch.bfloat16):
        bfloat16 = cpu().has_fast_bfloat16 and has_kernels(torch.bfloat16)
        if int8 and bfloat16:
            for stack in stacks:
                stack.cross_attention_in_bfloat16()
        elif not int8 and not bfloat16:
            in_float32 = True
            for stack in stacks:
                stack.encode_in_float32()
    unpacked = _ABSORBED + _OVER_ALL_TOKENS if in_float32 and not int8 and cpu().is_intel else _ABSORBED
    prepack_linears(model, unpacked, int8)
    kind = QuantizedLinear if int8 else PrepackedLinear
    is_packed = any(isinstance(module, kind) or getattr(module, "qkv", None) for module in model.modules())
    if int8 and not is_packed:
        raise ValueError(
            f"int8 needs float32 weights on a CPU, and a torch whose 8-bit products are right on this "
            f"processor ({cpu().describe()}); these weights are {dtype} on {device}. Use float32."
        )
    return is_packed


def prepack_linears(model: nn.Module, unpacked: tuple[str, ...], int8: bool = False) -> None:
    """Fuse layers, then replace linear layers by prepacked ones, except those whose name ends with one of
    `unpacked`."""
    for module in list(model.modules()):
        if isinstance(module, Fuses):
            module.fuse(int8)
    for name, module in list(model.named_modules()):
        for child, linear in list(module.named_children()):
            if not isinstance(linear, nn.Linear) or f"{name}.{child}".endswith(unpacked):
                continue
            if will_pack(linear, int8):
                setattr(module, child, (QuantizedLinear if int8 else PrepackedLinear)(linear))


def will_pack(linear: nn.Module, int8: bool) -> bool:
    """Whether `prepack_linears` replaces this layer: a linear layer on the CPU, with a dtype that has
    kernels."""
    if not isinstance(linear, nn.Linear) or linear.weight.device.type != "cpu":
        return False
    return (
        (linear.weight.dtype == torch.float32 and can_quantize())
        if int8
        else has_kernels(linear.weight.dtype)
    )


def will_fuse(linear: nn.Module, int8: bool) -> bool:
    """Whether this layer is fused with others of the same input without being packed: on a GPU."""
    return isinstance(linear, nn.Linear) and linear.weight.is_cuda and not int8


@torch.no_grad()
def fused_qkv(query: nn.Linear, key: nn.Linear, value: nn.Linear, scale: float) -> nn.Linear:
    """One layer that computes `query` times `scale`, `key` and `value`, side by side."""
    fused = nn.Linear(query.in_features, 3 * query.out_features).to(query.weight)
    for name in ("weight", "bias"):
        q, k, v = (getattr(layer, name) for layer in (query, key, value))
        getattr(fused, name).copy_(torch.cat([q * scale, k, v]))
    return fused


@torch.no_grad()
def padded_outputs(linear: nn.Linear, bias: Tensor) -> nn.Linear:
    """A layer that computes `linear` plus `bias`, with zero outputs appended up to a multiple of 64."""
    padded = nn.Linear(linear.in_features, -(-linear.out_features // _ROUND) * _ROUND).to(linear.weight)
    for target, source in ((padded.weight, linear.weight), (padded.bias, bias)):
        target.zero_()
        target[: linear.out_features] = source
    return padded
