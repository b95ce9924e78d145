"""What the encoder and the decoder share: the feed-forward half of a layer, and a stack of layers over embeddings.

Source: arXiv:2004.05150, section 7, with the layer layout of BART (arXiv:1910.13461): post-layer-norm, learned absolute
positions without offset, embeddings neither scaled nor shared between the two position tables. Dropout stands where BART has
it: behind the embeddings, behind each block, on the attention probabilities, and inside the feed-forward block.

Shapes: E = d_model; `...` are the dimensions of tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from led.config import LEDConfig
from led.gpu_attention import has_triton
from led.packed_linear import PackedLinear, will_pack

_ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


# Rows of the feed-forward block at once: on the CPU their inner values stay in the processor's cache; on a GPU they are
# bytes of a column, and bound what the block holds.
_ROWS = 1024
_BYTES_ON_GPU = 1 << 18


class LEDLayer(nn.Module):
    """The feed-forward block and dropout of a layer."""

    def __init__(self, config: LEDConfig, ffn_dim: int) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation_function]
        self.dropout, self.activation_dropout = config.dropout, config.activation_dropout
        self.fc1: nn.Module = nn.Linear(config.d_model, ffn_dim)
        self.fc2: nn.Module = nn.Linear(ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)
        self.clamps = False  # does the layer keep its output finite in float16?

    def fuse(self, int8: bool) -> None:
        """Compute the activation within the first product, where the packed layer can."""
        if self.activation is F.gelu and not int8 and isinstance(self.fc1, nn.Linear) and will_pack(self.fc1, int8):
            self.fc1 = PackedLinear(self.fc1, "gelu")
            self.activation = nn.Identity()

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def add(self, x: Tensor, read: Tensor) -> Tensor:
        """(..., E) a block's input plus what it has read, dropout applied; without gradients in the place of `read`."""
        return x + self.drop(read) if torch.is_grad_enabled() else self.drop(read).add_(x)

    def add_and_norm(self, x: Tensor, read: Tensor, norm: nn.Module, clamp: bool = False) -> Tensor:
        """(..., E) `norm` of the sum of a block's input and what it has read; in float16 kept finite where `clamp` says so."""
        infers = not (torch.is_grad_enabled() or self.training)
        if infers and x.is_cuda and isinstance(norm, nn.LayerNorm) and has_triton(x.dtype):
            from led.triton_kernels import add_and_norm  # only where there is a Triton

            return add_and_norm(x, read, norm.weight, norm.bias, norm.eps, clamp)
        x = norm(self.add(x, read))
        if clamp and x.dtype == torch.float16:
            limit = torch.finfo(torch.float16).max - 1000
            x = x.clamp(-limit, limit)
        return x

    def feed_forward(self, x: Tensor) -> Tensor:
        """(..., E) the block's output; without gradients by pieces of rows, so that no inner value is as long as the batch."""
        rows_at_once = _BYTES_ON_GPU // x.element_size() if x.is_cuda else _ROWS
        if x.dim() != 2 or len(x) <= rows_at_once or torch.is_grad_enabled():
            return self._feed_forward(x)
        out = torch.empty_like(x)
        for piece, rows in zip(out.split(rows_at_once), x.split(rows_at_once), strict=True):
            piece.copy_(self._feed_forward(rows))
        return out

    def _feed_forward(self, x: Tensor) -> Tensor:
        inner = F.dropout(self.activation(self.fc1(x)), self.activation_dropout, self.training)
        return self.add_and_norm(x, self.fc2(inner), self.final_layer_norm, self.clamps)


class LEDStack(nn.Module):
    """Layers over token and position embeddings; `gradient_checkpointing` trades a second forward for memory in training."""

    layers: nn.ModuleList

    def __init__(self, config: LEDConfig, embed_tokens: nn.Embedding, positions: int, layerdrop: float) -> None:
        super().__init__()
        self.config, self.layerdrop = config, layerdrop
        self.gradient_checkpointing = False
        self.embed_tokens = embed_tokens
        self.embed_positions = nn.Embedding(positions, config.d_model)
        self.layernorm_embedding = nn.LayerNorm(config.d_model)

    def embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, positions: Tensor) -> Tensor:
        """(..., E) the layers' first input; `inputs_embeds` (..., E) stand in for `input_ids` (...)."""
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        x = self.layernorm_embedding(x + self.embed_positions(positions))
        return F.dropout(x, self.config.dropout, self.training)

    def read_in_float32(self) -> None:
        """Compute what reads the document in float32, whatever the weights' type is; the rest stays as it is."""

    def remember_in_bfloat16(self) -> None:
        """Keep what decoding steps read of the document in bfloat16, whatever the weights' type is; the rest stays as it is."""

    def skips_layer(self) -> bool:
        """Is a layer left out this time? Only in training, at the rate of the configuration (arXiv:1909.11556)."""
        return self.training and self.layerdrop > 0 and bool(torch.rand(()) < self.layerdrop)

    def through(self, layer: nn.Module, x: Tensor, *rest: Any) -> Tensor:
        """`layer(x, *rest)`; in training its inner values are kept for the backward pass, or computed again there."""
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(layer, x, *rest, use_reentrant=False)
        return layer(x, *rest)


def choose(given: bool | None, configured: bool) -> bool:
    """What a call asks for, or else what the configuration says."""
    return configured if given is None else given
