"""The summarization task: documents to summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from led.config import LEDConfig
from led.generation.config import GenerationConfig
from led.generation.task_settings import TaskSettings, task_settings
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.errors import UsageError
from pipeline.schema import FLAGS, LEVELS, PARTIAL_SUMMARIES
from pipeline.settings import DECODING, SummarizeSettings
from pipeline.tasks.base import (
    Document,
    InputLimits,
    ModelInput,
    RequestedRow,
    Row,
    chunked_input_limits,
)
from pipeline.tasks.inputs import (
    describe_inputs,
    encode_documents,
    input_columns,
    input_config,
    requested_row,
)
from pipeline.tasks.quality import QUALITY

if TYPE_CHECKING:
    from led.pipelines.overflow import OverflowRules
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
        if self.settings.overflow != "truncate":
            columns += LEVELS
        if self.settings.keep_partial_summaries:
            columns.append(PARTIAL_SUMMARIES)
        return pa.schema([*columns, *input_columns(self.settings)])

    def in_force(self, folder: Path) -> TaskSettings:
        """The generation settings in force for the checkpoint in `folder`, and where each comes from."""
        given = {name: getattr(self.settings, name) for name in DECODING}
        config, generation = LEDConfig.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
        generation = generation.updated(num_return_sequences=1)
        defaults = self.settings.generation_defaults == "pipeline"
        in_force = task_settings(config, generation, "summarization", given, defaults=defaults)
        prefix = self.settings.prefix
        return in_force if prefix is None else replace(in_force, prefix=prefix, prefix_source="given")

    def run_config(self, folder: Path) -> dict[str, Any]:
        """The task and the generation config in force.

        Raises:
            ValueError: the folder's weights are not a summarizer's, or a setting does not fit the model.
            UsageError: chunks of this length cannot be fused.
        """
        from pipeline.tasks.summarizer import LoadedSummarizer

        LoadedSummarizer.check(folder)
        in_force = self.in_force(folder)
        longest = in_force.generation.max_sequence_length(LEDConfig.from_pretrained(folder))
        try:
            self.overflow_rules(folder).check(in_force.generation, longest - 1)
        except ValueError as error:
            raise UsageError(f"--overflow {self.settings.overflow}: {error}") from error
        generation = asdict(in_force.generation)
        return {"task": "summarize", "generation": generation, **input_config(self.settings, folder)}

    def describe_settings(self, folder: Path) -> str:
        """The settings of generation and input in force."""
        return f"{self.in_force(folder).describe()}, {describe_inputs(self.settings, folder)}"

    def input_limits(self, folder: Path) -> InputLimits:
        """--max-input-tokens, by default the encoder's limit. With --overflow, whole documents in chunks.

        Raises:
            UsageError: --max-input-tokens or a chunk exceeds the encoder's limit.
        """
        limit = LEDConfig.from_pretrained(folder).max_encoder_position_embeddings
        if self.settings.overflow != "truncate":
            limits = chunked_input_limits(self.settings, limit, overlap=0, ends="sentence")
            return replace(limits, prefix=self.in_force(folder).prefix)
        tokens = self.settings.max_input_tokens or limit
        if tokens > limit:
            raise UsageError(f"--max-input-tokens is {tokens}; this model reads at most {limit} tokens.")
        return InputLimits(tokens, tokens, prefix=self.in_force(folder).prefix)

    def overflow_rules(self, folder: Path) -> OverflowRules:
        """How documents of several chunks are summarized."""
        from led.pipelines.overflow import OverflowRules

        settings = self.settings
        chunks = self.input_limits(folder).chunk_rules
        return OverflowRules(settings.overflow, chunks, settings.summary_tokens_per_input)

    def expand_rows(self, values: Mapping[str, Any]) -> list[RequestedRow]:
        """One row per document.

        Raises:
            ValueError: the prefix is not a text, or the spans of global tokens are malformed.
        """
        return [requested_row(self.settings, values)]

    def encode(
        self, tokenizer: LEDTokenizer, documents: Sequence[Document], limits: InputLimits
    ) -> list[ModelInput]:
        """`<s> text </s>`, in chunks or truncated at the limit. `</s>` stays."""
        in_chunks = self.settings.overflow != "truncate"
        inputs = encode_documents(tokenizer, documents, limits, self.settings, in_chunks=in_chunks)
        if not self.settings.flags:
            return inputs
        return [replace(i, text=d.whole_text) for i, d in zip(inputs, documents, strict=True)]

    def load(self, folder: Path) -> LoadedSummarizer:
        """The summarizer with its weights."""
        from pipeline.tasks.summarizer import LoadedSummarizer

        generation, rules = self.in_force(folder).generation, self.overflow_rules(folder)
        return LoadedSummarizer(self.settings, generation, rules, folder)

    @staticmethod
    def describe(row: Row) -> tuple[str, str]:
        """How generation ended, and the summary."""
        details = f"{row['output_tokens']} tokens out, {row['finish_reason']}, score {row['score']:.3f}"
        if "levels" in row and row["chunks"] > 1:
            details = f"{row['chunks']} chunks, {row['levels']} levels, {details}"
        return details, row["summary"]
