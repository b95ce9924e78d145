"""Keywords of every document, from a model that writes them in a list.

led-corpus examples/tasks/keywords.py:Keywords --input corpus/ --output out/keywords --model my-model
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from led_corpus import Document, Generated, TextSettings, TextTask


@dataclass(frozen=True, kw_only=True)
class KeywordSettings(TextSettings):
    """Settings of a run that extracts keywords."""

    max_keywords: int = 10
    """Most keywords of a document."""
    instruction: str = "keywords: "
    """Text that the model was trained to expect before a document."""


class Keywords(TextTask):
    """Extract the keywords of every document."""

    name = "keywords"
    settings_class = KeywordSettings
    settings: KeywordSettings
    columns = pa.schema([pa.field("keywords", pa.list_(pa.string()))])

    def inputs(self, document: Document) -> str:
        return self.settings.instruction + document.text

    def row(self, generated: Generated) -> dict[str, Any]:
        words = (word.strip(" .") for word in re.split(r"[,;\n]", generated.text))
        keywords = list({word.casefold(): word for word in words if word}.values())
        if not keywords:
            raise ValueError("the model wrote no keywords")
        return {"keywords": keywords[: self.settings.max_keywords]}
