"""Checks of a tokenizer.json before its backend is built.

A normalizer can make a text a thousand times as long, and a regular expression can take time that grows
exponentially with it. Published tokenizers have neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# The most characters that all replacements together may make of one.
_MOST_GROWTH = 64

# A repeated group with a repetition inside, such as (a+)+.
_NESTED_REPETITION = re.compile(r"\((?:[^()\\]|\\.)*[+*}](?:[^()\\]|\\.)*\)[+*{]")


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise a panic of the backend, which is written in Rust, as an error. A panic is no `Exception`, so it
    would pass through every handler of errors.

    Raises:
        ValueError: the backend panicked.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the tokenizer failed: {error}") from None


def check_backend(values: Any) -> None:
    """Check the parsed content of a tokenizer.json.

    Raises:
        ValueError: a part of it may take unbounded time or memory.
    """
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    growth = 1
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        for node in _nodes(values.get(part)):
            pattern = node.get("pattern")
            expression = pattern.get("Regex") if isinstance(pattern, dict) else None
            if isinstance(expression, str) and _NESTED_REPETITION.search(expression):
                raise ValueError(
                    f"its {part} has the regular expression {expression[:80]!r}, which may never end"
                )
            if part == "normalizer" and node.get("type") in ("Replace", "Prepend"):
                content = node.get("content") or node.get("prepend") or ""
                growth *= max(1, len(content) if isinstance(content, str) else 1)
    if growth > _MOST_GROWTH:
        raise ValueError(f"its normalizer makes texts up to {growth} times as long")


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in a JSON value."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending += value.values()
        elif isinstance(value, list):
            pending += value
