"""Translate documents of any length, chunk by chunk, with a model that translates.

led-corpus examples/tasks/translate.py:Translate --input corpus/ --output out/english --model my-model
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from led_corpus import Generated, TextSettings, TextTask


@dataclass(frozen=True, kw_only=True)
class TranslateSettings(TextSettings):
    """Settings of a translation run."""

    overflow: Literal["truncate", "concat", "fuse"] = "concat"
    """What to do with a document beyond the input limit. concat translates it chunk by chunk."""


class Translate(TextTask):
    """Translate every document."""

    name = "translate"
    title = "Translation"
    settings_class = TranslateSettings
    generation_task = "translation"
    columns = pa.schema(
        [
            pa.field("translation", pa.string()),
            pa.field(
                "chunk_translations",
                pa.list_(
                    pa.struct(
                        [
                            pa.field("start", pa.int32()),
                            pa.field("end", pa.int32()),
                            pa.field("text", pa.string()),
                        ]
                    )
                ),
            ),
        ]
    )

    def row(self, generated: Generated) -> dict[str, Any]:
        if generated.finish_reason == "length":
            raise ValueError("the translation of a chunk was cut; raise --max-new-tokens")
        chunks = [{"start": part.start, "end": part.end, "text": part.text} for part in generated.parts]
        return {"translation": generated.text, "chunk_translations": chunks}
