"""What a task is, and what a model reads of a document.

A task is the extension point of the pipeline: it turns documents into model inputs, and model outputs into
rows. A task is a subclass of `Task` and a class with the methods of `LoadedTask` that holds the model. Tasks
that generate text are subclasses of `TextTask` (`text.py`), which needs less. Reading, ordering, bisecting
failed documents and committing are the same for all tasks.

Processes that only read or commit need no torch, so a task imports its loaded half where it loads or checks a
model.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import pyarrow as pa

from led.pipelines.chunking import UNLIMITED, Chunk, ChunkEnds, ChunkInput, ChunkRules, chunk_inputs
from led.pipelines.inputs import Span
from led.pipelines.joining import whole_text
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.errors import UsageError
from pipeline.schema import TaskInfo
from pipeline.settings import ChunkedSettings, RunSettings

Row = dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """The reason why a document has no result."""

    reason: str


class Document(NamedTuple):
    """A document of the corpus: its ID, its text, and the values of the columns that the settings read
    besides (`RunSettings.extra_columns`), without those that are only copied.

    `texts` is None if the text cannot be read. It has several texts if they make one input.
    """

    id: str
    texts: str | tuple[str, ...] | None
    values: Mapping[str, Any]

    @property
    def text(self) -> str:
        """All texts as one."""
        return whole_text(self.texts or "")


class RequestedRow(NamedTuple):
    """A row to compute of a document: the columns that are known before prediction, such as the question, the
    spans of global tokens, and what the model reads, if it is not the document's own text.

    The rows of a document are numbered in their order, so the number is not among the columns.
    """

    known_columns: Row
    spans: tuple[Span, ...] = ()
    text: str | None = None


class RowInput(NamedTuple):
    """A text, or the texts that make one input, and the row to compute."""

    text: str | tuple[str, ...]
    row: RequestedRow

    @property
    def whole_text(self) -> str:
        """All texts as one."""
        return whole_text(self.text)


@dataclass(frozen=True)
class InputLimits:
    """At most `max_input_tokens` of a document are read, in chunks of `chunk_tokens` that share `overlap`
    tokens and end as `chunk_ends` says. `prefix` is put before each document, unless it has its own."""

    max_input_tokens: int
    chunk_tokens: int
    overlap: int = 0
    prefix: str = ""
    chunk_ends: ChunkEnds = "token"

    @property
    def chunk_rules(self) -> ChunkRules:
        """The rules by which a document is split."""
        return ChunkRules(self.chunk_tokens, self.overlap, self.chunk_ends)


@dataclass(frozen=True)
class ModelInput:
    """A document as the model reads it. Its tokens at `global_positions` have global attention.

    The first `leading` tokens (`<s>`, a question or prefix) come before the document, in every one of its
    `chunks`. Without chunks it is read at once. `text` is set if the task needs the text after prediction.
    `truncated_tokens` is None if they were not counted. `columns` are columns of the row that are known from
    the input.
    """

    input_ids: Sequence[int]
    global_positions: Sequence[int]
    leading: int = 1
    truncated_tokens: int | None = 0
    truncated_characters: int = 0
    chunks: Sequence[Chunk] = ()
    text: str | None = None
    columns: Row = field(default_factory=dict)


class LoadedTask(Protocol):
    """A task with its model in memory. `hardware` has the names of the processor or GPU, and of the dtype
    that it computes in.

    After an error of a `fatal` type the process is unusable, so the error is not attributed to a document.
    """

    fatal: tuple[type[Exception], ...]
    hardware: dict[str, str]

    @property
    def measured(self) -> dict[str, float]:
        """Running totals of what the task measured, by name."""

    def predict(self, documents: Iterable[ModelInput | None]) -> Iterator[tuple[int, Row | Failed]]:
        """Yield (index of the document, its task columns, or why it has none) in any order.

        Documents are taken when there is room for them. None says that no document is ready although more may
        follow. It is not counted as a document, and `predict` then works on those that it has.
        """

    def release_memory(self) -> None:
        """Free what a failed batch still holds."""


class Task(ABC):
    """A task before its model is loaded. It is small and is sent to the workers, where `load` reads the
    weights.

    Class attributes describe the task to the parts of the pipeline that know no tasks. `name` identifies it
    in a plan, and `title` heads its report. `result_column` has what a
    report shows and `evaluate` compares, `score_column` how likely the model finds it. If a document has
    several rows, `number_column` numbers them from 0. `evaluation` is the kind of `evaluate` that fits.
    `hashed_config` names the parts of `run_config` that each row's `text_hash` covers, so that rows can be
    reused when they change.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    settings_class: ClassVar[type[RunSettings]]
    result_column: ClassVar[str]
    score_column: ClassVar[str | None] = None
    number_column: ClassVar[str | None] = None
    evaluation: ClassVar[str] = "texts"
    hashed_config: ClassVar[tuple[str, ...]] = ()

    settings: RunSettings

    @classmethod
    def of(cls, settings: Any) -> Self:
        """The task with these settings, which are of `settings_class`.

        Raises:
            UsageError: they name something that cannot be read.
        """
        return cls(settings)  # type: ignore[call-arg]

    @property
    def info(self) -> TaskInfo:
        """What plan, report and verify need to know."""
        return TaskInfo(
            title=self.title,
            result=self.result_column,
            score=self.score_column,
            number=self.number_column,
            evaluation=self.evaluation,
            hashes_text_alone=self.hashes_text_alone,
        )

    @property
    def hashes_text_alone(self) -> bool:
        """Whether the `text_hash` of a row depends on the document's text alone."""
        return self.number_column is None and self.settings.span_column is None

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns of this task's rows, besides those of all tasks."""

    @abstractmethod
    def run_config(self, folder: Path) -> dict[str, Any]:
        """What the rows depend on besides settings and weights. Checks that task and checkpoint fit
        together."""

    @abstractmethod
    def describe_settings(self, folder: Path) -> str:
        """What the task computes with, where the checkpoint or a default decides, and who decided. May be
        empty."""

    @abstractmethod
    def input_limits(self, folder: Path) -> InputLimits:
        """The limits for the checkpoint in `folder`. Checks the settings against the checkpoint."""

    @abstractmethod
    def expand_rows(self, document: Document) -> list[RequestedRow]:
        """The rows of one document.

        Raises:
            ValueError: the document has no valid rows. It fails with that reason.
        """

    @abstractmethod
    def encode(
        self, tokenizer: LEDTokenizer, documents: Sequence[RowInput], limits: InputLimits
    ) -> list[ModelInput]:
        """Model inputs for these documents."""

    @abstractmethod
    def load(self, folder: Path) -> LoadedTask:
        """The task with the checkpoint in `folder` in memory."""

    @classmethod
    def describe(cls, row: Row) -> tuple[str, str]:
        """(details, result) of a written row, for the report."""
        return describe_row(row, cls.result_column, cls.score_column)


