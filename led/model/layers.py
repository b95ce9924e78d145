"""What encoder and decoder share: the feed-forward block of a layer, and a stack of layers over embeddings.

Source: arXiv:2004.05150, section 7, with the layers of BART (arXiv:1910.13461): post-layer-norm, and
learned absolute positions without offset. Embeddings are not scaled, and the two position tables are not
shared. Dropout is where BART has it: after the embeddings, after each block, on the attention
probabilities, and inside the feed-forward block.

The reference clamps an encoder layer's float16 output to finite values. That changes nothing after a layer
norm with finite weights, so it is left out here.

Shapes: E = d_model, `...` are the dimensions of tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from led.config import LEDConfig
from led.model.inference_packing import will_pack
from led.ops.gpu_backends import has_triton
from led.ops.prepacked_linear import PrepackedLinear

_ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}

# Rows of the feed-forward block at once. On the CPU their inner values then stay in the cache. On a GPU the
# number bounds the memory of the block, in bytes per column.
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

    def fuse(self, int8: bool) -> None:
        """Fuse GELU into the first product if the prepacked layer supports it."""
        if (
            self.activation is F.gelu
            and not int8
            and isinstance(self.fc1, nn.Linear)
            and will_pack(self.fc1, int8)
        ):
            self.fc1 = PrepackedLinear(self.fc1, "gelu")
            self.activation = nn.Identity()

    def add_and_norm(self, x: Tensor, y: Tensor, norm: nn.Module) -> Tensor:
        """(..., E) the norm of a block's input `x` plus its output `y` with dropout. May overwrite `y` in
        inference."""
        if torch.is_grad_enabled():
            return norm(x + F.dropout(y, self.dropout, self.training))
        if not self.training and x.is_cuda and isinstance(norm, nn.LayerNorm) and has_triton(x.dtype):
            from led.ops.triton_kernels import add_and_norm

            return add_and_norm(x, y, norm.weight, norm.bias, norm.eps)
        return norm(F.dropout(y, self.dropout, self.training).add_(x))

    def feed_forward(self, x: Tensor) -> Tensor:
        """(..., E) the block's output. Without gradients it is computed in groups of rows, to bound its
        memory."""
        rows_at_once = _BYTES_ON_GPU // x.element_size() if x.is_cuda else _ROWS
        if x.dim() != 2 or len(x) <= rows_at_once or torch.is_grad_enabled():
            return self._feed_forward(x)
        out = torch.empty_like(x)
        for part, rows in zip(out.split(rows_at_once), x.split(rows_at_once), strict=True):
            part.copy_(self._feed_forward(rows))
        return out

    def _feed_forward(self, x: Tensor) -> Tensor:
        inner = F.dropout(self.activation(self.fc1(x)), self.activation_dropout, self.training)
        return self.add_and_norm(x, self.fc2(inner), self.final_layer_norm)


class LEDStack(nn.Module):
    """Layers over token and position embeddings. `gradient_checkpointing` trades a second forward pass for
    memory."""

    layers: nn.ModuleList

    def __init__(
        self, config: LEDConfig, embed_tokens: nn.Embedding, positions: int, layerdrop: float
    ) -> None:
        super().__init__()
        self.config, self.layerdrop = config, layerdrop
        self.gradient_checkpointing = False
        self.embed_tokens = embed_tokens
        self.embed_positions = nn.Embedding(positions, config.d_model)
        self.layernorm_embedding = nn.LayerNorm(config.d_model)

    def embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, positions: Tensor) -> Tensor:
        """(..., E) the first layer's input. `inputs_embeds` (..., E) replace `input_ids` (...)."""
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        x = self.layernorm_embedding(x + self.embed_positions(positions))
        return F.dropout(x, self.config.dropout, self.training)

    @property
    def checkpoints_layers(self) -> bool:
        """Whether layers recompute their inner values in the backward pass."""
        return self.gradient_checkpointing and self.training and torch.is_grad_enabled()

    def skips_layer(self) -> bool:
        """Whether to leave a layer out this time: in training, at the configured rate (LayerDrop,
        arXiv:1909.11556)."""
        return self.training and self.layerdrop > 0 and bool(torch.rand(()) < self.layerdrop)

    def encode_in_float32(self) -> None:
        """Compute what reads the document in float32. The rest keeps its dtype."""

    def cross_attention_in_bfloat16(self) -> None:
        """Keep the cross-attention KV cache of decoding steps in bfloat16. The rest keeps its dtype."""


def choose(argument: bool | None, configured: bool) -> bool:
    """The argument of a call, or the configured value if it is None."""
    return configured if argument is None else argument
