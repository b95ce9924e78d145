"""The protocols of a task, and what a model reads of a document.

A task is the extension point of the pipeline: it turns documents into model inputs, and model outputs
into rows. A new task is a class with the methods of `Task`, and a second one with those of `LoadedTask`
that holds the model. Reading, ordering, bisecting failed documents and committing are the same for all tasks.

Processes that only read or commit need no torch, so a task imports its loaded half where it loads or checks a
model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from led.pipelines.chunking import UNLIMITED, Chunk, ChunkEnds, ChunkInput, ChunkRules, chunk_inputs
from led.pipelines.inputs import Span
from led.pipelines.joining import whole_text
from led.tokenizer.tokenizer import LEDTokenizer
from pipeline.errors import UsageError
from pipeline.settings import ChunkedSettings, RunSettings

Row = dict[str, Any]


class RequestedRow(NamedTuple):
    """A row to compute of a document: the columns that are known before prediction, such as the question, and
    the spans of global tokens."""

    known_columns: Row
    spans: tuple[Span, ...] = ()


class Document(NamedTuple):
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

    hardware: dict[str, str]
    fatal: tuple[type[Exception], ...]

    @property
    def measured(self) -> dict[str, float]:
        """Sums since the model was loaded, by name, such as seconds of encoding."""

    def predict(self, documents: Iterable[ModelInput | None]) -> Iterator[tuple[int, Row]]:
        """Yield (index of the document, its task columns) in any order.

        Documents are taken when there is room for them. None says that no document is ready although more may
        follow. It is not counted as a document, and `predict` then works on those that it has.
        """

    def release_memory(self) -> None:
        """Free what a failed batch still holds."""


class Task(Protocol):
    """A task before its model is loaded. It is small and is sent to the workers, where `load` reads the
    weights."""

    title: str

    @property
    def columns(self) -> pa.Schema:
        """The columns of this task's rows, besides those of all tasks."""

    @property
    def settings(self) -> RunSettings:
        """The settings of the run."""

    def run_config(self, folder: Path) -> dict[str, Any]:
        """What the rows depend on besides settings and weights. Checks that task and checkpoint fit
        together."""

    def describe_settings(self, folder: Path) -> str:
        """What the task computes with, where the checkpoint or a default decides, and who decided. May be
        empty."""

    def input_limits(self, folder: Path) -> InputLimits:
        """The limits for the checkpoint in `folder`. Checks the settings against the checkpoint."""

    def expand_rows(self, values: Mapping[str, Any]) -> list[RequestedRow]:
        """The rows of one document whose input columns have these values.

        Raises:
            ValueError: the document has no valid rows. It fails with that reason.
        """

    def encode(
        self, tokenizer: LEDTokenizer, documents: Sequence[Document], limits: InputLimits
    ) -> list[ModelInput]:
        """Model inputs for these documents."""

    def load(self, folder: Path) -> LoadedTask:
        """The task with the checkpoint in `folder` in memory."""

    @staticmethod
    def describe(row: Row) -> tuple[str, str]:
        """(details, result) of a written row, for the report."""


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