def describe_row(row: Row, result: str, score: str | None) -> tuple[str, str]:
    """(details, result) of a written row of a task that is not known here."""
    details = [] if score is None or row.get(score) is None else [f"score {row[score]:.3f}"]
    if row.get("output_tokens") is not None:
        details.insert(0, f"{row['output_tokens']} tokens out, {row['finish_reason']}")
    value = row.get(result)
    if value is None:
        return ", ".join(details), "no result"
    is_list = isinstance(value, list) and all(isinstance(each, str) for each in value)
    shown = ", ".join(value) if is_list else value
    if not isinstance(shown, str):
        shown = json.dumps(shown, ensure_ascii=False, default=str)
    return ", ".join(details), shown


def chunked_input_limits(
    settings: ChunkedSettings, limit: int, overlap: int | None = None, ends: ChunkEnds = "token"
) -> InputLimits:
    """Limits of a task that reads documents of any length in chunks of at most `limit` tokens.

    `overlap` and `ends` are the task's own, for settings that do not say. By default, chunks overlap by an
    eighth.

    Raises:
        UsageError: a chunk exceeds the model's input limit, or the overlap leaves a chunk no new tokens.
    """
    chunk = settings.chunk_tokens or limit
    if chunk > limit:
        raise UsageError(f"--chunk-tokens is {chunk}; this model reads at most {limit} tokens at once.")
    overlap = settings.chunk_overlap if settings.chunk_overlap is not None else overlap
    overlap = chunk // 8 if overlap is None else overlap
    if overlap > chunk - 3:
        raise UsageError(
            f"--chunk-overlap is {overlap}; a chunk of {chunk} tokens would have no new tokens. Make it "
            "smaller."
        )
    return InputLimits(
        settings.max_input_tokens or UNLIMITED, chunk, overlap, chunk_ends=settings.chunk_ends or ends
    )


def chunks_of(document: ModelInput) -> list[ChunkInput]:
    """The chunks of a model input. Without chunks of its own, it is one."""
    ids, leading = document.input_ids, document.leading
    chunks: Sequence[tuple[int, ...]] = document.chunks or [(0, len(ids) - leading - 1)]
    return chunk_inputs(ids, leading, document.global_positions, chunks)
