"""The summarization task: documents to summaries, with global attention on `<s>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from led.config import LEDConfig
from led.generation.config import GenerationConfig
from led.generation.task_settings import TaskSettings, task_settings
from led.pipelines.chunking import truncate
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.errors import UsageError
from pipeline.schema import FLAGS
from pipeline.settings import DECODING, SummarizeSettings
from pipeline.tasks.base import Document, InputLimits, ModelInput, Row
from pipeline.tasks.quality import QUALITY

if TYPE_CHECKING:
    from pipeline.tasks.summarizer import LoadedSummarizer


@dataclass(frozen=True)
class Summarize:
    """Documents to summaries."""

    settings: SummarizeSettings

    title = "Summarization"

    @property
    def columns(self) -> pa.Schema:
        """The summary and how it ended. With the settings: quality flags and the cross-attention profile."""
        columns = [
            pa.field("summary", pa.string()),
            pa.field("output_tokens", pa.int32()),
            pa.field("finish_reason", pa.string()),
            pa.field("score", pa.float32()),
        ]
        if self.settings.flags:
            columns += [FLAGS, pa.field("quality", QUALITY)]
        if self.settings.attention:
            columns.append(pa.field("attention", pa.list_(pa.float32())))
        return pa.schema(columns)

    def in_force(self, folder: Path) -> TaskSettings:
        """The generation settings in force for the checkpoint in `folder`, and where each comes from."""
        given = {name: getattr(self.settings, name) for name in DECODING}
        config, generation = LEDConfig.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
        generation = generation.updated(num_return_sequences=1)
        # Defaults of the task would change the plan of every run with a checkpoint that states no lengths, so
        # that it could neither resume nor be reused.
        return task_settings(config, generation, "summarization", given, defaults=False)

    def run_config(self, folder: Path) -> dict[str, Any]:
        """The task and the generation config in force.

        Raises:
            ValueError: the folder's weights are not a summarizer's, or a setting does not fit the model.
        """
        from pipeline.tasks.summarizer import LoadedSummarizer

        LoadedSummarizer.check(folder)
        in_force = self.in_force(folder)
        in_force.generation.max_sequence_length(LEDConfig.from_pretrained(folder))
        return {"task": "summarize", "generation": asdict(in_force.generation)}

    def describe_settings(self, folder: Path) -> str:
        """The generation settings in force."""
        return self.in_force(folder).describe()

    def input_limits(self, folder: Path) -> InputLimits:
        """--max-input-tokens, by default the encoder's limit. A document is read in one chunk.

        Raises:
            UsageError: --max-input-tokens exceeds the encoder's limit.
        """
        limit = LEDConfig.from_pretrained(folder).max_encoder_position_embeddings
        tokens = self.settings.max_input_tokens or limit
        if tokens > limit:
            raise UsageError(f"--max-input-tokens is {tokens}; this model reads at most {limit} tokens.")
        return InputLimits(tokens, tokens, prefix=self.in_force(folder).prefix)

    def expand_rows(self, values: Mapping[str, Any]) -> list[Row]:
        """One row per document."""
        return [{}]

    def encode(
        self, tokenizer: LEDTokenizer, documents: Sequence[Document], limits: InputLimits
    ) -> list[ModelInput]:
        """`<s> text </s>`, truncated at the limit. `</s>` stays."""
        inputs = []
        encodings = tokenizer.encode_batch([limits.prefix + document.text for document in documents])
        for document, encoding in zip(documents, encodings, strict=True):
            ids, dropped = truncate(encoding.ids, limits.max_input_tokens)
            inputs.append(ModelInput(ids, 1, dropped, text=document.text if self.settings.flags else None))
        return inputs

    def load(self, folder: Path) -> LoadedSummarizer:
        """The summarizer with its weights."""
        from pipeline.tasks.summarizer import LoadedSummarizer

        return LoadedSummarizer(self.settings, self.in_force(folder).generation, folder)

    @staticmethod
    def describe(row: Row) -> tuple[str, str]:
        """How generation ended, and the summary."""
        return f"{row['output_tokens']} tokens out, {row['finish_reason']}, score {row['score']:.3f}", row[
            "summary"
        ]
