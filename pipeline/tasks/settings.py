"""Settings of the tasks. This module imports neither pyarrow nor torch, so that `--help` is fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, Le

from led.pipelines.chunking import Overflow
from pipeline.settings import (
    ChunkedSettings,
    Count,
    DecodingSettings,
    DocumentSettings,
    Probability,
    omitted_by_default,
    operational,
    require,
)


@dataclass(frozen=True, kw_only=True)
class TextSettings(DecodingSettings, ChunkedSettings):
    """Settings of a task that generates text."""

    overflow: Overflow = omitted_by_default("truncate")
    """What to do with a document beyond the input limit. truncate cuts it, concat joins the texts written for
    its chunks, and fuse reads these again until one is left."""
    chunk_tokens: Annotated[int, Ge(3)] | None = omitted_by_default(None)
    """Longest chunk, prefix and special tokens included. Default: the model's input limit."""
    chunk_overlap: Annotated[int, Ge(0)] | None = omitted_by_default(None)
    """Tokens that a chunk repeats from the chunk before it. Default: none."""
    generation_defaults: Literal["pipeline", "generate"] = operational("pipeline")
    """What neither the checkpoint nor a flag states: 4 beams, 256 tokens and no repeated trigram (pipeline),
    or 20 greedy tokens (generate), which version 0.1.0 wrote."""

    def check_rules(self) -> None:
        super().check_rules()
        if self.overflow == "truncate":
            for name in self.chunk_settings:
                value = getattr(self, name)
                unset = value is None or value is False
                require(unset, name, value, "it needs --overflow concat or fuse")

    @property
    def chunk_settings(self) -> tuple[str, ...]:
        """The settings that only apply to documents in chunks."""
        return ("chunk_tokens", "chunk_overlap", "chunk_ends")

    @property
    def fuses_chunks(self) -> bool:
        return self.overflow == "fuse"


@dataclass(frozen=True, kw_only=True)
class SummarizeSettings(TextSettings):
    """Settings of a summarization run."""

    summary_tokens_per_input: Annotated[float, Gt(0), Le(1)] | None = omitted_by_default(None)
    """Longest summary as a share of the document's tokens, beside --max-new-tokens. In chunks, each summary
    has this share of what it covers."""
    keep_partial_summaries: bool = omitted_by_default(False)
    """Write the summary of each chunk with the characters that it covers (column partial_summaries)."""
    flags: bool = True
    """Measure every summary against its document and write quality flags (columns flags and quality)."""
    attention: bool = False
    """Write the cross-attention profile of each summary (column attention): shares of 64 equal parts of the
    document."""
    reference_column: str | None = operational(None)  # type: ignore[misc]
    """A --passthrough column with the reference summary. The report then has ROUGE scores."""

    def check_rules(self) -> None:
        super().check_rules()
        column = self.reference_column
        require(
            column is None or column in self.passthrough,
            "reference_column",
            column,
            "add it to --passthrough",
        )

    @property
    def chunk_settings(self) -> tuple[str, ...]:
        return (*super().chunk_settings, "keep_partial_summaries")


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(ChunkedSettings, DocumentSettings):
    """Settings of a classification run. The checkpoint's problem_type determines the kind of labels."""

    pooling: Literal["mean", "max"] | None = None
    """How the logits of chunks become those of the document. Default: mean, or max for multi-label
    checkpoints."""
    threshold: Probability | None = None
    """Probability from which a label is assigned. Default: 0.5 for multi-label checkpoints. Others always
    assign one label."""
    label_thresholds: tuple[str, ...] = ()
    """Thresholds of single labels, written name=0.7. They override --threshold."""
    labels_only: bool = False
    """Do not write the scores of all labels."""

    def check_rules(self) -> None:
        super().check_rules()
        for entry in self.label_thresholds:
            name, equals, value = entry.rpartition("=")
            valid = bool(name and equals) and value.replace(".", "", 1).isdecimal() and 0 <= float(value) <= 1
            require(valid, "label_thresholds", entry, "write name=0.7, a label and a probability")


@dataclass(frozen=True, kw_only=True)
class AnswerSettings(ChunkedSettings):
    """Settings of a question-answering run. Give questions by one of --question, --questions-file,
    --question-column."""

    question: tuple[str, ...] = ()
    """Questions to ask every document."""
    questions_file: str | None = None
    """File with questions to ask every document, one per line."""
    question_column: str | None = None
    """Column with each document's own questions: a text, a list of texts, or a list of records with a field
    `question`."""
    max_answer_tokens: Count = 30
    """Longest answer."""
    n_best: Count = 1
    """Number of answers to keep per question, in the column answers."""
    no_answer_threshold: Annotated[float, Interval(ge=-1, le=1)] | None = None
    """Write no answer (null) if the no-answer probability exceeds the answer's by more than this. Default:
    always answer."""
    align_to_words: bool = True
    """Extend answers to whole words."""

    def check_rules(self) -> None:
        super().check_rules()
        sources = [bool(self.question), self.questions_file is not None, self.question_column is not None]
        rule = "give the questions in one way: --question, --questions-file or --question-column"
        require(sum(sources) == 1, "question", self.question, rule)

    def fingerprinted_settings(self) -> dict[str, Any]:
        """The settings that can change a row. The task adds the questions themselves."""
        sources = ("question", "questions_file", "question_column")
        return {
            name: value for name, value in super().fingerprinted_settings().items() if name not in sources
        }

    @property
    def extra_columns(self) -> list[tuple[str, str]]:
        column = self.question_column
        return [*super().extra_columns, *([("--question-column", column)] if column else [])]
