"""The summarization task: documents to summaries."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.schema import FLAGS, LEVELS, PARTIAL_SUMMARIES
from pipeline.tasks.base import Row
from pipeline.tasks.generated import GENERATION, Generated
from pipeline.tasks.inputs import input_columns
from pipeline.tasks.quality import QUALITY, quality_columns
from pipeline.tasks.settings import SummarizeSettings
from pipeline.tasks.text import TextTask


@dataclass(frozen=True)
class Summarize(TextTask):
    """Documents to summaries."""

    settings: SummarizeSettings

    settings_class = SummarizeSettings
    name = "summarize"
    title = "Summarization"
    columns = pa.schema([pa.field("summary", pa.string())])

    @property
    def schema(self) -> pa.Schema:
        """The summary and how it ended. With the settings: quality flags and the cross-attention profile."""
        columns = [*self.columns, *GENERATION]
        if self.settings.flags:
            columns += [FLAGS, pa.field("quality", QUALITY)]
        if self.settings.attention:
            columns.append(pa.field("attention", pa.list_(pa.float32())))
        if self.settings.overflow != "truncate":
            columns += LEVELS
        if self.settings.keep_partial_summaries:
            columns.append(PARTIAL_SUMMARIES)
        return pa.schema([*columns, *input_columns(self.settings)])

    @property
    def row_schema(self) -> pa.Schema:
        return self.schema

    @property
    def keeps_input(self) -> bool:
        return self.settings.flags

    @property
    def collects_attention(self) -> bool:
        return self.settings.attention

    @property
    def tokens_per_input(self) -> float | None:
        return self.settings.summary_tokens_per_input

    def row(self, generated: Generated) -> Row:
        """The summary, and what the settings ask for."""
        row: Row = {"summary": generated.text}
        if generated.attention_profile is not None:
            row["attention"] = generated.attention_profile
        if self.settings.keep_partial_summaries:
            row[PARTIAL_SUMMARIES.name] = [
                {"start": part.start, "end": part.end, "summary": part.text} for part in generated.parts
            ]
        if generated.input is not None:
            finished = generated.finish_reason == "stop"
            score = generated.mean_log_probability
            row |= quality_columns(generated.text, generated.input, score, finished=finished)
        return row

    @classmethod
    def describe(cls, row: Row) -> tuple[str, str]:
        """How generation ended, and the summary."""
        details = f"{row['output_tokens']} tokens out, {row['finish_reason']}, score {row['score']:.3f}"
        if "levels" in row and row["chunks"] > 1:
            details = f"{row['chunks']} chunks, {row['levels']} levels, {details}"
        return details, row["summary"]
