"""What a model reads of a document: its tokens, whole or window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from led.config import LEDConfig
from led.windows import Window, cut, split
from pipeline.settings import WindowedSettings
from pipeline.errors import UsageError

Row = dict[str, Any]

# The longest document of tasks that read window by window: the largest number a column holds.
_ANY_LENGTH = 2**31 - 1


class Document(NamedTuple):
    """A text and the columns of its row that are known before the model reads it, such as the question."""

    text: str
    given: Row


@dataclass(frozen=True)
class Reading:
    """How long documents are read: at most `max_input_tokens`, of which `window_tokens` at once, each window repeating the
    last `overlap` of the one before."""

    max_input_tokens: int
    window_tokens: int
    overlap: int = 0


@dataclass(frozen=True)
class ModelInput:
    """A document as the model reads it: its tokens, of which the first `global_tokens` attend to the whole document.

    `windows` is how many it is read in; `text` is there where the task needs it again.
    """

    input_ids: Sequence[int]
    global_tokens: int
    truncated_tokens: int = 0
    windows: int = 1
    text: str | None = None


def windowed_reading(settings: WindowedSettings, folder: Path) -> Reading:
    """Documents of any length, or as the run asks, in windows of what the model reads at once, or as the run asks.

    Raises:
        UsageError: the run asks for longer windows than the model reads, or for an overlap that leaves nothing new.
    """
    limit = LEDConfig.from_pretrained(folder).longest_read
    window = settings.window_tokens or limit
    if window > limit:
        raise UsageError(f"--window-tokens is {window}; this model reads at most {limit} tokens at once.")
    overlap = window // 8 if settings.window_overlap is None else settings.window_overlap
    if overlap > window - 3:
        raise UsageError(f"--window-overlap is {overlap}; a window of {window} tokens then has nothing new to read.")
    return Reading(settings.max_input_tokens or _ANY_LENGTH, window, overlap)


def windowed_input(ids: Sequence[int], before: int, reading: Reading, text: str | None = None) -> ModelInput:
    """The model input of `ids` whose first `before` stand before the document, and whose last is `</s>`.

    Raises:
        ValueError: what stands before leaves no room for the document.
    """
    ids, over = cut(ids, reading.max_input_tokens)
    return ModelInput(ids, before, over, len(windows_of(ids, before, reading)), text)


def windows_of(ids: Sequence[int], before: int, reading: Reading) -> list[Window]:
    """The windows of a model input."""
    return split(ids[before:-1], ids[:before], ids[-1:], reading.window_tokens, reading.overlap)
