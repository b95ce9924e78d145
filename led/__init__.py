"""led: Longformer-Encoder-Decoder (arXiv:2004.05150) in PyTorch alone.

    from led import LEDForConditionalGeneration, LEDTokenizer, pipeline

A user's guide is docs/guide.md; docs/coming-from-transformers.md says what differs. Not here: corpora, clusters and files of
documents; those are the package `pipeline`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from led.api import *  # noqa: F403 - its __all__ says which


def __getattr__(name: str) -> Any:
    """What `led.api` has of that name, loaded when one is first asked for: a process that only tokenizes needs no torch."""
    return getattr(import_module("led.api"), name)
