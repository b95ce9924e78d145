"""led: Longformer-Encoder-Decoder (arXiv:2004.05150) in PyTorch alone.

    from led import LEDForConditionalGeneration, LEDTokenizer, pipeline

A user's guide is docs/guide.md; docs/coming-from-transformers.md says what differs. Not here: corpora, clusters and files of
documents; those are the package `pipeline`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from led.api import *  # noqa: F403 - its __all__ says which


def __getattr__(name: str) -> Any:
    """A module of the package, or what `led.api` has of that name, loaded when it is first asked for: a process that only
    tokenizes needs no torch."""
    if find_spec(f"led.{name}") is not None:
        return import_module(f"led.{name}")
    api = import_module("led.api")
    globals().update({each: getattr(api, each) for each in api.__all__})
    return getattr(api, name)
