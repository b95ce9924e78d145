"""Small models for tests. Random weights give clearly different outputs, so a wrong token is noticed."""

from __future__ import annotations

from typing import Any

import torch

from led.config import LEDConfig
from led.heads.conditional_generation import LEDForConditionalGeneration

TINY: dict[str, Any] = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "attention_window": 8,
    "max_encoder_position_embeddings": 128,
    "max_decoder_position_embeddings": 64,
}


def tiny_config(**changes: Any) -> LEDConfig:
    """The configuration of a model with about 50,000 parameters."""
    return LEDConfig(**{**TINY, **changes})


@torch.no_grad()
def spread_weights(model: torch.nn.Module, seed: int, scale: float = 4.0) -> None:
    """Set every weight to a random value, so that attention and logits are far from uniform.

    Their standard deviation is `scale` times the initial one.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "layer_norm" in name or "layernorm" in name:
            parameter.copy_(noise * 0.1 + (1.0 if name.endswith("weight") else 0.0))
        else:
            parameter.copy_(noise * 0.02 * scale)


def tiny_model(seed: int = 0, scale: float = 4.0, **changes: Any) -> LEDForConditionalGeneration:
    """A model of `tiny_config(**changes)` with the weights of `spread_weights`, in evaluation mode."""
    model = LEDForConditionalGeneration(tiny_config(**changes))
    spread_weights(model, seed, scale)
    return model.eval()
